"""validate, benchmark, inspect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from graphcompress import __version__, record
from graphcompress.api import documents
from graphcompress.api.sources import AnyData, AnyModel, Source, check_comparable, data_source, open_feeds, open_model, told
from graphcompress.data import random_data
from graphcompress.errors import UsageError
from graphcompress.gate import TIMED_FEEDS, thread_settings, threads_text
from graphcompress.step import Progress, silent

if TYPE_CHECKING:
    from graphcompress.ir import Model, TensorSpec
    from graphcompress.runtime.session import Feed, Session

MACHINE_KEYS = ("machine", "system", "cores", "cpu_flags")
"""What a session's description says of the machine."""


def validate(
    reference: AnyModel,
    candidate: AnyModel,
    data: AnyData,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    min_agreement: float | None = None,
    progress: Progress = silent,
) -> record.ValidateReport:
    """How far `candidate` (on `provider`) is from `reference` (on the CPU), over all feeds.

    Raises ModelError where their inputs or outputs differ, DataError where the feeds do not fit, BarMissed, with the report in its `result`, below `min_agreement`.
    """
    from graphcompress.ir.kinds import output_kinds
    from graphcompress.runtime.compare import compare
    from graphcompress.runtime.session import open_session

    documents.check_bars(min_agreement, None)
    first, second = open_model(reference), open_model(candidate)
    check_comparable(first, second)
    feeds = open_feeds(data, first.model)
    kinds = output_kinds(first.model)
    session, notes = open_on(second.model, provider, threads, feeds)
    with (
        closing(open_session(first.model, provider="cpu", threads=threads)) as ref,
        closing(session) as cand,
    ):
        found = compare(ref, cand, told(feeds, "compare", progress), kinds)
        described = cand.describe()
    distance = documents.distance(found, kinds)
    bars = [] if min_agreement is None else [documents.bar("--min-agreement", min_agreement, distance.agreement)]
    report = record.ValidateReport(
        graphcompress=__version__,
        reference=first.file,
        candidate=second.file,
        data=data_source(feeds, 0, len(feeds)),
        provider=provider,
        agreement=distance.agreement,
        worst=distance.worst,
        feeds=distance.feeds,
        statement=distance.statement,
        outputs=distance.outputs,
        nodes=described.get("nodes"),
        share=described.get("share"),
        smaller=documents.ratio(documents.size_of(first.model).bytes, documents.size_of(second.model).bytes),
        bars=bars,
        notes=notes,
    )
    documents.raise_missed(bars, report)
    return report


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
        source.model.require_known_domains("benchmarked")
        check_comparable(sources[0], source)
    first = sources[0].model
    feeds = open_feeds(data, first) if data is not None else random_data(first.inputs, 1, seed)
    timed: list[Feed] = list(feeds.take(TIMED_FEEDS))
    machine: dict[str, Any] = {}
    rows: list[record.BenchmarkRow] = []
    for provider in providers:
        for setting in thread_settings(threads):
            rows += _rows(sources, timed, provider, setting, machine, progress)
    worst = min((row.speedup for row in rows if row.verdict != "reference"), default=None)
    bars = [] if min_speedup is None else [documents.bar("--min-speedup", min_speedup, worst)]
    report = record.BenchmarkReport(
        graphcompress=__version__,
        models=rows,
        data=data_source(feeds, 0, 0),
        machine=machine,
        bars=bars,
        notes=[] if data is not None else ["Timed on random numbers in the shapes of the signature, free dimensions as 1; --data times real inputs."],
    )
    documents.raise_missed(bars, report)
    return report


def _rows(
    sources: Sequence[Source], feeds: Sequence[Feed], provider: str, threads: int | None, machine: dict[str, Any], progress: Progress
) -> list[record.BenchmarkRow]:
    """The reference's row, then one per candidate, on one provider with one thread setting. `machine` is filled with what the sessions say of it."""
    from graphcompress.runtime.measure import measure

    rows: list[record.BenchmarkRow] = []
    with ExitStack() as stack:

        def session(source: Source) -> tuple[Session, list[str]]:
            made, notes = open_on(source.model, provider, threads, feeds)
            return stack.enter_context(closing(made)), notes

        (reference, notes), (again, _) = session(sources[0]), session(sources[0])
        # Without a candidate the reference is measured beside itself.
        for source in sources[1:] or sources[:1]:
            progress(f"measure {source.file.path or 'model'} on {provider}, {threads_text(threads)}", 0, None)
            candidate, candidate_notes = session(source)
            timing = documents.timing(threads, measure(reference, again, candidate, feeds, threads=threads))
            if not rows:
                own = timing.model_copy(update={"median_ms": timing.reference_ms, "speedup": 1.0, "speedup_ci": timing.band})
                rows.append(_row(sources[0], sources[0], provider, reference, own, notes, "reference"))
            if source is not sources[0]:
                rows.append(_row(sources[0], source, provider, candidate, timing, candidate_notes, timing.verdict))
        described = reference.describe()
        machine.update({key: described[key] for key in MACHINE_KEYS if key in described})
    return rows


def _row(first: Source, source: Source, provider: str, session: Session, timing: record.Timing, notes: list[str], verdict: Any) -> record.BenchmarkRow:
    described = session.describe()
    size = documents.size_of(source.model).bytes
    return record.BenchmarkRow(
        path=source.file.path,
        provider=provider,
        threads=timing.threads,
        median_ms=timing.median_ms,
        speedup=timing.speedup,
        speedup_ci=timing.speedup_ci,
        band=timing.band,
        rounds=timing.rounds,
        verdict=verdict,
        bytes=size,
        smaller=documents.ratio(documents.size_of(first.model).bytes, size),
        nodes=described.get("nodes"),
        share=described.get("share"),
        runtime=f"{described['runtime']} {described['version']}",
        notes=notes,
    )


def open_on(model: Model, provider: str, threads: int | None, feeds: Iterable[Feed]) -> tuple[Session, list[str]]:
    """A session on `provider`, and what there is to say about it.

    A provider that takes nothing because dimensions are free gets them fixed where all feeds have the same shapes; that is said, since it holds for those only.
    """
    from graphcompress.runtime.session import fixed_dims, open_session

    session = open_session(model, provider=provider, threads=threads)
    hint = session.describe().get("hint")
    if not hint:
        return session, []
    sizes = [fixed_dims(session.inputs, feed) for feed in feeds]
    if not sizes or not sizes[0] or any(size != sizes[0] for size in sizes):
        return session, [hint]
    session.close()
    fixed = open_session(model, provider=provider, threads=threads, dims=sizes[0])
    still = fixed.describe().get("hint")
    named = ", ".join(f"{name} = {size}" for name, size in sizes[0].items())
    return fixed, [still] if still else [f"{provider} took no node while dimensions were free; they were fixed to those of the feeds for this run: {named}."]


def inspect(model: AnyModel) -> record.InspectReport:
    """What a model consists of: signature, opsets, parameters, bytes, MACs, operators, per node. Raises ModelError where the file cannot be used."""
    from graphcompress.ir.stats import statistics

    source = open_model(model)
    loaded = source.model
    found = statistics(loaded)
    return record.InspectReport(
        graphcompress=__version__,
        model=source.file,
        ir_version=loaded.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in loaded.opsets.items()},
        producer=" ".join(part for part in (loaded.header.producer_name, loaded.header.producer_version) if part),
        inputs=_infos(loaded.inputs),
        overridable=_infos(loaded.overridable),
        outputs=_infos(loaded.outputs),
        bytes=found.bytes,
        initializer_bytes=found.initializer_bytes,
        parameters=found.parameters,
        nodes=found.nodes,
        macs=found.macs,
        operators=dict(found.operators),
        per_node=[record.NodeInfo(name=n.name, op=n.op, parameters=n.parameters, macs=n.macs) for n in found.per_node],
    )


def _infos(specs: Iterable[TensorSpec]) -> list[record.TensorInfo]:
    return [record.TensorInfo(name=s.name, dtype=s.dtype, shape=None if s.shape is None else list(s.shape), kind=s.kind) for s in specs]
