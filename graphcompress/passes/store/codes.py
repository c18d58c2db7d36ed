"""Weights as codes: 8 bits and a scale per channel, or 16-bit floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LARGEST_CODE = 127
SHARES = np.linspace(1.0, 0.6, 9)
"""What part of a channel's largest magnitude the largest code may stand for: what lies beyond is cut off, and all else is rounded more finely."""
SMALLEST_SCALE = 1e-30
"""A channel that needs a smaller one is zero for every purpose; below about 1e-38 float32 has no full precision."""
BLOCK = 1 << 20
"""Elements of a weight that are worked on at a time, so that memory stays a small multiple of the codes."""
EXPONENTS = (0.5, 1.0)
"""How much of the unlike size of the slices along another axis is taken out before rounding; all of it may make values unlike that were alike."""
FLOAT16_END = 65520.0  # what is no smaller is rounded to infinity
ROUNDS = 4  # of making rows and columns alike in turn; more change nothing that is seen in 8 bits

WORD = 32  # bits

F32 = np.float32


@dataclass(frozen=True, slots=True)
class Codes:
    """A weight's small form: `codes` in its shape (int8 or float16), `scales`, the float32 arrays that they are to be multiplied by one after the other (each shaped to
    broadcast), and `noise`, the mean square of what is lost relative to that of the weight. With fewer than 8 `bits`, codes are from -2^(bits-1) on and are packed into words."""

    codes: Array
    scales: tuple[Array, ...]
    noise: float
    bits: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        stored = 4 * math.ceil(self.codes.size / codes_per_word(self.bits)) if self.bits else self.codes.nbytes
        return int(stored + sum(scale.nbytes for scale in self.scales))

    @property
    def kind(self) -> str:
        """As records name it: "int8", "float16", "int4"."""
        return f"int{self.bits}" if self.bits else str(self.codes.dtype)


def codes_per_word(bits: int) -> int:
    """How many codes one word of 32 bits holds."""
    return WORD // bits


def packed(codes: Array, bits: int) -> Array:
    """Codes as words [words, 1] of uint32, the first code in the lowest bits, 0 for the lowest code."""
    count = codes_per_word(bits)
    flat = codes.reshape(-1).astype(np.int64) + (1 << bits - 1)
    rows = np.concatenate([flat, np.zeros(-len(flat) % count, np.int64)]).reshape(-1, count)
    words: Array = (rows << (bits * np.arange(count))).sum(axis=1, keepdims=True).astype(np.uint32)
    return words


def int8_codes(values: Array, axes: Sequence[int], factors: Array | None = None) -> Codes:
    """Symmetric codes of finite `values`, a scale for each index along `axes` (increasing), and `factors` (positive, shaped to broadcast) by which values are divided before.

    A channel's scale is that one of max|w| * share / 127 which leaves the least squared error; no value within the reach of the codes is off by more than half a scale.
    """
    kept = tuple(values.shape[a] for a in axes)
    front = np.moveaxis(values, axes, range(len(axes)))
    rows = front.reshape(math.prod(kept), -1)
    spread = None if factors is None else np.moveaxis(np.broadcast_to(factors, values.shape), axes, range(len(axes))).reshape(rows.shape)
    codes = np.empty(rows.shape, np.int8)
    scales = np.empty(len(rows), F32)
    lost = power = 0.0
    step = max(1, BLOCK // max(1, rows.shape[1]))
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        codes[part], scales[part], errors = _least_squares(rows[part], None if spread is None else spread[part])
        lost += float(errors.sum())
        power += float(np.square(rows[part], dtype=np.float64).sum())
    codes = np.moveaxis(codes.reshape(front.shape), range(len(axes)), axes)
    shape = [values.shape[a] if a in axes else 1 for a in range(values.ndim)]
    first = scales.reshape(shape)
    return Codes(np.ascontiguousarray(codes), (first,) if factors is None else (first, factors), lost / power if power else 0.0)


def _least_squares(rows: Array, spread: Array | None) -> tuple[Array, Array, Array]:
    """Codes, scale and squared error of each row."""
    even = np.asarray(rows if spread is None else rows / spread, F32)
    peaks = np.abs(even).max(axis=1, initial=0.0)
    alive = peaks >= SMALLEST_SCALE * LARGEST_CODE
    best = np.full(len(rows), np.inf)
    codes = np.zeros(rows.shape, np.int8)
    scales = np.ones(len(rows), F32)
    for share in SHARES:
        trial = np.where(alive, peaks * share / LARGEST_CODE, 1.0).astype(F32)
        candidate = np.rint(even / trial[:, None])
        np.clip(candidate, -LARGEST_CODE, LARGEST_CODE, out=candidate)
        off = candidate * trial[:, None] - even
        if spread is not None:
            off *= spread
        errors = np.square(off).sum(axis=1, dtype=np.float64)
        better = errors < best
        codes[better], scales[better], best[better] = candidate[better], trial[better], errors[better]
    return codes, scales, best


def slice_factors(values: Array, axes: Sequence[int], axis: int) -> Array:
    """How large the slices of `values` along `axis` are beside one another, once those along `axes` are made alike: root mean squares, float32, with 1 as their geometric mean,
    shaped to broadcast. Rows and columns are divided by theirs in turn, as Sinkhorn and Knopp do with sums."""
    others = tuple(a for a in range(values.ndim) if a not in (*axes, axis))
    power = np.moveaxis(np.square(values, dtype=np.float64).mean(axis=others, keepdims=True), axis, -1)
    shape = [values.shape[axis] if a == axis else 1 for a in range(values.ndim)]
    rows = power.reshape(-1, values.shape[axis])
    rows = rows[rows.max(axis=1, initial=0.0) > 0]
    column = np.ones(values.shape[axis])
    for _ in range(ROUNDS if rows.size else 0):
        row = (rows / column).mean(axis=1, keepdims=True)
        column = (rows / row).mean(axis=0)
        column[column <= 0] = 1.0
    root = np.sqrt(column)
    factors: Array = (root / np.exp(np.log(root).mean())).astype(F32)
    return factors.reshape(shape)


def fits_float16(values: Array) -> bool:
    """Whether all finite `values` are finite as 16-bit floats."""
    return float(np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max(initial=0.0)) < FLOAT16_END


def float16_codes(values: Array) -> Codes:
    """`values`, which must fit, as 16-bit floats; `noise` is that of the finite ones."""
    codes = values.astype(np.float16)
    finite = np.isfinite(values)
    exact = values[finite].astype(np.float64)
    power = float(np.square(exact).sum())
    return Codes(codes, (), float(np.square(codes[finite].astype(np.float64) - exact).sum()) / power if power else 0.0)
