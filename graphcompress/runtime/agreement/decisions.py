"""Classes: what the other choice costs.

A disagreement costs the reference's regret: how much larger the reference's value of its own choice is than that of the candidate's choice, as a part of the
typical margin (the median over all rows of the difference between the largest and the second value), 1 at most. Softmax makes rows of trained networks differ
by nearly 1 there, so that for probabilities the cost is about the difference of the two probabilities; logits of any temperature and cosines are treated
alike, and near ties, of which an untrained network is full, cost next to nothing.

value = 1 - sum of costs / rows, but for a tenth of one sure decision: a single near tie is no evidence, however few rows there are. Of maps (rank above 2)
rows on which both sides give the most frequent class do not count: a map that is mostly background is judged by the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphcompress.runtime.agreement.measured import Array, Measured, capped
from graphcompress.runtime.magnitudes import LARGEST, Magnitudes

ROWS = 1 << 16  # elements taken to float64 at once
FEWEST_CLASSES = 2
NEAR_TIE = 0.1  # of the cost of a sure decision


class ClassDecisions:
    """Top-1 decisions along `axis`. Holds the distribution of margins, that of regrets where the sides differ, and how often each class is given by both."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis
        self.margins = Magnitudes()
        self.regrets = Magnitudes()
        self.same = np.zeros(0, np.int64)
        self.lost = 0  # rows with NaN that are not equal
        self.rows = 0
        self.maps = False
        self.lowest: int | None = None  # class that the reference gives
        self.highest: int | None = None

    def update(self, reference: Array, candidate: Array, rows: int) -> None:
        """See `Measure.update`."""
        self.maps |= reference.ndim > 2 and reference.size > reference.shape[self.axis] * max(1, rows)
        r, c = (np.moveaxis(a, self.axis, -1).reshape(-1, a.shape[self.axis]) for a in (reference, candidate))
        step = max(1, ROWS // r.shape[1])
        for start in range(0, len(r), step):
            self._rows(r[start : start + step].astype(np.float64), c[start : start + step].astype(np.float64))

    def merge(self, other: ClassDecisions) -> None:
        """See `Measure.merge`."""
        self.margins.merge(other.margins)
        self.regrets.merge(other.regrets)
        self._agree(other.same)
        self.lost += other.lost
        self.rows += other.rows
        self.maps |= other.maps
        self._answers(other.lowest, other.highest)

    def finish(self) -> list[Measured]:
        """See `Measure.finish`."""
        if not self.rows:
            return []
        counting = self.rows - (int(self.same.max(initial=0)) if self.maps else 0)
        differing = self.regrets.total + self.lost
        cost = self.lost + max(0.0, self.regrets.sum_of(_part_of(self.margins.quantile(0.5))) - NEAR_TIE)
        return [Measured("classes", capped(1 - cost / max(1, counting)), self.rows, differing)]

    @property
    def answer(self) -> int | None:
        """The only class that the reference ever gives."""
        return self.lowest if self.lowest == self.highest else None

    def _rows(self, r: Array, c: Array) -> None:
        odd = np.isnan(r).any(axis=1) | np.isnan(c).any(axis=1)
        if odd.any():  # with NaN there is no decision: the rows must be equal
            self.lost += int((~((r == c) | (np.isnan(r) & np.isnan(c))))[odd].any(axis=1).sum())
            self.rows += int(odd.sum())
            r, c = r[~odd], c[~odd]
        if not len(r):
            return
        self.rows += len(r)
        own, other = np.argmax(r, axis=1), np.argmax(c, axis=1)
        self._answers(int(own.min()), int(own.max()))
        top = np.partition(r, -2, axis=1)[:, -2:]
        self.margins.update(_gap(top[:, 1], top[:, 0]))
        same = own == other
        at = np.flatnonzero(~same)
        self.regrets.update(_gap(r[at, own[at]], r[at, other[at]]))
        self._agree(np.bincount(own[same]))

    def _agree(self, counts: Array) -> None:
        if len(counts) > len(self.same):
            self.same = np.pad(self.same, (0, len(counts) - len(self.same)))
        self.same[: len(counts)] += counts

    def _answers(self, lowest: int | None, highest: int | None) -> None:
        if lowest is not None and highest is not None:
            self.lowest = lowest if self.lowest is None else min(self.lowest, lowest)
            self.highest = highest if self.highest is None else max(self.highest, highest)


def _gap(above: Array, below: Array) -> Array:
    """The difference, a finite number."""
    with np.errstate(invalid="ignore"):
        gap: Array = np.nan_to_num(above - below, nan=0.0, posinf=LARGEST)
    return gap


def _part_of(margin: float) -> Callable[[Array], Array]:
    return lambda regret: np.minimum(1.0, regret / margin) if margin > 0 else (regret > 0).astype(np.float64)
