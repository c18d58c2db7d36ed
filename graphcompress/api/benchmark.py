"""benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from graphcompress.api import reports
from graphcompress.api.inputs import AnyData, AnyModel, Source, check_comparable, data_source, open_feeds, open_model
from graphcompress.errors import GraphCompressError, UsageError
from graphcompress.gate import TIMED_FEEDS, Bars, thread_settings, threads_text
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.serialize import size_on_disk
from graphcompress.random_feeds import random_feeds
from graphcompress.record import BenchmarkReport, BenchmarkRow, Timing
from graphcompress.runtime import energy, machine
from graphcompress.runtime.place import LocalPlace, Place
from graphcompress.step import Progress, silent
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.ir import Model, Node
    from graphcompress.runtime.measure import Measurement
    from graphcompress.runtime.session import Feed, Session


def benchmark(
    reference: AnyModel,
    candidates: Sequence[AnyModel] = (),
    data: AnyData | None = None,
    *,
    providers: Sequence[str] = (),
    places: Sequence[Place] = (),
    threads: int | None = None,
    seed: int = 0,
    min_speedup: float | None = None,
    price_per_hour: float | None = None,
    progress: Progress = silent,
) -> BenchmarkReport:
    """Time models side by side, interleaved, on each of `providers` in this process and at each of `places` (default: the CPU provider), with one thread and with all
    (or with `threads`).

    Without data the feeds are random numbers in the shapes of the signature (free dimensions as small as it runs with), and the report says so. Raises BarMissed, with the report
    in its `result`, where a candidate misses `min_speedup` anywhere (see `gate.bars`). `price_per_hour` of the machine, with all its cores, gives the cost of a million feeds.
    """
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise UsageError(f"--price-per-hour is what the machine costs per hour, and {price_per_hour} is not a price.")
    Bars(min_speedup=min_speedup)
    if min_speedup is not None and not candidates:
        raise UsageError("--min-speedup compares candidates with the reference, and no candidate was given.")
    sources = [open_model(model) for model in (reference, *candidates)]
    for source in sources:
        require_known_domains(source.model, "benchmarked")
        check_comparable(sources[0], source)
    first = sources[0].model
    feeds = open_feeds(data, first) if data is not None else random_feeds(first, 1, seed)
    bench = _Bench(sources, list(feeds.take(TIMED_FEEDS)), progress, price_per_hour)
    where: list[Place] = [*map(LocalPlace, dict.fromkeys(providers)), *places] or [LocalPlace()]
    untimed = [described["place"] for place in where if not (described := place.describe()).get("timed", True)]
    if untimed:
        raise UsageError(f"Times at the place '{untimed[0]}' mean nothing (places.toml says `timing = false`): leave it out.")
    rows = [row for place in where for setting in thread_settings(threads, place.describe().get("cores")) for row in bench.rows(place, setting)]
    bars = [] if min_speedup is None else [reports.speed_bar(min_speedup, bench.measurements)]
    report = BenchmarkReport(
        graphcompress=__version__,
        models=rows,
        data=data_source(feeds, 0, 0),
        machine=reports.machine_at(where[0].describe()),
        bars=bars,
        notes=[]
        if data is not None
        else ["Timed on random numbers in the shapes of the signature, free dimensions as small as the model runs with; --data times real inputs."],
    )
    reports.raise_missed(bars, report)
    return report


def estimated(model: Model, shapes: Mapping[str, Sequence[int]]) -> float | None:
    """Joules of a run by `runtime.energy.estimate`; None where shapes are not known. What reads codes on both sides is counted in INT8."""
    from graphcompress.ir import producer
    from graphcompress.ir.analysis.statistics import node_macs, run_shapes, statistics

    known = run_shapes(model, shapes)
    macs = node_macs(model, known)
    if any(count is None for count in macs.values()):
        return None

    def quantized(node: Node) -> bool:
        return len(node.inputs) > 1 and all((maker := producer(tensor)) is not None and maker.op == "DequantizeLinear" for tensor in node.inputs[:2])

    integer = sum(count or 0 for node, count in macs.items() if quantized(node))
    total = sum(count or 0 for count in macs.values())
    return energy.estimate(total - integer, integer, statistics(model, shapes, shapes=known).initializer_bytes)


class _Bench:
    """The models (the reference first) and the feeds; what is the same for every row is computed once. `measurements` are those of the candidates."""

    def __init__(self, sources: Sequence[Source], feeds: Sequence[Feed], progress: Progress, price: float | None) -> None:
        self.sources = sources
        self.feeds = feeds
        self.progress = progress
        self.price = price
        self._meters = energy.counters()
        shapes = {name: tuple(array.shape) for name, array in feeds[0].items()}
        self._estimates = [estimated(source.model, shapes) for source in sources]
        self.measurements: list[Measurement] = []
        self._sizes = [size_on_disk(source.model) for source in sources]
        self._footprints: dict[tuple[int, Place], tuple[float | None, int | None, list[str]]] = {}

    def rows(self, place: Place, threads: int) -> list[BenchmarkRow]:
        """The reference's row, then one per candidate."""
        from graphcompress.runtime.measure import measure
        from graphcompress.runtime.place import open_for

        provider = place.describe()["provider"]
        rows: list[BenchmarkRow] = []
        reference, notes = open_for(place, self.sources[0].model, self.feeds, threads=threads)
        with closing(reference), closing(open_for(place, self.sources[0].model, self.feeds, threads=threads)[0]) as again:
            # Without a candidate the reference is measured beside itself.
            for index in range(1, len(self.sources)) or (0,):
                self.progress(f"measure {self.sources[index].name} on {provider}, {threads_text(threads)}", 0, None)
                session, candidate_notes = open_for(place, self.sources[index].model, self.feeds, threads=threads)
                with closing(session):
                    measurement = measure(reference, again, session, self.feeds, threads=threads)
                    timing = reports.timing(threads, measurement)
                    weak = [finding.text for finding in measurement.findings()]
                    if not rows:
                        beside_itself = timing.model_copy(update={"median_ms": timing.reference_ms, "speedup": 1.0, "speedup_ci": timing.band})
                        rows.append(self._row(0, place, provider, reference, beside_itself, [*notes, *weak], "reference"))
                    if index:
                        self.measurements.append(measurement)
                        rows.append(self._row(index, place, provider, session, timing, [*candidate_notes, *weak], timing.verdict))
        return rows

    def _row(self, index: int, place: Place, provider: str, session: Session, timing: Timing, notes: Sequence[str], verdict: Any) -> BenchmarkRow:
        described = session.describe()
        load_seconds, peak, more = self._footprint(index, place)
        where = place.describe()
        # The counters are those of this machine.
        joules = None if "place" in where else energy.joules_per_run(self._meters, lambda: session.time(self.feeds, 1))
        share = timing.threads / (where.get("cores") or machine.cores()) if timing.threads else 1.0
        return BenchmarkRow(
            path=self.sources[index].file.path,
            provider=provider,
            place=where.get("place"),
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
            smaller=reports.ratio(self._sizes[0], self._sizes[index]),
            load_seconds=load_seconds,
            peak_memory_bytes=peak,
            nodes=described.get("nodes"),
            share=described.get("share"),
            joules=None if joules is None else joules / len(self.feeds),
            joules_estimated=self._estimates[index],
            cost_per_million=None if self.price is None else self.price * share * timing.median_ms / 3.6,
            runtime=f"{described['runtime']} {described['version']}",
            notes=[*notes, *more],
        )

    def _footprint(self, index: int, place: Place) -> tuple[float | None, int | None, list[str]]:
        """Load time and peak memory of a fresh process, once per model and place; a process that fails is a note, since the model did run here."""
        path = self.sources[index].model.path
        if self.sources[index].file.path is None or path is None:
            return None, None, []
        if (index, place) not in self._footprints:
            try:
                footprint = place.footprint(path, self.feeds[0])
                self._footprints[index, place] = footprint.load_seconds, footprint.peak_bytes, []
            except GraphCompressError as error:
                self._footprints[index, place] = None, None, [f"Load time and memory are unknown: {error}"]
        return self._footprints[index, place]
