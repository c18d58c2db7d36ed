"""validate and inspect."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from graphcompress import __version__, record
from graphcompress.api import documents
from graphcompress.api.sources import AnyData, AnyModel, check_comparable, data_source, open_feeds, open_model, told
from graphcompress.step import Progress, silent

if TYPE_CHECKING:
    from graphcompress.ir import TensorSpec


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
    from graphcompress.ir.analysis.output_kinds import output_kinds
    from graphcompress.runtime.compare import compare
    from graphcompress.runtime.session import open_for, open_session

    documents.check_bars(min_agreement, None)
    first, second = open_model(reference), open_model(candidate)
    check_comparable(first, second)
    feeds = open_feeds(data, first.model)
    kinds = output_kinds(first.model)
    session, notes = open_for(second.model, feeds, provider=provider, threads=threads)
    with (
        closing(open_session(first.model, provider="cpu", threads=threads)) as ref,
        closing(session) as cand,
    ):
        found = compare(ref, cand, told(feeds, "compare", progress), kinds, feeds.findings())
        described = cand.describe()
    distance = documents.distance(found)
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
        findings=distance.findings,
        outputs=distance.outputs,
        nodes=described.get("nodes"),
        share=described.get("share"),
        smaller=documents.ratio(documents.size_of(first.model).bytes, documents.size_of(second.model).bytes),
        bars=bars,
        notes=[*notes, *(f.text for f in distance.findings)],
    )
    documents.raise_missed(bars, report)
    return report


def inspect(model: AnyModel) -> record.InspectReport:
    """What a model consists of: signature, opsets, parameters, bytes, MACs, operators, per node. Raises ModelError where the file cannot be used."""
    from graphcompress.ir.analysis.statistics import statistics

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
    shapes = [None if s.shape is None else [d if d is None or isinstance(d, int) else str(d) for d in s.shape] for s in specs]
    return [record.TensorInfo(name=s.name, dtype=s.dtype, shape=shape, kind=s.kind) for s, shape in zip(specs, shapes, strict=True)]
