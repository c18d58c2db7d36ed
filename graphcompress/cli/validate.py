"""graphcompress validate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format


def validate(
    reference: Annotated[Path, typer.Argument(metavar="REF", help="The model that is right.", show_default=False)],
    candidate: Annotated[Path, typer.Argument(metavar="CAND", help="The model that is judged.", show_default=False)],
    data: options.Data,
    preprocess: options.Preprocess = None,
    provider: options.Provider = None,
    on: options.On = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="Threads of a run. Default: the runtime's.", show_default=False)] = None,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    without_vnni: Annotated[
        bool, typer.Option("--without-vnni", help="Compute CAND as x86 processors without VNNI do, on any processor: sums of INT8 products saturate there.")
    ] = False,
    min_agreement: options.MinAgreement = None,
    kind: options.Kinds = None,
    metric: options.MetricName = None,
    metric_joins: options.MetricJoins = False,
    memorization: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--memorization",
            metavar="MEMBERS OTHERS",
            help="Attack both models: how well do their answers tell inputs of the training data from others (docs/privacy.md)?",
            show_default=False,
        ),
    ] = None,
    report: options.ReportPath = None,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Say how far a model's outputs are from another's on the same inputs. REF runs on the CPU, CAND on --provider, --on a place where one is named."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import check_output
    from graphcompress.cli.run import choose_data, finish_report
    from graphcompress.cli.tables import validate_tables

    check_output("--report", report, (reference, candidate, data, preprocess, *(memorization or ())))
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api
        from graphcompress.api.report import report as page

        kinds, task = api.parse_kinds(kind or ()), api.open_metric(metric, joins=metric_joins)
        source = api.open_model(reference)
        feeds = choose_data(data, False, source.model, preprocess)
        assert feeds is not None
        attacked = None if memorization is None else tuple(api.open_feeds(part, source.model, preprocess) for part in memorization)
        with api.open_place(on, provider) as place, api.open_workers(workers, cluster) as processes:
            return finish_report(
                console,
                validate_tables,
                lambda: api.validate(
                    source,
                    candidate,
                    feeds,
                    provider=provider if place is None else None,
                    place=place,
                    threads=threads,
                    workers=processes,
                    without_vnni=without_vnni,
                    min_agreement=min_agreement,
                    kinds=kinds,
                    metric=task,
                    metric_joins=metric_joins,
                    memorization=None if attacked is None else (attacked[0], attacked[1]),
                    progress=console.progress,
                ),
                report=report,
                page=page,
            )
