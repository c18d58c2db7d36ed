"""How far a candidate is from a reference on the same feeds.

Agreement of an output, 0 to 1, by its kind (`graphcompress.ir.analysis.output_kinds`):
- "class": share of equal top-1 decisions along the last axis;
- "exact": share of equal elements;
- "value": share of elements within 5% of the 99th percentile of |reference|, over all feeds.
NaN equals NaN; NaN or an infinity where the other side is finite disagrees. A model's agreement is that of its worst output. On the first feeds the reference
runs twice: an output that disagrees with itself (random operators, live Dropout) is no judge.

All is one pass over the feeds. The percentile is known only at the end, so |reference| and |reference - candidate| are both counted on a logarithmic grid
(`magnitudes`): the tolerance is right to 0.05%, memory does not depend on the data, and statistics of parts can be merged in any order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.findings import Finding
from graphcompress.runtime.magnitudes import Magnitudes
from graphcompress.runtime.session import Feed, Session

TOLERANCE = 0.05
PERCENTILE = 0.99
CONFIDENCE = 0.95
CHUNK = 1 << 18  # elements taken to float64 at once
MORE = 300
RUN_TWICE = 4  # feeds on which the reference is compared with itself

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output over all feeds.

    `equal`: every element is. `sqnr_db` = 10 log10(sum r^2 / sum (r - c)^2), `cosine` and `max_abs` are over the elements that are finite on both sides; None
    where undefined (SQNR of equal tensors, texts). `decisions` and `disagreements` are rows for classes, else elements; `inputs` counts what may be called
    independent (rows of a table of classes that has a row for each row of the inputs, else feeds); `broken` elements are finite on one side only.
    `unstable`: the reference differs from itself. `constant`: the reference is the same for all of several feeds. `answer`: the only class it ever gives.
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside another. `agreement` is that of the output `worst`; both None where no output could be judged. `findings` are about the feeds and the outputs."""

    agreement: float | None
    outputs: dict[str, OutputComparison]
    feeds: int
    worst: str | None
    findings: tuple[Finding, ...] = ()

    def statement(self) -> str:
        """What so many inputs prove of the worst output: the exact (Clopper-Pearson) one-sided bound on the share of inputs that are answered differently.

        Elements of one input are not independent of each other, so the trials are inputs; one of which a part differs counts as that part of a difference,
        and the sum is rounded up. No bound where a finding voids it.
        """
        output = self.outputs.get(self.worst or "")
        if output is None or not output.inputs:
            return "nothing could be compared"
        if any(finding.voids_bound for finding in self.findings):
            return "no bound on other inputs is claimed"
        share = output.disagreements / output.decisions
        inputs = output.inputs
        more = MORE if inputs <= MORE else math.ceil(inputs / 100) * 100
        now, then = upper_bound(_failures(share, inputs), inputs), upper_bound(_failures(share, inputs + more), inputs + more)
        noun = "input" if inputs == 1 else "inputs"
        return (
            f"at most {_percent(now)} of such inputs are answered differently ({CONFIDENCE:.0%} confidence, {inputs} {noun}); "
            f"{more} more would bring it to {_percent(then)}"
        )


def compare(ref: Session, cand: Session, feeds: Iterable[Feed], kinds: Mapping[str, str], findings: Sequence[Finding] = ()) -> Comparison:
    """Run both on every feed, in order. `kinds` says of each output of the reference how it is judged, `findings` what is known of the feeds.

    Raises ModelError where the candidate lacks an output, DataError where a feed does not fit.
    """
    statistic = ComparisonStatistic([o.name for o in ref.outputs], kinds)
    missing = {o.name for o in ref.outputs} - {o.name for o in cand.outputs}
    if missing:
        raise ModelError(f"The candidate has no output '{min(missing)}', which the reference has: they cannot be compared.")
    for index, feed in enumerate(feeds):
        reference = ref.run(feed)
        again = ref.run(feed) if index < RUN_TWICE else None
        statistic.update(reference, cand.run(feed), again=again, rows=_rows(feed))
    return statistic.finish(findings)


def _rows(feed: Feed) -> int:
    """How many inputs a feed is: the common length of the first axes, 1 where there is none."""
    lengths = {array.shape[0] for array in feed.values() if array.ndim}
    return lengths.pop() if len(lengths) == 1 else 1


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
        self.itself = {name: OutputStatistic(statistic.kind) for name, statistic in self.outputs.items()}
        self.feeds = 0

    def update(self, reference: Mapping[str, Any], candidate: Mapping[str, Any], *, again: Mapping[str, Any] | None = None, rows: int = 1) -> None:
        """Take in the outputs of one feed of `rows` inputs; `again` are those of a second run of the reference."""
        self.feeds += 1
        for name, statistic in self.outputs.items():
            statistic.update(reference[name], candidate[name], rows)
            if again is not None:
                self.itself[name].update(reference[name], again[name])

    def merge(self, other: ComparisonStatistic) -> Self:
        """Add what `other` has learned about the same outputs."""
        self.feeds += other.feeds
        for name, statistic in self.outputs.items():
            statistic.merge(other.outputs[name])
            self.itself[name].merge(other.itself[name])
        return self

    def finish(self, findings: Sequence[Finding] = ()) -> Comparison:
        """The comparison of everything taken in; `findings` are about the feeds."""
        outputs = {name: replace(statistic.finish(), unstable=self._unstable(name)) for name, statistic in self.outputs.items()}
        judged = {name: o.agreement for name, o in outputs.items() if o.agreement is not None and not o.unstable}
        worst = min(judged, key=lambda n: judged[n], default=None)
        # That equal inputs are answered equally is no news.
        alike = any(finding.id == "data/identical" for finding in findings)
        seen = (*findings, *_unstable(outputs), *([] if alike else _unvaried(outputs, judged, self.feeds)))
        return Comparison(None if worst is None else judged[worst], outputs, self.feeds, worst, seen)

    def _unstable(self, name: str) -> bool:
        agreement = self.itself[name].finish().agreement
        return agreement is not None and agreement < 1


def _unstable(outputs: Mapping[str, OutputComparison]) -> Iterator[Finding]:
    for name, output in outputs.items():
        if output.unstable:
            text = f"Output '{name}' differs from itself when the original runs twice on the same input (random operators, live Dropout): it was not judged."
            yield Finding("compare/unstable-output", text)


def _unvaried(outputs: Mapping[str, OutputComparison], judged: Iterable[str], feeds: int) -> Iterator[Finding]:
    """Outputs that do not depend on the input, as far as these feeds show."""
    nothing_varies = all(outputs[name].constant for name in judged)
    for name in judged:
        if outputs[name].constant:
            text = f"Output '{name}' of the original is the same for all {feeds} feeds: agreement on it says nothing about other inputs."
            yield Finding("compare/constant-output", text, voids_bound=nothing_varies)
        elif (answer := outputs[name].answer) is not None and outputs[name].decisions > 1:
            text = f"Output '{name}' of the original gives class {answer} for all inputs: agreement on it says nothing about the other classes."
            yield Finding("compare/one-class", text)


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
        for name in ("signal", "noise", "power", "product", "broken", "inputs", "feeds", "decisions", "wrong"):
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
            constant=self.feeds > 1 and not self.varies,
            answer=self.lowest if self.lowest == self.highest else None,
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
