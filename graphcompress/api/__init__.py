"""The public functions: what the command line does, from Python.

A model is a path or a `Model`; data is a path (a folder of .npz, or one .npz), a `Dataset`, or a list of feeds (dicts of arrays by input name). Nothing is
written: `graphcompress.save(result.model, path)` does that. What is the caller's business is raised as a `GraphCompressError`.
"""

from graphcompress.api.benchmark import benchmark
from graphcompress.api.compress import compress
from graphcompress.api.diff import diff
from graphcompress.api.distill import distill
from graphcompress.api.inputs import Source, open_model
from graphcompress.api.inspect import inspect
from graphcompress.api.metrics import open_metric, parse_kinds
from graphcompress.api.prune import prune
from graphcompress.api.quantize import quantize
from graphcompress.api.reports import Result
from graphcompress.api.rules import explain_rule, list_rules, show_rule, verify_rules
from graphcompress.api.simplify import bisect_simplify, simplify
from graphcompress.api.validate import validate

__all__ = [
    "Result",
    "Source",
    "benchmark",
    "bisect_simplify",
    "compress",
    "diff",
    "distill",
    "explain_rule",
    "inspect",
    "list_rules",
    "open_metric",
    "open_model",
    "parse_kinds",
    "prune",
    "quantize",
    "show_rule",
    "simplify",
    "validate",
    "verify_rules",
]
