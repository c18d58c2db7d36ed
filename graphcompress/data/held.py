"""Arrays in memory as the entries that feeds are read from, and the optional packages that read other forms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from graphcompress.data.signature import Array
from graphcompress.errors import DataError


@dataclass(frozen=True)
class Held:
    """An array in memory (see `signature.Entry`)."""

    array: Array

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.array.shape
        return shape

    def whole(self) -> Array:
        return self.array

    def rows(self, step: int) -> contextlib.AbstractContextManager[Callable[[int], Array]]:
        array = self.array
        return contextlib.nullcontext(lambda i: array[i * step : (i + 1) * step] if array.ndim else array)


PACKAGES = {
    "PIL.Image": ("pillow", "images"),
    "PIL.ImageOps": ("pillow", "images"),
    "pyarrow.parquet": ("pyarrow", "tables"),
    "tokenizers": ("tokenizers", "text"),
}
"""Module -> the package that has it, and the extra of graphcompress that installs it."""


def optional(module: str, where: str) -> Any:
    """A module that only some forms of data need. Raises DataError, with the command that installs it, where it is missing."""
    package, extra = PACKAGES[module]
    try:
        return import_module(module)
    except ImportError as problem:
        raise DataError(
            f"{where}: reading this needs the package {package}, which is not installed here ({problem}). Install it with: pip install {package} "
            f"(or graphcompress with the extra [{extra}])."
        ) from problem
