"""graphcompress simplify"""

from __future__ import annotations

from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format


def simplify(
    model: options.ModelPath,
    output: options.Output,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="NAME", help="Also use operators that this target has of its own. Default: standard operators only.", show_default=False
        ),
    ] = None,
    external_data: options.ExternalData = False,
    record: options.RecordPath = None,
    report: options.ReportPath = None,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Make the same function with fewer nodes."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import Outputs
    from graphcompress.cli.run import check_target, finish

    check_target(target)
    outputs = Outputs(output, record, (model,), external_data=external_data, report=report)
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        source = api.open_model(model)
        outputs.check_data(source.model)
        return finish(console, outputs, False, lambda: api.simplify(source, target=target, progress=console.progress))
