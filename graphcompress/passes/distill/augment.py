"""Inputs made of others: what the teacher answers to them is as good a target as any.

`crop` moves a picture by up to an eighth of its sides, its borders mirrored, `flip` shows it in a mirror, `mix` is a weighted mean of two inputs, `noise` adds a twentieth of the
input's spread. Which of them give inputs that the model may be asked about is for the user to say, or for trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from graphcompress.errors import UsageError
from graphcompress.ir import TensorSpec
from graphcompress.passes.distill.batches import Array, Feed
from graphcompress.reconstruction.mirrors import is_channels_last, mirror, pictures

Kind: TypeAlias = Literal["crop", "flip", "mix", "noise"]
KINDS: tuple[Kind, ...] = get_args(Kind)

REACH = 8  # a crop moves a picture by one in so many of its pixels at most
NOISE = 0.05  # of the input's standard deviation


class Augmentation:
    """Draws inputs from feeds. `kinds` are applied in the order of KINDS. Raises UsageError where one asks for pictures and the inputs are none, or for numbers and there are none."""

    def __init__(self, kinds: Sequence[Kind], inputs: Sequence[TensorSpec]) -> None:
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.pictures = pictures(inputs)
        self.numbers = frozenset(spec.name for spec in inputs if spec.dtype in ("float", "float16", "double") and spec.shape != ())
        for kind in self.kinds:
            if not self.applies(kind):
                what = "pictures (all inputs with four axes of floats)" if kind in ("crop", "flip") else "inputs of floats"
                raise UsageError(f"--augment {kind} is for {what}, and the inputs of this model are none.")

    def applies(self, kind: Kind) -> bool:
        """Whether the inputs are such that `kind` can be done."""
        return bool(self.pictures if kind in ("crop", "flip") else self.numbers)

    def draw(self, feed: Feed, partner: Feed, rng: np.random.Generator) -> Feed:
        """One input of `feed`; `partner` is another of the same data, which is mixed in where it has the same shapes."""
        for kind in self.kinds:
            feed = self._one(kind, feed, partner, rng)
        return feed

    def _one(self, kind: Kind, feed: Feed, partner: Feed, rng: np.random.Generator) -> Feed:
        match kind:
            case "crop":
                shift = rng.uniform(-1, 1, 2)
                return {n: moved(a, shift) if n in self.pictures else a for n, a in feed.items()}
            case "flip":
                return {n: mirror(a) if n in self.pictures else a for n, a in feed.items()} if rng.random() < 0.5 else feed
            case "mix":
                part = float(rng.uniform(0, 1))
                alike = all(partner[n].shape == a.shape and (n in self.numbers or np.array_equal(partner[n], a)) for n, a in feed.items())
                return {n: _mean(a, partner[n], part) if n in self.numbers else a for n, a in feed.items()} if alike else feed
            case "noise":
                return {n: _noisy(a, rng) if n in self.numbers else a for n, a in feed.items()}


def moved(batch: Array, shift: Array) -> Array:
    """Pictures moved by `shift` (parts of an eighth of height and width, -1 to 1), what comes in being mirrored at the border."""
    first = 1 if is_channels_last(batch) else 2
    for axis, part in zip((first, first + 1), shift, strict=True):
        size = batch.shape[axis]
        by = round(float(part) * size / REACH)
        if by:
            places = np.abs(np.arange(size) + by)
            batch = batch.take(np.where(places >= size, 2 * size - 2 - places, places), axis)
    return batch


def _mean(first: Array, second: Array, part: float) -> Array:
    mean: Array = (part * first + (1 - part) * second).astype(first.dtype)
    return mean


def _noisy(array: Array, rng: np.random.Generator) -> Array:
    noisy: Array = (array + NOISE * array.std() * rng.standard_normal(array.shape)).astype(array.dtype)
    return noisy
