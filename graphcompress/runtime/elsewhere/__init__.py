"""Places that are not this process: a command starts a worker, and models, feeds and outputs go over its standard input and output."""
