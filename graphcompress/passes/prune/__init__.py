"""Structured channel pruning: fewer channels, the same interface, weights refitted to the original's outputs."""
