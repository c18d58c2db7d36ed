"""Feeds in every form in which people bring them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from graphcompress.data import Dataset, memory_data, open_data
from graphcompress.ir import TensorSpec

Arrays = dict[str, np.ndarray[Any, Any]]

X = TensorSpec("x", "float", ("n", 3))
FIXED = TensorSpec("x", "float", (2, 3))


def stacked(tmp_path: Path, compressed: bool = False, **arrays: np.ndarray[Any, Any]) -> Path:
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def folder(tmp_path: Path, *feeds: Arrays) -> Path:
    place = tmp_path / "feeds"
    place.mkdir(parents=True, exist_ok=True)
    for index, feed in enumerate(feeds):
        np.savez(place / f"{index:03}.npz", **feed)
    return place


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def values(dataset: Dataset) -> list[Arrays]:
    return [dict(feed) for feed in dataset]


FORMS = ["folder", "stacked", "list", "dict", "generator", "dataset"]


def opened(form: str, tmp_path: Path, arrays: Arrays, inputs: list[TensorSpec], optional: tuple[TensorSpec, ...] = ()) -> Dataset:
    """`arrays` as data in one of the forms: one feed, or (stacked, dict) as many as are stacked."""
    match form:
        case "folder":
            return open_data(folder(tmp_path, arrays), inputs, optional)
        case "stacked":
            return open_data(stacked(tmp_path, **arrays), inputs, optional)
        case "list":
            return memory_data([arrays], inputs, optional)
        case "dict":
            return memory_data(arrays, inputs, optional)
        case "generator":
            return memory_data((feed for feed in [arrays]), inputs, optional)
    return memory_data(Dataset("feeds of a caller", "0" * 64, range(1), lambda indices: iter([arrays for _ in indices])), inputs, optional)
