"""graphcompress calibrate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format


def calibrate(
    on: options.On = None,
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="The table of rules/targets/ whose costs are measured.")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: costs/PLACE.json, or costs/here.json.", show_default=False)
    ] = None,
    provider: options.ResultProvider = None,
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, help="Threads of a run.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=1, help="How long to measure, about.")] = 60.0,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Measure what layers cost in float and in INT8, here or at a place, for compress --costs FILE."""
    import re

    from graphcompress.cli.console import Console
    from graphcompress.cli.place_tables import costs_tables
    from graphcompress.cli.run import check_target
    from graphcompress.transaction import Transaction, check_place

    check_target(target)
    path = output or Path("costs") / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', on or 'here')}.json"
    if output is None and not path.parent.exists():
        check_place(path.parent, f"The folder {path.parent}")
    else:
        check_place(path, f"-o {path}")
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api
        from graphcompress.targets import load_target

        with api.open_place(on, provider, target) as elsewhere:
            place = elsewhere or api.choose_place(load_target(target), provider, None)
            costs = api.calibrate(place, target, threads=threads, seconds=seconds, progress=console.progress)
        path.parent.mkdir(exist_ok=True)
        with Transaction() as files:
            files.add(path, (costs.model_dump_json(indent=1) + "\n").encode())
        console.note(f"Written to {path}; compress --costs {path} goes by it.")
        console.result(costs, costs_tables)
    return 0
