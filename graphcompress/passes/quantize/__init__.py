"""Model -> the same model with Q/DQ around what a target computes in INT8, and a certificate of what the provider made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphcompress.passes.quantize.options import Options, ProductOptions

if TYPE_CHECKING:
    from graphcompress.passes.quantize.matrices import products
    from graphcompress.passes.quantize.run import quantize

__all__ = ["Options", "ProductOptions", "products", "quantize"]


def __getattr__(name: str) -> Any:
    """Reading a recipe needs the options alone, so the work (and onnx with it) is loaded when it is asked for."""
    if name == "quantize":
        from graphcompress.passes.quantize.run import quantize

        return quantize
    if name == "products":
        from graphcompress.passes.quantize.matrices import products

        return products
    raise AttributeError(name)
