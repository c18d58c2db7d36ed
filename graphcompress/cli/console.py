"""stdout and stderr: results, notes, progress bars."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, cast

from graphcompress.cli.options import Format
from graphcompress.cli.wrap import wrapped

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console as Rich
    from rich.console import RenderableType
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


Renderable: TypeAlias = "RenderableType"
D = TypeVar("D", bound="BaseModel")

PLAIN_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""
UNBOUNDED = 10_000
"""Columns that no table needs."""


class Console:
    """Where a command speaks. Results go to stdout, all else to stderr; bars are drawn only where stderr is a terminal and the command is not quiet.
    `document` turns a document into what `--format json` prints."""

    def __init__(self, *, quiet: bool = False, format: Format = Format.table) -> None:
        self.quiet = quiet
        self.format = format
        self.document: Callable[[Any], Any] = lambda document: json.loads(document.model_dump_json())
        self._bars: Bars | None = None
        self._task = cast("TaskID", 0)
        self._name = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def progress(self, what: str, done: int, total: int | None) -> None:
        """See `graphcompress.step.Progress`."""
        if self.quiet or not _terminal(sys.stderr):
            return
        if self._bars is None:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=_rich(stderr=True), transient=True)
            self._bars.start()
            self._task = self._bars.add_task(what, total=total)
        name = what.partition(",")[0]  # what comes behind is how it goes
        if name != self._name:  # one bar: what is finished is of no interest any more
            self._bars.reset(self._task, total=total)
        self._name = name
        self._bars.update(self._task, description=what, completed=done, total=total)

    def note(self, text: str) -> None:
        """A sentence on stderr."""
        if not self.quiet:
            self._stop()
            print(wrapped(text, sys.stderr), file=sys.stderr)

    def result(self, document: D, tables: Callable[[D], Iterable[Renderable]]) -> None:
        """Print a document as JSON or as tables. A reader that has gone away is no error."""
        self._stop()
        for note in getattr(document, "notes", ()):
            self.note(f"Note: {note}")
        try:
            if self.format is Format.json:
                print(json.dumps(self.document(document), indent=2))
            elif not self.quiet:
                console = _rich()
                for part in tables(document):
                    part = _fitting(part, console)
                    whole = wrapped(part, sys.stdout) if isinstance(part, str) else part
                    console.print(whole, markup=False, highlight=False, soft_wrap=isinstance(part, str))
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def _fitting(part: Renderable, console: Rich) -> Renderable:
    """A table that would have to break words becomes a list: the first cell of each row, and below it the others with their headings."""
    from rich.measure import Measurement
    from rich.table import Table

    if isinstance(part, Table):  # rich makes the widest columns narrower first, those of one long word too
        for column in part.columns:
            column.no_wrap = all(" " not in str(cell).strip() for cell in column.cells)
    if not isinstance(part, Table) or Measurement.get(console, console.options.update(width=UNBOUNDED), part).minimum <= console.width:
        return part
    columns = [list(column.cells) for column in part.columns]
    lines = [str(part.title or "")]
    for row in zip(*columns, strict=True):
        first, *others = (str(cell) for cell in row)
        lines.append(f"  {first}".rstrip())
        headings = [str(column.header) for column in part.columns[1:]]
        lines += [f"    {heading}: {cell}" if heading else f"    {cell}" for heading, cell in zip(headings, others, strict=True) if cell]
    return "\n".join(line for line in lines if line.strip())


def _terminal(stream: object) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())


def _rich(*, stderr: bool = False) -> Rich:
    """A rich console; a pipe gets plain text of a fixed width."""
    from rich.console import Console as Rich

    class Forgiving(Rich):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with status 1, which means a missed bar

    stream = sys.stderr if stderr else sys.stdout
    return Forgiving(stderr=stderr, width=None if _terminal(stream) else PLAIN_WIDTH)
