"""Pictures as feeds: decoded, turned upright, resized, cropped and normalised as the preparation says, one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graphcompress.data.dataset import Dataset, Entries, of_feeds
from graphcompress.data.held import Held, optional
from graphcompress.data.preparation import ImagePreparation
from graphcompress.data.signature import Array, Signature, expected
from graphcompress.errors import DataError, quoted
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.objects import TensorSpec

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
CHANNELS = (1, 3)
EXAMPLE = """\
[images]
size = [{height}, {width}]       # height, width
resize = "{resize}"   # stretch, shortest, fit, none
crop = "{crop}"
color = "{color}"           # or "bgr", "gray"
{scaling}
layout = "{layout}"          # or "{other}\""""

SCALED = "scale = 1.0   # the model scales its input itself: 1 if it takes 0 to 255, 0.00392 if 0 to 1"
COLOUR = "scale = 0.00392156862745098   # 1/255; 1 if 0 to 255\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]"
GRAY = "scale = 0.00392156862745098   # 1/255; 1 if 0 to 255\nmean = [0.5]\nstd = [0.5]"
"""What becomes of a pixel."""


def image_data(source: str, files: Sequence[Path], signature: Signature, preparation: ImagePreparation | None) -> Dataset:
    """Each picture as one feed for the model's image input. Raises DataError where a picture cannot be read, or where nobody said how pixels are prepared and the model's type does not
    tell (an input of type uint8 takes them as they are)."""
    loader = image_loader(source, len(files), signature, preparation)
    return of_feeds(source, files, loader.entries, [str(file) for file in files], signature)


def image_loader(source: str, count: int, signature: Signature, preparation: ImagePreparation | None) -> Loader:
    """What reads `count` pictures. Raises DataError as `image_data` does."""
    spec = _image_input(source, signature, preparation)
    if preparation is None:
        if spec.dtype != "uint8":
            raise DataError(_question(source, count, spec, spec.name in signature.scaled))
        preparation = ImagePreparation(color="gray" if _channels(spec) == 1 else "rgb")
    return Loader(preparation, spec, source)


@dataclass(frozen=True)
class Loader:
    """Reads pictures."""

    preparation: ImagePreparation
    spec: TensorSpec
    source: str

    @cached_property
    def layout(self) -> str:
        """Where the channels are. Raises DataError where neither the preparation nor the model says."""
        known = self.preparation.layout or _layout(self.spec)
        if known is None:
            raise DataError(
                f'{self.source}: \'{self.spec.name}\' is {expected(self.spec)}, which does not tell where the channels are. Add layout = "nchw" or "nhwc" to '
                "[images] of the file that --preprocess names."
            )
        return known

    @cached_property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of what the model is fed; None where neither the preparation nor the model says."""
        dims = self.spec.shape or (None,) * 4
        height, width = dims[2:4] if self.layout == "nchw" else dims[1:3]
        if self.preparation.size is not None:
            return self.preparation.size
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def entries(self, path: Path) -> Entries:
        """One picture as a feed."""
        return contextlib.nullcontext({self.spec.name: Held(self.opened(path, str(path)))})

    def opened(self, file: Path | BinaryIO, where: str) -> Array:
        """One picture, [1, C, H, W] or [1, H, W, C], turned as the camera was held; `where` is what messages call it."""
        ways = self.preparation
        image, upright = optional("PIL.Image", self.source), optional("PIL.ImageOps", self.source).exif_transpose
        try:
            with image.open(file) as opened:
                mode = "L" if ways.color == "gray" else "RGB"
                picture = self._placed(upright(_eight_bit(opened)).convert(mode))
                pixels = np.asarray(picture)
        except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as problem:
            raise DataError(f"{where}: this picture cannot be read ({' '.join(str(problem).split())[:200]}). Remove it or save it again.") from problem
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels[:, :, ::-1] if ways.color == "bgr" else pixels
        dtype = np.dtype(ways.dtype) if ways.dtype else numpy_dtype(self.spec.dtype or "float")
        if ways.scale != 1 or ways.mean != (0.0,) or ways.std != (1.0,):
            values = (pixels.astype(np.float32) * np.float32(ways.scale) - np.array(ways.mean, np.float32)) / np.array(ways.std, np.float32)
            pixels = values if dtype.kind == "f" else np.rint(values)
        if dtype.kind != "f" and (pixels.min() < np.iinfo(dtype).min or pixels.max() > np.iinfo(dtype).max):
            raise DataError(
                f"{where}: its prepared pixels are {pixels.min():g} to {pixels.max():g}, which {dtype.name} cannot hold. Say scale, mean and std in [images] of the file that --preprocess "
                "names as the application does (mean = 128 makes int8 of bytes)."
            )
        return np.ascontiguousarray((pixels.transpose(2, 0, 1) if self.layout == "nchw" else pixels)[None].astype(dtype))

    def _placed(self, picture: Any) -> Any:
        """Resized and cropped."""
        ways = self.preparation
        method = getattr(optional("PIL.Image", self.source).Resampling, ways.interpolation.upper())
        width, height = picture.size
        if ways.resize == "shortest":
            goal = ways.resize_to or (None if self.size is None else min(self.size))
            if goal is None:
                raise DataError(f'{self.source}: resize = "shortest" needs resize_to or size, since the model leaves them free.')
            short, long = sorted((width, height))
            other = int(goal * long / short)
            picture = picture.resize((goal, other) if width <= height else (other, goal), method)
        elif self.size is not None and ways.resize == "stretch":
            picture = picture.resize(self.size[::-1], method)
        elif self.size is not None and ways.resize == "fit":
            ratio = min(self.size[1] / width, self.size[0] / height)
            inner = picture.resize((max(1, round(width * ratio)), max(1, round(height * ratio))), method)
            picture = optional("PIL.Image", self.source).new(picture.mode, self.size[::-1], (ways.pad,) * len(picture.getbands()))
            picture.paste(inner, ((self.size[1] - inner.width) // 2, (self.size[0] - inner.height) // 2))
        if ways.crop == "center" and self.size is not None:
            left, top = (picture.width - self.size[1]) // 2, (picture.height - self.size[0]) // 2
            picture = picture.crop((left, top, left + self.size[1], top + self.size[0]))
        return picture


def _eight_bit(picture: Any) -> Any:
    """Raise ValueError for pixels that a conversion would clip."""
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels are of type '{picture.mode}', not of 8 bits; save it as an array with np.savez")
    return picture


def _image_input(source: str, signature: Signature, preparation: ImagePreparation | None) -> TensorSpec:
    """The input that pictures are for. Raises DataError where it is not the only one that must be fed, or has not four axes."""
    stated = None if preparation is None else preparation.input
    if stated is not None and stated not in signature.specs:
        raise DataError(f"{source}: [images] input names {quoted(stated)}, and the model's inputs are {', '.join(map(repr, signature.specs))}.")
    others = [spec for spec in signature.required if spec.name != stated]
    if stated is None and len(others) == 1:
        (spec,), others = others, []
    elif stated is not None:
        spec = signature.specs[stated]
    if others:
        needed = ", ".join(f"'{other.name}' ({expected(other)})" for other in others)
        raise DataError(
            f"{source}: these are pictures, and the model also needs {needed}. Save complete feeds: np.savez(path, INPUT=array, ...), one file each."
        )
    if spec.shape is not None and len(spec.shape) != 4:
        raise DataError(
            f"{source}: these are pictures, and the model's input '{spec.name}' is {expected(spec)}, not a batch of images. Save arrays with np.savez."
        )
    return spec


def _layout(spec: TensorSpec) -> str | None:
    dims = spec.shape or (None,) * 4
    first, last = dims[1] in CHANNELS, dims[3] in CHANNELS
    return None if first == last else "nchw" if first else "nhwc"


def _channels(spec: TensorSpec) -> object:
    dims = spec.shape or (None,) * 4
    return dims[3 if _layout(spec) == "nhwc" else 1]


def _question(source: str, count: int, spec: TensorSpec, scaled: bool) -> str:
    """Everything that has to be known about the pixels, in one message, with what the model tells filled in; `scaled`: the model scales them itself."""
    layout = _layout(spec) or "nchw"
    dims = spec.shape or (None,) * 4
    sides = dims[2:4] if layout == "nchw" else dims[1:3]
    height, width = (side if isinstance(side, int) else 224 for side in sides)
    gray = _channels(spec) == 1
    small = height < 64
    example = EXAMPLE.format(
        height=height,
        width=width,
        resize="stretch" if small else "shortest",
        crop="none" if small else "center",
        color="gray" if gray else "rgb",
        scaling=SCALED if scaled else GRAY if gray else COLOUR,
        layout=layout,
        other="nhwc" if layout == "nchw" else "nchw",
    )
    return (
        f"{source}: {count} picture{'s' * (count > 1)}, and the model takes '{spec.name}' as {expected(spec)}: how pixels become these numbers cannot be guessed. Say it as your application does it, "
        f"in a file preprocess.toml (these values are a common choice, change what differs), and add --preprocess preprocess.toml. A preprocessor_config.json of Hugging Face will do as "
        f"well. `graphcompress data MODEL --data {source} --preprocess preprocess.toml --sheet sheet.png` shows what comes of it.\n{example}"
    )
