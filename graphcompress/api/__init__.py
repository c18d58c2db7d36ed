"""The public functions: what the command line does, from Python.

A model is a path or a `Model`; data is a path (a folder of .npz, or one .npz), a `Dataset`, or a list of feeds (dicts of arrays by input name). Nothing is
written: `graphcompress.save(result.model, path)` does that. What is the caller's business is raised as a `GraphCompressError`.
"""

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
