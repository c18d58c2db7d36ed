"""stdout and stderr: results, notes, progress bars."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

from graphcompress.cli.options import Format

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


class Console:
    """Where a command speaks. Results go to stdout, all else to stderr; bars are drawn only where stderr is a terminal and the command is not quiet."""

    def __init__(self, *, quiet: bool = False, format: Format = Format.table) -> None:
        self.quiet = quiet
        self.format = format
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def progress(self, what: str, done: int, total: int | None) -> None:
        """See `graphcompress.step.Progress`."""
        if self.quiet or not _terminal(sys.stderr):
            return
        if self._bars is None:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
            self._bars = Progress(*columns, console=_rich(stderr=True), transient=True)
            self._bars.start()
        name = what.partition(",")[0]  # what comes behind is how it goes
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[name], description=what, completed=done, total=total)

    def note(self, text: str) -> None:
        """A sentence on stderr."""
        if not self.quiet:
            self._stop()
            print(text, file=sys.stderr)

    def result(self, document: D, tables: Callable[[D], Iterable[Renderable]]) -> None:
        """Print a document as JSON or as tables. A reader that has gone away is no error."""
        self._stop()
        for note in getattr(document, "notes", ()):
            self.note(f"Note: {note}")
        try:
            if self.format is Format.json:
                print(json.dumps(json.loads(document.model_dump_json()), indent=2))
            else:
                console = _rich()
                for part in tables(document):
                    console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks = {}


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
