"""What a command writes: checked before the work, written together after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graphcompress.errors import UsageError, WriteError

if TYPE_CHECKING:
    from graphcompress.ir import Model
    from graphcompress.record import Record


class Outputs:
    """The result and its record. Making one checks both places, so that hours of work do not end at a missing folder.

    Raises UsageError where a place is an input or the other output, WriteError where nothing can be written there.
    """

    def __init__(self, model: Path, record: Path | None, inputs: Iterable[Path | None]) -> None:
        self.model = model
        self.record = record
        for option, path in (("-o", model), ("--record", record)):
            if path is None:
                continue
            for source in inputs:
                if source is not None and same_file(path, source):
                    raise UsageError(f"{option} {path} is an input of this command ({source}), which would be overwritten. Give another path.")
            check_place(option, path)
        if record is not None and same_file(model, record):
            raise UsageError(f"-o and --record are both {record}. Give each its own path.")

    def check_data(self, loaded: Model) -> None:
        """Refuse to overwrite the external data of the model that was read. Raises UsageError."""
        from graphcompress.ir.files.hashes import data_files

        for source in data_files(loaded):
            for option, path in (("-o", self.model), ("-o", self.model.with_name(self.model.name + ".data")), ("--record", self.record)):
                if path is not None and same_file(path, source):
                    raise UsageError(f"{option}: {path} holds the external data of {loaded.path}, which would be overwritten. Give another path.")

    def write(self, model: Model, record: Record) -> Record:
        """Write both, or neither as far as the file system allows; the record as written. Raises WriteError."""
        from graphcompress.api.inputs import shown
        from graphcompress.ir import save

        made = record.model_copy(update={"output": shown(self.model)})
        if self.record is None:
            save(model, self.model)
            return made
        with staged(self.record, made.model_dump_json(indent=2) + "\n"):
            save(model, self.model)
        return made


class staged:
    """Text under a temporary name beside `path`, renamed to it when the block ends well and removed when it does not."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = Path(os.path.realpath(path))
        self.text = text
        self.temporary: str | None = None

    def __enter__(self) -> None:
        try:
            handle, self.temporary = tempfile.mkstemp(prefix=f".{self.path.name[:80]}.", suffix=".tmp", dir=self.path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(self.text)
                stream.flush()
                os.fsync(handle)
            os.chmod(self.temporary, 0o666 & ~current_umask())
        except BaseException as problem:
            self._remove()
            if isinstance(problem, OSError):
                raise WriteError(
                    f"Cannot write {self.path}: {problem.strerror or problem}. Nothing was written; free some room or give another path."
                ) from problem
            raise

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: object) -> None:
        if kind is not None or self.temporary is None:
            self._remove()
            return
        try:
            os.replace(self.temporary, self.path)
        except OSError as error:
            self._remove()
            raise WriteError(f"Cannot write {self.path}: {error.strerror or error}.") from error

    def _remove(self) -> None:
        if self.temporary is not None:
            with suppress(OSError):
                os.unlink(self.temporary)


def check_place(option: str, path: Path) -> None:
    """Raise WriteError unless a file can be made at `path`."""
    folder = Path(os.path.realpath(path)).parent
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        raise WriteError(f"{option} {path}: no file can have this name: {getattr(error, 'strerror', None) or error}. Give another path.") from error
    if path.is_dir():
        raise WriteError(f"{option} {path} is a folder. Give the path of a file in it.")
    if there and not path.is_file():
        raise WriteError(f"{option} {path} is no regular file. Give the path of a file.")
    if not folder.is_dir():
        raise WriteError(f"{option} {path}: the folder {folder} does not exist. Create it, or give another path.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WriteError(f"{option} {path}: nothing can be written in {folder}: {error.strerror or error}. Give another path.") from error


def same_file(first: Path, second: Path) -> bool:
    """True where both paths are one file, whether it exists or not."""
    with suppress(OSError):
        return first.samefile(second)
    return os.path.realpath(first) == os.path.realpath(second)


def current_umask() -> int:
    """The process's file mode mask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
