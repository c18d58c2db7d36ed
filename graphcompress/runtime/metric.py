"""A task's own measure, as a function of the caller's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphcompress.errors import UsageError
from graphcompress.runtime.agreement.measured import Measured, capped

Outputs = Mapping[str, Any]
FAULTS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError, TypeError, ValueError)
"""What may go wrong in somebody else's function."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`function(reference, candidate)` with the outputs of one feed by name, or `function(reference, candidate, labels)` where it takes three and the data has
    keys that begin with `_`: how well the candidate does on that feed, 0 to 1. The agreement is the mean over the feeds. `joins`: the outputs' own measures
    judge, too."""

    name: str
    function: Callable[..., Any]
    joins: bool = False

    @property
    def takes_labels(self) -> bool:
        """Whether the function takes a third argument."""
        try:
            inspect.signature(self.function).bind(None, None, None)
        except (TypeError, ValueError):
            return False
        return True

    def value(self, reference: Outputs, candidate: Outputs, labels: Mapping[str, Any] | None) -> float:
        """On one feed. Raises UsageError where the function fails or gives no number between 0 and 1."""
        arguments = (reference, candidate, labels) if labels and self.takes_labels else (reference, candidate)
        try:
            value = float(self.function(*arguments))
        except FAULTS as problem:
            raise UsageError(f"The metric '{self.name}' failed: {type(problem).__name__}: {problem}.") from problem
        if not 0 <= value <= 1:
            raise UsageError(f"The metric '{self.name}' gave {value:g}. It must give a number from 0 (nothing agrees) to 1.")
        return value


class MetricMean:
    """The mean over feeds."""

    def __init__(self) -> None:
        self.total = 0.0
        self.feeds = 0

    def update(self, value: float) -> None:
        """Take in the value of one feed."""
        self.total += value
        self.feeds += 1

    def merge(self, other: MetricMean) -> None:
        """Add what another one has seen."""
        self.total += other.total
        self.feeds += other.feeds

    def finish(self) -> Measured | None:
        """The mean; None where there were no feeds."""
        return Measured("metric", capped(self.total / self.feeds), self.feeds, self.feeds - self.total) if self.feeds else None
