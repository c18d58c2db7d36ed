"""The gate of `compress`: what is not faithful or not faster than the original is not handed back.

Candidates are judged in order, the full result first, then what the recipe had reached before each step, last the original. The first that

- has the inputs and outputs of the original, loads, and runs on every held-out feed,
- holds the floor of agreement on the held-out feeds (not where no output can be judged), and
- is not measured slower than the original, with any of the thread settings,

is chosen. The original always holds. What is too noisy to tell is no loss, and the explanation says that it was noisy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from graphcompress.errors import GraphCompressError, RuntimeUnavailable
from graphcompress.step import Context

if TYPE_CHECKING:
    from graphcompress.data import Dataset
    from graphcompress.ir import Model
    from graphcompress.runtime.compare import Comparison
    from graphcompress.runtime.measure import Measurement
    from graphcompress.runtime.session import Feed

FLOOR = 0.99
TIMED_FEEDS = 8
"""How many feeds one pass of a measurement runs over: enough to meet ragged shapes, few enough to keep a pass short."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model and the steps that made it, in order; none for the original. The steps of a later candidate are the beginning of an earlier one's."""

    model: Model
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with what was found: `reason` is "" where it was accepted, `because` a clause that says why not. `measurements` are by thread setting."""

    candidate: Candidate
    reason: str = ""
    because: str = ""
    comparison: Comparison | None = None
    measurements: tuple[tuple[int, Measurement], ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the gate chose, and everything it judged on the way."""

    chosen: Judged
    judged: tuple[Judged, ...]
    explanation: str


class Judge(Protocol):
    """Compares and measures a model against the original. The one in use is `Runtime`; tests hand in others."""

    def compare(self, model: Model) -> Comparison: ...

    def measure(self, model: Model, threads: int) -> Measurement: ...


class Runtime:
    """Compares on all `feeds` (reference on the CPU, model on the context's provider) and measures on the first few (both on the provider).

    `nodes` and `notes` are of the model that was compared last: how many nodes each provider took, and what there is to say about the provider asked for.
    """

    def __init__(self, original: Model, feeds: Dataset, context: Context) -> None:
        from graphcompress.ir.analysis.output_kinds import output_kinds

        self.original = original
        self.feeds = feeds
        self.context = context
        self.kinds = output_kinds(original)
        self.nodes: dict[str, int] | None = None
        self.notes: list[str] = []

    def compare(self, model: Model) -> Comparison:
        """Raises what the session raises where the model does not load or run."""
        from graphcompress.runtime.compare import compare
        from graphcompress.runtime.session import open_for, open_session

        with closing(open_session(self.original, provider="cpu", threads=self.context.threads)) as reference:
            try:
                session, self.notes = open_for(model, self.feeds, provider=self.context.provider, threads=self.context.threads)
                with closing(session) as candidate:
                    self.nodes = candidate.describe().get("nodes")
                    return compare(reference, candidate, self._told("compare"), self.kinds, self.feeds.findings())
            except RuntimeUnavailable:
                raise
            except GraphCompressError:
                for feed in self.feeds:  # where the original itself cannot run, the fault is not the candidate's
                    reference.run(feed)
                raise

    def measure(self, model: Model, threads: int) -> Measurement:
        """Original, original again and model, interleaved."""
        from graphcompress.runtime.measure import measure
        from graphcompress.runtime.session import open_for

        self.context.progress(f"measure, {threads_text(threads)}", 0, None)
        provider = self.context.provider
        feeds = list(self.feeds.take(TIMED_FEEDS))
        with (
            closing(open_for(self.original, feeds, provider=provider, threads=threads)[0]) as first,
            closing(open_for(self.original, feeds, provider=provider, threads=threads)[0]) as again,
            closing(open_for(model, feeds, provider=provider, threads=threads)[0]) as candidate,
        ):
            return measure(first, again, candidate, feeds, threads=threads)

    def _told(self, what: str) -> Iterator[Feed]:
        total = len(self.feeds)
        for done, feed in enumerate(self.feeds):
            self.context.progress(what, done, total)
            yield feed
        self.context.progress(what, total, total)


def thread_settings(threads: int | None) -> tuple[int, ...]:
    """The thread counts that are measured: the one asked for, else one thread and all cores."""
    from graphcompress.runtime.machine import cores

    return (threads,) if threads is not None else tuple(sorted({1, cores()}))


def threads_text(threads: int) -> str:
    """A thread setting in words."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def choose(original: Model, candidates: Sequence[Candidate], judge: Judge, settings: Sequence[int], names: dict[str, str]) -> Outcome:
    """Judge `candidates` in order and choose the first that holds; the original is added as the last.

    `settings` are the thread settings to measure with (none: nothing is measured, and nothing is taken back for being slow); `names` are the words for the steps.
    """
    judged: list[Judged] = []
    for candidate in candidates:
        found = _judge(original, candidate, judge, settings)
        judged.append(found)
        if found.accepted:
            break
    else:
        judged.append(Judged(Candidate(original, ()), comparison=judge.compare(original)))
    return Outcome(judged[-1], tuple(judged), _explain(judged, names, timed=bool(settings)))


def _judge(original: Model, candidate: Candidate, judge: Judge, settings: Sequence[int]) -> Judged:
    if (candidate.model.inputs, candidate.model.outputs) != (original.inputs, original.outputs):
        return Judged(candidate, "gate/signature", "its inputs or outputs are not those of the original")
    try:
        comparison = judge.compare(candidate.model)
    except RuntimeUnavailable:
        raise
    except GraphCompressError as error:
        return Judged(candidate, "gate/does-not-run", f"it does not run: {error}")
    if comparison.agreement is None and any(output.unstable for output in comparison.outputs.values()):
        because = "nothing can be judged: the original differs from itself when it runs twice on the same input (random operators, live Dropout)"
        return Judged(candidate, "gate/floor", because, comparison)
    if comparison.agreement is not None and comparison.agreement < FLOOR:
        figures = f"{comparison.agreement:.4f} of output '{comparison.worst}' on {comparison.feeds} feeds"
        return Judged(candidate, "gate/floor", f"agreement {figures} is below the floor of {FLOOR}", comparison)
    measured: list[tuple[int, Measurement]] = []
    for threads in settings:
        found = judge.measure(candidate.model, threads)
        measured.append((threads, found))
        if found.verdict == "slower":
            return Judged(candidate, "gate/slower", f"it is slower than the original ({_speed(threads, found)})", comparison, tuple(measured))
    return Judged(candidate, comparison=comparison, measurements=tuple(measured))


def _speed(threads: int, found: Measurement) -> str:
    return f"{found.speedup:.2f}x with {threads_text(threads)}" + (", too noisy to tell" if found.verdict == "noisy" else "")


def _explain(judged: Sequence[Judged], names: dict[str, str], *, timed: bool) -> str:
    sentences = []
    for index, found in enumerate(judged[:-1]):
        gone = found.candidate.steps[len(judged[index + 1].candidate.steps) :]
        what = " and ".join(names.get(step, step) for step in dict.fromkeys(gone))
        sentences.append(f"{what[:1].upper()}{what[1:]} was taken back because {found.because}.")
    chosen = judged[-1]
    if not chosen.candidate.steps:
        sentences.append("The result is the original model.")
    else:
        figures = [] if chosen.comparison is None or chosen.comparison.agreement is None else [f"agreement {chosen.comparison.agreement:.4f}"]
        figures += [_speed(threads, found) for threads, found in chosen.measurements]
        untimed = "" if timed else " Speed was not measured."
        sentences.append(
            f"The result holds the floor of {FLOOR}" + (" and is not slower" if timed else "") + (f": {', '.join(figures)}." if figures else ".") + untimed
        )
    return " ".join(sentences)
