"""graphcompress benchmark"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format


def benchmark(
    reference: Annotated[Path, typer.Argument(metavar="REF", help="The model that the others are timed against.", show_default=False)],
    candidates: Annotated[list[Path] | None, typer.Argument(metavar="[CAND]...", help="The other models.", show_default=False)] = None,
    data: options.MaybeData = None,
    preprocess: options.Preprocess = None,
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", metavar="NAME", help="Execution provider; several are measured side by side. Default: cpu.", show_default=False),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on", metavar="PLACE", help="A place elsewhere: a name of places.toml or a command; several are measured one by one.", show_default=False
        ),
    ] = None,
    threads: options.Threads = None,
    min_speedup: options.MinSpeedup = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            "--price-per-hour", metavar="X", help="What the machine costs per hour, with all its cores: prints the cost of a million feeds.", show_default=False
        ),
    ] = None,
    report: options.ReportPath = None,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Time models side by side, interleaved, with an interval for each speed-up and the noise band of the reference against itself."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import check_output
    from graphcompress.cli.run import choose_data, finish_report
    from graphcompress.cli.tables import benchmark_tables

    check_output("--report", report, (reference, *(candidates or ()), data, preprocess))
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api
        from graphcompress.api.report import report as page

        source = api.open_model(reference)
        feeds = choose_data(data, False, source.model, preprocess)
        with ExitStack() as stack:
            places = [stack.enter_context(api.open_place(name)) for name in on or ()]
            return finish_report(
                console,
                benchmark_tables,
                lambda: api.benchmark(
                    source,
                    candidates or (),
                    feeds,
                    providers=provider or (),
                    places=[place for place in places if place is not None],
                    threads=threads,
                    min_speedup=min_speedup,
                    price_per_hour=price_per_hour,
                    progress=console.progress,
                ),
                report=report,
                page=page,
            )
