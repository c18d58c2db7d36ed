"""Layers reconstructed one after the other: refitted by least squares to what the original calculated."""
