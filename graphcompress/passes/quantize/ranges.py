"""The range of a tensor, learned from data: statistics that merge, and three ways to choose.

A statistic has `update(array)`, `merge(other)` and `finish()`. Merging is associative and commutative and gives what one statistic over all arrays would have
given, bit for bit: minima, maxima and integer counts on a grid that does not depend on the order of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, Any]

BINS = 2048
FEW = 10_000  # a tensor with fewer values than this has no tail to cut off
CODES = 255  # steps of an 8-bit scale
BLOCK = 1 << 15  # values at a time: what stays in the cache


class Range(NamedTuple):
    """What a tensor's values lie in (closed)."""

    low: float
    high: float


class Statistic(Protocol):
    """Something learned from the values of one tensor. `finish` needs at least one value: an empty statistic gives (0, 0)."""

    @property
    def count(self) -> int: ...

    def update(self, values: Array) -> None: ...

    def merge(self, other: Any) -> None: ...

    def finish(self) -> Range: ...


class MinMax:
    """The least and the greatest value."""

    def __init__(self) -> None:
        self.count = 0
        self.low = np.inf
        self.high = -np.inf

    def update(self, values: Array) -> None:
        """Take in finite values of any shape."""
        if values.size:
            self.count += values.size
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))

    def merge(self, other: MinMax) -> None:
        self.count += other.count
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    def finish(self) -> Range:
        return Range(self.low, self.high) if self.count else Range(0.0, 0.0)


class Histogram:
    """Counts on an absolute grid of bins 2**k wide, at most BINS of them, in one pass.

    When the values outgrow the grid, k grows by one and neighbours are merged. The final k is the least one whose grid spans the least to the greatest value
    and 0, so it does not depend on order or split. Zeros are counted apart: they are always represented exactly, and after a Relu they would drown the rest.
    """

    def __init__(self) -> None:
        self.extremes = MinMax()
        self.zeros = 0
        self.k: int | None = None
        self.first = 0
        self.counts: Array = np.zeros(0, np.int64)

    @property
    def count(self) -> int:
        return self.extremes.count

    def update(self, values: Array) -> None:
        """Take in finite float32 values of any shape."""
        if not values.size:
            return
        before = MinMax()
        before.update(values)
        self.extremes.merge(before)
        flat = values.reshape(-1)
        zeros = flat.size - int(np.count_nonzero(flat))
        self.zeros += zeros
        low, high = min(before.low, 0.0), max(before.high, 0.0)
        if low == high:
            return
        k = grid(low, high)
        if self.k is not None:
            k = max(k, self.k)
        factor = np.float32(2.0**-k) if -100 < k < 20 else np.float64(2.0**-k)  # a product with a power of two is exact
        first, last = math.floor(low * 2.0**-k), math.floor(high * 2.0**-k)
        counts = np.zeros(last - first + 1, np.int64)
        for start in range(0, flat.size, BLOCK):
            index = np.floor(flat[start : start + BLOCK] * factor).astype(np.int32)
            index -= first
            counts += np.bincount(index, minlength=counts.size)
        counts[-first] -= zeros
        self._add(k, first, counts)

    def merge(self, other: Histogram) -> None:
        self.extremes.merge(other.extremes)
        self.zeros += other.zeros
        if other.k is not None:
            self._add(other.k, other.first, other.counts)

    def _add(self, k: int, first: int, counts: Array) -> None:
        """Bring both grids to the coarser one, then to the least that holds them together, and add."""
        if self.k is None:
            self.k, self.first = k, first
        common = max(k, self.k)
        first, counts = coarser(first, counts, common - k)
        self._coarsen(common)
        start = min(first, self.first)
        stop = max(first + len(counts), self.first + len(self.counts))
        both = np.zeros(stop - start, np.int64)
        both[self.first - start : self.first - start + len(self.counts)] += self.counts
        both[first - start : first - start + len(counts)] += counts
        self.first, self.counts = start, both
        while len(self.counts) > BINS:
            self._coarsen(self.k + 1)
        # Thousands of tensors are observed at a time.
        self.counts = self.counts.astype(np.min_scalar_type(self.count))

    def _coarsen(self, k: int) -> None:
        assert self.k is not None
        self.first, self.counts = coarser(self.first, self.counts, k - self.k)
        self.k = k
        while len(self.counts) > BINS:
            self.first, self.counts = coarser(self.first, self.counts, 1)
            self.k += 1

    def finish(self) -> Range:
        return self.extremes.finish()

    @property
    def width(self) -> float:
        """Width of a bin."""
        return float(np.ldexp(1.0, self.k or 0))

    @property
    def centres(self) -> Array:
        """Centres of the bins, float64."""
        return (np.arange(len(self.counts)) + self.first + 0.5) * self.width


def grid(low: float, high: float) -> int:
    """The least k whose bins of 2**k hold low..high in BINS bins; no finer than the resolution of float32 at the larger end."""
    end = max(abs(low), abs(high))
    k = math.frexp(end)[1] - 24
    while math.floor(math.ldexp(high, -k)) - math.floor(math.ldexp(low, -k)) >= BINS:
        k += 1
    return k


def coarser(first: int, counts: Array, steps: int) -> tuple[int, Array]:
    """The same counts in bins 2**steps as wide; the grid is absolute, so borders fall together."""
    if steps <= 0:
        return first, counts
    index = (np.arange(len(counts)) + first) >> steps
    start = int(index[0])
    # bincount with weights would count in float64
    merged = np.zeros(int(index[-1]) - start + 1, np.int64)
    np.add.at(merged, index - start, counts)
    return start, merged


@dataclass(frozen=True, slots=True)
class Percentile:
    """All values but the tails: at most 100 - p percent of them lie beyond either end. Ends are borders of bins. Without tails where there are few values."""

    p: float

    def choose(self, seen: Histogram) -> Range:
        whole = seen.finish()
        if seen.count < FEW or not len(seen.counts):
            return whole
        tail = seen.count * (1.0 - self.p / 100.0)
        edges = (np.arange(len(seen.counts) + 1) + seen.first) * seen.width
        below = np.concatenate([[0], np.cumsum(seen.counts)]) + np.where(edges > 0, seen.zeros, 0)
        low = edges[max(int(np.searchsorted(below, tail, "right")) - 1, 0)]
        high = edges[min(int(np.searchsorted(below, seen.count - tail, "left")), len(edges) - 1)]
        return Range(max(whole.low, min(float(low), 0.0)), min(whole.high, max(float(high), 0.0)))


@dataclass(frozen=True, slots=True)
class LeastSquares:
    """The range whose 8-bit quantization has the least squared error on the histogram: both ends shrunk apart, a coarse grid of factors, then a fine one
    around its best."""

    steps: int = 10
    least: float = 0.3

    def choose(self, seen: Histogram) -> Range:
        whole = seen.finish()
        if seen.count < FEW or not len(seen.counts):
            return whole
        full = seen.counts > 0
        centres, counts = seen.centres[full], seen.counts[full].astype(np.float64)
        low, high = min(whole.low, 0.0), max(whole.high, 0.0)
        a_low, a_high, reach = self.least, self.least, 1.0 - self.least
        best = (1.0, 1.0)
        for _ in range(2):
            lows = np.linspace(a_low, min(1.0, a_low + reach), self.steps) if low < 0 else np.ones(1)
            highs = np.linspace(a_high, min(1.0, a_high + reach), self.steps) if high > 0 else np.ones(1)
            # The widest first: of equal errors the range that cuts off less is taken.
            tries = [(float(a), float(b)) for a in lows[::-1] for b in highs[::-1]]
            errors = [squared_error(centres, counts, low * a, high * b) for a, b in tries]
            best = tries[int(np.argmin(errors))]
            half = reach / (self.steps - 1)
            a_low, a_high, reach = max(self.least, best[0] - half), max(self.least, best[1] - half), 2 * half
        return Range(low * best[0], high * best[1])


def squared_error(centres: Array, counts: Array, low: float, high: float) -> float:
    """Sum of counts * (x - Q(x))**2 for the 8-bit quantizer of low..high, zero exact."""
    scale = (high - low) / CODES
    if scale <= 0:
        return float(np.dot(counts, centres * centres))
    zero = np.rint(-low / scale)
    error = (np.clip(np.rint(centres / scale) + zero, 0, CODES) - zero) * scale - centres
    return float(np.dot(counts, error * error))
