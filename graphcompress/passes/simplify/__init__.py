"""Model -> smaller model that computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphcompress.passes.simplify.options import Options

if TYPE_CHECKING:
    from graphcompress.passes.simplify.run import simplify

__all__ = ["Options", "simplify"]


def __getattr__(name: str) -> Any:
    """Reading a recipe needs the options alone, so the work (and onnx with it) is loaded when it is asked for."""
    if name != "simplify":
        raise AttributeError(name)
    from graphcompress.passes.simplify.run import simplify

    return simplify
