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
    PlaceError,
    RecipeError,
    RuleError,
    RuntimeUnavailable,
    TargetError,
    UsageError,
    WriteError,
)
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.api.benchmark import benchmark
    from graphcompress.api.compress import compress
    from graphcompress.api.data import look
    from graphcompress.api.diff import diff
    from graphcompress.api.distill import distill
    from graphcompress.api.explain import explain
    from graphcompress.api.inputs import open_feeds
    from graphcompress.api.inspect import inspect
    from graphcompress.api.lint import lint
    from graphcompress.api.prune import prune
    from graphcompress.api.quantize import quantize
    from graphcompress.api.reports import Result
    from graphcompress.api.simplify import simplify
    from graphcompress.api.validate import validate
    from graphcompress.api.workers import open_workers
    from graphcompress.ir import Model, load, save
    from graphcompress.record import Record

_MODULES = {
    "graphcompress.api": (
        "Result",
        "benchmark",
        "compress",
        "diff",
        "distill",
        "explain",
        "inspect",
        "lint",
        "look",
        "open_feeds",
        "open_workers",
        "prune",
        "quantize",
        "simplify",
        "validate",
    ),
    "graphcompress.ir": ("Model", "load", "save"),
    "graphcompress.record": ("Record",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BarMissed",
    "DataError",
    "GraphCompressError",
    "Model",
    "ModelError",
    "PlaceError",
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
    "diff",
    "distill",
    "explain",
    "inspect",
    "lint",
    "load",
    "look",
    "open_feeds",
    "open_workers",
    "prune",
    "quantize",
    "save",
    "simplify",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'graphcompress' has no attribute '{name}'")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
