"""How far a candidate is from a reference on the same feeds.

Agreement of an output, 0 to 1, is how much of what it is used for is the same: by its kind (`graphcompress.ir.analysis.output_kinds`), as the measures in
`agreement` say. A model's agreement is that of its worst output; a metric of the caller's (`metric`) takes its place, or joins it. On the first feeds the
reference runs twice: an output whose agreement with itself is below the floor (random operators, live Dropout) is no judge.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from graphcompress.errors import ModelError
from graphcompress.findings import Finding
from graphcompress.ir.analysis.output_kinds import VALUES, OutputKind
from graphcompress.runtime.agreement.measured import FLOOR, Measured
from graphcompress.runtime.metric import Metric, MetricMean
from graphcompress.runtime.output_statistics import OutputComparison, OutputStatistic
from graphcompress.runtime.session import Feed, Runnable

CONFIDENCE = 0.95
MORE = 300
SPAN = 32  # feeds whose sums are added up apart
RUN_TWICE = 4  # feeds on which the reference is compared with itself


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside another. `judging` are the measures that judge, by output ("" for a `metric` of the caller's); nothing judges where it is empty.
    `findings` are about the feeds and the outputs."""

    outputs: dict[str, OutputComparison]
    feeds: int
    judging: tuple[tuple[str, Measured], ...]
    metric: Measured | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def agreement(self) -> float | None:
        """The lowest of the measures that judge."""
        return min((m.agreement for _, m in self.judging), default=None)

    @property
    def worst(self) -> str | None:
        """The output that it is of; None for a metric."""
        return min(self.judging, key=lambda pair: pair[1].agreement, default=("", None))[0] or None

    def trials(self, output: str) -> int:
        """How many independent inputs judged an output ("": by the metric); repeated ones count once."""
        known = self.outputs.get(output)
        seen = self.feeds if known is None else known.inputs
        return max(1, math.floor(seen * min((finding.distinct for finding in self.findings), default=1.0) + 1e-9))

    def statement(self) -> str:
        """What so many inputs prove of the worst output: the exact (Clopper-Pearson) one-sided bound on the share of inputs that are answered differently.

        Elements of one input are not independent of each other, so the trials are inputs; one of which a part differs counts as that part of a difference,
        and the sum is rounded up; repeated inputs count once. No bound where a finding voids it.
        """
        output = self.outputs.get(self.worst or "")
        measured, seen = (self.metric, self.feeds) if output is None else (output.lowest, output.inputs)
        if measured is None or not seen:
            return "nothing could be compared"
        if any(finding.voids_bound for finding in self.findings):
            return "no bound on other inputs is claimed"
        share = measured.disagreements / measured.decisions if measured.decisions else 0.0
        inputs = self.trials(self.worst or "")
        more = MORE if inputs <= MORE else math.ceil(inputs / 100) * 100
        now, then = upper_bound(_failures(share, inputs), inputs), upper_bound(_failures(share, inputs + more), inputs + more)
        noun = "input" if inputs == 1 else "inputs"
        return (
            f"at most {_percent(now)} of such inputs are answered differently ({CONFIDENCE:.0%} confidence, {inputs} {noun}); "
            f"{more} more would bring it to {_percent(then)}"
        )


def compare(
    ref: Runnable,
    cand: Runnable,
    feeds: Iterable[Feed],
    kinds: Mapping[str, OutputKind],
    findings: Sequence[Finding] = (),
    *,
    metric: Metric | None = None,
    labels: Iterable[Mapping[str, Any]] | None = None,
) -> Comparison:
    """Run both on every feed, in order. `kinds` says of each output of the reference how it is judged, `findings` what is known of the feeds; `labels` are the
    ground truth of each feed, for the metric.

    Raises ModelError where the candidate lacks an output, DataError where a feed does not fit, UsageError where the metric fails.
    """
    statistic = ComparisonStatistic([o.name for o in ref.outputs], kinds, metric)
    missing = {o.name for o in ref.outputs} - {o.name for o in cand.outputs}
    if missing:
        raise ModelError(f"The candidate has no output '{min(missing)}', which the reference has: they cannot be compared.")
    coming, truth = iter(feeds), itertools.repeat(None) if labels is None else iter(labels)

    def span() -> ComparisonStatistic:
        pairs = ((feed, next(truth, None)) for feed in itertools.islice(coming, SPAN))
        return compare_span(ref, cand, pairs, statistic.empty(), statistic.feeds)

    while (part := span()).feeds:
        statistic.merge(part)
    return statistic.finish(findings)


def compare_span(
    ref: Runnable, cand: Runnable, feeds: Iterable[tuple[Feed, Mapping[str, Any] | None]], statistic: ComparisonStatistic, first: int
) -> ComparisonStatistic:
    """Run both on feeds, each with its ground truth, `first` of which came before, and learn from it. Sums are those of spans of feeds, so that they do not depend on who compares which."""
    for index, (feed, labels) in enumerate(feeds, first):
        reference, *again = (ref.run(feed) for _ in range(runs_of_reference(index)))
        statistic.update(reference, cand.run(feed), again=again[0] if again else None, rows=rows_of(feed), labels=labels)
    return statistic


def runs_of_reference(index: int) -> int:
    """How often the reference runs on feed `index`: on the first ones twice, so that it is seen whether it agrees with itself."""
    return 2 if index < RUN_TWICE else 1


def rows_of(feed: Feed) -> int:
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

    def __init__(self, names: Sequence[str], kinds: Mapping[str, OutputKind], metric: Metric | None = None) -> None:
        self.outputs = {name: OutputStatistic(kinds.get(name, VALUES)) for name in names}
        self.metric = metric
        self.mean = MetricMean()
        self.itself = {name: OutputStatistic(statistic.kind) for name, statistic in self.outputs.items()}
        self.feeds = 0

    def empty(self) -> ComparisonStatistic:
        """One for the same outputs that has learned nothing."""
        return ComparisonStatistic(list(self.outputs), {name: statistic.kind for name, statistic in self.outputs.items()}, self.metric)

    def update(
        self,
        reference: Mapping[str, Any],
        candidate: Mapping[str, Any],
        *,
        again: Mapping[str, Any] | None = None,
        rows: int = 1,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in the outputs of one feed of `rows` inputs; `again` are those of a second run of the reference, `labels` the ground truth."""
        self.feeds += 1
        if self.metric is not None:
            self.mean.update(self.metric.value(reference, candidate, labels))
        for name, statistic in self.outputs.items():
            statistic.update(reference[name], candidate[name], rows)
            if again is not None:
                self.itself[name].update(reference[name], again[name])

    def merge(self, other: ComparisonStatistic) -> Self:
        """Add what `other` has learned about the same outputs."""
        self.feeds += other.feeds
        self.mean.merge(other.mean)
        for name, statistic in self.outputs.items():
            statistic.merge(other.outputs[name])
            self.itself[name].merge(other.itself[name])
        return self

    def finish(self, findings: Sequence[Finding] = ()) -> Comparison:
        """The comparison of everything taken in; `findings` are about the feeds."""
        outputs = {name: replace(statistic.finish(), unstable=self._unstable(name)) for name, statistic in self.outputs.items()}
        judged = [name for name, o in outputs.items() if o.measures and not o.unstable]
        metric = self.mean.finish()
        judging = [(name, m) for name in judged for m in outputs[name].measures] if metric is None or (self.metric is not None and self.metric.joins) else []
        # That equal inputs are answered equally is no news.
        alike = any(finding.id == "data/identical" for finding in findings)
        seen = (*findings, *_unstable(outputs), *([] if alike else _unvaried(outputs, judged, self.feeds)))
        return Comparison(outputs, self.feeds, (*judging, *([] if metric is None else [("", metric)])), metric, seen)

    def _unstable(self, name: str) -> bool:
        """Whether the reference is below the floor against itself: what wavers less (sums in another order) still tells a candidate that is broken."""
        itself = self.itself[name].finish()
        return not itself.equal and itself.agreement is not None and itself.agreement < FLOOR


def _unstable(outputs: Mapping[str, OutputComparison]) -> Iterator[Finding]:
    for name, output in outputs.items():
        if output.unstable:
            text = f"Output '{name}' differs from itself when the original runs twice on the same input (random operators, live Dropout): it was not judged."
            yield Finding("compare/unstable-output", text)


def _unvaried(outputs: Mapping[str, OutputComparison], judged: Sequence[str], feeds: int) -> Iterator[Finding]:
    """Outputs that do not depend on the input, as far as these feeds show."""
    nothing_varies = all(outputs[name].constant for name in judged)
    for name in judged:
        if outputs[name].constant:
            text = f"Output '{name}' of the original is the same for all {feeds} feeds: agreement on it says nothing about other inputs."
            yield Finding("compare/constant-output", text, voids_bound=nothing_varies)
        elif (answer := outputs[name].answer) is not None and (lowest := outputs[name].lowest) is not None and lowest.decisions > 1:
            text = f"Output '{name}' of the original gives class {answer} for all inputs: agreement on it says nothing about the other classes."
            yield Finding("compare/one-class", text)
