"""`.npy` files read row by row: a mapped file would stay in memory, page after page, as far as it has been read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graphcompress.data.signature import Array
from graphcompress.errors import DataError


@dataclass(frozen=True)
class ArrayFile:
    """The array of a `.npy` file (see `signature.Entry`): its header is read, its data is not. `mapped` is a map of it, of which no page was touched."""

    path: Path
    mapped: Array

    @classmethod
    def at(cls, path: Path) -> ArrayFile:
        """Raises DataError where the file is no array, or would have to be unpickled."""
        try:
            return cls(path, np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError) as problem:
            raise DataError(f"{path}: this .npy cannot be read ({' '.join(str(problem).split())[:200]}). Save it with np.save(path, array).") from problem

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.mapped.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.mapped.shape
        return shape

    def whole(self) -> Array:
        """The array, read at once."""
        with self._readable(), self.path.open("rb") as file:
            return self._read(file, self._start, self.mapped.size).reshape(self.shape, order="C" if self._by_rows else "F")

    @contextlib.contextmanager
    def rows(self, step: int) -> Iterator[Callable[[int], Array]]:
        """A function from i to rows [i*step, (i+1)*step), of which only those asked for are held; in Fortran order they lie all over the file, which is mapped."""
        if not self.shape or not self._by_rows:
            yield lambda i: np.array(self.mapped[i * step : (i + 1) * step] if self.shape else self.mapped)
            return
        shape = step, *self.shape[1:]
        count = int(np.prod(shape))
        with self._readable():
            file = self.path.open("rb")
        with file:

            def at(index: int) -> Array:
                with self._readable():
                    return self._read(file, self._start + index * count * self.dtype.itemsize, count).reshape(shape)

            yield at

    @property
    def _by_rows(self) -> bool:
        return bool(self.mapped.flags.c_contiguous)

    @property
    def _start(self) -> int:
        """Byte at which the data begins."""
        return int(getattr(self.mapped, "offset", 0))

    def _read(self, file: BinaryIO, start: int, count: int) -> Array:
        file.seek(start)
        content = file.read(count * self.dtype.itemsize)
        if len(content) != count * self.dtype.itemsize:
            raise DataError(f"{self.path}: the array ends after fewer bytes than its header says: the file is truncated.")
        return np.frombuffer(content, self.dtype) if content else np.empty(count, self.dtype)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise DataError(f"{self.path} cannot be read: {problem.strerror or problem}.") from problem
