"""graphcompress explain"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphcompress.api.documents import ExplainReport
    from graphcompress.cli.console import Renderable

ROWS = 12
"""Nodes on the screen; the JSON has all."""


def explain(
    model: options.ModelPath,
    data: options.MaybeData = None,
    preprocess: options.Preprocess = None,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="The record of the run that made the model, for its reasons.", show_default=False)
    ] = None,
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="The table of rules/targets/ for what computes in INT8.")] = "cpu",
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Say where a model spends its time, in which precision, why a layer is float, and what to do: the worst first."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.run import check_target, choose_data, finish_report

    check_target(target)
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        source = api.open_model(model)
        feeds = choose_data(data, False, source.model, preprocess)
        return finish_report(console, tables, lambda: api.explain(source, feeds, record=record, target=target))


def tables(report: ExplainReport) -> Iterator[Renderable]:
    """The whole in a sentence, the most expensive nodes, what to do."""
    from graphcompress.cli.tables import listing

    parts = ", ".join(f"{share:.0%} {'moving data' if name == 'moves data' else f'in {name}'}" for name, share in report.precisions.items() if share >= 0.005)
    yield f"{report.model.path or 'The model'}: {report.microseconds / 1000:.3f} ms on {report.provider} with one thread, {parts}."
    shown = report.nodes[:ROWS]
    rows: list[tuple[str, ...]] = [
        (f"{row.share:.1%}", row.node, "+".join(row.kernels[:2]), row.precision, "; ".join(filter(None, (row.reason, row.advice)))) for row in shown
    ]
    rest = sum(row.share for row in report.nodes[ROWS:])
    if rest:
        rows.append((f"{rest:.1%}", f"{len(report.nodes) - ROWS} others", "", "", "--format json lists them"))
    yield listing(
        "Where the time goes", (("time", "right"), ("node", "left"), ("runs as", "left"), ("precision", "left"), ("why, and what to do", "left")), rows
    )
    yield from report.advice
