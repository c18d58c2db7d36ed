"""Comparing and timing candidates against the original on sessions, opened where the context says and shared between both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from graphcompress.errors import DataError, GraphCompressError, ModelError
from graphcompress.gate.memory import BOUND, NOTHING, OutputMemory
from graphcompress.step import Context

if TYPE_CHECKING:
    from graphcompress.data import Dataset
    from graphcompress.ir import Model
    from graphcompress.ir.analysis.output_kinds import OutputKind
    from graphcompress.ir.files.snapshot import Snapshot
    from graphcompress.runtime.compare import Comparison
    from graphcompress.runtime.measure import Measurement
    from graphcompress.runtime.metric import Metric
    from graphcompress.runtime.place import Place
    from graphcompress.runtime.session import Feed, Session

TIMED_FEEDS = 8
"""How many feeds one pass of a measurement runs over: enough to meet ragged shapes, few enough to keep a pass short."""

TIMING_S = 60.0
"""Wall time that all measurements of a run may take, about, in seconds."""
TIMING_SHARE = 6
"""What part of the time that is left one measurement may plan with: a noisy one takes up to three times that, so that half of it is left for the next ones."""
LEAST_TIMING_S = 0.5
"""The least that one plans with, in seconds."""

LARGE = 16 * 2**20
"""From this many bytes of constants on, sessions are not kept for another thread setting, and the reference is timed beside itself in one session."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Where a model ran: how many nodes each provider took (None: not known), and what there is to say about the provider."""

    nodes: dict[str, int] | None = None
    notes: tuple[str, ...] = ()


class CandidateFails(GraphCompressError):
    """A candidate does not load or run where the original does."""


class Judge(Protocol):
    """Compares and measures a model against the original. The one in use is `SessionJudge`; tests hand in others."""

    def compare(self, model: Model) -> Comparison:
        """Raises CandidateFails for `model`, another GraphCompressError for the original."""
        ...

    def measure(self, model: Model, threads: int, bar: float = 1.0) -> Measurement:
        """Time `model` with so many threads; a speed-up that is below `bar` need not be known well. Raises as `compare` does."""
        ...

    def check_original(self) -> None:
        """Raise what the original raises where it does not load, or does not run on one of the feeds."""
        ...


class SessionJudge:
    """Compares on all of `judging` (the original at the place's reference, the model at the place) and measures on the first few (both at the place).

    Sessions of the original stay open from one candidate to the next, unless it is large and its answers are known; those of a candidate until the next one comes. The original is asked once about each feed, as far as
    its answers can be held. Use it in a `with` block, or `close` it."""

    def __init__(
        self,
        original: Model,
        feeds: Dataset,
        judging: Dataset,
        context: Context,
        kinds: Mapping[str, OutputKind],
        file: Path | None = None,
        metric: Metric | None = None,
        *,
        once: bool = False,
        timing_s: float = TIMING_S,
    ) -> None:
        """`feeds` are all feeds that the original must run on, `judging` those that judge; `kinds` says of each output how it is compared, `metric` is the
        caller's. `once`: one model will be compared, so that the answers of a small original need not be held. `file` holds just the original, where there is such a file: it runs from there, and is not held once more as a message. All measurements together take about `timing_s` seconds."""
        from graphcompress.ir.files.snapshot import Snapshot

        self._original = Snapshot(original)
        self._source: Snapshot | Path = self._original if file is None else file
        self._feeds = feeds
        self._judging = judging
        self._context = context
        self._place = context.judging_place()
        self._kinds = kinds
        self._metric = metric
        self._threads = thread_settings(context.threads, self._place.describe().get("cores"))[-1]
        self._large = constant_bytes(original) >= LARGE
        self._originals: dict[tuple[str, int], Session] = {}
        self._candidates: dict[int, tuple[Session, tuple[str, ...]]] = {}
        self._candidate: Snapshot | None = None
        self._latest: Snapshot | None = None
        self._runs: list[tuple[Model, RunInfo]] = []
        self._reference = OutputMemory(
            original.outputs, lambda: self._original_session("reference", self._threads), BOUND if self._large or not once else NOTHING
        )
        self._original_runs = False
        self._timing_left = timing_s

    def compare(self, model: Model) -> Comparison:
        """See `Judge.compare`."""
        from graphcompress.runtime.compare import compare

        reference = self._reference
        try:
            shared = model is self._original.source and self._place.reference is self._place
            if self._large and not shared and reference.learn(self._with_progress("run the original")):
                self._close_reference()
            candidate, notes = (self._original_session("reference", self._threads), ()) if shared else self._candidate_session(model, self._threads)
            self._runs.append((model, RunInfo(candidate.describe().get("nodes"), notes)))
            labels = self._judging.labels()
            reference.rewind()
            return compare(reference, candidate, self._with_progress("compare"), self._kinds, self._judging.findings(), metric=self._metric, labels=labels)
        except (ModelError, DataError) as problem:
            self.check_original()
            raise CandidateFails(str(problem)) from problem

    def measure(self, model: Model, threads: int, bar: float = 1.0) -> Measurement:
        """See `Judge.measure`. Original, original again and model, interleaved. All measurements together take about the seconds that are allowed; those that come when
        most of them are used up are shorter."""
        from graphcompress.runtime.measure import BUDGET_S, measure

        self._context.progress(f"measure, {threads_text(threads)}", 0, None)
        feeds = list(self._judging.take(TIMED_FEEDS))
        first = self._original_session("reference" if self._place.reference is self._place else "timed", threads)
        again = first if self._large else self._original_session("timed again", threads)
        try:
            candidate = self._candidate_session(model, threads)[0]
            begin = time.perf_counter()
            budget = min(BUDGET_S, max(LEAST_TIMING_S, self._timing_left / TIMING_SHARE))
            try:
                return measure(first, again, candidate, feeds, threads=threads, budget_s=budget, bar=bar)
            finally:
                self._timing_left -= time.perf_counter() - begin
        except (ModelError, DataError) as problem:
            self.check_original()
            raise CandidateFails(str(problem)) from problem

    def check_original(self) -> None:
        """See `Judge.check_original`."""
        if self._original_runs:
            return
        session = self._original_session("reference", self._threads)
        for feed in self._feeds:
            session.run(feed)
        self._original_runs = True

    def info(self, model: Model) -> RunInfo:
        """Where a model that was compared ran."""
        return next((info for compared, info in self._runs if compared is model), RunInfo())

    def snapshot(self, model: Model) -> Snapshot:
        """A model with its message: that of the original, of the latest candidate, or of what was asked for last, where it is one of these."""
        from graphcompress.ir.files.snapshot import snapshot_of

        known = next((s for s in (self._candidate, self._original, self._latest) if s is not None and s.source is model), None)
        self._latest = known or snapshot_of(model)
        return self._latest

    def size(self, model: Model) -> int:
        """Bytes of the file of a model; the original is not put together for that where it lies in one."""
        if model is self._original.source and isinstance(self._source, Path):
            return self._source.stat().st_size
        return self.snapshot(model).size

    def close(self) -> None:
        """Close all sessions."""
        with ExitStack() as stack:
            for session in (*self._originals.values(), *(session for session, _ in self._candidates.values())):
                stack.callback(session.close)
        self._originals = {}
        self._candidates = {}

    def _original_session(self, use: str, threads: int) -> Session:
        """The session of the original for one use: "reference", "timed" or "timed again"."""
        from graphcompress.runtime.place import open_for

        self._make_room(threads)
        key = use, threads
        if key not in self._originals:
            place: Place = self._place.reference if use == "reference" else self._place
            self._originals[key] = (
                place.open(self._source, threads=threads) if use == "reference" else open_for(place, self._source, self._judging, threads=threads)[0]
            )
        return self._originals[key]

    def _close_reference(self) -> None:
        """Of a model that is too large to be held beside a candidate, once its answers are known."""
        for key in [k for k in self._originals if k[0] == "reference"]:
            self._originals.pop(key).close()

    def _candidate_session(self, model: Model, threads: int) -> tuple[Session, tuple[str, ...]]:
        from graphcompress.runtime.place import open_for

        self._make_room(threads)
        snapshot = self.snapshot(model)
        if self._candidate is not snapshot:
            for session, _ in self._candidates.values():
                session.close()
            self._candidate, self._candidates = snapshot, {}
        if threads not in self._candidates:
            self._candidates[threads] = open_for(self._place, snapshot, self._judging, threads=threads, label="the compressed model")
        return self._candidates[threads]

    def _make_room(self, threads: int) -> None:
        """Close what was opened for another thread setting, where a model is too large to be held that often."""
        if not self._large:
            return
        for key in [k for k in self._originals if k[1] != threads]:
            self._originals.pop(key).close()
        for other in [t for t in self._candidates if t != threads]:
            self._candidates.pop(other)[0].close()

    def _with_progress(self, what: str) -> Iterator[Feed]:
        total = len(self._judging)
        for done, feed in enumerate(self._judging):
            self._context.progress(what, done, total)
            yield feed
        self._context.progress(what, total, total)


def constant_bytes(model: Model) -> int:
    """Bytes of all initializers."""
    from graphcompress.ir import graphs

    return sum(constant.nbytes for graph in graphs(model) for constant in graph.initializers.values())


def thread_settings(threads: int | None, cores: int | None = None) -> tuple[int, ...]:
    """The thread counts that are measured: the one asked for, else one thread and all `cores` of the place (default: of this machine)."""
    from graphcompress.runtime import machine

    return (threads,) if threads is not None else tuple(sorted({1, cores or machine.cores()}))


def timed_settings(threads: int | None, where: Mapping[str, Any], *, measure: bool = True) -> tuple[int, ...]:
    """The thread counts that are measured at a place that describes itself so (`Place.describe`): none without leave to `measure`, and none where times mean nothing."""
    return thread_settings(threads, where.get("cores")) if measure and where.get("timed", True) else ()


def threads_text(threads: int) -> str:
    """A thread setting in words."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def speed_text(threads: int, measurement: Measurement) -> str:
    """A speed-up in words."""
    return f"{measurement.speedup:.2f}x with {threads_text(threads)}" + (", too noisy to tell" if measurement.verdict == "noisy" else "")
