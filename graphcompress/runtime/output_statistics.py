"""What is learned of one output of two models, in one pass and bounded memory.

The percentile that a tolerance refers to is known only at the end, so |reference| and |reference - candidate| are both counted on a logarithmic grid
(`magnitudes`): the tolerance is right to 0.05%, memory does not depend on the data, and statistics of parts can be merged in any order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from graphcompress.runtime.channels import MOST_POSITIONS, UNIT, Channels
from graphcompress.runtime.magnitudes import Magnitudes

TOLERANCE = 0.05
PERCENTILE = 0.99
CHUNK = 1 << 18  # elements taken to float64 at once

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output over all feeds.

    `equal`: every element is. `sqnr_db` = 10 log10(sum r^2 / sum (r - c)^2), `cosine` and `max_abs` are over the elements that are finite on both sides; None
    where undefined (SQNR of equal tensors, texts). `decisions` and `disagreements` are rows for classes, else elements; `inputs` counts what may be called
    independent (rows of a table of classes that has a row for each row of the inputs, else feeds); `broken` elements are finite on one side only.
    `unstable`: the reference differs from itself. `constant`: the reference is the same for all of several feeds. `answer`: the only class it ever gives.
    `hidden`: (axis, positions, all positions) where many positions along an axis are so small beside the others that no value of them would disagree.
    """

    kind: str
    equal: bool
    agreement: float | None
    sqnr_db: float | None
    cosine: float | None
    max_abs: float | None
    decisions: int
    disagreements: int
    inputs: int
    broken: int
    unstable: bool = False
    constant: bool = False
    answer: int | None = None
    hidden: tuple[int, int, int] | None = None


@dataclass(slots=True)
class OutputStatistic:
    """What is learned of one output of a kind. Sums are float64."""

    kind: str
    equal: bool = True
    numeric: bool = False
    signal: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    product: float = 0.0
    max_abs: float = 0.0
    broken: int = 0
    inputs: int = 0
    decisions: int = 0
    wrong: int = 0
    feeds: int = 0
    first: bytes = b""  # digest of the reference for the first feed, as long as no feed differs
    varies: bool = False
    lowest: int | None = None  # class that the reference gives
    highest: int | None = None
    channels: dict[int, Channels | None] = field(default_factory=dict)  # by axis; None where feeds differ in length
    reference: Magnitudes = field(default_factory=Magnitudes)
    difference: Magnitudes = field(default_factory=Magnitudes)

    def update(self, reference: Any, candidate: Any, rows: int = 1) -> None:
        """Take in the output for a feed of `rows` inputs: an array, or a sequence or map of arrays, which counts element by element."""
        refs, cands = list(flatten(reference)), list(flatten(candidate))
        self._vary(refs)
        inputs = 1
        for index in range(max(len(refs), len(cands))):
            r, c = (side[index] if index < len(side) else None for side in (refs, cands))
            if r is not None and c is not None and r.shape == c.shape and _numeric(r) == _numeric(c):
                self._pair(r, c)
                if r.ndim == 2 and len(r) == rows and self._by(r) == "class":
                    inputs = rows
            else:  # a part is missing, or has another shape: nothing of it agrees
                self.equal = False
                lost = max((self._decisions(a) for a in (r, c) if a is not None), default=0)
                self.decisions += lost
                self.wrong += lost
        self.inputs += inputs

    def merge(self, other: OutputStatistic) -> Self:
        """Add what `other` has learned about the same output."""
        self.equal &= other.equal
        self.numeric |= other.numeric
        self.max_abs = max(self.max_abs, other.max_abs)
        self.varies |= other.varies or bool(self.feeds and other.feeds and self.first != other.first)
        self.first = self.first or other.first
        self._classes_seen(other.lowest, other.highest)
        for axis, channels in other.channels.items():
            known = self.channels[axis] if axis in self.channels else channels and Channels.of(channels.positions)
            self.channels[axis] = known and known.merged(channels)
        for name in ("signal", "noise", "power", "product", "broken", "inputs", "feeds", "decisions", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reference.merge(other.reference)
        self.difference.merge(other.difference)
        return self

    def finish(self) -> OutputComparison:
        """The comparison of everything taken in."""
        tolerance = TOLERANCE * self.reference.quantile(PERCENTILE)
        wrong = self.wrong + self.difference.total - self.difference.at_most(tolerance)
        decisions = self.decisions + self.difference.total
        for part_wrong, part_decisions in self._parts():
            if part_wrong * decisions > wrong * part_decisions:
                wrong, decisions = part_wrong, part_decisions
        norms = math.sqrt(self.signal) * math.sqrt(self.power)
        return OutputComparison(
            kind=self.kind,
            equal=self.equal,
            agreement=(decisions - wrong) / decisions if decisions else None,
            sqnr_db=_decibel(self.signal, self.noise) if self.numeric else None,
            cosine=max(-1.0, min(1.0, self.product / norms)) if self.numeric and 0 < norms < math.inf else None,
            max_abs=self.max_abs if self.numeric and math.isfinite(self.max_abs) else None,
            decisions=decisions,
            disagreements=wrong,
            inputs=self.inputs,
            broken=self.broken,
            constant=self.feeds > 1 and not self.varies,
            answer=self.lowest if self.lowest == self.highest else None,
            hidden=self._hidden(tolerance),
        )

    # --- inside -----------------------------------------------------------------------------------------------------------------

    def _by(self, array: Array) -> str:
        """How an array is judged: classes need a last axis, tolerances need fractions."""
        if self.kind == "class" and array.ndim and array.shape[-1] and _numeric(array):
            return "class"
        return "value" if self.kind != "exact" and _fractional(array) else "exact"

    def _decisions(self, array: Array) -> int:
        return array.size // array.shape[-1] if self._by(array) == "class" else array.size

    def _pair(self, r: Array, c: Array) -> None:
        by = self._by(r)
        if by == "class":
            self._classes(r.reshape(-1, r.shape[-1]), c.reshape(-1, c.shape[-1]))
        flat_r, flat_c = r.reshape(-1), c.reshape(-1)
        channels = self._channels_of(r.shape) if by == "value" and r.size and r.dtype.kind != "c" else {}
        for start in range(0, r.size, CHUNK):
            piece_r, piece_c = flat_r[start : start + CHUNK], flat_c[start : start + CHUNK]
            self._chunk(piece_r, piece_c, by)
            for axis, counted in channels.items():
                counted.update(piece_r.astype(np.float64), piece_c.astype(np.float64), start, math.prod(r.shape[axis + 1 :]))

    def _vary(self, reference: Sequence[Array]) -> None:
        """Whether the reference has had more than one value."""
        self.feeds += 1
        if self.varies:
            return
        digest = hashlib.sha256()
        for array in reference:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
        self.first = self.first or digest.digest()
        self.varies = self.first != digest.digest()

    def _classes_seen(self, lowest: int | None, highest: int | None) -> None:
        if lowest is not None and highest is not None:
            self.lowest = lowest if self.lowest is None else min(self.lowest, lowest)
            self.highest = highest if self.highest is None else max(self.highest, highest)

    def _channels_of(self, shape: tuple[int, ...]) -> dict[int, Channels]:
        """Where to count an array of this shape: along its second axis and its last one, as long as all feeds have the same number of positions there."""
        for axis in {1, len(shape) - 1} & set(range(1, len(shape))):
            known = self.channels.setdefault(axis, Channels.of(shape[axis]) if 1 < shape[axis] <= MOST_POSITIONS else None)
            if known is not None and known.positions != shape[axis]:
                self.channels[axis] = None
        return {axis: channels for axis, channels in self.channels.items() if channels is not None}

    def _parts(self) -> Iterator[tuple[int, int]]:
        """(wrong, all) elements of each part, where an axis joins parts of unlike scale."""
        for channels in self.channels.values():
            if channels is not None:
                yield from (channels.wrong(part, TOLERANCE, PERCENTILE) for part in channels.parts(TOLERANCE, PERCENTILE))

    def _hidden(self, tolerance: float) -> tuple[int, int, int] | None:
        """An axis along which half of the positions or more are too small to disagree, and no gap separates them from the large ones. (Of probabilities most may be
        small.)"""
        if tolerance <= TOLERANCE * UNIT:
            return None
        for axis, channels in self.channels.items():
            if channels is not None and not list(channels.parts(TOLERANCE, PERCENTILE)):
                largest = channels.largest()
                small = int(((largest > 0) & (largest <= tolerance)).sum())
                if 2 * small >= channels.positions:
                    return axis, small, channels.positions
        return None

    def _classes(self, r: Array, c: Array) -> None:
        top = np.argmax(r, axis=1)
        if top.size:
            self._classes_seen(int(top.min()), int(top.max()))
        same = top == np.argmax(c, axis=1)
        odd = np.isnan(r.astype(np.float64)).any(axis=1) | np.isnan(c.astype(np.float64)).any(axis=1)
        if odd.any():  # with NaN there is no decision: the rows must be equal
            same[odd] = _equal(r[odd], c[odd]).all(axis=1)
        self.decisions += len(same)
        self.wrong += int((~same).sum())

    def _chunk(self, r: Array, c: Array, by: str) -> None:
        same = _equal(r, c)
        self.equal = self.equal and bool(same.all())
        if by == "exact":
            self.decisions += len(same)
            self.wrong += int((~same).sum())
        if not _numeric(r):
            return
        self.numeric = True
        a, b = _reals(r), _reals(c)
        finite = np.isfinite(a) & np.isfinite(b)
        lost = ~(finite | np.repeat(same, len(a) // max(1, len(same))))
        self.broken += int(lost.sum())
        if by == "value":
            self.reference.update(np.abs(a[np.isfinite(a)]))
        a, b = a[finite], b[finite]
        with np.errstate(over="ignore"):
            difference = np.abs(a - b)
            self.signal += float(a @ a)
            self.power += float(b @ b)
            self.product += float(a @ b)
            self.noise += float(difference @ difference)
        self.max_abs = max(self.max_abs, float(difference.max(initial=0.0)))
        if by == "value":
            self.difference.update(difference)
            rest = len(finite) - len(a)
            self.decisions += rest
            self.wrong += int(lost.sum())


def flatten(value: Any) -> Iterator[Array]:
    """The arrays in an output: itself; those of a sequence one by one; a map as its keys and its values in the order of the keys, maps of one sequence with equal
    keys stacked as rows (what ZipMap makes of a table of probabilities)."""
    if value is None:
        return
    if isinstance(value, Mapping):
        keys = sorted(value)
        yield np.asarray(keys)
        yield from _packed([value[k] for k in keys])
    elif isinstance(value, list | tuple):
        if value and all(isinstance(v, Mapping) and v.keys() == value[0].keys() for v in value):
            keys = sorted(value[0])
            yield np.asarray([[v[k] for k in keys] for v in value])
        else:
            for part in value:
                yield from flatten(part)
    else:
        yield np.asarray(value)


def _packed(values: Sequence[Any]) -> Iterator[Array]:
    if all(np.isscalar(v) for v in values):
        yield np.asarray(values)
    else:
        for value in values:
            yield from flatten(value)


def _fractional(array: Array) -> bool:
    """Floats of all kinds, those of ml_dtypes (kind "V") and complex ones."""
    return array.dtype.kind in "fc" or (array.dtype.kind == "V" and array.dtype.names is None and array.dtype != np.dtype((np.void, array.dtype.itemsize)))


def _numeric(array: Array) -> bool:
    return array.dtype.kind in "biu" or _fractional(array)


def _equal(r: Array, c: Array) -> Array:
    same = np.asarray(r == c, bool)
    if _fractional(r):
        same |= np.asarray((r != r) & (c != c), bool)
    return same


def _reals(array: Array) -> Array:
    """As float64, a complex number as its two parts."""
    if array.dtype.kind == "c":
        return np.ascontiguousarray(array).astype(np.complex128).view(np.float64)
    return array.astype(np.float64)


def _decibel(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise), None where that is no finite number."""
    if not (0 < signal < math.inf and 0 < noise < math.inf):
        return None
    return 10 * (math.log10(signal) - math.log10(noise))
