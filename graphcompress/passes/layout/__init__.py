"""Model -> the same function with tensors laid out as the target's kernels compute fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphcompress.passes.layout.options import Options

if TYPE_CHECKING:
    from graphcompress.passes.layout.run import layout

__all__ = ["Options", "layout"]


def __getattr__(name: str) -> Any:
    """Reading a recipe needs the options alone, so the work (and onnx with it) is loaded when it is asked for."""
    if name != "layout":
        raise AttributeError(name)
    from graphcompress.passes.layout.run import layout

    return layout
