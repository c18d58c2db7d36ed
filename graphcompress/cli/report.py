"""graphcompress report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcompress.cli import options


def report(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="What --record wrote, or --format json of validate or benchmark printed.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.html", help="Where the page is written.", show_default=False)],
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Write a record as one page that can be handed on: verdict, before and after, sizes and times by layer, agreement, what stayed float and why.

    The page needs no script and no network. Sizes and times by layer are in it where the model and the result still are where the record says.
    """
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import check_output
    from graphcompress.transaction import Transaction

    check_output("-o", output, (record,))
    with Console(quiet=quiet) as console:
        from graphcompress.api import report as pages

        document = pages.read_document(record)
        console.progress("report", 0, None)
        content = pages.report(document, pages.models_of(document))
        with Transaction() as transaction:
            transaction.add(output, content.encode())
        console.note(f"The report was written to {output}.")
    return 0
