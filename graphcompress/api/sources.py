"""Models and feeds as callers give them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from graphcompress import record as documents
from graphcompress.data import Dataset, open_data, split
from graphcompress.errors import DataError, ModelError, suggestion
from graphcompress.ir import Model, load
from graphcompress.ir.files.hashes import data_files, sha256_of_file, sha256_of_model
from graphcompress.recipe import Recipe
from graphcompress.step import Progress

if TYPE_CHECKING:
    import numpy as np

    from graphcompress.ir import TensorSpec


@dataclass(frozen=True, slots=True)
class Source:
    """A model and how records name it."""

    model: Model
    file: documents.ModelFile


AnyModel: TypeAlias = "str | os.PathLike[str] | Model | Source"
AnyData: TypeAlias = "str | os.PathLike[str] | Dataset | Sequence[Mapping[str, np.ndarray[Any, Any]]]"


def open_model(model: AnyModel) -> Source:
    """Load a model and hash it. Raises ModelError where the file cannot be used."""
    if isinstance(model, Source):
        return model
    if isinstance(model, Model):
        return Source(model, documents.ModelFile(path=None, sha256=sha256_of_model(model)))
    loaded = load(Path(model))
    return Source(loaded, documents.ModelFile(path=shown(model), sha256=sha256_of_file(model, data_files(loaded))))


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text for records and messages; bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def name_of(source: Source) -> str:
    """The model in messages."""
    return source.file.path or "the model in memory"


def check_comparable(reference: Source, candidate: Source) -> None:
    """Raise ModelError unless the candidate takes the reference's inputs and has all its outputs."""
    for what, ours, theirs in (("input", reference.model.inputs, candidate.model.inputs), ("output", reference.model.outputs, candidate.model.outputs)):
        wanted, found = [s.name for s in ours], [s.name for s in theirs]
        missing = [n for n in wanted if n not in found]
        extra = [n for n in found if n not in wanted] if what == "input" else []
        if missing or extra:
            raise ModelError(
                f"{name_of(candidate)} cannot be compared with {name_of(reference)}: it "
                + " and ".join(
                    [f"lacks the {what}{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}"] * bool(missing)
                    + [f"asks for the {what}{'s' * (len(extra) > 1)} {', '.join(map(repr, extra))} that the reference does not have"] * bool(extra)
                )
                + ". Give two models with the same inputs and outputs."
            )


def open_feeds(data: AnyData, model: Model) -> Dataset:
    """The feeds, checked against the model's inputs. Raises DataError where they do not fit."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | os.PathLike):
        return open_data(Path(data), model.inputs, model.overridable)
    return memory_data(data, model.inputs, model.overridable)


def memory_data(feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]], inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()) -> Dataset:
    """Feeds that are in memory, checked as those of files are. Raises DataError naming the feed and the input where something does not fit."""
    import numpy as np

    from graphcompress.data.feeds import expected
    from graphcompress.ir.model.element_types import numpy_dtype

    if not len(feeds):
        raise DataError("The list of feeds is empty. Give one dict of arrays per feed.")
    allowed = {spec.name: spec for spec in (*inputs, *optional)}
    digest = hashlib.sha256()
    kept: list[dict[str, np.ndarray[Any, Any]]] = []
    for index, feed in enumerate(feeds):
        given = {name: np.asarray(value) for name, value in feed.items() if not name.startswith("_")}
        for spec in inputs:
            if spec.name not in given:
                raise DataError(f"feed {index}: '{spec.name}' is missing; the model needs it as {expected(spec)}. {suggestion(spec.name, given)}".rstrip())
        for name, array in sorted(given.items()):
            if name not in allowed:
                raise DataError(f"feed {index}: '{name}' is no input of the model. {suggestion(name, allowed)}".rstrip())
            spec = allowed[name]
            wanted = None if spec.dtype is None else numpy_dtype(spec.dtype)
            if wanted is not None and array.dtype != wanted and not (spec.dtype == "string" and array.dtype.kind in "US"):
                raise DataError(f"feed {index}: '{name}' is {array.dtype.name}. Expected {expected(spec)}: convert it with .astype('{wanted.name}').")
            fits = spec.shape is None or (
                len(spec.shape) == array.ndim and all(not isinstance(d, int) or d == n for d, n in zip(spec.shape, array.shape, strict=True))
            )
            if not fits or 0 in array.shape:
                raise DataError(f"feed {index}: '{name}' has the shape {list(array.shape)}. Expected {expected(spec)}, and no empty axis.")
            if array.dtype.kind in "fc" and bool(np.isnan(array).any()):
                raise DataError(f"feed {index}: '{name}' has NaN among its values. Remove or replace that sample.")
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype.kind in "OUS" else np.ascontiguousarray(array).tobytes())
        kept.append({name: array.astype(object) if array.dtype.kind in "US" else array for name, array in given.items()})

    def read(indices: Sequence[int]) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        for index in indices:
            yield dict(kept[index])

    return Dataset(f"{len(kept)} feeds in memory", digest.hexdigest(), range(len(kept)), read)


@dataclass(frozen=True, slots=True)
class Feeds:
    """The feeds of a run: all, the part for calibration, the part that judges, and what there is to say about that."""

    all: Dataset | None = None
    calibration: Dataset | None = None
    held_out: Dataset | None = None
    note: str = ""

    @classmethod
    def open(cls, data: AnyData | None, model: Model, plan: Recipe) -> Feeds:
        """Open and split. Raises DataError where there is no data and a step of `plan` cannot do without, or where the data does not fit."""
        if data is None:
            needed = next((step.kind.name for step in plan.steps if step.kind.needs_data), None)
            if needed is not None:
                raise DataError(
                    f"There is no data, and the step '{needed}' learns from it: give --data (a folder of .npz files, one complete feed each, or one .npz "
                    "with feeds stacked along the first axis). Random numbers are used only where --random-data asks for them."
                )
            return cls()
        feeds = open_feeds(data, model)
        calibration, held_out, note = split(feeds)
        return cls(feeds, calibration, held_out, note)

    def shapes(self) -> dict[str, tuple[int, ...]] | None:
        """The shapes of the first feed, None without data: what MACs are counted at."""
        if self.all is None:
            return None
        return next(({name: tuple(array.shape) for name, array in feed.items()} for feed in self.all), None)

    def source(self) -> documents.DataSource | None:
        """As the record names it."""
        if self.all is None or self.calibration is None or self.held_out is None:
            return None
        return data_source(self.all, len(self.calibration), len(self.held_out), self.note)


def data_source(feeds: Dataset, calibration: int, held_out: int, note: str = "") -> documents.DataSource:
    """The feeds as records name them."""
    return documents.DataSource(
        source=shown(feeds.source), sha256=feeds.sha256, feeds=len(feeds), random=feeds.random, calibration=calibration, held_out=held_out, note=note
    )


def told(feeds: Dataset, what: str, progress: Progress) -> Iterator[Any]:
    """The feeds, one by one, with progress."""
    total = len(feeds)
    for done, feed in enumerate(feeds):
        progress(what, done, total)
        yield feed
    progress(what, total, total)
