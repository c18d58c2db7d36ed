"""Gradients of ONNX graphs as ONNX graphs."""

from graphcompress.gradient.reverse import Gradient, gradient, gradient_rules

__all__ = ["Gradient", "gradient", "gradient_rules"]
