"""benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from graphcompress import __version__, record
from graphcompress.api import documents
from graphcompress.api.sources import AnyData, AnyModel, Source, check_comparable, data_source, open_feeds, open_model
from graphcompress.data import random_data
from graphcompress.errors import GraphCompressError, UsageError
from graphcompress.gate import TIMED_FEEDS, thread_settings, threads_text
from graphcompress.ir.check.models import require_known_domains
from graphcompress.step import Progress, silent

if TYPE_CHECKING:
    from graphcompress.runtime.measure import Measurement
    from graphcompress.runtime.session import Feed, Session

MACHINE_KEYS = ("machine", "system", "cores", "cpu_flags")
"""What a session's description says of the machine."""


def benchmark(
    reference: AnyModel,
    candidates: Sequence[AnyModel] = (),
    data: AnyData | None = None,
    *,
    providers: Sequence[str] = ("cpu",),
    threads: int | None = None,
    seed: int = 0,
    min_speedup: float | None = None,
    progress: Progress = silent,
) -> record.BenchmarkReport:
    """Time models side by side, interleaved, on each provider, with one thread and with all (or with `threads`).

    Without data the feeds are random numbers in the shapes of the signature (free dimensions are 1), and the report says so. Raises BarMissed, with the report
    in its `result`, where a candidate misses `min_speedup` anywhere.
    """
    documents.check_bars(None, min_speedup)
    if min_speedup is not None and not candidates:
        raise UsageError("--min-speedup compares candidates with the reference, and no candidate was given.")
    sources = [open_model(model) for model in (reference, *candidates)]
    for source in sources:
        require_known_domains(source.model, "benchmarked")
        check_comparable(sources[0], source)
    first = sources[0].model
    feeds = open_feeds(data, first) if data is not None else random_data(first.inputs, 1, seed)
    timed: list[Feed] = list(feeds.take(TIMED_FEEDS))
    bench = _Bench(sources, timed, progress)
    rows = [row for provider in dict.fromkeys(providers) for setting in thread_settings(threads) for row in bench.rows(provider, setting)]
    bars = [] if min_speedup is None else [documents.speed_bar(min_speedup, bench.measured)]
    report = record.BenchmarkReport(
        graphcompress=__version__,
        models=rows,
        data=data_source(feeds, 0, 0),
        machine=bench.machine,
        bars=bars,
        notes=[] if data is not None else ["Timed on random numbers in the shapes of the signature, free dimensions as 1; --data times real inputs."],
    )
    documents.raise_missed(bars, report)
    return report


class _Bench:
    """The models (the reference first) and the feeds; what is the same for every row is found once."""

    def __init__(self, sources: Sequence[Source], feeds: Sequence[Feed], progress: Progress) -> None:
        self.sources = sources
        self.feeds = feeds
        self.progress = progress
        self.machine: dict[str, Any] = {}
        self.measured: list[Measurement] = []
        self._sizes = [documents.size_of(source.model).bytes for source in sources]
        self._footprints: dict[tuple[int, str], tuple[float | None, int | None, list[str]]] = {}

    def rows(self, provider: str, threads: int) -> list[record.BenchmarkRow]:
        """The reference's row, then one per candidate."""
        from graphcompress.runtime.measure import measure
        from graphcompress.runtime.session import open_for

        rows: list[record.BenchmarkRow] = []
        reference, notes = open_for(self.sources[0].model, self.feeds, provider=provider, threads=threads)
        again, _ = open_for(self.sources[0].model, self.feeds, provider=provider, threads=threads)
        with closing(reference), closing(again):
            # Without a candidate the reference is measured beside itself.
            for index in range(1, len(self.sources)) or (0,):
                self.progress(f"measure {self.sources[index].file.path or 'model'} on {provider}, {threads_text(threads)}", 0, None)
                session, own_notes = open_for(self.sources[index].model, self.feeds, provider=provider, threads=threads)
                with closing(session):
                    measurement = measure(reference, again, session, self.feeds, threads=threads)
                    timing = documents.timing(threads, measurement)
                    weak = [finding.text for finding in measurement.findings()]
                    if not rows:
                        own = timing.model_copy(update={"median_ms": timing.reference_ms, "speedup": 1.0, "speedup_ci": timing.band})
                        rows.append(self._row(0, provider, reference, own, [*notes, *weak], "reference"))
                    if index:
                        self.measured.append(measurement)
                        rows.append(self._row(index, provider, session, timing, [*own_notes, *weak], timing.verdict))
            described = reference.describe()
            self.machine = {key: described[key] for key in MACHINE_KEYS if key in described}
        return rows

    def _row(self, index: int, provider: str, session: Session, timing: record.Timing, notes: list[str], verdict: Any) -> record.BenchmarkRow:
        described = session.describe()
        load_seconds, peak, more = self._footprint(index, provider)
        return record.BenchmarkRow(
            path=self.sources[index].file.path,
            provider=provider,
            threads=timing.threads,
            median_ms=timing.median_ms,
            speedup=timing.speedup,
            speedup_ci=timing.speedup_ci,
            band=timing.band,
            rounds=timing.rounds,
            verdict=verdict,
            clock=timing.clock,
            rejected=timing.rejected,
            bytes=self._sizes[index],
            smaller=documents.ratio(self._sizes[0], self._sizes[index]),
            load_seconds=load_seconds,
            peak_memory_bytes=peak,
            nodes=described.get("nodes"),
            share=described.get("share"),
            runtime=f"{described['runtime']} {described['version']}",
            notes=[*notes, *more],
        )

    def _footprint(self, index: int, provider: str) -> tuple[float | None, int | None, list[str]]:
        """Load time and peak memory of a fresh process, once per model and provider; a process that fails is a note, since the model did run here."""
        from graphcompress.runtime.measure import footprint

        path = self.sources[index].model.path
        if self.sources[index].file.path is None or path is None:
            return None, None, []
        if (index, provider) not in self._footprints:
            try:
                found = footprint(path, self.feeds[0], provider=provider)
                self._footprints[index, provider] = found.load_seconds, found.peak_bytes, []
            except GraphCompressError as error:
                self._footprints[index, provider] = None, None, [f"Load time and memory are unknown: {error}"]
        return self._footprints[index, provider]
