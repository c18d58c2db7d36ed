"""Tables and frames of raw numbers, of which the graph does not say whether they hold logits or values (landmarks, embeddings, parameters): the numbers tell.

Where a classifier is sure, one entry of a row stands out: the largest is further from the row's mean, in standard deviations of the row, than that of as many
normal numbers (Blom's approximation of the expected largest one), and it is not the same entry for nearly all rows. So coordinates, embeddings and the tables
of untrained networks are judged as values, where every entry counts.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from graphcompress.runtime.agreement.decisions import ClassDecisions
from graphcompress.runtime.agreement.measured import Array, Measured
from graphcompress.runtime.agreement.sequences import ClassSequences
from graphcompress.runtime.agreement.spreads import SpreadShares

STANDS_OUT = 0.3  # standard deviations beyond what is expected of normal numbers
FEWEST_COLUMNS = 4  # of fewer the largest always stands out
SAME_ENTRY = 0.9  # of the rows
CHUNK = 1 << 18


class ClassesOrValues:
    """Both measures, and what decides between them: the mean of (largest - mean) / standard deviation over all rows, and how often each entry is the
    largest."""

    def __init__(self, classes: ClassDecisions | ClassSequences, axis: int = -1) -> None:
        self.classes = classes
        self.values = SpreadShares()
        self.axis = axis
        self.columns = 0
        self.rows = 0
        self.peak = 0.0
        self.largest = np.zeros(0, np.int64)

    def update(self, reference: Array, candidate: Array, rows: int) -> None:
        """See `Measure.update`."""
        self.classes.update(reference, candidate, rows)
        self.values.update(reference, candidate, rows)
        table = np.moveaxis(reference, self.axis, -1).reshape(-1, reference.shape[self.axis])
        self.columns = table.shape[1]
        step = max(1, CHUNK // self.columns)
        for start in range(0, len(table), step):
            part = table[start : start + step].astype(np.float64)
            part = part[np.isfinite(part).all(axis=1)]
            part = part[part.max(axis=1) > part.min(axis=1)]
            self.rows += len(part)
            self.peak += float(((part.max(axis=1) - part.mean(axis=1)) / part.std(axis=1)).sum())
            self._count(np.bincount(part.argmax(axis=1), minlength=self.columns))

    def merge(self, other: ClassesOrValues) -> None:
        """See `Measure.merge`."""
        self.classes.merge(other.classes)  # type: ignore[arg-type]
        self.values.merge(other.values)
        self.columns = max(self.columns, other.columns)
        self.rows += other.rows
        self.peak += other.peak
        self._count(other.largest)

    def finish(self) -> list[Measured]:
        """See `Measure.finish`."""
        return (self.classes if self.are_classes else self.values).finish()

    @property
    def are_classes(self) -> bool:
        """Whether the reference's rows are those of a classifier."""
        if not self.rows or self.columns < FEWEST_COLUMNS or self.largest.max() > SAME_ENTRY * self.rows:
            return False
        expected = NormalDist().inv_cdf((self.columns - 0.375) / (self.columns + 0.25))
        return self.peak / self.rows > expected + STANDS_OUT

    @property
    def answer(self) -> int | None:
        """The only class that the reference ever gives, where it gives classes."""
        return self.classes.answer if self.are_classes and isinstance(self.classes, ClassDecisions) else None

    def _count(self, counts: Array) -> None:
        if len(counts) > len(self.largest):
            self.largest = np.pad(self.largest, (0, len(counts) - len(self.largest)))
        self.largest[: len(counts)] += counts
