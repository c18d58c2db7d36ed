"""The objects of a model, how to walk them and how to edit them."""
