"""Metrics and kinds of outputs as callers state them."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from graphcompress.errors import UsageError, suggestion
from graphcompress.ir.analysis.output_kinds import KIND_NAMES
from graphcompress.runtime.metric import FAULTS, Metric

AnyMetric: TypeAlias = str | Metric | Callable[..., Any]


def open_metric(metric: AnyMetric | None, *, joins: bool = False) -> Metric | None:
    """A metric by its function or as "MODULE:FUNCTION"; modules of the working folder are found, too. Raises UsageError where there is none."""
    if metric is None:
        if joins:
            raise UsageError("There is no metric that could join the outputs' own measures (--metric-joins). Give one with --metric MODULE:FUNCTION.")
        return None
    if isinstance(metric, Metric):
        return metric
    if not isinstance(metric, str):
        return Metric(getattr(metric, "__qualname__", type(metric).__name__), metric, joins)
    module, _, name = metric.partition(":")
    if not module or not name:
        raise UsageError(f"--metric '{metric}' is not MODULE:FUNCTION, for instance my_task:accuracy.")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except (*FAULTS, SyntaxError) as problem:
        raise UsageError(f"--metric '{metric}' cannot be loaded: {type(problem).__name__}: {problem}.") from problem
    if not callable(function):
        raise UsageError(f"--metric '{metric}' is no function, but a {type(function).__name__}.")
    return Metric(metric, function, joins)


def parse_kinds(stated: Iterable[str]) -> dict[str, str]:
    """Output -> kind out of "OUTPUT=KIND". Raises UsageError for what is none; whether the output exists is known once the model is read."""
    kinds: dict[str, str] = {}
    for text in stated:
        output, _, kind = text.rpartition("=")
        if not output or kind not in KIND_NAMES:
            raise UsageError(f"--kind '{text}' is not OUTPUT=KIND. {suggestion(kind, KIND_NAMES)}")
        kinds[output] = kind
    return kinds
