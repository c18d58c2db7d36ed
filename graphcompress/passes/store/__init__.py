"""Model -> the same model with its float weights as small codes, which the runtime turns back into floats when it loads the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphcompress.passes.store.options import Options

if TYPE_CHECKING:
    from graphcompress.passes.store.run import store

__all__ = ["Options", "store"]


def __getattr__(name: str) -> Any:
    """Reading a recipe needs the options alone, so the work (and onnx with it) is loaded when it is asked for."""
    if name != "store":
        raise AttributeError(name)
    from graphcompress.passes.store.run import store

    return store
