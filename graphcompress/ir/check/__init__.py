"""Whether a message is a valid model."""
