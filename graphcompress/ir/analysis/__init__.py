"""What can be read from a model: statistics, and what sort of answer each output is."""
