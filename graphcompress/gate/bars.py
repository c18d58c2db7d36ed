"""The two bars that a result is held against. The built-in ones and those that the user states mean the same and are compared in the same way.

- agreement: a result reaches the bar where its agreement is at least that number, compared as numbers. The floor of 0.99 is where a task begins to notice,
  whatever the kind of the output (`runtime.agreement.measured`).
- speed-up: a result reaches the bar where that is not measured to be missed, with every thread setting (`Measurement.reaches`): equal within the interval is enough, and
  what is measured and not slower counts as 1. Where a machine stays too busy to tell, a bar up to 1 goes by what is most likely, and a stated bar above 1
  counts as missed. Of several thread settings the CPU's clock often decides one thread, while the wall clock tells nothing of the others: then the claim is for the settings that
  could be told (`telling`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from graphcompress.errors import UsageError
from graphcompress.runtime.agreement.measured import FLOOR

if TYPE_CHECKING:
    from graphcompress.runtime.compare import Comparison
    from graphcompress.runtime.measure import Measurement

ROUNDING = 1e-9
NEXT_TO_NOTHING = 1.02
"""How many times the original's time a result may take where size is the goal and the user states no bar."""
Goal: TypeAlias = Literal["balanced", "speed", "size"]
"""What is wanted of a result: "balanced" neither slower nor larger than the original, "speed" not slower, whatever its size, "size" the smallest that costs
next to no time."""


@dataclass(frozen=True, slots=True)
class Bars:
    """What the user states (None: not stated). Where a bar is not stated the built-in one holds: agreement 0.99, never slower."""

    min_agreement: float | None = None
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a bar that nothing could reach or miss."""
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"--min-agreement is a share between 0 and 1, and {self.min_agreement} is not.")
        if self.min_speedup is not None and not 0 < self.min_speedup < math.inf:
            raise UsageError(f"--min-speedup says how many times faster, as a positive number, and {self.min_speedup} is not one.")

    @property
    def agreement(self) -> float:
        """The agreement that a result must reach."""
        return FLOOR if self.min_agreement is None else self.min_agreement

    @property
    def speedup(self) -> float:
        """The speed-up that a result must reach."""
        return 1.0 if self.min_speedup is None else self.min_speedup

    @property
    def agreement_name(self) -> str:
        """The bar of agreement in a sentence."""
        return f"the floor of {FLOOR}" if self.min_agreement is None else f"the bar of {self.min_agreement:g} (--min-agreement)"


def required_speedup(bars: Bars, goal: Goal) -> float:
    """The speed-up that a result must reach: what is stated, else that it is not slower, or for the smallest that it takes next to no more time."""
    return 1 / NEXT_TO_NOTHING if goal == "size" and bars.min_speedup is None else bars.speedup


def is_clear(comparison: Comparison) -> bool:
    """Whether a model that was chosen among others by the inputs that judge it is likely to reach the floor on others too: every measure that judges is on
    the right side of its floor by a standard error of what it loses, be it as much as a share of inputs that are lost altogether (binomial: sqrt(p (1 - p) /
    n), with p what the floor allows). So the fewer the inputs, and the less a measure allows, the less may be lost."""
    return all(
        (1 - m.agreement) / (1 - FLOOR) * (1 + math.sqrt(m.floor / (1 - m.floor) / comparison.trials(output))) <= 1 + ROUNDING
        for output, m in comparison.judging
    )


def reaches(measurements: Iterable[Measurement], bar: float) -> bool | None:
    """Whether every measurement reaches `bar`; None where none misses it and one is too noisy to tell."""
    measured = list(measurements)
    answers = [m.reaches(bar) for m in (telling(measured) if bar <= 1 else measured)]
    return False if False in answers else None if None in answers else True


def telling(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Without those that tell nothing: too noisy, by the wall clock, the candidate within what the reference differs from itself. All, where no other is decided."""
    measured = list(measurements)
    decided = any(m.verdict != "noisy" for m in measured)
    return [m for m in measured if not (decided and m.verdict == "noisy" and m.clock == "wall" and m.band[0] <= m.speedup <= m.band[1])]
