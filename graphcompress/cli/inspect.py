"""graphcompress inspect"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphcompress.api.documents import PrivacyReport
    from graphcompress.cli.console import Renderable

ROWS = 20
"""Texts on the screen; the JSON has all."""


def inspect(
    model: options.ModelPath,
    groups: Annotated[bool, typer.Option("--groups", help="Also list the groups of channels that prune could cut, and why others stay.")] = False,
    privacy: Annotated[
        bool, typer.Option("--privacy", help="Instead list what the file tells about whoever made it: paths, names, notes, texts (docs/privacy.md).")
    ] = False,
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

        if privacy:
            return finish_report(console, privacy_tables, lambda: api.privacy(model))
        return finish_report(console, inspect_tables, lambda: api.inspect(model, groups=groups))


def privacy_tables(report: PrivacyReport) -> Iterator[Renderable]:
    """Texts by kind, then what looks private among them."""
    from graphcompress.cli.tables import listing, size_text

    total = sum(kind.bytes for kind in report.kinds)
    yield f"{report.model.path or 'The model'} holds {size_text(total)} of text; {len(report.leaks)} different texts look private."
    rows = [(kind.kind, f"{kind.count:,}", size_text(kind.bytes), kind.example) for kind in report.kinds]
    yield listing("Texts in the file", (("kind", "left"), ("count", "right"), ("size", "right"), ("the longest", "left")), rows)
    if report.leaks:
        found = [(leak.what, leak.part, leak.kind, str(leak.count)) for leak in report.leaks[:ROWS]]
        if len(report.leaks) > ROWS:
            found.append(("...", f"{len(report.leaks) - ROWS} more: --format json lists all", "", ""))
        yield listing("What looks private", (("looks like", "left"), ("text", "left"), ("in", "left"), ("times", "right")), found)
    if report.training_information:
        yield f"It holds training information ({report.training_information} entries)."
    for name in report.samples[:ROWS]:
        yield f"The constant '{name}' holds bytes and is no weight: perhaps a sample."
    yield "graphcompress compress --strip leaves out notes, metadata and inner names; embedded texts (a vocabulary) are part of what the model computes."
