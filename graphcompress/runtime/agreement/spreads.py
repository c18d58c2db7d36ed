"""Values: differences as a part of how much an element varies.

An element is right where it is off by at most 5% of its spread, or by 1% of the largest magnitude (2.5 steps of a code of 8 bits) as long as that is no more
than a quarter of the spread. The spread is the width that 99% of a normal distribution have to one side of the mean (2.58 standard deviations), of the
reference over *inputs*: what is the same for all inputs (the mean shape of landmarks, a temperature in kelvin) is no spread. It is pooled over the elements of
a position along an axis (the second, and the last), and over positions of like scale: a block is what varies at least a quarter as much as its largest
position (less where few inputs tell it roughly). So boxes in hundreds beside scores of 0 to 1, or a spectrum of 64 bands, are each held against their own
scale. Scores joined with other parts, and probabilities, have the scale 1.

Three measures come out of it: "values", the share of right elements, as a whole or in the block (of 1% of the positions or more) where it is least; "scores",
the share of right probabilities; "channel", the share at the position where it is least, which sees what is lost altogether. Of a single input the spread is
that of the elements of a position around their mean; what does not vary at all is held against its magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graphcompress.runtime.agreement.measured import Array, Measured, capped
from graphcompress.runtime.agreement.moments import ElementMoments
from graphcompress.runtime.agreement.thresholds import Tally, decisions
from graphcompress.runtime.magnitudes import COARSE_BINS, COARSE_MIDDLES, coarse_bins

TOLERANCE = 0.05
WIDTH = 2.58  # standard deviations
FINE = 0.01  # of the largest magnitude of a block
COARSE = 0.25  # of the spread
LIKE = 4.0  # times as large: positions of one block
FEW_INPUTS = 16  # make that much more of it, shared among their degrees of freedom: few inputs tell a spread roughly
LEAST_PART = 0.01  # of the positions: a smaller block does not judge alone
UNIT = 1.0  # the scale of probabilities, however rare an answer is
FLAT = 1e-5  # of the magnitude: what varies less does not vary
ENOUGH = 24  # elements of a block or a position, for it to judge alone
MOST_POSITIONS = 1024
CHUNK = 1 << 18


class Positions:
    """What is known of each position along an axis: how |reference - candidate| is distributed (8 bins per factor of two), moments and bounds of the
    reference, decisions at thresholds."""

    def __init__(self, count: int) -> None:
        self.differences = np.zeros((count, COARSE_BINS), np.int64)
        self.count = np.zeros(count)
        self.total = np.zeros(count)
        self.squares = np.zeros(count)
        self.low = np.full(count, np.inf)
        self.high = np.full(count, -np.inf)
        self.tally = Tally(count)

    def update(self, r: Array, difference: Array, at: Array) -> None:
        """Flat arrays (float64), and the position of each element."""
        count = len(self.count)
        bins = at * COARSE_BINS + coarse_bins(difference)
        if len(bins) < count * COARSE_BINS:
            np.add.at(self.differences.reshape(-1), bins, 1)
        else:
            self.differences += np.bincount(bins, minlength=count * COARSE_BINS).reshape(count, COARSE_BINS)
        fine = np.isfinite(r)
        where, values = at[fine], r[fine]
        self.count += np.bincount(where, minlength=count)
        self.total += np.bincount(where, values, minlength=count)
        self.squares += np.bincount(where, values * values, minlength=count)
        np.minimum.at(self.low, where, values)
        np.maximum.at(self.high, where, values)

    def merge(self, other: Positions) -> None:
        """Add what another one has counted."""
        for name in ("differences", "count", "total", "squares"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.tally.weights += other.tally.weights

    def deviation(self) -> Array:
        """The standard deviation of all elements of each position."""
        count = np.maximum(1, self.count)
        return np.sqrt(np.maximum(0.0, self.squares / count - (self.total / count) ** 2))

    def magnitude(self) -> Array:
        """The largest |reference| at each position."""
        largest: Array = np.where(self.count > 0, np.maximum(np.abs(self.low), np.abs(self.high)), 0.0)
        return largest

    def units(self) -> Array:
        """Positions whose values lie within 0 and 1."""
        within: Array = (self.count > 0) & (self.low >= 0) & (self.high <= UNIT)
        return within


class SpreadShares:
    """Elements within the tolerance. `scores`: positions within 0 and 1 are probabilities, which have the scale 1 and are also judged by their decisions."""

    def __init__(self, *, scores: bool = False) -> None:
        self.scores = scores
        self.axes: dict[int | None, Positions | None] = {}  # None as axis: all elements at one position; None as value: feeds differ in length
        self.moments = ElementMoments()
        self.elements = 0

    def update(self, reference: Array, candidate: Array, rows: int) -> None:
        """See `Measure.update`."""
        self.elements += reference.size
        self.moments.update(reference, rows)
        axes = self._axes_of(reference.shape)
        flat_r, flat_c = reference.reshape(-1), candidate.reshape(-1)
        for start in range(0, len(flat_r), CHUNK):
            r, c = flat_r[start : start + CHUNK].astype(np.float64), flat_c[start : start + CHUNK].astype(np.float64)
            difference = _differences(r, c)
            decided = decisions(r, c) if self.scores else []
            for axis, positions in axes.items():
                inner = 1 if axis is None else math.prod(reference.shape[axis + 1 :])
                at = np.arange(start, start + len(r)) // inner % len(positions.count)
                positions.update(r, difference, at)
                positions.tally.count(decided, at)

    def merge(self, other: SpreadShares) -> None:
        """See `Measure.merge`."""
        self.elements += other.elements
        self.moments.merge(other.moments)
        for axis, theirs in other.axes.items():
            if axis not in self.axes:
                self.axes[axis] = theirs and Positions(len(theirs.count))
            ours = self.axes[axis]
            if ours is not None and theirs is not None and len(ours.count) == len(theirs.count):
                ours.merge(theirs)
            else:
                self.axes[axis] = None

    def finish(self) -> list[Measured]:
        """See `Measure.finish`."""
        if not self.elements:
            return []
        known = {axis: positions for axis, positions in self.axes.items() if positions is not None}
        if len(known) > 1:
            known.pop(None, None)
        found = [share for axis, positions in known.items() for share in self._shares(axis, positions)]
        measured = []
        for name in dict.fromkeys(name for name, _, _ in found):
            wrong, decisions = max(((w, d) for n, w, d in found if n == name), key=lambda part: part[0] / part[1])
            measured.append(Measured(name, capped(1 - wrong / decisions), decisions, wrong))
        if self.scores:
            decided = [f1 for positions in known.values() if (units := positions.units()).any() and (f1 := positions.tally.f1(units)) is not None]
            measured += [Measured("probabilities", capped(share), weight, (1 - share) * weight) for share, weight in sorted(decided)[:1]]
        return measured

    def _axes_of(self, shape: tuple[int, ...]) -> dict[int | None, Positions]:
        """Where to count an array of this shape."""
        lengths: dict[int | None, int] = {None: 1}
        lengths |= {axis: shape[axis] for axis in {1, len(shape) - 1} & set(range(1, len(shape))) if 1 < shape[axis] <= MOST_POSITIONS}
        for axis in set(self.axes) - set(lengths):
            self.axes[axis] = None
        for axis, length in lengths.items():
            known = self.axes.setdefault(axis, Positions(length))
            if known is not None and len(known.count) != length:
                self.axes[axis] = None
        return {axis: positions for axis, positions in self.axes.items() if positions is not None}

    def _shares(self, axis: int | None, positions: Positions) -> Iterator[tuple[str, int, int]]:
        """(measure, wrong, all) elements along an axis as a whole, in each block that is large enough, and at each position of such a block that has enough of
        them."""
        tolerance, blocks, units = self._tolerances(axis, positions)
        wrong = np.array([counts[limit < COARSE_MIDDLES].sum() for counts, limit in zip(positions.differences, tolerance, strict=True)])
        total = positions.differences.sum(axis=1)
        rest = ~units
        for name, part in (("values", rest), ("scores", units)):
            if total[part].sum():
                yield name, int(wrong[part].sum()), int(total[part].sum())
        for block in blocks:
            if len(block) >= LEAST_PART * len(total) and total[block].sum() >= ENOUGH:
                yield "values", int(wrong[block].sum()), int(total[block].sum())
                yield from (("channel", int(wrong[i]), int(total[i])) for i in block if total[i] >= ENOUGH)

    def _tolerances(self, axis: int | None, positions: Positions) -> tuple[Array, list[Array], Array]:
        """By how much an element of each position may be off, the blocks of positions of like scale, and which positions hold probabilities."""
        magnitude = positions.magnitude()
        spread = WIDTH * self.moments.deviation(axis, len(magnitude), positions.deviation())
        spread = np.where(spread > FLAT * magnitude, spread, 0.0)
        units = positions.units() if self.scores else np.zeros(len(spread), bool)
        like = LIKE * (1 + FEW_INPUTS / max(1, self.moments.count - 1))
        blocks = []
        limits = np.where(units, TOLERANCE * UNIT, 0.0)
        order = [i for i in np.argsort(-spread, kind="stable") if spread[i] > 0 and not units[i]]
        while order:
            block = np.array([i for i in order if spread[i] * like >= spread[order[0]]])
            scale = math.sqrt(float(np.mean(spread[block] ** 2)))
            limits[block] = max(TOLERANCE * scale, min(FINE * float(magnitude[block].max()), COARSE * scale))
            blocks.append(block)
            order = order[len(block) :]
        flat = (spread == 0) & ~units
        limits[flat] = np.where(magnitude[flat] > 0, TOLERANCE * magnitude[flat], limits.max(initial=0.0))
        return limits, blocks, units


def _differences(r: Array, c: Array) -> Array:
    """|r - c|, 0 where both are the same NaN or infinity, infinite where only one side is finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(r - c)
    equal = (r == c) | (np.isnan(r) & np.isnan(c))
    return np.where(equal, 0.0, np.where(np.isnan(difference), np.inf, difference))
