"""What all measures have in common, and the scale of agreement.

A task begins to notice at another value of each measure: symbols of which 2% are edited read as before, classes of which 2% flip against the odds do not.
FLOORS are these values, read off pairs of models of which the task's own measure is known (`benchmarks/judge.py`). Agreement puts all measures on one scale,
so that one bar serves them all: 0.99 at the floor, 1 where nothing differs, 0 where nothing is the same, straight lines between.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]

FLOOR = 0.99
FLOORS = MappingProxyType(
    {
        "classes": 0.9991,
        "sequence": 0.978,
        "probabilities": 0.97,
        "scores": 0.85,
        "values": 0.89,
        "channel": 0.4,
        "embedding": 0.965,
        "boxes": 0.95,
        "exact": 0.99,
        "metric": 0.99,
    }
)


@dataclass(frozen=True, slots=True)
class Measured:
    """A measure's answer: `value` 0 to 1; how many `decisions` it saw (classes, elements, rows: what the measure counts), and in how many of them the sides
    differ."""

    name: str
    value: float
    decisions: float
    disagreements: float

    @property
    def floor(self) -> float:
        """The value at which a task begins to notice."""
        return FLOORS[self.name]

    @property
    def agreement(self) -> float:
        """The value on the scale of all measures."""
        if self.value >= self.floor:
            return 1 - (1 - self.value) * ((1 - FLOOR) / (1 - self.floor))
        return self.value * (FLOOR / self.floor)


class Measure(Protocol):
    """A statistic over pairs of arrays. Memory is bounded by one array, however many there are; parts of the data can be merged in any order."""

    def update(self, reference: Array, candidate: Array, rows: int) -> None:
        """Take in two arrays of one shape, out of a feed of `rows` inputs."""
        ...

    def merge(self, other: Any) -> None:
        """Add what another one of this sort has learned about the same output."""
        ...

    def finish(self) -> list[Measured]:
        """What this measure says, with what other ones come out of the same counts; nothing where nothing was decided."""
        ...


def capped(value: float) -> float:
    """A share between 0 and 1, whatever rounding does."""
    return min(1.0, max(0.0, float(value)))
