"""Models, feeds and places as callers give them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from graphcompress import record
from graphcompress.errors import DataError, ModelError, UsageError, shown
from graphcompress.ir import Model, Tensor, constant_data, consumers, load, model_from_proto
from graphcompress.ir.files.hashes import data_files, sha256_of_file, sha256_of_model
from graphcompress.ir.files.parse import parse
from graphcompress.ir.model.external import Stamp
from graphcompress.recipe import Recipe
from graphcompress.runtime.place import LocalPlace, Place
from graphcompress.runtime.providers import short
from graphcompress.step import Progress
from graphcompress.targets import Target

if TYPE_CHECKING:
    import numpy as np

    from graphcompress.data import Dataset


@dataclass(frozen=True, slots=True)
class Source:
    """A model and how records name it. `stamp` is that of the file that it was read from, None for a model in memory."""

    model: Model
    file: record.ModelFile
    stamp: Stamp | None = None

    @property
    def name(self) -> str:
        """The model in messages."""
        return self.file.path or "the model in memory"

    def same_file(self) -> Path | None:
        """The one file that holds just this model, which nobody edits; None where there is none, where it needs others or was replaced since."""
        path = self.model.path
        if self.stamp is None or path is None or data_files(self.model):
            return None
        return path if Stamp.at(path) == self.stamp else None


AnyModel: TypeAlias = "str | os.PathLike[str] | bytes | Model | Source | Any"  # Any: an onnx.ModelProto, which only `ir` can name
AnyData: TypeAlias = "str | os.PathLike[str] | Dataset | Mapping[str, Any] | Iterable[Any] | np.ndarray[Any, Any]"


def open_model(model: AnyModel) -> Source:
    """Load a model and hash it. Raises ModelError where the file cannot be used."""
    if isinstance(model, Source):
        return model
    if isinstance(model, Model):
        return Source(model, record.ModelFile(path=None, sha256=sha256_of_model(model)))
    if not isinstance(model, str | os.PathLike):
        return open_model(_model_in_memory(model))
    stamp = Stamp.at(model)
    loaded = load(Path(model))
    return Source(loaded, record.ModelFile(path=shown(model), sha256=sha256_of_file(model, data_files(loaded))), stamp)


def _model_in_memory(model: Any) -> Model:
    """A serialized model, or an onnx.ModelProto, of which a copy is taken. Raises ModelError where it is neither, or cannot be used."""
    if isinstance(model, bytes | bytearray):
        return model_from_proto(parse(bytes(model)))
    if type(model).__name__ != "ModelProto":
        raise ModelError(
            f"An object of type {type(model).__name__} is not a model. Give a path, a Model (graphcompress.load), an onnx.ModelProto or its bytes."
        )
    proto = type(model)()
    proto.CopyFrom(model)
    return model_from_proto(proto)


def choose_place(target: Target | None, provider: str | None, place: Place | None) -> Place:
    """Where results run and are judged: `place`, or this process on `provider` (default: the target's, with its session options; the CPU provider without a target).

    Raises UsageError where both are stated."""
    if place is not None:
        if provider is not None:
            raise UsageError("A provider and a place exclude each other: the place says on which provider models run.")
        return place
    if target is not None and (provider is None or short(provider) == short(target.provider)):
        return LocalPlace(provider or target.provider, tuple(sorted(target.session_options.items())))
    return LocalPlace(provider or "cpu")


def untimed_notes(where: Mapping[str, Any]) -> list[str]:
    """That nothing is timed at the place that describes itself so, where times there mean nothing."""
    return [] if where.get("timed", True) else [f"Times at the place '{where['place']}' mean nothing, so nothing was measured."]


def place_notes(target: Target, where: Mapping[str, Any]) -> list[str]:
    """What there is to say of the place, by its description, where results are judged: its provider is not the target's, or nothing is timed there."""
    provider = where["provider"]
    untimed = untimed_notes(where)
    if short(provider) == short(target.provider):
        return untimed
    return [
        *untimed,
        f"The result was run and judged on the provider '{provider}'; what runs in INT8 was decided and certified by the table of target '{target.name}', "
        f"which is for the provider '{target.provider}'.",
    ]


def check_comparable(reference: Source, candidate: Source) -> None:
    """Raise ModelError unless the candidate takes the reference's inputs and has all its outputs."""
    for what, ours, theirs in (("input", reference.model.inputs, candidate.model.inputs), ("output", reference.model.outputs, candidate.model.outputs)):
        names, others = [s.name for s in ours], [s.name for s in theirs]
        missing = [n for n in names if n not in others]
        extra = [n for n in others if n not in names] if what == "input" else []
        if missing or extra:
            raise ModelError(
                f"{candidate.name} cannot be compared with {reference.name}: it "
                + " and ".join(
                    [f"lacks the {what}{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}"] * bool(missing)
                    + [f"asks for the {what}{'s' * (len(extra) > 1)} {', '.join(map(repr, extra))} that the reference does not have"] * bool(extra)
                )
                + ". Give two models with the same inputs and outputs."
            )


def open_feeds(data: AnyData, model: Model, preprocess: str | os.PathLike[str] | None = None) -> Dataset:
    """The feeds, checked against the model's inputs. `preprocess` is the file that says how pictures, columns or texts become arrays. Raises DataError where they do not fit."""
    from graphcompress.data import memory_data, open_data

    if isinstance(data, str | os.PathLike):
        return open_data(Path(data), model.inputs, model.overridable, None if preprocess is None else Path(preprocess), scaled_inputs(model))
    if preprocess is not None:
        raise UsageError(f"A file of preparation is for data at a path, and this is a {type(data).__name__}, which holds arrays already.")
    return memory_data(data, model.inputs, model.overridable)


def scaled_inputs(model: Model) -> frozenset[str]:
    """The inputs that a model scales itself, as exports with a preprocessing layer do: they are read, perhaps transposed or cast, by arithmetic with constants only."""
    return frozenset(tensor.name for tensor in model.graph.inputs if _scales(tensor))


def _scales(tensor: Tensor) -> bool:
    readers = consumers(tensor)
    while len(readers) == 1 and readers[0].is_op("Transpose", "Cast", "Identity"):
        readers = consumers(readers[0].outputs[0])
    arithmetic = [r for r in readers if r.is_op("Mul", "Div", "Sub", "Add", "BatchNormalization") and any(constant_data(t) is not None for t in r.inputs)]
    return bool(readers) and len(arithmetic) == len(readers)


@dataclass(frozen=True, slots=True)
class Feeds:
    """The feeds of a run: all, the part for calibration, the part that judges, and what there is to say about that."""

    all: Dataset | None = None
    calibration: Dataset | None = None
    judging: Dataset | None = None
    note: str = ""

    @classmethod
    def open(cls, data: AnyData | None, model: Model, plan: Recipe) -> Feeds:
        """Open and split. Raises DataError where there is no data and a step of `plan` cannot do without, or where the data does not fit."""
        if data is None:
            needed = next((step.kind.name for step in plan.steps if step.kind.needs_data), None)
            if needed is not None:
                raise DataError(
                    f"There is no data, and the step '{needed}' learns from it: give --data (a folder of .npz files, one complete feed each, one .npz "
                    "with feeds stacked along the first axis, or pictures, a table or texts: docs/data.md). Random numbers are used only where --random-data asks for them."
                )
            return cls()
        from graphcompress.data import split

        feeds = open_feeds(data, model)
        calibration, judging, note = split(feeds)
        return cls(feeds, calibration, judging, note)

    def shapes(self) -> dict[str, tuple[int, ...]] | None:
        """The shapes of the first feed, None without data: what MACs are counted at."""
        return None if self.all is None else feed_shapes(self.all)

    def source(self) -> record.DataSource | None:
        """As the record names it."""
        if self.all is None or self.calibration is None or self.judging is None:
            return None
        return data_source(self.all, len(self.calibration), len(self.judging), self.note)


def feed_shapes(feeds: Dataset) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the first feed."""
    return next(({name: tuple(array.shape) for name, array in feed.items()} for feed in feeds), None)


def data_source(feeds: Dataset, calibration: int, held_out: int, note: str = "") -> record.DataSource:
    """The feeds as records name them."""
    return record.DataSource(
        source=shown(feeds.source), sha256=feeds.sha256, feeds=len(feeds), random=feeds.random, calibration=calibration, held_out=held_out, note=note
    )


def with_progress(feeds: Dataset, what: str, progress: Progress) -> Iterator[Any]:
    """The feeds, one by one, with progress."""
    total = len(feeds)
    for done, feed in enumerate(feeds):
        progress(what, done, total)
        yield feed
    progress(what, total, total)
