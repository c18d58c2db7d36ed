"""How magnitudes are distributed, in bounded memory: counts on a fixed logarithmic grid, so that statistics of any parts of the data can be added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

# A bin is what the first 18 bits of a float32 after the sign tell: exponent and 10 bits of mantissa, 1024 bins per factor of two. A value is known to 0.05%.
DROPPED_BITS = 13
LARGEST = float(np.finfo(np.float32).max)

# A coarse grid of eight bins per factor of two, for many distributions side by side.
COARSE_DROPPED_BITS = 20
OCTAVES = 40  # to both sides of 1; what is smaller counts as zero
LOWEST = (127 - OCTAVES) << 3
COARSE_BINS = 2 * OCTAVES << 3
_EDGES = ((np.arange(COARSE_BINS + 1) + LOWEST).astype(np.uint32) << COARSE_DROPPED_BITS).view(np.float32).astype(np.float64)
COARSE_MIDDLES = np.where(np.arange(COARSE_BINS) == 0, 0.0, (_EDGES[:-1] + _EDGES[1:]) / 2)

Floats = np.ndarray[Any, np.dtype[np.float64]]


def _no_counts() -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class Magnitudes:
    """Counts of non-negative finite numbers. `counts[i]` belongs to bin `first + i`; at most 2 MiB, usually a tenth. What is below float32's range counts as zero."""

    first: int = 0
    counts: np.ndarray[Any, np.dtype[np.int64]] = field(default_factory=_no_counts)
    total: int = 0

    def update(self, values: Floats) -> None:
        """Count `values` (flat, non-negative, finite)."""
        if not values.size:
            return
        bins = np.minimum(values, LARGEST).astype(np.float32).view(np.uint32) >> DROPPED_BITS
        low, high = int(bins.min()), int(bins.max())
        self._add(low, np.bincount((bins - np.uint32(low)).astype(np.int64), minlength=high - low + 1))

    def merge(self, other: Magnitudes) -> Self:
        """Add what `other` has counted."""
        self._add(other.first, other.counts)
        return self

    def quantile(self, share: float) -> float:
        """The quantile by linear interpolation between order statistics, as numpy's default does it. 0 where nothing was counted."""
        if not self.total:
            return 0.0
        position = share * (self.total - 1)
        lower = int(position)
        low, high = self._ordered(lower), self._ordered(min(lower + 1, self.total - 1))
        return low + (high - low) * (position - lower)

    def sum_of(self, function: Callable[[Floats], Floats]) -> float:
        """The sum of a function of each number, a bin counting as its middle."""
        if not self.total:
            return 0.0
        some = np.flatnonzero(self.counts)
        return float(self.counts[some] @ function(_middle(self.first + some)))

    def _ordered(self, rank: int) -> float:
        index = int(np.searchsorted(np.cumsum(self.counts), rank, side="right"))
        return float(_middle(np.asarray([self.first + index]))[0])

    def _add(self, first: int, counts: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        if not len(counts):
            return
        if not len(self.counts):
            self.first, self.counts = first, np.array(counts, np.int64)
        else:
            low = min(first, self.first)
            high = max(first + len(counts), self.first + len(self.counts))
            if (low, high - low) != (self.first, len(self.counts)):
                grown = np.zeros(high - low, np.int64)
                grown[self.first - low : self.first - low + len(self.counts)] = self.counts
                self.first, self.counts = low, grown
            self.counts[first - low : first - low + len(counts)] += counts
        self.total += int(counts.sum())


def coarse_bins(values: Floats) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The bin on the coarse grid of each of `values` (non-negative; infinite ones are in the last)."""
    bits = np.minimum(values, LARGEST).astype(np.float32).view(np.uint32) >> COARSE_DROPPED_BITS
    return np.clip(bits.astype(np.int64) - LOWEST, 0, COARSE_BINS - 1)


def _middle(bins: np.ndarray[Any, Any]) -> Floats:
    """The middle of each bin; exactly zero for the lowest one, which holds zero."""
    edges = [(bins + i).astype(np.uint32) << np.uint32(DROPPED_BITS) for i in (0, 1)]
    low, high = (e.view(np.float32).astype(np.float64) for e in edges)
    return np.where(bins == 0, 0.0, np.where(np.isfinite(high), (low + high) / 2, low))
