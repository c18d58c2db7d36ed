"""Scales and zero points: of activations from their ranges, of weights and biases from their values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from graphcompress.ir.analysis.code_pairs import as_pairs, as_rows, from_pairs, from_rows, pair_sums, shortened
from graphcompress.passes.quantize.ranges import Range
from graphcompress.targets import Activation, Weight

Array = np.ndarray[Any, Any]
F32 = np.float32
# Scales that are tried where pairs of codes are bounded.
PAIR_STEPS = 9


class QuantizationParameters(NamedTuple):
    """How a tensor's values become codes: q = round(x / scale) + zero."""

    scale: float
    zero: int


def activation_scale(seen: Range, rules: Activation, bounds: tuple[float, float] = (-math.inf, math.inf)) -> QuantizationParameters:
    """Scale (exactly a float32) and zero point for values in `seen`; 0 is always a code.

    With `bounds`, no code stands for a value outside, but where codes are symmetric around zero: otherwise an activation with these bounds would not be redundant (the provider compares scale * (code - zero) in float32).
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
        # Codes to both sides of zero reach as far to both; no scale keeps them within a bound at 0.
        return QuantizationParameters(_within(scale, zero, rules, bounds) if zero == first else float(scale), zero)
    scale = F32((high - low) / (last - first))
    exact = first - low / float(scale)
    zeros = dict.fromkeys(int(np.clip(end, first, last)) for end in (np.ceil(exact), np.floor(exact)))
    choices = [(_within(scale, zero, rules, bounds), zero) for zero in zeros]
    # Where a bound makes the scale smaller, the other end falls short by that much of its length.
    return QuantizationParameters(*min(choices, key=lambda choice: max(choice[0] * (first - choice[1]) - low, high - choice[0] * (last - choice[1]))))


def _within(scale: np.float32, zero: int, rules: Activation, bounds: tuple[float, float]) -> float:
    """The largest scale up to `scale` with which no code stands for a value outside the bounds."""
    first, last = rules.codes
    limit = min(-bounds[0] / (zero - first) if zero > first else math.inf, bounds[1] / (last - zero) if last > zero else math.inf)
    if scale > limit:
        scale = F32(limit)
    while (zero > first and F32(scale * F32(first - zero)) < F32(bounds[0])) or (last > zero and F32(scale * F32(last - zero)) > F32(bounds[1])):
        scale = np.nextafter(scale, F32(0))
    return float(scale)


def scale_with_code(seen: Range, rules: Activation, value: float) -> QuantizationParameters:
    """Scale and zero point for values in `seen`, and for -`value`, a positive number, which is exactly a code: the scale is a whole part of it."""
    first, last = rules.codes
    low, high = min(0.0, seen.low, -value), max(0.0, seen.high)
    steps = max(1, math.floor(value * (last - first) / (high - low) * (1 + 1e-12)))
    scale = value / steps
    zero = min(max(first + round(-low / scale), first + steps), last)
    return QuantizationParameters(float(F32(scale)), zero)


def to_codes(values: Array, scale: QuantizationParameters, rules: Activation) -> Array:
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


def quantize_weight(
    weight: Array, axis: int, rules: Weight, *, groups: int = 1, bias: Array | None = None, x_scale: float = 1.0, limit: int = 2**30
) -> QuantizedWeight:
    """Symmetric codes, a scale per slice along `axis` (the same for all where the rules say "tensor"): max|w| / high.

    A channel of zeros gets the median scale. With `bias`, a channel's scale is raised until |bias| / (x_scale * scale) is below `limit`, because the bias becomes an int32 with that scale.
    The codes of a channel keep that bound (see `paired`); depthwise weights (`groups` = input channels = output channels) have a kernel that adds in 32 bits.
    """
    channels = weight.shape[axis]
    flat = as_rows(weight, axis).astype(np.float64)
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
    depthwise = groups > 1 and groups == channels and weight.shape[1] == 1
    codes, single = (_codes(flat, single, rules), single) if depthwise else paired(flat, single, rules)
    return QuantizedWeight(from_rows(codes.astype(rules.type), weight.shape, axis), single, axis)


def paired(flat: Array, scales: Array, rules: Weight) -> tuple[Array, Array]:
    """Codes of `flat` and scales of its rows, in which no two neighbours (2j, 2j + 1) of a row that have one sign add up to more than `pair_limit`.

    x86 processors without VNNI add the products of two such neighbours in 16 bits, with saturation (`vpmaddubsw`): 255 * 128 is the most that fits. A larger scale keeps the bound
    and rounds every code more coarsely; a smaller one has to shorten pairs. Each row takes the scale with the least squared error, out of PAIR_STEPS between the two extremes.
    """
    pairs = as_pairs(flat)
    codes = _codes(pairs, scales, rules)
    worst = pair_sums(codes).max(axis=1, initial=0.0)
    if rules.granularity == "tensor":
        worst = np.full(len(flat), worst.max(initial=0.0))
    over = np.flatnonzero(worst > rules.pair_limit)
    if over.size:
        rows, first = np.take(pairs, over, axis=1), scales[over].astype(np.float64)
        last = first * worst[over] / rules.pair_limit
        least, best = np.full(len(over), np.inf), scales[over]
        exact = np.empty_like(rows)
        for step in np.linspace(0.0, 1.0, PAIR_STEPS):
            trial = (first * (last / first) ** step).astype(F32)
            np.divide(rows, trial.astype(np.float64)[:, None], out=exact)
            exact -= shortened(exact, rules.pair_limit)
            error = np.einsum("prc,prc->r", exact, exact) * np.square(trial, dtype=np.float64)
            if rules.granularity == "tensor":
                error = np.full(len(over), error.sum())
            better = error < least
            least[better], best[better] = error[better], trial[better]
        scales = scales.copy()
        if rules.granularity == "tensor":  # rows that kept the bound follow the one scale
            over, rows, scales[:] = np.arange(len(flat)), pairs, best[0]
        else:
            scales[over] = best
        codes[:, over] = shortened(rows / scales[over].astype(np.float64)[:, None], rules.pair_limit)
    return from_pairs(codes, flat.shape[1]), scales


def _codes(flat: Array, scales: Array, rules: Weight) -> Array:
    """Weights in units of their scale as codes (of float64)."""
    codes: Array = np.rint(flat / scales.astype(np.float64)[:, None])
    return np.clip(codes, rules.low, rules.high, out=codes)


def bias_scale(x_scale: float, scales: Array) -> Array:
    """float32(x_scale * w_scale) of each channel: the scale of the int32 accumulator. The provider takes the codes as they are, so nothing else is right."""
    return F32(x_scale) * scales.astype(F32)


def quantize_bias(bias: Array, scale: Array) -> Array:
    """int32 codes of a bias with one value per channel."""
    codes = np.rint(bias.reshape(-1).astype(np.float64) / scale.astype(np.float64))
    return np.clip(codes, -(2**31), 2**31 - 1).astype(np.int32)
