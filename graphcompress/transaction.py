"""Files that appear together or not at all: the one implementation of atomic writing, for models, their data and records.

Only calls that every system has: no descriptors of POSIX, no kernel copies. A file is written under a temporary name in its target's folder, flushed to the
disk, looked at again, and renamed at the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graphcompress.errors import WriteError

CHECKED = 4096  # bytes at the start of a file that are read back


class Transaction:
    """Use it in a `with` block: `open` and `add` stage files; at the end of the block all are renamed to their targets, in the order in which they were staged.

    Where the block or a rename fails, the targets are what they were before. OSErrors become WriteErrors that name the file.
    """

    def __init__(self) -> None:
        self._staged: list[tuple[Path, Path]] = []
        self._current: str | None = None

    def __enter__(self) -> Transaction:
        return self

    def add(self, target: str | os.PathLike[str], content: bytes) -> None:
        """Stage `content` for `target`."""
        with self.open(target) as stream:
            stream.write(content)

    @contextlib.contextmanager
    def open(self, target: str | os.PathLike[str]) -> Iterator[Staged]:
        """A file that becomes `target`; a link is followed, so that it stays a link. The mode of an existing target is kept."""
        self._current = os.fspath(target)
        place = Path(os.path.realpath(target))
        temporary = place.with_name(f".{place.name[:40]}.{secrets.token_hex(4)}.tmp")
        with Staged(temporary) as stream:
            self._staged.append((temporary, place))
            with contextlib.suppress(FileNotFoundError):
                temporary.chmod(stat.S_IMODE(place.stat().st_mode))
            yield stream
            stream.finish()
        self._current = None

    def __exit__(self, _kind: type[BaseException] | None, problem: BaseException | None, _trace: object) -> None:
        if problem is None:
            try:
                self._publish()
                return
            except OSError as error:
                problem = error
        for temporary, _ in self._staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            reason = problem.strerror or str(problem)
            raise WriteError(
                f"Cannot write {self._current or 'the result'}: {reason}. What stood there before is unchanged; free some room or give another path."
            ) from problem

    def _publish(self) -> None:
        """Rename everything; where one rename fails, put the old files back and remove the new ones."""
        backups: dict[Path, Path] = {}
        published: list[Path] = []
        try:
            for temporary, target in self._staged:
                self._current = str(target)
                if len(self._staged) > 1 and target.exists():
                    backups[target] = temporary.with_suffix(".bak")
                    _set_aside(target, backups[target])
                os.replace(temporary, target)
                published.append(target)
        except OSError:
            for target in published:
                if target not in backups:
                    target.unlink()
            for target, backup in backups.items():
                if backup.exists():
                    os.replace(backup, target)
            raise
        finally:
            for backup in backups.values():  # after a rollback too: renaming one link to another of the same file does nothing
                with contextlib.suppress(OSError):
                    backup.unlink(missing_ok=True)


class Staged:
    """A new file that is written from its start to its end."""

    def __init__(self, path: Path) -> None:
        self.position = 0  # bytes written
        self._head = b""
        self._path = path
        self._file = open(path, "xb")  # noqa: SIM115 (closed by __exit__); a plain open, so that the process's file mode mask applies

    def write(self, block: bytes | memoryview) -> None:
        """Append `block`."""
        if len(self._head) < CHECKED:
            self._head += bytes(block[: CHECKED - len(self._head)])
        self._file.write(block)
        self.position += len(block)

    def finish(self) -> None:
        """Flush to the disk. Raises OSError where the file that is there is not the one that was written."""
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._path.stat().st_size
        with open(self._path, "rb") as back:
            if size != self.position or back.read(CHECKED) != self._head:
                raise OSError(f"what was read back ({size} bytes) is not what was written ({self.position} bytes)")

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _set_aside(target: Path, backup: Path) -> None:
    """Give `target` a second name, or that name only where the file system knows no links: then it is away for a moment."""
    if hasattr(os, "link"):
        try:
            os.link(target, backup)
            return
        except OSError:
            pass
    os.replace(target, backup)


def check_place(path: str | os.PathLike[str], label: str) -> None:
    """Raise WriteError, beginning with `label`, unless a file can be written at `path`: so that work does not end at a missing folder."""
    target = Path(path)
    folder = Path(os.path.realpath(target)).parent
    try:
        there = target.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        raise WriteError(f"{label}: no file can have this name: {getattr(error, 'strerror', None) or error}. Give another path.") from error
    if target.is_dir():
        raise WriteError(f"{label} is a folder. Give the path of a file in it.")
    if there and not target.is_file():
        raise WriteError(f"{label} is not a regular file. Give the path of a file.")
    if not folder.is_dir():
        raise WriteError(f"{label}: the folder {folder} does not exist. Create it, or give another path.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WriteError(f"{label}: nothing can be written in {folder}: {error.strerror or error}. Give another path.") from error
