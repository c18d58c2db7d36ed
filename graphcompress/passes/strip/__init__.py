"""Model -> the same model without what computes nothing: long names, notes, stated shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphcompress.passes.strip.options import Options

if TYPE_CHECKING:
    from graphcompress.passes.strip.run import strip

__all__ = ["Options", "strip"]


def __getattr__(name: str) -> Any:
    """Reading a recipe needs the options alone, so the work (and onnx with it) is loaded when it is asked for."""
    if name != "strip":
        raise AttributeError(name)
    from graphcompress.passes.strip.run import strip

    return strip
