"""Steps from model to model. They do not import one another."""
