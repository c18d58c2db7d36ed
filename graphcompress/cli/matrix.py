"""graphcompress matrix"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format
from graphcompress.errors import BarMissed

if TYPE_CHECKING:
    from graphcompress.cli.console import Renderable
    from graphcompress.record import MatrixReport


def matrix(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="The first is the original, which the others are judged by.", show_default=False)],
    on: Annotated[
        str, typer.Option("--on", metavar="A,B,...", help="Places elsewhere: names of places.toml, or commands, separated by commas.", show_default=False)
    ],
    data: options.Data,
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, help="Threads of a run.")] = 1,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Write the matrix as a picture here.", show_default=False)] = None,
    min_agreement: options.MinAgreement = None,
    kind: options.Kinds = None,
    metric: options.MetricName = None,
    metric_joins: options.MetricJoins = False,
    no_measure: options.NoMeasure = False,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Run models here and at several places: agreement with the first model, speed-up, nodes taken, and which layer differs where one is right here and wrong there."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import check_output
    from graphcompress.cli.place_tables import matrix_tables
    from graphcompress.cli.run import finish_report

    check_output("--svg", svg, (*models, data))
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        kinds, task = api.parse_kinds(kind or ()), api.open_metric(metric, joins=metric_joins)

        def tables(report: MatrixReport) -> Iterator[Renderable]:
            yield from matrix_tables(report)
            if svg is not None:
                yield f"The picture was written to {svg}."

        def work() -> MatrixReport:
            try:
                report = api.matrix(
                    models,
                    [name.strip() for name in on.split(",") if name.strip()],
                    data,
                    threads=threads,
                    kinds=kinds,
                    metric=task,
                    metric_joins=metric_joins,
                    min_agreement=min_agreement,
                    measure=not no_measure,
                    progress=console.progress,
                )
            except BarMissed as missed:
                draw(missed.result, svg)
                raise
            draw(report, svg)
            return report

        return finish_report(console, tables, work)


def draw(report: MatrixReport, svg: Path | None) -> None:
    """Write the picture, where one was asked for."""
    from graphcompress.cli.heatmap import heatmap
    from graphcompress.transaction import Transaction

    if svg is not None:
        with Transaction() as files:
            files.add(svg, heatmap(report).encode())
