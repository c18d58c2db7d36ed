"""The search: which alternative of which step is returned.

Each step of the recipe offers a ladder of alternatives for the model before it, the boldest first; the alternative below the last rung is its input, so that the
original is the last of all. A candidate holds where it

- is built, has the inputs and outputs of the original, loads, and runs on every feed that judges,
- reaches the bar of agreement (`bars.Bars`),
- is no larger than the original, unless speed is the goal, and
- reaches the bar of speed with every thread setting that is measured.

All steps at their boldest are judged first, which is mostly the end of it; on top of what went as far as it was told (`StepKind.stated`) only where that is faithful by
itself, or a later step may restore it. Where that does not hold, and the input of the last step is faithful, the last step's
ladder is searched: by bisection for the boldest rung that is faithful (and clear of the bar, where one is: `bars.is_clear`) where the ladder is monotone,
then among a few less bold ones where that rung is too slow. Where none holds the step is left out, and so on towards the original. Agreement is judged before
anything is timed, every candidate is compared once and timed once, and what cannot be built or does not run is a refusal with its reason. Only a fault of the
original ends the search with an error.

A step that teaches stands only where its result is nearer to the original than its input, on the feeds that judge; that is seen before anything is made of it.

Where size is the goal, the same is done once more without each step that a later one may save more bytes without, and the smallest of what holds is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from graphcompress.errors import DataError, ModelError
from graphcompress.gate.bars import Bars, Goal, is_clear, reaches, required_speedup
from graphcompress.gate.bisection import first_that
from graphcompress.gate.judge import CandidateFails, Judge, speed_text
from graphcompress.gate.nearness import distance, nearer
from graphcompress.gate.outcome import Candidate, Judgement, Outcome
from graphcompress.step import Context, ExecutedStep, PlannedStep, Rung, StepResult

if TYPE_CHECKING:
    from graphcompress.ir import Model
    from graphcompress.runtime.compare import Comparison
    from graphcompress.runtime.measure import Measurement

LINEAR_TRIES = 8
"""How many rungs of a ladder that is not monotone are judged."""
SPEED_TRIES = 3
"""How many less bold rungs are timed where the boldest faithful one is too slow."""

T = TypeVar("T")


def search(
    original: Model,
    steps: Sequence[PlannedStep],
    context: Context,
    judge: Judge,
    bars: Bars,
    settings: Sequence[int],
    *,
    goal: Goal = "balanced",
    size: Callable[[Model], int] | None = None,
    clear: bool = True,
    boldest_only: bool = False,
) -> Outcome:
    """Take `original` through `steps` and choose (see above). `settings` are the thread settings to measure with; none: nothing is measured. `size` gives the bytes of a model (None: those of
    its file). `clear`: of the rungs below the first, one that is clear of the built-in bar of agreement goes before a bolder one that just reaches it. `boldest_only`: of each step the first rung or none.

    Where a stated bar of speed is reached by nothing, the fastest candidate that is faithful and not slower than the original is chosen. Raises what the original
    raises where it does not load or run, UsageError for options that do not fit the model, RuntimeUnavailable without a runtime.
    """
    return _Search(original, steps, context, judge, bars, settings, goal, size or _bytes, clear, boldest_only).outcome()


@dataclass(slots=True)
class _Execution:
    """What a step of the recipe did so far: its results, the first being the boldest, seconds and peak memory."""

    results: list[tuple[Candidate, StepResult]] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory_bytes: int | None = None


class _Search:
    def __init__(
        self,
        original: Model,
        steps: Sequence[PlannedStep],
        context: Context,
        judge: Judge,
        bars: Bars,
        settings: Sequence[int],
        goal: Goal,
        size: Callable[[Model], int],
        clear: bool,
        boldest_only: bool,
    ) -> None:
        self.original = Candidate(original)
        self.steps = steps
        self.context = context
        self.judge = judge
        self.bars = bars
        self.settings = settings
        self.goal = goal
        self.size = size
        self.boldest_only = boldest_only
        self.margin = clear and bars.min_agreement is None
        self.speedup = required_speedup(bars, goal)
        #: What a candidate may not be larger than: its bytes (None: there is no limit), and what it is.
        self.limit = None if goal == "speed" else size(original)
        self.limit_is = "the original"
        self.offered: dict[tuple[Candidate, int], tuple[list[Candidate], bool]] = {}
        self.judged: dict[Candidate, Judgement] = {}
        self.timed: set[Candidate] = set()
        self.executions = [_Execution() for _ in steps]

    def outcome(self) -> Outcome:
        chosen = self.best(self.original, 0) or self.fastest()
        if self.goal == "size":
            chosen = self.smallest(chosen)
        if chosen.candidate is self.original:
            chosen = replace(chosen, comparison=self.judge.compare(self.original.model))
        self.judged[chosen.candidate] = chosen
        return Outcome(chosen, tuple(self.judged.values()), tuple(self.executed(chosen.candidate)))

    def smallest(self, chosen: Judgement) -> Judgement:
        """The smallest of `chosen` and what holds without one of the steps that are in it, where a later one may save more bytes by itself."""
        for part in chosen.candidate.path:
            if (
                part.step is not None
                and not (part.step.kind.exact or part.step.kind.teaches)
                and not all(step.kind.exact for step in self.steps[part.position + 1 :])
            ):
                assert part.base is not None
                self.limit, self.limit_is = self.size(chosen.candidate.model) - 1, "what is chosen"
                chosen = self.best(part.base, part.position + 1) or chosen
        return chosen

    def best(self, base: Candidate, position: int) -> Judgement | None:
        """The first candidate that holds among `base` and what the steps from `position` on make of it; None where not even `base` does."""
        if position == len(self.steps):
            return self.holding(base)
        rungs, monotone = self.rungs(base, position)
        if not rungs:
            return self.best(base, position + 1)
        boldest = self.built(rungs[0])
        if boldest is not None and not (boldest.changed and self.helps(rungs[0])):
            return self.best(base, position + 1)
        judgement = self.best(rungs[0], position + 1) if boldest is not None and self.promising(rungs[0], position) else None
        if judgement is not None:
            return judgement
        if not self.faithful(base):
            return None
        for candidate in self.less_bold(rungs, monotone):
            if candidate.rung is not None and not candidate.rung.result.changed:  # nothing is left of the step, nor in the rungs below
                break
            judgement = self.best(candidate, position + 1)
            if judgement is not None:
                return judgement
        rejected = self.judged[rungs[0]]
        # Without a step that was merely not fast enough for a stated bar, the later ones get no faster either; nor nearer without one that has taught.
        harmless = (rejected.reason == "gate/slower" and not rejected.slower) or (boldest is not None and self.steps[position].kind.teaches)
        return self.holding(base) if harmless else self.best(base, position + 1)

    def helps(self, candidate: Candidate) -> bool:
        """Whether a candidate whose step teaches is nearer to the original than what it was made from; always so of other steps."""
        assert candidate.step is not None and candidate.base is not None
        if not candidate.step.kind.teaches:
            return True
        before, after = self.comparison(candidate.base), self.comparison(candidate)
        if before is None or after is None or nearer(after, before):
            return after is not None
        because = f"the model is not nearer to the original after it ({distance(after)}, before {distance(before)})"
        self.judged[candidate] = replace(self.judged[candidate], reason="gate/not-nearer", because=because)
        return False

    def comparison(self, candidate: Candidate) -> Comparison | None:
        """A candidate beside the original; None where it does not run."""
        if candidate is self.original:
            return self.judge.compare(candidate.model)
        self.faithful(candidate)
        return self.judged[candidate].comparison

    def promising(self, boldest: Candidate, position: int) -> bool:
        """Whether later steps are worth their time on top of a step's boldest rung: one that went as far as it was told may be unfaithful by itself, and what has learned still be; most steps
        bring nothing back."""
        kind, later = self.steps[position].kind, self.steps[position + 1 :]
        return not (kind.stated or kind.teaches) or not later or any(step.kind.teaches for step in later) or self.faithful(boldest)

    def less_bold(self, rungs: Sequence[Candidate], monotone: bool) -> Iterator[Candidate]:
        """Faithful rungs below the first: the boldest that is clear of the bar, bolder ones that were judged on the way there, then the few that may be
        faster."""
        index = 0
        if not self.faithful(rungs[0]):
            index = self.bisect(rungs) if monotone else next((i for i in range(1, min(len(rungs), LINEAR_TRIES + 1)) if self.faithful(rungs[i])), len(rungs))
            if index == len(rungs):
                return
            yield rungs[index]
            # What is clear of the bar is too slow or too large; a bolder rung that is faithful may be neither.
            yield from (bolder for bolder in rungs[1:index] if bolder in self.judged and self.faithful(bolder))
        for candidate in maybe_faster(rungs[index + 1 :]):
            if self.faithful(candidate):
                yield candidate

    def bisect(self, rungs: Sequence[Candidate]) -> int:
        """The index of the boldest rung of a monotone ladder that is clear of the bar, its first one not being faithful; where none is, that of the boldest faithful one; their number where
        none is that either."""
        index = first_that(self.clear, rungs)
        return index if index < len(rungs) else first_that(self.faithful, rungs)

    def clear(self, candidate: Candidate) -> bool:
        """Whether a candidate is faithful, and clear of the built-in bar where that margin is asked for."""
        comparison = self.judged[candidate].comparison if self.faithful(candidate) else None
        return comparison is not None and (not self.margin or is_clear(comparison))

    def faithful(self, candidate: Candidate) -> bool:
        """Whether a candidate is built, runs and reaches the bar of agreement; judged once."""
        if candidate is self.original:
            return True
        if candidate not in self.judged:
            self.judged[candidate] = self.compared(candidate)
        return self.judged[candidate].reason in ("", "gate/slower", "gate/larger")

    def holding(self, candidate: Candidate) -> Judgement | None:
        """The judgement of a candidate that holds in everything. Timed once, and only where it is faithful.

        None where it does not hold, and for the original, which stands where nothing else does.
        """
        if candidate is self.original or not self.faithful(candidate):
            return None
        if self.limit is not None and (size := self.size(candidate.model)) > self.limit:
            because = f"its file is larger than {self.limit_is} ({size:,} bytes; at most {self.limit:,} were wanted)"
            self.judged[candidate] = replace(self.judged[candidate], reason="gate/larger", because=because)
            return None
        if candidate not in self.timed:
            self.timed.add(candidate)
            self.judged[candidate] = self.measured(self.judged[candidate])
        judgement = self.judged[candidate]
        return judgement if judgement.holds else None

    def compared(self, candidate: Candidate) -> Judgement:
        if self.built(candidate) is None:
            return self.judged[candidate]
        model, original = candidate.model, self.original.model
        if (model.inputs, model.outputs) != (original.inputs, original.outputs):
            return Judgement(candidate, "gate/signature", "its inputs or outputs are not those of the original")
        try:
            comparison = self.judge.compare(model)
        except CandidateFails as problem:
            return Judgement(candidate, "gate/does-not-run", f"the result does not run: {clause(problem)}")
        if comparison.agreement is None:
            judgement = Judgement(candidate, comparison=comparison)
            if candidate.exact:
                return judgement
            unstable = any(output.unstable for output in comparison.outputs.values())
            because = "the original differs from itself when it runs twice on the same input" if unstable else "no output of this model can be compared"
            return replace(judgement, reason="gate/not-judged", because=f"nothing can judge it: {because}")
        if comparison.agreement >= self.bars.agreement:
            return Judgement(candidate, comparison=comparison)
        whose = "by the metric" if comparison.worst is None else f"of output '{comparison.worst}'"
        figures = f"agreement {comparison.agreement:.4f} {whose} on {comparison.feeds} feed{'s' * (comparison.feeds != 1)}"
        return Judgement(candidate, "gate/floor", f"{figures} is below {self.bars.agreement_name}", comparison)

    def measured(self, judgement: Judgement) -> Judgement:
        """The judgement with measurements; the first thread setting that shows a loss ends them."""
        measurements: list[tuple[int, Measurement]] = []
        for threads in self.settings:
            try:
                measurement = self.judge.measure(judgement.candidate.model, threads, self.speedup)
            except CandidateFails as problem:
                return replace(judgement, reason="gate/does-not-run", because=f"the result does not run: {clause(problem)}")
            measurements.append((threads, measurement))
            if measurement.verdict == "slower" and self.speedup >= 1:
                break
        judgement = replace(judgement, measurements=tuple(measurements))
        if reaches((m for _, m in measurements), self.speedup) is not False:
            return judgement
        lowest = min(measurements, key=lambda pair: pair[1].speedup)
        slower = "it may be slower than the original" if lowest[1].verdict == "noisy" else "it is slower than the original"
        because = slower if self.bars.min_speedup is None else f"it misses the bar of {self.bars.min_speedup:g} (--min-speedup)"
        return replace(judgement, reason="gate/slower", because=f"{because} ({speed_text(*lowest)})")

    def fastest(self) -> Judgement:
        """Where nothing reaches a stated bar of speed: the fastest candidate that is faithful and not slower than the original, at worst the original."""
        unslowed = [j for j in self.judged.values() if j.reason == "gate/slower" and not j.slower]
        return max(unslowed, key=lambda j: j.speedup or 0.0, default=Judgement(self.original))

    # --- steps ------------------------------------------------------------------------------------------------------------------

    def rungs(self, base: Candidate, position: int) -> tuple[list[Candidate], bool]:
        """What a step offers for `base`, and whether its ladder is monotone; none, with a refusal, where the step failed."""
        if (base, position) not in self.offered:
            step = self.steps[position]
            context = replace(self.context, earlier=tuple(part.rung.result for part in base.path if part.rung is not None))
            ladder = self.attempt(position, Candidate(self.original.model, base, position, step, Rung("", _nothing)), lambda: step.run(base.model, context))
            rungs = () if ladder is None else ladder.rungs
            rungs = rungs[:1] if self.boldest_only else rungs
            candidates = [Candidate(self.original.model, base, position, step, rung, index) for index, rung in enumerate(rungs)]
            self.offered[base, position] = candidates, ladder is not None and ladder.monotone
        return self.offered[base, position]

    def built(self, candidate: Candidate) -> StepResult | None:
        """A rung's result; None, with a refusal, where it cannot be built."""
        rung = candidate.rung
        assert rung is not None
        if candidate in self.judged and self.judged[candidate].reason == "gate/does-not-build":
            return None
        result = self.attempt(candidate.position, candidate, lambda: rung.result)
        results = self.executions[candidate.position].results
        if result is not None and all(built is not candidate for built, _ in results):
            results.append((candidate, result))
        return result

    def attempt(self, position: int, candidate: Candidate, work: Callable[[], T]) -> T | None:
        """Do a part of a step, with its time; None, with a refusal of `candidate`, where it fails on a model and feeds that are sound."""
        from graphcompress.runtime.machine import peak_memory

        execution = self.executions[position]
        begin = time.perf_counter()
        try:
            return work()
        except (ModelError, DataError) as problem:
            self.judge.check_original()
            self.judged[candidate] = Judgement(candidate, "gate/does-not-build", f"it could not be done: {clause(problem)}")
            return None
        finally:
            execution.seconds += time.perf_counter() - begin
            execution.peak_memory_bytes = peak_memory()

    def executed(self, chosen: Candidate) -> Iterator[ExecutedStep]:
        """Each step of the recipe with the result that stands."""
        parts = {part.position: part for part in chosen.path}
        for position, (step, execution) in enumerate(zip(self.steps, self.executions, strict=True)):
            part = parts.get(position)
            candidate, result = next(((c, r) for c, r in execution.results if part is None or c is part), (None, None))
            label = "" if candidate is None or candidate.rung is None else candidate.rung.label
            yield ExecutedStep(step, result, label, part is not None, execution.seconds, execution.peak_memory_bytes)


def maybe_faster(rungs: Sequence[Candidate]) -> list[Candidate]:
    """The few of `rungs` to time where a bolder one is too slow: those that are expected to gain most, where that is known, else in halving steps towards the last."""
    gains = {candidate: candidate.rung.gain_ns for candidate in rungs if candidate.rung is not None and candidate.rung.gain_ns is not None}
    if len(gains) == len(rungs):
        return sorted((c for c in rungs if gains[c] > 0), key=lambda c: -gains[c])[:SPEED_TRIES]
    picked: list[Candidate] = []
    begin = 0
    while begin < len(rungs) and len(picked) < SPEED_TRIES:
        middle = (begin + len(rungs)) // 2
        picked.append(rungs[middle])
        begin = middle + 1
    return picked


def _bytes(model: Model) -> int:
    from graphcompress.ir.files.serialize import size_on_disk

    return size_on_disk(model)


def clause(problem: Exception) -> str:
    """An error's message as the end of a sentence."""
    return " ".join(str(problem).split()).rstrip(".")


def _nothing() -> StepResult:
    raise AssertionError("a step that failed has no rungs")
