"""Arrays in numpy's file format: headers without data, rows without the whole array, never a pickle."""

from __future__ import annotations

import contextlib
import io
import math
import os
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from graphcompress.data.signature import Array
from graphcompress.errors import DataError


@dataclass(frozen=True)
class ArrayHeader:
    """What stands before the data of an array, which begins at byte `start`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @classmethod
    def of(cls, stream: IO[bytes]) -> ArrayHeader:
        """Read from the beginning of `stream`. Raises ValueError where it is none."""
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the array format is for structured types")
        try:
            shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
        except (TypeError, tokenize.TokenError, OverflowError) as problem:  # what its reader trips over, beside what it looks for
            raise ValueError(f"its header is damaged: {problem}") from problem
        if any(size < 0 for size in shape):
            raise ValueError(f"its header says a size of {min(shape)}")
        return cls(dtype, tuple(int(size) for size in shape), bool(fortran), stream.tell())

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self, content: bytes) -> Array:
        """The array of its data."""
        flat = np.frombuffer(content, self.dtype) if content else np.empty(math.prod(self.shape), self.dtype)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")

    def check_plain(self, following: int) -> None:
        """Raises ValueError where the data would have to be unpickled, or is not what lies in the `following` bytes."""
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects, which would have to be unpickled")
        if self.nbytes != following:
            raise ValueError(f"its header says {self.nbytes} bytes of data, and there are {following}")


def array_of(content: bytes) -> Array:
    """The array of a file's content. Raises ValueError where it is none, or would have to be unpickled."""
    stream = io.BytesIO(content)
    header = ArrayHeader.of(stream)
    header.check_plain(len(content) - header.start)
    return header.array(content[header.start :])


@dataclass(frozen=True)
class ArrayFile:
    """The array of a `.npy` file (see `signature.Entry`), which is read row by row: of a mapped file pages would stay in memory as far as it has been read."""

    path: Path
    header: ArrayHeader

    @classmethod
    def at(cls, path: Path) -> ArrayFile:
        """Raises DataError where the file is no array, or would have to be unpickled."""
        try:
            with path.open("rb") as file:
                header = ArrayHeader.of(file)
                header.check_plain(os.fstat(file.fileno()).st_size - header.start)
        except (OSError, ValueError) as problem:
            raise DataError(f"{path}: this .npy cannot be read ({' '.join(str(problem).split())[:200]}). Save it with np.save(path, array).") from problem
        return cls(path, header)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.header.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    def whole(self) -> Array:
        """The array, read at once."""
        with self._readable(), self.path.open("rb") as file:
            return self.header.array(self._read(file, 0, self.header.nbytes))

    @contextlib.contextmanager
    def rows(self, step: int) -> Iterator[Callable[[int], Array]]:
        """A function from i to rows [i*step, (i+1)*step), of which only those asked for are held; in Fortran order they lie all over the file, which is mapped."""
        if not self.shape:
            yield lambda _i: self.whole()
        elif self.header.fortran and len(self.shape) > 1:
            with self._readable():
                mapped = np.memmap(self.path, self.dtype, "r", self.header.start, self.shape, "F") if self.header.nbytes else self.whole()
            yield lambda i: np.array(mapped[i * step : (i + 1) * step])
        else:
            block = replace(self.header, shape=(step, *self.shape[1:]))
            with self._readable():
                file = self.path.open("rb")
            with file:

                def at(index: int) -> Array:
                    with self._readable():
                        return block.array(self._read(file, index * block.nbytes, block.nbytes))

                yield at

    def _read(self, file: IO[bytes], begin: int, count: int) -> bytes:
        """`count` bytes of the data from byte `begin` on."""
        file.seek(self.header.start + begin)
        content = file.read(count)
        if len(content) != count:
            raise DataError(f"{self.path}: the array ends after fewer bytes than its header says: the file is truncated.")
        return content

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise DataError(f"{self.path} cannot be read: {problem.strerror or problem}.") from problem
