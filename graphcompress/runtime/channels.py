"""Magnitudes by position along one axis of an output, so that parts of unlike scale that were joined in one tensor (boxes in hundreds beside scores of 0 to 1) are
judged each by its own scale.

Counts are on a coarse logarithmic grid of eight bins per factor of two: bounded memory, and statistics of any parts of the data can be added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

MOST_POSITIONS = 1024
DROPPED_BITS = 20  # of a float32: exponent and three bits of the mantissa are left
OCTAVES = 40  # to both sides of 1; what is smaller counts as zero
LOWEST = (127 - OCTAVES) << 3
BINS = 2 * OCTAVES << 3
EDGES = ((np.arange(BINS + 1) + LOWEST).astype(np.uint32) << DROPPED_BITS).view(np.float32).astype(np.float64)
LOWS = np.where(np.arange(BINS) == 0, 0.0, EDGES[:-1])
MIDDLES = np.where(np.arange(BINS) == 0, 0.0, (EDGES[:-1] + EDGES[1:]) / 2)
APART = 4  # times as large: no position lies between two parts
UNIT = 1.0  # values up to 1 are taken for probabilities, whose scale is 1 however rare an answer is


@dataclass(slots=True)
class Channels:
    """|reference| and |reference - candidate| at each of `positions` along an axis; positions follow one another every `inner` elements of the flat array."""

    positions: int
    reference: Array
    difference: Array

    @classmethod
    def of(cls, positions: int) -> Channels:
        return cls(positions, np.zeros((positions, BINS), np.int64), np.zeros((positions, BINS), np.int64))

    def update(self, reference: Array, candidate: Array, start: int, inner: int) -> None:
        """Count a piece of two flat arrays (float64) that begins at element `start`. What is finite on one side only differs infinitely."""
        at = (np.arange(start, start + len(reference)) // inner % self.positions) * BINS
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(reference - candidate)
        equal = (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
        difference = np.where(equal, 0.0, np.where(np.isnan(difference), np.inf, difference))
        self.reference += self._counts(at, np.where(np.isfinite(reference), np.abs(reference), 0.0))
        self.difference += self._counts(at, difference)

    def merged(self, other: Channels | None) -> Channels | None:
        """Both together; None where they count other numbers of positions."""
        if other is None or other.positions != self.positions:
            return None
        return Channels(self.positions, self.reference + other.reference, self.difference + other.difference)

    def largest(self) -> Array:
        """The largest |reference| at each position (the low edge of its bin), 0 where all are zero."""
        return np.asarray(LOWS[BINS - 1 - np.argmax(self.reference[:, ::-1] > 0, axis=1)])

    def parts(self, tolerance: float, percentile: float) -> Iterator[Array]:
        """Positions grouped by scale, largest first; none where one scale does for all. A part ends where everything smaller is APART times as small and within the
        tolerance (`tolerance` times the part's percentile of magnitudes), so that it could not disagree; values up to UNIT are one part. Positions that are always
        zero belong to the first."""
        largest = self.largest()
        order = np.argsort(-largest, kind="stable")
        begin = 0
        for end in range(1, len(order)):
            here, below = largest[order[end - 1]], largest[order[end]]
            if here > UNIT and 0 < below <= here / APART and below <= tolerance * self._scale(order[begin:end], percentile):
                yield order[begin:end] if begin else np.concatenate([order[:end], order[largest[order] == 0]])
                begin = end
        if begin:
            yield order[begin:][largest[order[begin:]] > 0]

    def wrong(self, part: Array, tolerance: float, percentile: float) -> tuple[int, int]:
        """(elements of a part that differ by more than `tolerance` times its scale, its elements)."""
        counts = self.difference[part].sum(axis=0)
        return int(counts[tolerance * self._scale(part, percentile) < MIDDLES].sum()), int(counts.sum())

    def _scale(self, part: Array, percentile: float) -> float:
        """The percentile of the magnitudes, at least UNIT where none is above."""
        cumulated = np.cumsum(self.reference[part].sum(axis=0))
        scale = float(MIDDLES[int(np.searchsorted(cumulated, percentile * cumulated[-1]))])
        return scale if self.largest()[part].max() > UNIT else UNIT

    def _counts(self, at: Array, values: Array) -> Array:
        bits = np.minimum(values, np.finfo(np.float32).max).astype(np.float32).view(np.uint32) >> DROPPED_BITS
        bins = np.clip(bits.astype(np.int64) - LOWEST, 0, BINS - 1)
        return np.bincount(at + bins, minlength=self.positions * BINS).reshape(self.positions, BINS)
