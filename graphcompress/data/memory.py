"""Feeds from Python: lists of dicts, dicts of stacked arrays, one array, iterables, datasets of the caller's own."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graphcompress.data.dataset import Dataset, Survey, of_feeds, of_stack
from graphcompress.data.held import Held
from graphcompress.data.signature import TEXT, UNNAMED, Array, Feed, Signature
from graphcompress.data.tables import TableColumns, table_data
from graphcompress.errors import DataError
from graphcompress.ir.model.objects import TensorSpec

FORMS = (
    "Data is a path, a list of feeds (dicts of arrays by input name), a dict of arrays stacked along the first axis, a DataFrame, a DataLoader, or, for a model with one input, an array "
    "of stacked feeds."
)
SOURCE = "the data"


def memory_data(data: object, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()) -> Dataset:
    """The feeds in `data` for a model that must be given `inputs` and may be given `optional`. What can be iterated only once is held in memory.

    A Dataset that was checked for another model (or not at all) is checked in one pass. Raises DataError naming the feed and the input where something does not fit,
    and for what is no data.
    """
    signature = Signature.of(SOURCE, inputs, optional)
    if isinstance(data, Dataset):
        return data if data.signature == signature else _checked(data, signature)
    if callable(next_feed := getattr(data, "get_next", None)):  # a CalibrationDataReader of onnxruntime
        data = iter(next_feed, None)
    if isinstance(data, Mapping):
        return _stack(data, signature)
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):  # a DataFrame
        table: Any = data
        columns = {str(name): _array(SOURCE, table, name, copy=False) for name in table.columns}
        return replace(table_data(SOURCE, TableColumns(columns), signature, None), source="a table in memory")
    if hasattr(data, "collate_fn") and hasattr(data, "dataset"):  # a DataLoader of torch: batches of samples, not feeds
        data = _samples(data, signature)
    if hasattr(data, "__array__"):
        return _stack({_only_input(SOURCE, signature): data}, signature)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | bytearray):
        raise DataError(f"An object of type {type(data).__name__} is no data. {FORMS}")
    once = not isinstance(data, Sequence)  # a generator may fill the same array again
    feeds = [_feed(index, feed, signature, copy=once) for index, feed in enumerate(data)]
    if not feeds:
        raise DataError(f"The data is empty: there is not one feed in it. {FORMS}")
    dataset = of_feeds(SOURCE, feeds, contextlib.nullcontext, [f"feed {i}" for i in range(len(feeds))], signature)
    return replace(dataset, source=f"{len(feeds)} feeds in memory")


def _feed(index: int, feed: object, signature: Signature, *, copy: bool) -> dict[str, Held]:
    where = f"feed {index}"
    if isinstance(feed, tuple) and feed and all(hasattr(value, "__array__") for value in feed):
        feed = _in_order(feed, signature)
    if not isinstance(feed, Mapping):
        feed = {_only_input(where, signature, feed): feed}
    return _held(where, feed, signature, copy=copy)


def _samples(loader: Any, signature: Signature) -> Iterator[dict[str, Array]]:
    """The batches of a loader cut into feeds. What it yields after the inputs is ground truth. Raises DataError naming the batch."""
    for number, batch in enumerate(loader):
        where = f"batch {number} of the loader"
        named = _in_order(batch, signature) if isinstance(batch, list | tuple) else batch
        entries = _held(where, named if isinstance(named, Mapping) else {_only_input(where, signature, named): named}, signature)
        steps, count = signature.check_stack(where, entries)
        for index in range(count):
            yield {
                name: held.array[index * steps[name] : (index + 1) * steps[name]] if steps.get(name) else held.array
                for name, held in entries.items()
                if name in steps
            } | {name: entries[name].array[index : index + 1] for name in signature.truth(entries) if entries[name].shape[:1] == (count,)}


def _in_order(values: Sequence[Any], signature: Signature) -> dict[str, Any]:
    """Arrays without names: the model's inputs in their order, then ground truth."""
    names = [spec.name for spec in signature.required]
    return dict(zip([*names, *(f"_{index}" for index in range(len(values) - len(names)))], values, strict=False))


def _stack(arrays: Mapping[Any, Any], signature: Signature) -> Dataset:
    entries = _held(SOURCE, arrays, signature)
    dataset = of_stack(SOURCE, lambda: contextlib.nullcontext(entries), signature)
    return replace(dataset, source=f"{len(dataset)} feeds in memory")


def _held(where: str, arrays: Mapping[Any, Any], signature: Signature, *, copy: bool = False) -> dict[str, Held]:
    """The arrays by name. Ground truth may be anything: what is no array yet is left out."""
    specs = signature.specs
    if UNNAMED in arrays:
        arrays = signature.named(arrays)
    held = {name: Held(_array(where, arrays, name, copy)) for name in arrays if name in specs or not str(name).startswith("_")}
    return held | {
        name: Held(np.array(arrays[name]))
        for name in arrays
        if name not in held and (hasattr(arrays[name], "__array__") or isinstance(arrays[name], int | float))
    }


def _array(where: str, arrays: Mapping[Any, Any], name: Any, copy: bool) -> Array:
    try:
        value = arrays[name]  # an NpzFile reads it now
        array = np.array(value) if copy else np.asarray(value)
        if array.dtype == object and all(isinstance(text, str) for text in array.flat):
            return array.astype(TEXT)
    except (TypeError, ValueError, RuntimeError, OSError, zipfile.BadZipFile) as problem:
        raise DataError(
            f"{where}: '{name}' is no array ({' '.join(str(problem).split())[:200]}). Give NumPy arrays, for instance np.asarray(tensor.cpu())."
        ) from problem
    return array


def _only_input(where: str, signature: Signature, feed: object = None) -> str:
    """The input that an array without a name is for. Raises DataError where the model has several."""
    if len(signature.required) != 1:
        names = ", ".join(f"'{spec.name}'" for spec in signature.required) or "none"
        what = "an array" if feed is None else f"a {type(feed).__name__}"
        raise DataError(f"{where}: this is {what} without a name, and the model's inputs are {names}. Give a dict of arrays by input name.")
    return signature.required[0].name


def _checked(dataset: Dataset, signature: Signature) -> Dataset:
    """A dataset of the caller's own, gone through once."""

    def finished(index: int, feed: object) -> Feed:
        return signature.feed(f"feed {index}", {name: held.array for name, held in _feed(index, feed, signature, copy=False).items()})

    def read(indices: Sequence[int]) -> Iterator[Feed]:
        yield from (finished(index, feed) for index, feed in zip(indices, dataset.read(indices), strict=True))

    survey = Survey()
    count = 0
    for index, feed in zip(dataset.indices, dataset, strict=False):
        signature.check_feed(f"feed {index}", _feed(index, feed, signature, copy=False))
        survey.take(f"feed {index}", index, finished(index, feed))
        count += 1
    if count != len(dataset) or not count:
        raise DataError(f"{dataset.source}: {len(dataset)} feeds were announced and {count} could be read. A Dataset reads one feed for each of its indices.")
    checked = survey.dataset(dataset.source, dataset.indices, read, signature)
    return replace(checked, sha256=dataset.sha256, random=dataset.random)
