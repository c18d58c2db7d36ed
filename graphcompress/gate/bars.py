"""The bars that a result is held against. The built-in ones and those that the user states mean the same and are compared in the same way.

- agreement: every measure that judges an output must reach its bar, compared as numbers: the floor of its sort, or the one number that the user states for all of them.
- speed-up: a result reaches the bar where that is not measured to be missed, with every thread setting (`Measurement.reaches`): equal within the interval is enough. Where a machine
  stays too busy to tell, the built-in bar goes by what is most likely, and a stated bar counts as missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from graphcompress.errors import UsageError

if TYPE_CHECKING:
    from graphcompress.runtime.compare import Comparison
    from graphcompress.runtime.measure import Measurement

FLOORS = MappingProxyType(
    {
        "classes": 0.99,
        "sequence": 0.97,
        "probabilities": 0.97,
        "scores": 0.85,
        "values": 0.9,
        "channel": 0.4,
        "embedding": 0.965,
        "boxes": 0.95,
        "exact": 0.99,
        "metric": 0.99,
    }
)
"""By measure (`runtime.agreement`), read off the pairs of `benchmarks/judge.py`: what tells changes that a task notices from those that it does not."""


@dataclass(frozen=True, slots=True)
class Miss:
    """A bar of agreement that is missed, by the `measure` of an output ("" for a metric of the caller's), and by how much of what it allows."""

    output: str
    measure: str
    agreement: float
    bar: float

    @property
    def excess(self) -> float:
        """How many times the disagreement that the bar allows."""
        return (1 - self.agreement) / max(1e-9, 1 - self.bar)


@dataclass(frozen=True, slots=True)
class Bars:
    """What the user states (None: not stated). Where a bar is not stated the built-in one holds: the floor of each measure, never slower."""

    min_agreement: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a bar that nothing could reach or miss."""
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"--min-agreement is a share between 0 and 1, and {self.min_agreement} is not.")
        if self.min_speedup is not None and not 0 < self.min_speedup < math.inf:
            raise UsageError(f"--min-speedup says how many times faster, as a positive number, and {self.min_speedup} is not one.")

    def agreement(self, measure: str) -> float:
        """What a measure must reach."""
        return FLOORS[measure] if self.min_agreement is None else self.min_agreement

    def missed(self, comparison: Comparison) -> Miss | None:
        """The bar that is missed most; None where all are reached."""
        misses = [Miss(name, m.name, m.agreement, self.agreement(m.name)) for name, m in comparison.judging if m.agreement < self.agreement(m.name)]
        return max(misses, key=lambda miss: miss.excess, default=None)

    @property
    def speedup(self) -> float:
        """The speed-up that a result must reach."""
        return 1.0 if self.min_speedup is None else self.min_speedup

    @property
    def agreement_text(self) -> str:
        """The bars of agreement in a sentence."""
        return "the floors of agreement" if self.min_agreement is None else f"the bar of {self.min_agreement:g} (--min-agreement)"

    def agreement_name(self, measure: str) -> str:
        """The bar of a measure in a sentence."""
        return f"the floor of {FLOORS[measure]:g} for {measure}" if self.min_agreement is None else f"the bar of {self.min_agreement:g} (--min-agreement)"


def reaches(measurements: Iterable[Measurement], bar: float) -> bool | None:
    """Whether every measurement reaches `bar`; None where none misses it and one is too noisy to tell."""
    answers = [m.reaches(bar) for m in measurements]
    return False if False in answers else None if None in answers else True
