"""What all measures have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """A measure's answer: `agreement` 0 to 1; how many `decisions` it saw (classes, elements, rows: what the measure counts), and in how many of them the sides differ."""

    name: str
    agreement: float
    decisions: float
    disagreements: float


class Measure(Protocol):
    """A statistic over pairs of arrays. Memory is bounded by one array, however many there are; parts of the data can be merged in any order."""

    def update(self, reference: Array, candidate: Array, rows: int) -> None:
        """Take in two arrays of one shape, out of a feed of `rows` inputs."""
        ...

    def merge(self, other: Any) -> None:
        """Add what another one of this sort has learned about the same output."""
        ...

    def finish(self) -> list[Measured]:
        """The agreement by this measure, with what other ones come out of the same counts; nothing where nothing was decided."""
        ...


def capped(value: float) -> float:
    """A share between 0 and 1, whatever rounding does."""
    return min(1.0, max(0.0, float(value)))
