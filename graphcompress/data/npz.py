"""`.npz` files read member by member as streams: headers without data, rows without the whole array, never a pickle."""

from __future__ import annotations

import contextlib
import math
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.lib import format as npy

from graphcompress.errors import DataError

Array: TypeAlias = np.ndarray[Any, Any]

CHUNK = 1 << 20
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, UnicodeDecodeError)


@dataclass(frozen=True)
class Member:
    """One array of an open file: its header is read, its data is not."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def blocks(self) -> Iterator[bytes]:
        """The data in the file's order, whole elements in blocks of about 1 MiB. The checksum is verified at the end."""
        size = max(1, CHUNK // max(1, self.dtype.itemsize)) * max(1, self.dtype.itemsize)
        with self._stream() as stream:
            left = self.nbytes
            while left:
                block = self._exactly(stream, min(size, left))
                left -= len(block)
                yield block
            stream.read(1)  # at the end of the member zipfile compares its checksum

    def whole(self) -> Array:
        """The array."""
        with self._stream() as stream:
            flat = np.frombuffer(self._exactly(stream, self.nbytes), self.dtype) if self.dtype.itemsize else np.empty(math.prod(self.shape), self.dtype)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")

    @contextlib.contextmanager
    def rows(self, step: int) -> Iterator[Callable[[int], Array]]:
        """A function from i to rows [i*step, (i+1)*step); cheap for growing i, only the rows asked for are held."""
        if not self.shape:
            yield lambda _i: self.whole()
        elif self.fortran and len(self.shape) > 1:
            with self._unpacked() as array:
                yield lambda i: np.ascontiguousarray(array[i * step : (i + 1) * step])
        else:
            size = step * math.prod(self.shape[1:]) * self.dtype.itemsize
            with self._stream() as stream:

                def at(index: int) -> Array:
                    with self._readable():
                        stream.seek(self.start + index * size)
                    return np.frombuffer(self._exactly(stream, size), self.dtype).reshape(step, *self.shape[1:])

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
                stream.seek(self.start)
            yield stream

    def _exactly(self, stream: IO[bytes], count: int) -> bytes:
        with self._readable():
            content = stream.read(count)
        if len(content) != count:
            raise DataError(f"{self.archive.filename}: the array '{_key(self.info)}' ends after fewer bytes than its header says: the file is truncated.")
        return content

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except BROKEN as problem:
            raise DataError(
                f"{self.archive.filename}: the array '{_key(self.info)}' cannot be read ({problem}): the file is damaged. Save or copy it again."
            ) from problem


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Mapping[str, Member]]:
    """The arrays of a `.npz` by key. Raises DataError where it is none, or where a header is not that of a plain array file."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path} is no regular file but a folder, a pipe or a device. Save each feed with np.savez(path, INPUT=array, ...).")
    try:
        archive = zipfile.ZipFile(path)
    except (*BROKEN, ValueError) as problem:
        raise DataError(f"{path}: {_what_it_is(path, problem)}") from problem
    with archive:
        if path.suffix.lower() != ".npz":
            raise DataError(f"{path}: data files must be .npz files, and this name ends in '{path.suffix or path.name}'. Save arrays with np.savez.")
        yield {
            _key(i): _member(path, archive, i)
            for i in archive.infolist()
            if not i.is_dir() and not (_key(i).startswith("_") and not i.filename.endswith(".npy"))
        }


def _key(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    key = _key(info)
    try:
        with archive.open(info) as stream:
            version = npy.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version} of the array format is for structured types")
            shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
            member = Member(archive, info, dtype, tuple(int(d) for d in shape), bool(fortran), stream.tell())
    except (*BROKEN, ValueError, TypeError) as problem:
        raise DataError(
            f"{path}: the entry '{info.filename}' is not an array file ({' '.join(str(problem).split())[:200]}). Save arrays with np.savez(path, INPUT=array)."
        ) from problem
    if not dtype.hasobject and member.start + member.nbytes != info.file_size:
        raise DataError(
            f"{path}: the header of '{key}' says {dtype.name} [{', '.join(map(str, member.shape))}], which is {member.nbytes} bytes, and the file holds {info.file_size - member.start}. Save it again."
        )
    return member


def _what_it_is(path: Path, problem: BaseException) -> str:
    """Why a file that should be a `.npz` is none, judged by its first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        return f"the file cannot be read ({error.strerror or error})."
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
    return f"this is not a .npz file ({problem}). Save arrays with np.savez(path, INPUT=array)."
