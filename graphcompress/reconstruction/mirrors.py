"""Images seen in a mirror: inputs at no cost, on which the teacher's answers are as good a target as on any others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from graphcompress.ir import TensorSpec
from graphcompress.reconstruction.gram import Array
from graphcompress.runtime.session import Feed

CHANNELS = (1, 3, 4)  # of a picture, by which the order of its axes is known


@dataclass(frozen=True)
class Mirrors:
    """The feeds of `feeds`, then all of them again with their pictures mirrored. Can be gone through again if `feeds` can."""

    feeds: Iterable[Feed]
    pictures: frozenset[str]

    def __iter__(self) -> Iterator[Feed]:
        yield from self.feeds
        for feed in self.feeds:
            yield {name: mirror(array) if name in self.pictures else array for name, array in feed.items()}


def pictures(inputs: Sequence[TensorSpec]) -> frozenset[str]:
    """All inputs, where each is a batch of pictures by its rank and type; else none: what belongs to a picture (boxes, masks) may have to turn with it."""
    like = [spec.name for spec in inputs if spec.shape is not None and len(spec.shape) == 4 and spec.dtype in ("float", "float16", "double")]
    return frozenset(like if len(like) == len(inputs) else ())


def mirror(batch: Array) -> Array:
    """[n, c, h, w] or [n, h, w, c] with w reversed."""
    return batch[:, :, ::-1].copy() if is_channels_last(batch) else batch[:, :, :, ::-1].copy()


def is_channels_last(batch: Array) -> bool:
    """Whether a batch of pictures is [n, h, w, c]."""
    return batch.shape[3] in CHANNELS and batch.shape[1] not in CHANNELS
