"""simplify, and which of the things that it does moves the outputs most."""

from __future__ import annotations

import itertools

from graphcompress.api import reports
from graphcompress.api.inputs import AnyData, AnyModel, Feeds, open_feeds, open_model
from graphcompress.api.unrecorded import execute
from graphcompress.ir.files.snapshot import snapshot_of
from graphcompress.record import BisectReport, MoveReport
from graphcompress.step import Context, Progress, silent
from graphcompress.targets import load_target
from graphcompress.version import __version__

BISECT_FEEDS = 8


def simplify(model: AnyModel, *, target: str | None = None, progress: Progress = silent) -> reports.Result:
    """Simplify: the same function with fewer nodes. Without `target` the result holds standard operators only. Nodes of unknown domains stay as they are."""
    source = open_model(model)
    plan, context, executed = execute(source.model, target=target, progress=progress)
    assert executed.result is not None
    result = executed.result.model
    snapshot = snapshot_of(result)
    record = reports.run_record("simplify", source, result, Feeds(), plan, context, [executed], reports.sizes(source, snapshot))
    return reports.Result(result, record, snapshot)


def bisect_simplify(model: AnyModel, data: AnyData, *, target: str | None = None, progress: Progress = silent) -> BisectReport:
    """Find what simplification does to the outputs of `model` on the first feeds of `data`, and which rule or stage does it. Nothing is written.

    Raises ModelError or DataError where the model cannot be used or does not run on the feeds.
    """
    from graphcompress.passes.simplify.bisect import bisect

    source = open_model(model)
    context = Context(target=load_target(target) if target else None, progress=progress)
    feeds = list(itertools.islice(open_feeds(data, source.model), BISECT_FEEDS))
    found = bisect(source.model, context, feeds)
    return BisectReport(
        graphcompress=__version__,
        model=source.file,
        applications=found.applications,
        feeds=len(feeds),
        compared=found.compared,
        total=reports.number(found.total),
        moves=[
            MoveReport(number=m.number, by=m.change.by, removed=list(m.change.removed), added=list(m.change.added), moved=reports.number(m.moved))
            for m in found.moves
        ],
    )
