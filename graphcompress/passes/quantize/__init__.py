"""Model -> the same model with Q/DQ around what a target computes in INT8, and a certificate of what the provider made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphcompress.passes.quantize.options import Options

if TYPE_CHECKING:
    from graphcompress.passes.quantize.run import quantize

__all__ = ["Options", "quantize"]


def __getattr__(name: str) -> Any:
    """Reading a recipe needs the options alone, so the work (and onnx with it) is loaded when it is asked for."""
    if name != "quantize":
        raise AttributeError(name)
    from graphcompress.passes.quantize.run import quantize

    return quantize
