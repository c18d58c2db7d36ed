"""The public functions: what the command line does, from Python.

A model is a path or a `Model`; data is a path (a folder of .npz, or one .npz), a `Dataset`, or a list of feeds (dicts of arrays by input name). Nothing is
written: `graphcompress.save(result.model, path)` does that. What is the caller's business is raised as a `GraphCompressError`.

Everything is loaded when it is first used: `graphcompress simplify` needs neither pruning nor quantization.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphcompress.api.benchmark import benchmark
    from graphcompress.api.calibrate import calibrate
    from graphcompress.api.compress import compress
    from graphcompress.api.cost_goals import parse_goal
    from graphcompress.api.data import look
    from graphcompress.api.decisions import decided_target, read_record
    from graphcompress.api.diff import diff
    from graphcompress.api.distill import distill
    from graphcompress.api.explain import explain
    from graphcompress.api.inputs import Source, choose_place, open_feeds, open_model
    from graphcompress.api.inspect import inspect
    from graphcompress.api.lint import lint, mend
    from graphcompress.api.matrix import matrix
    from graphcompress.api.metrics import open_metric, parse_kinds
    from graphcompress.api.places import check_places, open_place
    from graphcompress.api.privacy import privacy
    from graphcompress.api.prune import prune
    from graphcompress.api.quantize import quantize
    from graphcompress.api.reports import Result
    from graphcompress.api.rules import explain_rule, list_rules, show_rule, verify_rules
    from graphcompress.api.simplify import bisect_simplify, simplify
    from graphcompress.api.validate import validate
    from graphcompress.api.workers import open_workers

_MODULES = {
    "graphcompress.api.benchmark": ("benchmark",),
    "graphcompress.api.calibrate": ("calibrate",),
    "graphcompress.api.compress": ("compress",),
    "graphcompress.api.cost_goals": ("parse_goal",),
    "graphcompress.api.data": ("look",),
    "graphcompress.api.decisions": ("decided_target", "read_record"),
    "graphcompress.api.diff": ("diff",),
    "graphcompress.api.distill": ("distill",),
    "graphcompress.api.explain": ("explain",),
    "graphcompress.api.inputs": ("Source", "choose_place", "open_feeds", "open_model"),
    "graphcompress.api.inspect": ("inspect",),
    "graphcompress.api.lint": ("lint", "mend"),
    "graphcompress.api.matrix": ("matrix",),
    "graphcompress.api.metrics": ("open_metric", "parse_kinds"),
    "graphcompress.api.places": ("check_places", "open_place"),
    "graphcompress.api.privacy": ("privacy",),
    "graphcompress.api.prune": ("prune",),
    "graphcompress.api.quantize": ("quantize",),
    "graphcompress.api.reports": ("Result",),
    "graphcompress.api.rules": ("explain_rule", "list_rules", "show_rule", "verify_rules"),
    "graphcompress.api.simplify": ("bisect_simplify", "simplify"),
    "graphcompress.api.validate": ("validate",),
    "graphcompress.api.workers": ("open_workers",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Result",
    "Source",
    "benchmark",
    "bisect_simplify",
    "calibrate",
    "check_places",
    "choose_place",
    "compress",
    "decided_target",
    "diff",
    "distill",
    "explain",
    "explain_rule",
    "inspect",
    "lint",
    "list_rules",
    "look",
    "matrix",
    "mend",
    "open_feeds",
    "open_metric",
    "open_model",
    "open_place",
    "open_workers",
    "parse_goal",
    "parse_kinds",
    "privacy",
    "prune",
    "quantize",
    "read_record",
    "show_rule",
    "simplify",
    "validate",
    "verify_rules",
]


class _Face(ModuleType):
    """A function here may have the name of the module that it comes from, and loading that would put the module in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _MODULE_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
