"""validate."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from functools import cache

from graphcompress.api import reports
from graphcompress.api.inputs import AnyData, AnyModel, check_comparable, choose_place, data_source, feed_shapes, open_feeds, open_model, with_progress
from graphcompress.api.memorization import memorization as attacks
from graphcompress.api.metrics import AnyMetric, open_metric
from graphcompress.errors import UsageError
from graphcompress.gate import Bars
from graphcompress.record import ValidateReport
from graphcompress.runtime.place import LocalPlace, Place
from graphcompress.runtime.session import Session
from graphcompress.runtime.workers import Workers
from graphcompress.step import Progress, silent
from graphcompress.version import __version__


def validate(
    reference: AnyModel,
    candidate: AnyModel,
    data: AnyData,
    *,
    provider: str | None = None,
    place: Place | None = None,
    threads: int | None = None,
    workers: Workers | None = None,
    without_vnni: bool = False,
    min_agreement: float | None = None,
    kinds: Mapping[str, str] | None = None,
    metric: AnyMetric | None = None,
    metric_joins: bool = False,
    memorization: tuple[AnyData, AnyData] | None = None,
    progress: Progress = silent,
) -> ValidateReport:
    """How far `candidate` (on `provider`, or at `place`; default: the CPU provider in this process) is from `reference` (on the CPU provider), over all feeds.
    `kinds`, `metric` and `metric_joins` say what agreement means, as for `compress`. `without_vnni`: the candidate is computed as x86 processors without VNNI do, whose sums of INT8 products saturate. `workers` (`open_workers`) share the feeds, on the CPU provider.

    `memorization`: inputs that the model was trained on, and like ones that it was not; the report then says how well simple attacks tell them apart by either model's answers.

    Raises ModelError where their inputs or outputs differ, DataError where the feeds do not fit, BarMissed, with the report in its `result`, below `min_agreement`, UsageError where `memorization` is asked of a model without an output of classes.
    """
    from graphcompress.ir.analysis.output_kinds import output_kinds
    from graphcompress.ir.analysis.statistics import run_shapes
    from graphcompress.ir.files.serialize import size_on_disk
    from graphcompress.runtime.compare import SPAN, compare
    from graphcompress.runtime.compare_job import compare_by
    from graphcompress.runtime.place import open_for
    from graphcompress.runtime.saturation import saturating

    Bars(min_agreement)
    task = open_metric(metric, joins=metric_joins)
    where = choose_place(None, provider, place)
    described = where.describe()
    if workers is not None and where != LocalPlace():
        raise UsageError("Workers compare on the CPU provider of their processes: leave out the provider or place, or the workers.")
    first, second = open_model(reference), open_model(candidate)
    check_comparable(first, second)
    feeds = open_feeds(data, first.model)
    attacked = None if memorization is None else (open_feeds(memorization[0], first.model), open_feeds(memorization[1], first.model))
    judged_as = output_kinds(first.model, run_shapes(first.model, feed_shapes(feeds)), kinds)
    judged, layers = saturating(second.model) if without_vnni else (second.model, None)
    session, notes = open_for(where, judged, feeds, threads=threads)
    with ExitStack() as opened:
        opened.callback(session.close)

        @cache
        def reference_session() -> Session:
            return opened.enter_context(closing(where.reference.open(first.model, threads=threads)))

        if workers is None:
            seen = with_progress(feeds, "compare", progress)
            comparison = compare(reference_session(), session, seen, judged_as, feeds.findings(), metric=task, labels=feeds.labels())
        else:
            comparison = compare_by(
                workers,
                first.model,
                judged,
                feeds.parts(SPAN),
                judged_as,
                feeds.findings(),
                threads=threads,
                metric=task,
                labels=feeds.labels(),
                progress=lambda compared: progress("compare", compared, len(feeds)),
            )
        remembered = None if attacked is None else attacks(reference_session(), session, judged_as, *attacked, progress)
        ran = session.describe()
    distance = reports.distance_report(comparison)
    bars = [] if min_agreement is None else [reports.bar("--min-agreement", min_agreement, distance.agreement)]
    report = ValidateReport(
        graphcompress=__version__,
        reference=first.file,
        candidate=second.file,
        data=data_source(feeds, 0, len(feeds)),
        provider=described["provider"],
        place=described.get("place"),
        agreement=distance.agreement,
        worst=distance.worst,
        feeds=distance.feeds,
        statement=distance.statement,
        findings=distance.findings,
        outputs=distance.outputs,
        metric=distance.metric,
        nodes=ran.get("nodes"),
        share=ran.get("share"),
        smaller=reports.ratio(size_on_disk(first.model), size_on_disk(second.model)),
        memorization=remembered,
        bars=bars,
        saturating=layers,
        notes=[*notes, *_saturation_note(layers), *(finding.text for finding in distance.findings)],
    )
    reports.raise_missed(bars, report)
    return report


def _saturation_note(layers: list[str] | None) -> list[str]:
    if layers is None:
        return []
    if not layers:
        return ["No layer's weights can saturate on x86 processors without VNNI: the candidate is the same there."]
    return [
        f"Computed as on x86 processors without VNNI, where {len(layers)} layer{'s' * (len(layers) > 1)} can saturate: {', '.join(layers[:5])}{', ...' * (len(layers) > 5)}."
    ]
