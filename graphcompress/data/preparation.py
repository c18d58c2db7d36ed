"""How images, tables and texts become arrays: what `--preprocess FILE` says, read from TOML, from a `preprocessor_config.json` or from a `tokenizer.json`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from graphcompress.errors import DataError, cause, suggestion

Side = Annotated[int, Field(ge=1, le=16384)]
Size = Annotated[tuple[Side, Side], BeforeValidator(lambda size: (size, size) if isinstance(size, int) else size)]
PerChannel = Annotated[
    tuple[float, ...], BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value), Field(min_length=1, max_length=4)
]
Resize = Literal["stretch", "shortest", "fit", "none"]
Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
FILTERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""In the order of Pillow's numbers, which Hugging Face's `resample` has."""


class Part(BaseModel):
    """Base of the tables of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ImagePreparation(Part):
    """From a picture to an array: resize, crop, `pixel * scale`, then `(value - mean) / std` per channel, in `color` order and `layout`.

    `resize`: "stretch" to `size` whatever the ratio of sides, "shortest" side to `resize_to` (default: the shorter of `size`), "fit" into `size` with `pad` around (0 to 255), "none".
    `size` is (height, width); without it the model's. `crop` takes the middle of `size`. `layout` and `dtype` are the model's unless stated.
    """

    size: Size | None = None
    resize: Resize = "stretch"
    resize_to: Side | None = None
    crop: Literal["center", "none"] = "none"
    interpolation: Filter = "bilinear"
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    scale: float = 1.0
    mean: PerChannel = (0.0,)
    std: PerChannel = (1.0,)
    pad: Annotated[int, Field(ge=0, le=255)] = 0
    layout: Literal["nchw", "nhwc"] | None = None
    dtype: Literal["float32", "float16", "uint8", "int8"] | None = None
    input: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if 0.0 in self.std:
            raise ValueError("std has a 0, by which nothing can be divided")
        channels = 1 if self.color == "gray" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} has {len(values)} numbers, and an image of color '{self.color}' has {channels} channel{'s' * (channels > 1)}")
        return self


class TablePreparation(Part):
    """From columns to inputs: `columns` names those of each input, in order; `drop` those that are no inputs (they are kept as ground truth)."""

    columns: Mapping[str, tuple[str, ...]] = {}
    drop: tuple[str, ...] = ()


class TextPreparation(Part):
    """From texts to token ids. `tokenizer` is a tokenizer.json; `length` cuts, and with `padding` = "length" pads, to so many tokens (default: the model's fixed length; then it pads
    as well). `columns` are the one or two columns of a table that hold the texts, `inputs` says which model input takes "ids", "mask" and "types"."""

    tokenizer: Path
    length: Annotated[int, Field(ge=1)] | None = None
    padding: Literal["length", "none"] | None = None
    columns: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] | None = None
    inputs: Mapping[Literal["ids", "mask", "types"], str] = {}


class Preparation(Part):
    """A whole file."""

    images: ImagePreparation | None = None
    table: TablePreparation | None = None
    text: TextPreparation | None = None


def read_preparation(path: Path) -> Preparation:
    """The file at `path`. Raises DataError, with every fault and the nearest known key, where it cannot be used."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as problem:
        raise DataError(f"--preprocess {path} cannot be read: {cause(problem)}.") from problem
    try:
        document = json.loads(content) if path.suffix.lower() == ".json" else tomllib.loads(content)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, RecursionError) as problem:
        raise DataError(f"--preprocess {path} is no {'JSON' if path.suffix.lower() == '.json' else 'TOML'}: {problem}.") from problem
    if path.suffix.lower() == ".json":
        return Preparation(text=TextPreparation(tokenizer=path)) if isinstance(document, dict) and "model" in document else _hugging_face(path, document)
    return _tables(path, document)


def _tables(path: Path, document: Mapping[str, Any]) -> Preparation:
    text = document.get("text")
    if isinstance(text, dict) and isinstance(text.get("tokenizer"), str):
        document = {**document, "text": {**text, "tokenizer": path.parent / text["tokenizer"]}}
    try:
        return Preparation.model_validate(document)
    except ValidationError as error:
        raise DataError(f"--preprocess {path}: " + " ".join(_fault(fault) for fault in error.errors(include_url=False))) from error


def _fault(fault: Any) -> str:
    """One fault that pydantic found, as a sentence."""
    *table, key = [str(part) for part in fault["loc"]] or ["the file"]
    where = f"[{table[0]}] {key}" if table else key
    kinds: dict[str, type[Part]] = {"images": ImagePreparation, "table": TablePreparation, "text": TextPreparation}
    if fault["type"] == "extra_forbidden":
        return f"{where}: there is no such key. {suggestion(key, kinds[table[0]].model_fields if table else kinds)}"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}."


def _hugging_face(path: Path, document: Any) -> Preparation:
    """The image processor of Hugging Face whose configuration this is: resize, center crop, rescale, normalize, each where `do_...` is not false."""
    if not isinstance(document, dict) or not {"image_mean", "do_resize", "do_rescale", "do_normalize", "size"} & document.keys():
        raise DataError(
            f"--preprocess {path}: this JSON is neither a preprocessor_config.json (it has no 'do_resize', 'size' or 'image_mean') nor a tokenizer.json (no 'model'). "
            "Give one of these, or a TOML file with [images], [table] or [text]."
        )
    settings: dict[str, Any] = {"resize": "none", "interpolation": _filter(path, document.get("resample", 2))}
    size, crop = _sides(document.get("size")), _square(_sides(document.get("crop_size")))
    cropped = document.get("do_center_crop", document.get("crop_pct") is not None)
    if isinstance(document.get("size"), int) and not cropped and "max_size" not in document:
        size = _square(size)  # files that say one number mean the shortest edge only where something cuts the longer one
    if document.get("do_resize", True):
        if isinstance(size, int):
            settings |= {"resize": "shortest", "resize_to": size if document.get("crop_pct") is None else int(size / document["crop_pct"])}
        elif size is not None:
            settings |= {"resize": "stretch", "size": size}
    if cropped and (goal := crop or _square(size)) is not None:
        settings |= {"crop": "center", "size": goal}
        if settings["resize"] == "stretch" and goal != size:
            raise DataError(f"--preprocess {path}: it stretches to {size} and then crops to {goal}, which is not supported. Write a TOML file with [images].")
    if document.get("do_rescale", "image_mean" in document):
        settings["scale"] = document.get("rescale_factor", 1 / 255)
    if document.get("do_normalize", "image_mean" in document):
        settings |= {"mean": document.get("image_mean", (0.5,)), "std": document.get("image_std", (0.5,))}
    return _tables(path, {"images": settings})


def _sides(size: Any) -> tuple[int, int] | int | None:
    """(height, width), or the length of the shortest edge."""
    if isinstance(size, dict):
        if "height" in size and "width" in size:
            return size["height"], size["width"]
        edge = size.get("shortest_edge")
        return edge if isinstance(edge, int) else None
    return size if isinstance(size, int) else tuple(size) if isinstance(size, list) and len(size) == 2 else None


def _square(size: tuple[int, int] | int | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _filter(path: Path, number: Any) -> Filter:
    if not isinstance(number, int) or number not in range(len(FILTERS)):
        raise DataError(f"--preprocess {path}: 'resample' is {number!r}; Pillow's numbers are 0 to {len(FILTERS) - 1}.")
    return FILTERS[number]
