"""graphcompress places"""

from __future__ import annotations

from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.help import Command, CommandList
from graphcompress.cli.options import Format

app = typer.Typer(cls=CommandList, no_args_is_help=False, help="Places elsewhere, where models run and are judged (--on PLACE; docs/places.md).")


@app.command("check", cls=Command)
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PLACE]...", help="Names of places.toml, or commands. Default: all that places.toml names.", show_default=False),
    ] = None,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Say what each place has: runtime, providers, CPU flags, cores, memory, noise of its clock. Status 2 where one cannot be used."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.place_tables import places_tables

    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        report = api.check_places(names or (), progress=console.progress)
        console.result(report, places_tables)
    return 2 if any(place.problem for place in report.places) else 0
