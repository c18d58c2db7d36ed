"""What feeds look like: shapes, ranges, a few values, what looks wrong with them, and pictures side by side."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphcompress.data.dataset import Dataset
from graphcompress.data.signature import Array, Feed
from graphcompress.data.texts import NAMES
from graphcompress.errors import DataError
from graphcompress.findings import Finding

BYTE = 255
SHOWN = 6
"""Values, and different shapes, that are shown of an input."""
TILE, MARGIN, TILES = 128, 2, 24
"""Pixels of a side of a picture on the sheet, between two, and how many there are."""
HUGE = 1e4
"""Magnitudes that no normalised input has."""


@dataclass
class InputSummary:
    """One input over all feeds. Numbers are of the finite values; `single` counts the feeds in which all elements are equal, `empty` those in which
    all are zero, `rows` are the first values of the first feeds."""

    name: str
    dtype: str
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    least: float = math.inf
    most: float = -math.inf
    count: int = 0
    zeros: int = 0
    total: float = 0.0
    squares: float = 0.0
    whole: bool = True
    single: int = 0
    empty: int = 0
    feeds: int = 0
    rows: list[list[Any]] = field(default_factory=list)

    def take(self, array: Array) -> None:
        """Take in one feed's array."""
        self.feeds += 1
        shape: tuple[int, ...] = array.shape
        if shape not in self.shapes:
            self.shapes.append(shape)
        if len(self.rows) < SHOWN // 2:
            self.rows.append([value.item() if hasattr(value, "item") else value for value in array.reshape(-1)[:SHOWN]])
        alike = array.size > 1 and bool((array == array.reshape(-1)[0]).all())
        self.single += alike
        self.empty += alike and not array.reshape(-1)[0]
        if array.dtype.kind not in "biuf":
            self.whole = False
            return
        values = array[np.isfinite(array)].astype(np.float64)
        if values.size:
            self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))
            self.whole = self.whole and bool((values == np.rint(values)).all())
        self.count += values.size
        self.zeros += int((values == 0).sum())
        self.total += float(values.sum())
        self.squares += float((values * values).sum())

    @property
    def mean(self) -> float | None:
        """Of all finite elements."""
        return self.total / self.count if self.count else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation of all finite elements."""
        return None if self.mean is None else math.sqrt(max(0.0, self.squares / self.count - self.mean**2))

    def findings(self) -> Iterable[Finding]:
        """What looks wrong."""
        rank = len(self.shapes[0])
        if self.dtype.startswith(("float", "bfloat")):
            if self.whole and self.least >= 0 and 20 < self.most <= BYTE and rank >= 3:
                text = f"'{self.name}' holds whole numbers from {self.least:g} to {self.most:g} as {self.dtype}: pixels that were never normalised? Most models take them scaled (1/255, mean, std)."
                yield Finding("data/never-normalised", text)
            elif self.count and max(abs(self.least), abs(self.most)) > HUGE and rank >= 3:
                yield Finding(
                    "data/large", f"'{self.name}' reaches {max(abs(self.least), abs(self.most)):.3g}: few inputs are that large once they are normalised."
                )
        elif self.dtype.startswith(("int", "uint")) and rank >= 2 and self.name not in NAMES["types"]:  # which are all 0 for single texts
            # A mask of ones hides nothing.
            wrong = self.empty if self.name in NAMES["mask"] else self.single
            if wrong:
                what = "all zero" if wrong == self.empty else "one value only"
                text = f"'{self.name}' holds {what} in {wrong} of {self.feeds} feeds: nothing but padding, or a mask that hides everything?"
                yield Finding("data/padding-only", text)


def summaries(dataset: Dataset) -> list[InputSummary]:
    """One per input that is fed, in the model's order."""
    seen: dict[str, InputSummary] = {}
    for feed in dataset:
        for name, array in feed.items():
            seen.setdefault(name, InputSummary(name, "string" if array.dtype.hasobject else array.dtype.name)).take(array)
    return list(seen.values())


def suspicions(dataset: Dataset, inputs: Sequence[InputSummary], scaled: Collection[str] = ()) -> list[Finding]:
    """Everything that looks wrong: of the feeds as a whole, and of each input. `scaled` names those that the model itself scales."""
    found = [*dataset.findings(), *(f for item in inputs for f in item.findings() if f.id != "data/never-normalised" or item.name not in scaled)]
    specs = {} if dataset.signature is None else dataset.signature.specs
    for item in inputs:
        shape, dims = item.shapes[0], specs[item.name].shape if item.name in specs else None
        free = len(shape) == 4 and (dims is None or not isinstance(dims[1], int))
        if free and shape[3] in (1, 3) and shape[1] not in (1, 3):
            text = f"'{item.name}' is fed as {list(shape)}, channels last, and the model does not say where it wants them: most exports from PyTorch take [n, channels, height, width]."
            found.append(Finding("data/channels-last", text))
    return found


def contact_sheet(dataset: Dataset) -> bytes:
    """A PNG of up to TILES feeds of the first input that is a picture, evenly spread over the feeds, black at its least value and white at its largest. Raises DataError where no input is
    a picture (4 axes with 1 or 3 channels)."""
    steps = max(1, math.ceil(len(dataset) / TILES))
    pictures = [picture for feed in dataset.part(lambda position: position % steps == 0) if (picture := _picture(feed)) is not None]
    if not pictures:
        raise DataError(f"{dataset.source}: no input is a picture (4 axes, 1 or 3 of them channels), so there is no sheet to draw.")
    least = min(float(p.min()) for p in pictures)
    span = max(float(p.max()) for p in pictures) - least or 1.0
    tiles = [_tile(np.rint((p - least) * (BYTE / span)).astype(np.uint8)) for p in pictures]
    side = max(max(tile.shape[:2]) for tile in tiles) + MARGIN
    across = math.ceil(math.sqrt(len(tiles)))
    sheet = np.full((math.ceil(len(tiles) / across) * side + MARGIN, across * side + MARGIN, 3), BYTE // 2, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // across) * side + MARGIN, (index % across) * side + MARGIN
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return png(sheet)


def _picture(feed: Feed) -> Array | None:
    """The first sample of the first input that is a picture: [H, W, 3] as float64."""
    for array in feed.values():
        if array.ndim == 4 and array.size and array.dtype.kind in "uif":
            sample = array[0].astype(np.float64)
            if sample.shape[2] not in (1, 3) and sample.shape[0] in (1, 3):
                sample = sample.transpose(1, 2, 0)
            if sample.shape[2] in (1, 3):
                return np.broadcast_to(np.nan_to_num(sample), (*sample.shape[:2], 3))
    return None


def _tile(pixels: Array) -> Array:
    """By whole factors as near to TILE as they come: larger by repetition, smaller by leaving out."""
    longest = max(pixels.shape[:2])
    if longest > TILE:
        step = math.ceil(longest / TILE)
        return pixels[::step, ::step]
    return pixels.repeat(TILE // longest, 0).repeat(TILE // longest, 1)


def png(pixels: Array) -> bytes:
    """[H, W, 3] uint8 as a PNG file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + chunk(b"IEND", b"")
    )
