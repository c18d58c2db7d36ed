"""graphcompress simplify"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format
from graphcompress.errors import UsageError


def simplify(
    model: options.ModelPath,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help="Where the result is written; not MODEL itself.", show_default=False)
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="NAME", help="Also use operators that this target has of its own. Default: standard operators only.", show_default=False
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also list what each rule was tried on, did and cost.")] = False,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Write nothing, and find which rule or stage moves the outputs most, on --data or --random-data.")
    ] = False,
    data: options.MaybeData = None,
    random_data: Annotated[bool, typer.Option("--random-data", help="For --bisect: random feeds instead of data.")] = False,
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
    from graphcompress.cli.run import check_target, choose_data, finish, finish_report

    check_target(target)
    if bisect:
        if output is not None or record is not None:
            raise UsageError("--bisect writes nothing: leave -o and --record out.")
        with Console(quiet=quiet, format=format) as console:
            from graphcompress import api
            from graphcompress.cli.rule_tables import bisect_tables

            source = api.open_model(model)
            feeds = choose_data(data, random_data, source.model)
            if feeds is None:
                raise UsageError("--bisect runs the model: give --data, or --random-data.")
            return finish_report(console, bisect_tables, lambda: api.bisect_simplify(source, feeds, target=target, progress=console.progress))
    if data is not None or random_data:
        raise UsageError("simplify itself needs no data: --data and --random-data are for --bisect.")
    if output is None:
        raise UsageError("Where is the result to be written? Give -o OUT (or --bisect, which writes nothing).")
    outputs = Outputs(output, record, (model,), external_data=external_data, report=report)
    with Console(quiet=quiet, format=format) as console:
        if quiet and format is Format.table and record is None and report is None:  # nobody reads what happened
            from graphcompress.api.unrecorded import simplified
            from graphcompress.ir import load
            from graphcompress.ir.files.snapshot import snapshot_of

            loaded = load(model)
            outputs.check_data(loaded)
            outputs.write_model(snapshot_of(simplified(loaded, target=target)))
            return 0
        from graphcompress import api

        source = api.open_model(model)
        outputs.check_data(source.model)
        return finish(console, outputs, False, lambda: api.simplify(source, target=target, progress=console.progress), verbose=verbose)
