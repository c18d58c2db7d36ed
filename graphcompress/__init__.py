"""Compress ONNX models: simplify, quantize to INT8, compare with the original, measure against it.

    import graphcompress

    result = graphcompress.compress("model.onnx", "feeds/")
    graphcompress.save(result.model, "small.onnx")
    print(result.record.comparison, result.record.measurements)

Everything is loaded when it is first used, so that importing the package (and `graphcompress --help`) loads neither onnx nor onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graphcompress.errors import (
    BarMissed,
    DataError,
    GraphCompressError,
    ModelError,
    RecipeError,
    RuleError,
    RuntimeUnavailable,
    TargetError,
    UsageError,
    WriteError,
)

if TYPE_CHECKING:
    from graphcompress.api import Result, benchmark, compress, inspect, quantize, simplify, validate
    from graphcompress.ir import Model, load, save
    from graphcompress.record import Record

__version__ = "0.1.0"

_HOMES = {
    "graphcompress.api": ("Result", "benchmark", "compress", "inspect", "quantize", "simplify", "validate"),
    "graphcompress.ir": ("Model", "load", "save"),
    "graphcompress.record": ("Record",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BarMissed",
    "DataError",
    "GraphCompressError",
    "Model",
    "ModelError",
    "RecipeError",
    "Record",
    "Result",
    "RuleError",
    "RuntimeUnavailable",
    "TargetError",
    "UsageError",
    "WriteError",
    "__version__",
    "benchmark",
    "compress",
    "inspect",
    "load",
    "quantize",
    "save",
    "simplify",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'graphcompress' has no attribute '{name}'")
    found = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
