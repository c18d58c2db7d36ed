"""Arrays by key, in memory up to a bound, beyond it in files of a temporary folder."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Hashable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

Array = np.ndarray[Any, Any]

IN_MEMORY = 512 * 2**20


class Store:
    """What is held of all calibration inputs at once. Its `close`, or the end of a `with` block, removes the files.

    Arrays come back as they were put, those from a file as read-only maps of it. `limit` is in bytes.
    """

    def __init__(self, limit: int = IN_MEMORY) -> None:
        self._limit = limit
        self._held = 0
        self._arrays: dict[Hashable, Array | Path] = {}
        self._folder: Path | None = None
        self._remove: weakref.finalize[[Path, bool], Store] | None = None
        self._count = 0

    def put(self, key: Hashable, array: Array) -> None:
        """Hold `array` under `key`, which must be free."""
        if self._held + array.nbytes > self._limit and array.nbytes and not array.dtype.hasobject:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="graphcompress-"))
                self._remove = weakref.finalize(self, shutil.rmtree, self._folder, True)
            file = self._folder / f"{self._count}.npy"
            self._count += 1
            np.save(file, array)
            self._arrays[key] = file
        else:
            self._held += array.nbytes
            self._arrays[key] = array

    def get(self, key: Hashable) -> Array:
        """The array under `key`. Raises KeyError."""
        entry = self._arrays[key]
        return entry if isinstance(entry, np.ndarray) else np.load(entry, mmap_mode="r")

    def __contains__(self, key: Hashable) -> bool:
        return key in self._arrays

    def drop(self, key: Hashable) -> None:
        """Forget `key`. Raises KeyError."""
        entry = self._arrays.pop(key)
        if isinstance(entry, np.ndarray):
            self._held -= entry.nbytes
        else:
            with contextlib.suppress(OSError):  # still mapped, on Windows: it goes with the folder
                entry.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything. Files also go with the last reference to a store that nobody closed."""
        self._arrays.clear()
        self._held = 0
        if self._remove is not None:
            self._remove()
            self._folder = self._remove = None
