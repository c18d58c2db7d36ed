"""Gradients of operators whose shapes decide what has to be written."""

from graphcompress.gradient.mappers import convolution, gathering, linear, normalization, pooling, quantization, reduction, reshaping, slicing, variadic
from graphcompress.gradient.mappers.registry import MAPPERS

__all__ = ["MAPPERS", "convolution", "gathering", "linear", "normalization", "pooling", "quantization", "reduction", "reshaping", "slicing", "variadic"]
