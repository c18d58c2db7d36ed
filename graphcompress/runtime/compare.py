"""How far a candidate is from a reference on the same feeds.

Agreement of an output, 0 to 1, by its kind (`graphcompress.ir.analysis.output_kinds`):
- "class": share of equal top-1 decisions along the last axis;
- "exact": share of equal elements;
- "value": share of elements within 5% of the 99th percentile of |reference|, over all feeds.
NaN equals NaN; NaN or an infinity where the other side is finite disagrees. A model's agreement is that of its worst output.

All is one pass over the feeds. The percentile is known only at the end, so |reference| and |reference - candidate| are both counted on a logarithmic grid
(`magnitudes`): the tolerance is right to 0.05%, memory does not depend on the data, and statistics of parts can be merged in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.runtime.magnitudes import Magnitudes
from graphcompress.runtime.session import Feed, Session

TOLERANCE = 0.05
PERCENTILE = 0.99
CONFIDENCE = 0.95
CHUNK = 1 << 18  # elements taken to float64 at once
MORE = 300

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output over all feeds.

    `equal`: every element is. `sqnr_db` = 10 log10(sum r^2 / sum (r - c)^2), `cosine` and `max_abs` are over the elements that are finite on both sides; None
    where undefined (SQNR of equal tensors, texts). `decisions` and `disagreements` are rows for classes, else elements; `inputs` counts what may be called
    independent (rows of a table of classes, else feeds); `broken` elements are finite on one side only.
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside another. `agreement` is that of the output `worst`; both None where there was nothing to compare."""

    agreement: float | None
    outputs: dict[str, OutputComparison]
    feeds: int
    worst: str | None

    def statement(self) -> str:
        """What so many inputs prove of the worst output: the exact (Clopper-Pearson) one-sided bound on the share of inputs that differ.

        Elements of one input are not independent of each other, so the trials are inputs; one of which a part differs counts as that part of a difference,
        and the sum is rounded up.
        """
        found = self.outputs.get(self.worst or "")
        if found is None or not found.inputs:
            return "nothing was compared"
        share = found.disagreements / found.decisions
        inputs = found.inputs
        more = MORE if inputs <= MORE else math.ceil(inputs / 100) * 100
        now, then = upper_bound(_failures(share, inputs), inputs), upper_bound(_failures(share, inputs + more), inputs + more)
        noun = "input" if inputs == 1 else "inputs"
        return f"at most {_percent(now)} differ, {CONFIDENCE:.0%}, {inputs} {noun}; {more} more would make it {_percent(then)}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        outputs = {name: asdict(found) for name, found in self.outputs.items()}
        return {"agreement": self.agreement, "worst": self.worst, "feeds": self.feeds, "statement": self.statement(), "outputs": outputs}


def compare(ref: Session, cand: Session, feeds: Iterable[Feed], kinds: Mapping[str, str]) -> Comparison:
    """Run both on every feed, once and in order. `kinds` says of each output of the reference how it is judged.

    Raises ModelError where the candidate lacks an output, DataError where a feed does not fit.
    """
    statistic = ComparisonStatistic([o.name for o in ref.outputs], kinds)
    missing = {o.name for o in ref.outputs} - {o.name for o in cand.outputs}
    if missing:
        raise ModelError(f"The candidate has no output '{min(missing)}', which the reference has: they cannot be compared.")
    for feed in feeds:
        statistic.update(ref.run(feed), cand.run(feed))
    return statistic.finish()


def floor_broken(comparison: Comparison, floor: float = 0.99) -> bool:
    """True where an output's disagreements are more than chance explains at the floor: above the 95% quantile of Binomial(decisions, 1 - floor)."""
    from scipy.special import bdtr

    # bdtr(k) < 95% says that the quantile is above k: so `disagreements` exceeds it exactly where bdtr(disagreements - 1) reaches 95%.
    return any(o.disagreements > 0 and float(bdtr(o.disagreements - 1, o.decisions, 1 - floor)) >= CONFIDENCE for o in comparison.outputs.values())


def upper_bound(failures: int, trials: int) -> float:
    """Clopper-Pearson: the largest rate under which at most `failures` in `trials` happen with a chance of 5%."""
    from scipy.special import betaincinv

    return 1.0 if failures >= trials else float(betaincinv(failures + 1, trials - failures, CONFIDENCE))


def _failures(share: float, inputs: int) -> int:
    return math.ceil(share * inputs - 1e-9)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.001 else f"{100 * share:.2g}%"


class ComparisonStatistic:
    """What is learned from pairs of outputs; `update`, `merge`, `finish`."""

    def __init__(self, names: Sequence[str], kinds: Mapping[str, str]) -> None:
        self.outputs = {name: OutputStatistic(kinds.get(name, "value")) for name in names}
        self.feeds = 0

    def update(self, reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> None:
        """Take in the outputs of one feed."""
        self.feeds += 1
        for name, statistic in self.outputs.items():
            statistic.update(reference[name], candidate[name])

    def merge(self, other: ComparisonStatistic) -> Self:
        """Add what `other` has learned about the same outputs."""
        self.feeds += other.feeds
        for name, statistic in self.outputs.items():
            statistic.merge(other.outputs[name])
        return self

    def finish(self) -> Comparison:
        """The comparison of everything taken in."""
        outputs = {name: statistic.finish() for name, statistic in self.outputs.items()}
        judged = {name: o.agreement for name, o in outputs.items() if o.agreement is not None}
        worst = min(judged, key=lambda n: judged[n], default=None)
        return Comparison(None if worst is None else judged[worst], outputs, self.feeds, worst)


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
    reference: Magnitudes = field(default_factory=Magnitudes)
    difference: Magnitudes = field(default_factory=Magnitudes)

    def update(self, reference: Any, candidate: Any) -> None:
        """Take in one feed's output: an array, or a sequence or map of arrays, which counts element by element."""
        refs, cands = list(flatten(reference)), list(flatten(candidate))
        rows = 0
        for index in range(max(len(refs), len(cands))):
            r, c = (side[index] if index < len(side) else None for side in (refs, cands))
            if r is not None and c is not None and r.shape == c.shape and _numeric(r) == _numeric(c):
                self._pair(r, c)
                rows = max(rows, len(r) if self.kind == "class" and r.ndim == 2 else 0)
            else:  # a part is missing, or has another shape: nothing of it agrees
                self.equal = False
                lost = max((self._decisions(a) for a in (r, c) if a is not None), default=0)
                self.decisions += lost
                self.wrong += lost
        self.inputs += max(rows, 1)

    def merge(self, other: OutputStatistic) -> Self:
        """Add what `other` has learned about the same output."""
        self.equal &= other.equal
        self.numeric |= other.numeric
        self.max_abs = max(self.max_abs, other.max_abs)
        for name in ("signal", "noise", "power", "product", "broken", "inputs", "decisions", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reference.merge(other.reference)
        self.difference.merge(other.difference)
        return self

    def finish(self) -> OutputComparison:
        """The comparison of everything taken in."""
        wrong = self.wrong + self.difference.total - self.difference.at_most(TOLERANCE * self.reference.quantile(PERCENTILE))
        decisions = self.decisions + self.difference.total
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
        for start in range(0, r.size, CHUNK):
            self._chunk(flat_r[start : start + CHUNK], flat_c[start : start + CHUNK], by)

    def _classes(self, r: Array, c: Array) -> None:
        same = np.argmax(r, axis=1) == np.argmax(c, axis=1)
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
