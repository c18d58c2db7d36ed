"""What the commands have in common: data, early checks, and the end of a command."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from graphcompress.errors import BarMissed, UsageError
from graphcompress.targets import load_target
from graphcompress.transaction import Transaction

if TYPE_CHECKING:
    from graphcompress.api import Result
    from graphcompress.cli.console import Console, Renderable
    from graphcompress.cli.files import Outputs
    from graphcompress.data import Dataset
    from graphcompress.ir import Model
    from graphcompress.record import Document

RANDOM_FEEDS = 64

D = TypeVar("D", bound="Document")


def check_target(name: str | None) -> None:
    """Raise TargetError for a target without a table, before anything heavy is loaded."""
    if name is not None:
        load_target(name)


def check_patterns(patterns: Iterable[str], option: str = "--exclude") -> None:
    """Raise UsageError for what is not a regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"{option} '{pattern}' is not a regular expression: {error}.") from error


def choose_data(data: Path | None, random: bool, model: Model, preprocess: Path | None = None, seed: int = 0) -> Dataset | None:
    """The data that was asked for, checked against `model`, or random feeds. Raises UsageError where both were, or where there is nothing to preprocess."""
    if preprocess is not None and data is None:
        raise UsageError("--preprocess says how --data is prepared, and there is no --data.")
    if not random:
        from graphcompress.api.inputs import open_feeds

        return None if data is None else open_feeds(data, model, preprocess)
    if data is not None:
        raise UsageError("--data and --random-data exclude each other: give one.")
    from graphcompress.random_feeds import random_feeds

    return random_feeds(model, RANDOM_FEEDS, seed)


def finish(console: Console, outputs: Outputs, keep: bool, work: Callable[[], Result], *, verbose: bool = False) -> int:
    """Do the work, write what it made and print its record; `verbose` with what each rule cost. Where a bar was missed nothing is written unless `keep`, and BarMissed goes on."""
    from graphcompress.cli.rule_tables import verbose_tables
    from graphcompress.cli.tables import record_tables

    try:
        result = work()
    except BarMissed as missed:
        done: Result = missed.result
        record = outputs.write(done) if keep else done.record
        console.result(record, record_tables)
        raise BarMissed(
            f"{missed} " + (f"The result was written to {outputs.model} anyway." if keep else "Nothing was written; --keep writes it anyway.")
        ) from missed
    console.result(outputs.write(result), verbose_tables if verbose else record_tables)
    return 0


def finish_report(
    console: Console,
    tables: Callable[[D], Iterable[Renderable]],
    work: Callable[[], D],
    *,
    report: Path | None = None,
    page: Callable[[D], str] | None = None,
) -> int:
    """Do the work and print what it found, and write it as a page, which `page` makes, to `report`, also where a bar was missed."""

    def tell(document: D) -> None:
        console.result(document, tables)
        if report is not None and page is not None:
            with Transaction() as transaction:
                transaction.add(report, page(document).encode())

    try:
        tell(work())
    except BarMissed as missed:
        if missed.result is not None:
            tell(missed.result)
        raise
    return 0
