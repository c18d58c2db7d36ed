"""Neighbouring codes of integer weights, whose products some processors add in 16 bits.

x86 processors without VNNI add the products of positions 2j and 2j + 1 of the reduction with saturation (`vpmaddubsw`). A Conv's reduction runs along the taps, and along the channels within a tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


def as_rows(weight: Array, axis: int) -> Array:
    """[output channels, reduction] of a weight whose output channels are `axis`."""
    outermost = np.moveaxis(weight, axis, 0)
    if weight.ndim > 2:
        outermost = np.moveaxis(outermost, 1, -1)
    return outermost.reshape(weight.shape[axis], -1)


def from_rows(rows: Array, shape: Sequence[int], axis: int) -> Array:
    """The weight of `shape` whose rows these are."""
    inner = [size for i, size in enumerate(shape) if i != axis]
    if len(shape) > 2:
        inner = [*inner[1:], inner[0]]
    outermost = rows.reshape(shape[axis], *inner)
    if len(shape) > 2:
        outermost = np.moveaxis(outermost, -1, 1)
    return np.ascontiguousarray(np.moveaxis(outermost, 0, axis))


def as_pairs(rows: Array) -> Array:
    """[2, rows, pairs]: the first of each two neighbours, and the second, which is 0 for one that has none."""
    width = rows.shape[1] // 2
    pairs = np.zeros((2, len(rows), rows.shape[1] - width))
    pairs[0], pairs[1, :, :width] = rows[:, ::2], rows[:, 1::2]
    return pairs


def from_pairs(pairs: Array, width: int) -> Array:
    """Rows of so many codes."""
    rows = np.empty((pairs.shape[1], width))
    rows[:, ::2], rows[:, 1::2] = pairs[0], pairs[1, :, : width // 2]
    return rows


def pair_sums(pairs: Array) -> Array:
    """What the codes of each pair (along the first axis) add up to, without the sign. Of two signs that is less than the larger code, which no limit is below."""
    sums: Array = pairs[0] + pairs[1]
    return np.abs(sums, out=sums)


def shortened(exact: Array, limit: int) -> Array:
    """Codes of pairs of weights, which are in units of a scale that is large enough for each weight alone: a pair that is beyond `limit` becomes the nearest one
    that is not."""
    codes = np.rint(exact, order="C")
    beyond = np.flatnonzero(pair_sums(codes) > limit)
    even, odd = (part.reshape(-1)[beyond] for part in exact)
    sign = np.sign(even)
    # Both lose half of what is too much; the second takes what rounding the first leaves.
    nearest = np.clip(np.rint((np.abs(even) - np.abs(odd) + limit) / 2), 1, limit - 1)
    codes[0].reshape(-1)[beyond], codes[1].reshape(-1)[beyond] = sign * nearest, sign * (limit - nearest)
    return codes
