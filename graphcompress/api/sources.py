"""Models and feeds as callers give them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from graphcompress import record as documents
from graphcompress.data import Dataset, memory_data, open_data, split
from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, load
from graphcompress.ir.files.hashes import data_files, sha256_of_file, sha256_of_model
from graphcompress.recipe import Recipe
from graphcompress.step import Progress

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Source:
    """A model and how records name it."""

    model: Model
    file: documents.ModelFile


AnyModel: TypeAlias = "str | os.PathLike[str] | Model | Source"
AnyData: TypeAlias = "str | os.PathLike[str] | Dataset | Mapping[str, Any] | Iterable[Any] | np.ndarray[Any, Any]"


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
    if isinstance(data, str | os.PathLike):
        return open_data(Path(data), model.inputs, model.overridable)
    return memory_data(data, model.inputs, model.overridable)


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
