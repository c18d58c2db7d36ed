"""matrix: models at places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphcompress.api import reports
from graphcompress.api.inputs import AnyData, AnyModel, Source, check_comparable, data_source, feed_shapes, open_feeds, open_model
from graphcompress.api.metrics import AnyMetric, open_metric
from graphcompress.api.places import open_place
from graphcompress.errors import GraphCompressError, UsageError
from graphcompress.gate import FLOOR, TIMED_FEEDS, Bars
from graphcompress.ir.check.models import require_known_domains
from graphcompress.ir.files.serialize import size_on_disk
from graphcompress.record import LayerReport, MatrixCell, MatrixReport, Timing
from graphcompress.runtime.place import LocalPlace, Place
from graphcompress.step import Progress, silent
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.data import Dataset
    from graphcompress.ir.analysis.output_kinds import OutputKind
    from graphcompress.runtime.metric import Metric
    from graphcompress.runtime.session import Session

HERE = "here"
"""What this process is called among the places."""
LOOKED_AT = 4
"""Feeds on which layers are compared."""
DIFFERS = 0.01
"""Noise of a layer, beside the spread of what it gives, from which on it is named. Rounding of 8-bit codes that fall between two stays below."""
BUDGET_S = 3.0


def matrix(
    models: Sequence[AnyModel],
    on: Sequence[str],
    data: AnyData,
    *,
    threads: int = 1,
    kinds: Mapping[str, str] | None = None,
    metric: AnyMetric | None = None,
    metric_joins: bool = False,
    min_agreement: float | None = None,
    measure: bool = True,
    progress: Progress = silent,
) -> MatrixReport:
    """Every model in this process and at each of the places `on` (names of places.toml, or commands): how far it is from the first model on this machine's CPU, how fast it is beside the
    first model at the same place, which nodes the provider took. Where a model is right at one place and wrong at another, the first layer that differs is named.

    What fails at one place is told in its cells; the others go on. Raises UsageError for a place that is none, ModelError and DataError where models and feeds do not fit together, or the
    first model does not run here, BarMissed, with the report in its `result`, where a cell is below `min_agreement` or does not run though the first model does there.
    """
    Bars(min_agreement)
    if not models:
        raise UsageError("There is no model to look at.")
    if repeated := next((name for name in on if list(on).count(name) > 1 or name == HERE), None):
        raise UsageError(f"The place '{repeated}' is named twice; this process ('{HERE}') is always among them.")
    task = open_metric(metric, joins=metric_joins)
    sources = [open_model(model) for model in models]
    if repeated := next((source.name for source in sources if sum(source.name == other.name for other in sources) > 1), None):
        raise UsageError(f"Two models are called {repeated}: the matrix has one row for each name. Give each model once, each in a file of its own.")
    for source in sources:
        require_known_domains(source.model, "run")
        check_comparable(sources[0], source)
    feeds = open_feeds(data, sources[0].model)
    from graphcompress.ir.analysis.output_kinds import output_kinds
    from graphcompress.ir.analysis.statistics import run_shapes

    judged_as = output_kinds(sources[0].model, run_shapes(sources[0].model, feed_shapes(feeds)), kinds)
    with ExitStack() as stack:
        places: dict[str, Place] = {HERE: LocalPlace()}
        for name in on:
            place = stack.enter_context(open_place(name))
            assert place is not None
            places[name] = place
        reference = stack.enter_context(closing(places[HERE].open(sources[0].model, threads=threads)))
        run = _MatrixRun(sources, feeds, reference, judged_as, task, threads, measure, progress)
        cells = [cell for name, place in places.items() for cell in run.column(name, place)]
        cells = [run.explained(cell, cells, places) for cell in cells]
    report = MatrixReport(
        graphcompress=__version__,
        models=[source.file for source in sources],
        bytes=[size_on_disk(source.model) for source in sources],
        data=data_source(feeds, 0, len(feeds)),
        places=list(places),
        threads=threads,
        floor=FLOOR,
        cells=cells,
        bars=[] if min_agreement is None else [reports.bar("--min-agreement", min_agreement, _lowest(cells))],
        notes=[finding.text for finding in feeds.findings()],
    )
    reports.raise_missed(report.bars, report)
    return report


@dataclass(frozen=True)
class _MatrixRun:
    sources: Sequence[Source]
    feeds: Dataset
    reference: Session
    kinds: Mapping[str, OutputKind]
    metric: Metric | None
    threads: int
    measure: bool
    progress: Progress

    def column(self, name: str, place: Place) -> list[MatrixCell]:
        """The cells of one place."""
        from graphcompress.runtime.place import open_for

        with ExitStack() as stack:
            try:
                described = place.describe()
                pair = [stack.enter_context(closing(open_for(place, self.sources[0].model, self.feeds, threads=self.threads)[0])) for _ in range(2)]
            except GraphCompressError as problem:
                first = MatrixCell(model=self.sources[0].name, place=name, problem=str(problem))
                return [first, *(self.cell(index, name, place, ()) for index in range(1, len(self.sources)))]
            timed = pair if self.measure and described.get("timed", True) else ()
            return [self.cell(index, name, place, timed) for index in range(len(self.sources))]

    def cell(self, index: int, name: str, place: Place, pair: Sequence[Session]) -> MatrixCell:
        """One model at one place; `pair` are two sessions of the first model there, where it is timed."""
        from graphcompress.runtime.compare import compare
        from graphcompress.runtime.measure import measure
        from graphcompress.runtime.place import open_for

        source = self.sources[index]
        self.progress(f"{source.name} at {name}", index, len(self.sources))
        try:
            session, notes = open_for(place, source.model, self.feeds, threads=self.threads)
            with closing(session):
                compared = compare(self.reference, session, self.feeds, self.kinds, self.feeds.findings(), metric=self.metric, labels=self.feeds.labels())
                told = session.describe()
                timing: Timing | None = None
                if pair:
                    timed = list(self.feeds.take(TIMED_FEEDS))
                    timing = reports.timing(self.threads, measure(pair[0], pair[1], session, timed, threads=self.threads, budget_s=BUDGET_S))
        except GraphCompressError as problem:
            return MatrixCell(model=source.name, place=name, problem=str(problem))
        return MatrixCell(
            model=source.name,
            place=name,
            provider=told["provider"],
            runtime=f"{told['runtime']} {told['version']}",
            agreement=reports.number(compared.agreement),
            worst=compared.worst,
            faithful=None if compared.agreement is None else compared.agreement >= FLOOR,
            timing=timing,
            nodes=told.get("nodes"),
            share=told.get("share"),
            notes=list(notes),
        )

    def explained(self, cell: MatrixCell, cells: Sequence[MatrixCell], places: Mapping[str, Place]) -> MatrixCell:
        """A cell that is wrong where another place has the same model right, with the place and the layers that differ from there."""
        right = max((c for c in cells if c.model == cell.model and c.faithful), key=lambda c: c.agreement or 0.0, default=None)
        if cell.faithful is not False or right is None:
            return cell
        from graphcompress.runtime.layers import layer_noises

        model = next(source.model for source in self.sources if source.name == cell.model)
        self.progress(f"layers of {cell.model} at {cell.place}", 0, None)
        try:
            noises = layer_noises(model, places[right.place], places[cell.place], list(self.feeds.take(LOOKED_AT)), threads=self.threads)
        except GraphCompressError as problem:
            return cell.model_copy(
                update={"right_at": right.place, "notes": [*cell.notes, f"Its layers could not be compared with those at {right.place}: {problem}"]}
            )
        layers = [LayerReport(node=n.node, op=n.op, tensor=n.tensor, noise=reports.number(n.noise)) for n in noises if not n.noise < DIFFERS]
        note = (
            []
            if layers
            else [f"No layer by itself differs from {right.place} by {DIFFERS:.0%}: the difference comes from layers that are computed together there."]
        )
        return cell.model_copy(update={"right_at": right.place, "layers": layers, "notes": [*cell.notes, *note]})


def _lowest(cells: Sequence[MatrixCell]) -> float | None:
    """The lowest agreement; None where a model does not run at a place where the first one does."""
    runs = {cell.place for cell in cells if cell.model == cells[0].model and not cell.problem}
    judged = [cell for cell in cells if cell.place in runs]
    if any(cell.agreement is None for cell in judged):
        return None
    return min((cell.agreement for cell in judged if cell.agreement is not None), default=None)
