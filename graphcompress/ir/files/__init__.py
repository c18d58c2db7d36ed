"""Models in and out of files, messages and text."""
