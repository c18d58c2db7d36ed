"""Scales and zero points: of activations from their ranges, of weights and biases from their values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from graphcompress.passes.quantize.ranges import Range
from graphcompress.targets import Activation, Weight

Array = np.ndarray[Any, Any]
F32 = np.float32


class Scale(NamedTuple):
    """How a tensor's values become codes: q = round(x / scale) + zero."""

    scale: float
    zero: int


def activation_scale(seen: Range, rules: Activation, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Scale:
    """Scale (exactly a float32) and zero point for values in `seen`; 0 is always a code.

    With `bounds`, no code stands for a value outside: otherwise an activation with these bounds would not be redundant (the provider compares scale * (code - zero) in float32).
    """
    first, last = rules.codes
    low, high = min(0.0, max(seen.low, bounds[0])), max(0.0, min(seen.high, bounds[1]))
    if rules.symmetric:
        reach = max(-low, high)
        low, high = (-reach, reach) if bounds[0] < 0 else (0.0, reach)
    if high - low < rules.constant_below:
        # Nothing to tell the size of a step from: one that is harmless whatever comes at run time.
        low, high = (-1.0 if bounds[0] < 0 else 0.0) if low < 0 else 0.0, 1.0
        low, high = max(low, bounds[0]), min(high, bounds[1])
    if rules.symmetric:
        zero = (first + last + 1) // 2 if low < 0 or first < 0 else first
        scale = F32(max(-low / (zero - first) if zero > first else 0.0, high / (last - zero)))
    else:
        scale = F32((high - low) / (last - first))
        zero = int(np.clip(np.rint(first - low / float(scale)), first, last))
    limit = min(-bounds[0] / (zero - first) if zero > first else math.inf, bounds[1] / (last - zero) if last > zero else math.inf)
    if scale > limit:
        scale = F32(limit)
    while (zero > first and F32(scale * F32(first - zero)) < F32(bounds[0])) or (last > zero and F32(scale * F32(last - zero)) > F32(bounds[1])):
        scale = np.nextafter(scale, F32(0))
    return Scale(float(scale), zero)


def to_codes(values: Array, scale: Scale, rules: Activation) -> Array:
    """Codes of a constant in the activation's type."""
    first, last = rules.codes
    codes: Array = np.clip(np.rint(values / F32(scale.scale)) + scale.zero, first, last).astype(rules.type)
    return codes


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """Codes in the weight's shape and one float32 scale per output channel."""

    codes: Array
    scales: Array
    axis: int


def quantize_weight(weight: Array, axis: int, rules: Weight, *, bias: Array | None = None, x_scale: float = 1.0, limit: int = 2**30) -> QuantizedWeight:
    """Symmetric codes, a scale per slice along `axis` (the same for all where the rules say "tensor"): max|w| / high.

    A channel of zeros gets the median scale. With `bias`, a channel's scale is raised until |bias| / (x_scale * scale) is below `limit`, because the bias becomes an int32 with that scale.
    Where the rules bound pairs, a channel's scale is raised until no two codes of one sign add up to more.
    """
    channels = weight.shape[axis]
    flat = np.moveaxis(weight, axis, 0).reshape(channels, -1).astype(np.float64)
    peak = np.abs(flat).max(axis=1)
    if rules.granularity == "tensor":
        peak = np.full(channels, peak.max())
    # floored before anything hangs on them; a scale is what float32 makes of it
    scales = peak / min(rules.high, -rules.low)
    alive = scales >= rules.smallest_scale
    scales[~alive] = np.median(scales[alive]) if alive.any() else 1.0
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.reshape(-1).astype(np.float64)) / (x_scale * limit) * (1 + 1e-6))
        if rules.granularity == "tensor":
            scales = np.full(channels, scales.max())
    single = scales.astype(F32)
    codes = _codes(flat, single, rules)
    if rules.pair_limit is not None and flat.shape[1] > 1:
        for _ in range(8):
            ends = np.sort(codes, axis=1)
            worst = np.maximum(np.maximum(ends[:, -1], 0) + np.maximum(ends[:, -2], 0), -(np.minimum(ends[:, 0], 0) + np.minimum(ends[:, 1], 0)))
            over = worst > rules.pair_limit
            if not over.any():
                break
            single = np.where(over, single * F32(1.0) * (worst / rules.pair_limit), single).astype(F32)
            codes = _codes(flat, single, rules)
    shape = (channels, *[d for i, d in enumerate(weight.shape) if i != axis])
    return QuantizedWeight(np.ascontiguousarray(np.moveaxis(codes.astype(rules.type).reshape(shape), 0, axis)), single, axis)


def _codes(flat: Array, scales: Array, rules: Weight) -> Array:
    return np.clip(np.rint(flat / scales.astype(np.float64)[:, None]), rules.low, rules.high)


def bias_scale(x_scale: float, scales: Array) -> Array:
    """float32(x_scale * w_scale) of each channel: the scale of the int32 accumulator. The provider takes the codes as they are, so nothing else is right."""
    return F32(x_scale) * scales.astype(F32)


def quantize_bias(bias: Array, scale: Array) -> Array:
    """int32 codes of a bias with one value per channel."""
    codes = np.rint(bias.reshape(-1).astype(np.float64) / scale.astype(np.float64))
    return np.clip(codes, -(2**31), 2**31 - 1).astype(np.int32)
