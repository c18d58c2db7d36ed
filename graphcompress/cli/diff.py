"""graphcompress diff"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A model.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one, for instance what was made of it.", show_default=False)],
    record: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="The record of how B was made of A: says which rule or step did what.", show_default=False)
    ] = None,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Say how two models differ: signature, operators, then node by node. Nodes and tensors with other names are matched by what they compute."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.rule_tables import diff_tables
    from graphcompress.cli.run import finish_report

    with Console(quiet=quiet, format=format) as console:
        from graphcompress.api.diff import diff as difference

        return finish_report(console, diff_tables, lambda: difference(before, after, record=record))
