"""graphcompress inspect"""

from __future__ import annotations

from typing import Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format


def inspect(
    model: options.ModelPath,
    groups: Annotated[bool, typer.Option("--groups", help="Also list the groups of channels that prune could cut, and why others stay.")] = False,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Say what a model consists of: inputs, outputs, opsets, parameters, bytes, MACs, operators."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.run import finish_report
    from graphcompress.cli.tables import inspect_tables

    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api

        return finish_report(console, inspect_tables, lambda: api.inspect(model, groups=groups))
