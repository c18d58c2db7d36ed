"""`.npz` files read member by member as streams: headers without data, rows without the whole array, never a pickle."""

from __future__ import annotations

import contextlib
import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from graphcompress.data.npy import ArrayHeader
from graphcompress.data.signature import Array
from graphcompress.errors import DataError

CHUNK = 1 << 20
HEAD = 64  # bytes by which what a file is may be known
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, UnicodeDecodeError)


@dataclass(frozen=True)
class Member:
    """One array of an open file, which messages call `where`: its header is read, its data is not."""

    where: str
    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    header: ArrayHeader

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.header.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    def blocks(self) -> Iterator[bytes]:
        """The data in the file's order, whole elements in blocks of about 1 MiB. The checksum is verified at the end."""
        size = max(1, CHUNK // max(1, self.dtype.itemsize)) * max(1, self.dtype.itemsize)
        with self._stream() as stream:
            left = self.header.nbytes
            while left:
                block = self._exactly(stream, min(size, left))
                left -= len(block)
                yield block
            stream.read(1)  # at the end of the member zipfile compares its checksum

    def whole(self) -> Array:
        """The array."""
        with self._stream() as stream:
            return self.header.array(self._exactly(stream, self.header.nbytes))

    @contextlib.contextmanager
    def rows(self, step: int) -> Iterator[Callable[[int], Array]]:
        """A function from i to rows [i*step, (i+1)*step); cheap for growing i, only the rows asked for are held."""
        if not self.shape:
            yield lambda _i: self.whole()
        elif self.header.fortran and len(self.shape) > 1:
            with self._unpacked() as array:
                yield lambda i: np.ascontiguousarray(array[i * step : (i + 1) * step])
        else:
            block = replace(self.header, shape=(step, *self.shape[1:]))
            with self._stream() as stream:

                def at(index: int) -> Array:
                    with self._readable():
                        stream.seek(self.header.start + index * block.nbytes)
                    return block.array(self._exactly(stream, block.nbytes))

                yield at

    @contextlib.contextmanager
    def _unpacked(self) -> Iterator[Array]:
        """The array mapped from a temporary file: in Fortran order the elements of a row lie all over the member."""
        with tempfile.TemporaryFile(prefix="graphcompress-") as file:
            for block in self.blocks():
                file.write(block)
            file.flush()
            yield np.memmap(file, self.dtype, "r", 0, self.shape, "F")

    @contextlib.contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        with self._readable():
            stream = self.archive.open(self.info)
        with stream:
            with self._readable():
                stream.seek(self.header.start)
            yield stream

    def _exactly(self, stream: IO[bytes], count: int) -> bytes:
        with self._readable():
            content = stream.read(count)
        if len(content) != count:
            raise DataError(f"{self.where}: the array '{_key(self.info)}' ends after fewer bytes than its header says: the file is truncated.")
        return content

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except BROKEN as problem:
            raise DataError(f"{self.where}: the array '{_key(self.info)}' cannot be read ({problem}): the file is damaged. Save or copy it again.") from problem


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Mapping[str, Member]]:
    """The arrays of a `.npz` by key. Raises DataError where it is none, or where a header is not that of a plain array file."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path} is no regular file but a folder, a pipe or a device. Save each feed with np.savez(path, INPUT=array, ...).")
    try:
        archive = zipfile.ZipFile(path)
    except (*BROKEN, ValueError) as problem:
        try:
            with path.open("rb") as file:
                head = file.read(HEAD)
        except OSError as error:
            raise DataError(f"{path}: the file cannot be read ({error.strerror or error}).") from problem
        raise DataError(f"{path}: {_what_it_is(head, problem)}") from problem
    with archive:
        if path.suffix.lower() != ".npz":
            raise DataError(f"{path}: data files must be .npz files, and this name ends in '{path.suffix or path.name}'. Save arrays with np.savez.")
        yield _members(str(path), archive)


@contextlib.contextmanager
def open_content(content: bytes, where: str) -> Iterator[Mapping[str, Member]]:
    """The arrays of a `.npz` in memory, which messages call `where`. Raises DataError as `open_file` does."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (*BROKEN, ValueError) as problem:
        raise DataError(f"{where}: {_what_it_is(content[:HEAD], problem)}") from problem
    with archive:
        yield _members(where, archive)


def _members(where: str, archive: zipfile.ZipFile) -> dict[str, Member]:
    return {
        _key(i): _member(where, archive, i) for i in archive.infolist() if not i.is_dir() and not (_key(i).startswith("_") and not i.filename.endswith(".npy"))
    }


def _key(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _member(where: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    key = _key(info)
    try:
        with archive.open(info) as stream:
            header = ArrayHeader.of(stream)
    except (*BROKEN, ValueError) as problem:
        raise DataError(
            f"{where}: the entry '{info.filename}' is not an array file ({' '.join(str(problem).split())[:200]}). Save arrays with np.savez(path, INPUT=array)."
        ) from problem
    following = info.file_size - header.start
    if not header.dtype.hasobject and header.nbytes != following:
        raise DataError(
            f"{where}: the header of '{key}' says {header.dtype.name} [{', '.join(map(str, header.shape))}], which is {header.nbytes} bytes, and the file holds {following}. Save it again."
        )
    return Member(where, archive, info, header)


def _what_it_is(head: bytes, problem: BaseException) -> str:
    """Why a file that should be a `.npz` is none, judged by its first bytes."""
    if not head:
        return "the file is empty. Save arrays with np.savez(path, INPUT=array)."
    if head.startswith(b"\x93NUMPY"):
        return "this is a single array (.npy), and a feed needs the name of its input: save it with np.savez(path, INPUT=array)."
    if head.startswith(b"PK"):
        return "this .npz is truncated or damaged: its directory of arrays at the end is missing. Save or copy it again."
    if head.startswith(b"version https://git-lfs"):
        return "this is a pointer of Git LFS, not the file itself: run `git lfs pull`."
    if head.startswith(b"\x80"):
        return "this is a pickle, which could run any code and is never read: save arrays with np.savez(path, INPUT=array)."
    return f"this is not a .npz file ({problem}). Save arrays with np.savez(path, INPUT=array); tables, pictures and texts are known by the endings of their names (docs/data.md)."
