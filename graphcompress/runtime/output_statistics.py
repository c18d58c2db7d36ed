"""What is learned of one output of two models, in one pass and bounded memory: how far the numbers are apart, and how much of what the output is used for is
the same.

The measures of agreement (`agreement/`) are chosen by the kind of the output and by the arrays that come: integers have no tolerance, one column has no
classes. Several may speak: the output's agreement is that of the lowest.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from graphcompress.ir.analysis.output_kinds import VALUES, OutputKind
from graphcompress.runtime.agreement import detections
from graphcompress.runtime.agreement.decisions import FEWEST_CLASSES, ClassDecisions
from graphcompress.runtime.agreement.measured import Measure, Measured
from graphcompress.runtime.agreement.sequences import ClassSequences
from graphcompress.runtime.agreement.spreads import SpreadShares
from graphcompress.runtime.agreement.unsure import ClassesOrValues
from graphcompress.runtime.agreement.vectors import Directions

CHUNK = 1 << 18  # elements taken to float64 at once

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output over all feeds.

    `equal`: every element is. `agreement` is that of the lowest of `measures`, `decisions` and `disagreements` are its counts. `sqnr_db` = 10 log10(sum r^2 /
    sum (r - c)^2), `cosine` and `max_abs` are over the elements that are finite on both sides; None where undefined (SQNR of equal tensors, texts). `inputs`
    counts what may be called independent (rows of a table of classes that has a row for each row of the inputs, else feeds); `broken` elements are finite on
    one side only. `unstable`: the reference differs from itself. `constant`: the reference is the same for all of several feeds. `answer`: the only class it
    ever gives.
    """

    kind: str
    equal: bool
    measures: tuple[Measured, ...]
    sqnr_db: float | None
    cosine: float | None
    max_abs: float | None
    inputs: int
    broken: int
    unstable: bool = False
    constant: bool = False
    answer: int | None = None

    @property
    def lowest(self) -> Measured | None:
        """The measure that decides."""
        return min(self.measures, key=lambda m: m.agreement, default=None)

    @property
    def agreement(self) -> float | None:
        """0 to 1; None where nothing was decided."""
        return None if self.lowest is None else self.lowest.agreement


class EqualElements:
    """Integers, booleans, texts: the share of equal elements."""

    def __init__(self) -> None:
        self.elements = 0
        self.wrong = 0

    def update(self, reference: Array, candidate: Array, rows: int) -> None:
        """See `Measure.update`."""
        self.elements += reference.size
        self.wrong += int((~_equal(reference, candidate)).sum())

    def merge(self, other: EqualElements) -> None:
        """See `Measure.merge`."""
        self.elements += other.elements
        self.wrong += other.wrong

    def finish(self) -> list[Measured]:
        """See `Measure.finish`."""
        return [Measured("exact", (self.elements - self.wrong) / self.elements, self.elements, self.wrong)] if self.elements else []


def measures_of(kind: OutputKind, array: Array) -> dict[str, Measure]:
    """New measures for an output of a kind that gives such arrays, by a name that is the same for all arrays that they can take together."""
    if kind.name == "boxes" and _numeric(array) and (array.ndim or kind.axis == 0):
        return {"boxes": detections.Detections(kind.axis)}
    if kind.name == "exact" or not _fractional(array):
        return {"exact": EqualElements()}
    real = array.dtype.kind != "c"
    if kind.name == "sequence" and array.ndim == 3 and array.shape[-1] >= FEWEST_CLASSES and real:
        return {"unsure": ClassesOrValues(ClassSequences())} if kind.unsure else {"sequence": ClassSequences()}
    if kind.name in ("classes", "sequence") and real and -array.ndim <= kind.axis < array.ndim and array.shape[kind.axis] >= FEWEST_CLASSES:
        return {"unsure": ClassesOrValues(ClassDecisions(kind.axis), kind.axis)} if kind.unsure else {"classes": ClassDecisions(kind.axis)}
    if kind.name == "embedding" and real and -array.ndim <= kind.axis < array.ndim:
        return {"embedding": Directions(kind.axis)}
    scores = kind.scores or kind.name == "probabilities" or (kind.name == "classes" and not kind.unsure)
    return {"values": SpreadShares(scores=scores and real)}


@dataclass(slots=True)
class OutputStatistic:
    """What is learned of one output of a kind. Sums are float64."""

    kind: OutputKind = VALUES
    equal: bool = True
    numeric: bool = False
    signal: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    product: float = 0.0
    max_abs: float = 0.0
    broken: int = 0
    inputs: int = 0
    elements: int = 0
    lost: int = 0  # elements without a counterpart
    feeds: int = 0
    first: bytes = b""  # digest of the reference for the first feed, as long as no feed differs
    varies: bool = False
    measures: dict[str, Measure] = field(default_factory=dict)

    def update(self, reference: Any, candidate: Any, rows: int = 1) -> None:
        """Take in the output for a feed of `rows` inputs: an array, or a sequence or map of arrays, which counts element by element."""
        refs, cands = list(flatten(reference)), list(flatten(candidate))
        self._vary(refs)
        inputs = 1
        for index in range(max(len(refs), len(cands))):
            r, c = (side[index] if index < len(side) else None for side in (refs, cands))
            if r is None or c is None:
                self._lose(r, c)
            elif _numeric(r) == _numeric(c) and (r.shape == c.shape or (self.kind.name == "boxes" and detections.fits(r, c))):
                inputs = max(inputs, self._pair(r, c, rows))
            else:
                self._lose(r, c)
        self.inputs += inputs

    def merge(self, other: OutputStatistic) -> Self:
        """Add what `other` has learned about the same output."""
        self.equal &= other.equal
        self.numeric |= other.numeric
        self.max_abs = max(self.max_abs, other.max_abs)
        self.varies |= other.varies or bool(self.feeds and other.feeds and self.first != other.first)
        self.first = self.first or other.first
        for name in ("signal", "noise", "power", "product", "broken", "inputs", "feeds", "elements", "lost"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, measure in other.measures.items():
            if name not in self.measures:
                self.measures[name] = copy.deepcopy(measure)
            else:
                self.measures[name].merge(measure)
        return self

    def finish(self) -> OutputComparison:
        """The comparison of everything taken in."""
        norms = math.sqrt(self.signal) * math.sqrt(self.power)
        classes = self.measures.get("unsure", self.measures.get("classes"))
        return OutputComparison(
            kind=self.kind.name,
            equal=self.equal,
            measures=tuple(self._measured()),
            sqnr_db=_decibel(self.signal, self.noise) if self.numeric else None,
            cosine=max(-1.0, min(1.0, self.product / norms)) if self.numeric and 0 < norms < math.inf else None,
            max_abs=self.max_abs if self.numeric and math.isfinite(self.max_abs) else None,
            inputs=self.inputs,
            broken=self.broken,
            constant=self.feeds > 1 and not self.varies,
            answer=classes.answer if isinstance(classes, ClassDecisions | ClassesOrValues) else None,
        )

    # --- inside -----------------------------------------------------------------------------------------------------------------

    def _measured(self) -> Iterator[Measured]:
        """What each measure says. Elements without a counterpart count as the part of all decisions that they are of all elements."""
        measured = [m for measure in self.measures.values() for m in measure.finish()]
        if not measured and self.lost:
            yield Measured("exact" if self.kind.name == "exact" else "values", 0.0, self.lost, self.lost)
        there = self.elements / max(1, self.elements + self.lost)
        for m in measured:
            yield (
                m
                if not self.lost
                else replace(m, value=m.value * there, decisions=m.decisions / there, disagreements=m.disagreements + m.decisions * (1 / there - 1))
            )

    def _pair(self, r: Array, c: Array, rows: int) -> int:
        """Take in a pair; how many independent inputs it holds."""
        self.elements += r.size
        fresh = measures_of(self.kind, r)
        for name, measure in fresh.items():
            if r.size or name == "boxes":
                self.measures.setdefault(name, measure).update(_real(r), _real(c), rows)
        if r.shape == c.shape:
            flat_r, flat_c = r.reshape(-1), c.reshape(-1)
            for start in range(0, r.size, CHUNK):
                self._chunk(flat_r[start : start + CHUNK], flat_c[start : start + CHUNK])
        else:
            self.equal = False
        return rows if r.ndim == 2 and len(r) == rows and self.kind.name == "classes" else 1

    def _lose(self, r: Array | None, c: Array | None) -> None:
        """A part is missing, or has another shape: nothing of it agrees."""
        self.equal = False
        self.lost += max((a.size for a in (r, c) if a is not None), default=0)

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

    def _chunk(self, r: Array, c: Array) -> None:
        same = _equal(r, c)
        self.equal = self.equal and bool(same.all())
        if not _numeric(r):
            return
        self.numeric = True
        a, b = _real(r).reshape(-1).astype(np.float64), _real(c).reshape(-1).astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        self.broken += int((~(finite | np.repeat(same, len(a) // max(1, len(same))))).sum())
        a, b = a[finite], b[finite]
        with np.errstate(over="ignore"):
            difference = np.abs(a - b)
            self.signal += _dot(a, a)
            self.power += _dot(b, b)
            self.product += _dot(a, b)
            self.noise += _dot(difference, difference)
        self.max_abs = max(self.max_abs, float(difference.max(initial=0.0)))


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


def _dot(a: Array, b: Array) -> float:
    """Not by the BLAS that numpy calls for a product: its threads wait for each other longer than the sum takes."""
    return float(np.einsum("i,i->", a, b))


def _equal(r: Array, c: Array) -> Array:
    same = np.asarray(r == c, bool)
    if _fractional(r):
        same |= np.asarray((r != r) & (c != c), bool)
    return same


def _real(array: Array) -> Array:
    """A complex array with a last axis of its two parts; others as they are."""
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], axis=-1)
    return array


def _decibel(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise), None where that is no finite number."""
    if not (0 < signal < math.inf and 0 < noise < math.inf):
        return None
    return 10 * (math.log10(signal) - math.log10(noise))
