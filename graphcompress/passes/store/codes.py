"""Weights as codes: 8 bits and a scale per channel, or 16-bit floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LARGEST_CODE = 127
SHARES = np.linspace(1.0, 0.6, 17)
"""What part of a channel's largest magnitude the largest code may stand for: what lies beyond is cut off, and all else is rounded more finely."""
SMALLEST_SCALE = 1e-30
"""A channel that needs a smaller one is zero for every purpose; below about 1e-38 float32 has no full precision."""
BLOCK = 1 << 20
"""Elements of a weight that are worked on at a time, so that memory stays a small multiple of the codes."""


@dataclass(frozen=True, slots=True)
class Codes:
    """A weight's small form: `codes` in its shape (int8 or float16), `scales` (float32, shaped to broadcast against it; None: none), and `noise`, the mean
    square of what is lost relative to that of the weight."""

    codes: Array
    scales: Array | None
    noise: float

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return int(self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes))


def int8_codes(values: Array, axes: Sequence[int]) -> Codes:
    """Symmetric codes of finite `values`, a scale for each index along `axes` (increasing).

    A channel's scale is that one of max|w| * share / 127 which leaves the least squared error; no value within the reach of the codes is off by more than half a scale.
    """
    kept = tuple(values.shape[a] for a in axes)
    front = np.moveaxis(values, axes, range(len(axes)))
    rows = front.reshape(math.prod(kept), -1)
    codes = np.empty(rows.shape, np.int8)
    scales = np.empty(len(rows), np.float32)
    lost = power = 0.0
    step = max(1, BLOCK // max(1, rows.shape[1]))
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        block = rows[part].astype(np.float64)
        codes[part], scales[part], errors = _least_squares(block)
        lost += float(errors.sum())
        power += float(np.square(block).sum())
    codes = np.moveaxis(codes.reshape(front.shape), range(len(axes)), axes)
    shape = [values.shape[a] if a in axes else 1 for a in range(values.ndim)]
    return Codes(np.ascontiguousarray(codes), scales.reshape(shape), lost / power if power else 0.0)


def _least_squares(rows: Array) -> tuple[Array, Array, Array]:
    """Codes, scale and squared error of each row."""
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    alive = peaks >= SMALLEST_SCALE * LARGEST_CODE
    best = np.full(len(rows), np.inf)
    codes = np.zeros(rows.shape, np.int8)
    scales = np.ones(len(rows), np.float32)
    for share in SHARES:
        trial = np.where(alive, peaks * share / LARGEST_CODE, 1.0).astype(np.float32)
        wide = trial.astype(np.float64)[:, None]
        candidate = np.clip(np.rint(rows / wide), -LARGEST_CODE, LARGEST_CODE)
        errors = np.square(candidate * wide - rows).sum(axis=1)
        better = errors < best
        codes[better], scales[better], best[better] = candidate[better], trial[better], errors[better]
    return codes, scales, best


def float16_codes(values: Array) -> Codes | None:
    """`values` as 16-bit floats; None where one of them is beyond their range."""
    with np.errstate(over="ignore"):
        codes = values.astype(np.float16)
    if not np.array_equal(np.isfinite(codes), np.isfinite(values)):
        return None
    finite = np.isfinite(values)
    exact = values[finite].astype(np.float64)
    power = float(np.square(exact).sum())
    return Codes(codes, None, float(np.square(codes[finite].astype(np.float64) - exact).sum()) / power if power else 0.0)
