"""Scales, zero points and codes: exact where the provider takes them as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.ir.analysis.code_pairs import shortened
from graphcompress.passes.quantize.parameters import (
    Array,
    QuantizationParameters,
    QuantizedWeight,
    activation_scale,
    bias_scale,
    quantize_bias,
    quantize_weight,
    to_codes,
)
from graphcompress.passes.quantize.ranges import Range
from graphcompress.targets import load_target

CPU = load_target("cpu")
EXACT = load_target("cpu-vnni").weight  # codes without a bound on pairs
INF = math.inf
ends = st.floats(-1e6, 1e6, width=32)


def dequantized(scale: QuantizationParameters) -> tuple[np.float32, np.float32]:
    """The least and the greatest value that a code stands for, in float32 as the provider computes them."""
    first, last = CPU.activation.codes
    return np.float32(scale.scale) * np.float32(first - scale.zero), np.float32(scale.scale) * np.float32(last - scale.zero)


@given(ends, ends)
def test_zero_is_a_code_and_the_range_is_covered_to_half_a_step(a: float, b: float) -> None:
    seen = Range(min(a, b), max(a, b))
    scale = activation_scale(seen, CPU.activation)
    first, last = CPU.activation.codes
    assert np.float32(scale.scale) == scale.scale > 0
    assert first <= scale.zero <= last
    low, high = dequantized(scale)
    if min(seen.low, 0) < max(seen.high, 0) - CPU.activation.constant_below:
        assert low <= min(seen.low, 0) + 0.51 * scale.scale
        assert high >= max(seen.high, 0) - 0.51 * scale.scale


@given(st.floats(0, 100, width=32), st.sampled_from([6.0, 1.0, 0.3, 20.0]))
def test_behind_a_relu_or_relu6_the_zero_point_is_zero_and_no_code_lies_outside(high: float, bound: float) -> None:
    assert activation_scale(Range(0.0, high), CPU.activation, (0.0, INF)).zero == 0
    scale = activation_scale(Range(0.0, high), CPU.activation, (0.0, bound))
    assert scale.zero == 0
    assert dequantized(scale)[1] <= np.float32(bound)


@given(st.floats(0.001, 10), st.floats(0.001, 10), st.floats(0.01, 20), st.floats(0.01, 20))
def test_no_code_lies_outside_the_bounds_of_a_clip(low: float, high: float, below: float, above: float) -> None:
    bounds = (-low, high)
    scale = activation_scale(Range(max(-below, -low), min(above, high)), CPU.activation, bounds)
    least, greatest = dequantized(scale)
    assert np.float32(bounds[0]) <= least
    assert greatest <= np.float32(bounds[1])


def test_six_is_reached_where_six_was_seen() -> None:
    scale = activation_scale(Range(0.0, 6.0), CPU.activation, (0.0, 6.0))
    assert scale.scale == pytest.approx(6 / 255, rel=1e-6)


@pytest.mark.parametrize("constant", [0.0, 1e-9, -1e-9, 1e-30])
def test_a_tensor_that_never_moved_has_a_harmless_scale(constant: float) -> None:
    scale = activation_scale(Range(min(constant, 0.0), max(constant, 0.0)), CPU.activation)
    assert 1e-3 < scale.scale < 1.0


def test_symmetric_activations_have_the_middle_code_for_zero() -> None:
    rules = CPU.activation.model_copy(update={"type": "int8", "symmetric": True})
    assert activation_scale(Range(-1.0, 3.0), rules) == QuantizationParameters(float(np.float32(3 / 127)), 0)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("symmetric", [False, True])
@given(
    st.floats(-300, 300, width=32), st.floats(-300, 300, width=32), st.sampled_from([(-INF, INF), (0.0, INF), (0.0, 6.0), (0.0, 0.3), (-1.0, 1.0), (-2.0, 7.0)])
)
def test_activations_of_any_table_keep_to_their_bounds_and_cover_the_rest(dtype: str, symmetric: bool, a: float, b: float, bounds: tuple[float, float]) -> None:
    """As codes stand for values in float32: none outside the bounds, 0 among them, both ends of what was seen as near as steps allow, and no coarser than that needs."""
    rules = CPU.activation.model_copy(update={"type": dtype, "symmetric": symmetric})
    first, last = rules.codes
    low, high = (min(max(v, bounds[0]), bounds[1]) for v in sorted((a, b)))
    low, high = min(low, 0.0), max(high, 0.0)
    scale, zero = activation_scale(Range(low, high), rules, bounds)
    codes = np.arange(first, last + 1)
    values = np.float32(scale) * (codes - zero).astype(np.float32)
    assert scale == np.float32(scale) > 0 and first <= zero <= last
    if not symmetric or zero == first:
        assert np.float32(bounds[0]) <= values.min() and values.max() <= np.float32(bounds[1])
    if high - low < rules.constant_below:
        assert scale < 0.1
        return
    half = 0.51 if -INF in bounds or INF in bounds else 1.01  # of two bounds one may fall between codes
    assert values.min() <= low + half * scale and values.max() >= high - half * scale
    if not rules.symmetric:
        assert scale <= 1.001 * (high - low) / (last - first)
    else:
        assert zero in (0, first, (first + last + 1) // 2)
        assert scale <= 1.001 * max(-low, high) / min(last - zero, zero - first or last)


@given(st.floats(0.6, 127.4), st.floats(0.6, 127.4), st.sampled_from([-1.0, 1.0]), st.sampled_from([64, 128]))
def test_a_pair_beyond_the_limit_becomes_the_nearest_one_that_is_not(a: float, b: float, sign: float, limit: int) -> None:
    exact = sign * np.array([[[a, 0.3]], [[b, -0.4]]])
    even, odd = shortened(exact, limit)[:, 0]
    assert (even[1], odd[1]) == (0, 0)  # its neighbour is not touched
    first, second = sign * even[0], sign * odd[0]
    if round(a) + round(b) <= limit:
        assert (first, second) == (np.rint(a), np.rint(b))
        return
    error = np.hypot(first - a, second - b)
    nearest = min(np.hypot(i - a, limit - i - b) for i in range(1, limit))
    assert first + second == limit and error <= nearest + 1e-9


def test_weights_have_their_own_scale_per_channel_and_never_the_code_minus_128() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 7, 3, 3)).astype(np.float32) * np.array([1e-3, 1, 10, 100, 1e-6], np.float32).reshape(-1, 1, 1, 1)
    made = quantize_weight(weight, 0, EXACT)
    assert made.codes.dtype == np.int8 and made.codes.shape == weight.shape
    assert made.scales.dtype == np.float32
    assert np.array_equal(made.scales, (np.abs(weight.astype(np.float64)).max((1, 2, 3)) / 127).astype(np.float32))
    assert np.abs(made.codes.astype(int)).max((1, 2, 3)).tolist() == [127] * 5
    assert np.all(np.abs(made.codes * made.scales.reshape(-1, 1, 1, 1) - weight) <= 0.5001 * made.scales.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("axis", [0, 1])
def test_the_axis_is_the_one_asked_for(axis: int) -> None:
    weight = np.outer([1.0, 2.0, 4.0], [1.0, 10.0, 100.0]).astype(np.float32)
    assert np.allclose(quantize_weight(weight, axis, EXACT).scales * 127, [100.0, 200.0, 400.0] if axis == 0 else [4.0, 40.0, 400.0])


def test_a_dead_channel_has_a_living_one_s_scale() -> None:
    weight = np.array([[0.0, 0.0], [1.27, 0.5], [2.54, 1.0]], np.float32)
    made = quantize_weight(weight, 0, EXACT)
    assert np.allclose(made.scales, [0.015, 0.01, 0.02])
    assert not made.codes[0].any()
    assert np.isfinite(quantize_weight(np.zeros((2, 3), np.float32), 0, EXACT).scales).all()


@given(st.floats(1e-12, 1e3), st.floats(1e-20, 1e2), st.floats(-1e6, 1e6))
def test_no_bias_code_comes_near_the_end_of_int32(x_scale: float, magnitude: float, value: float) -> None:
    weight = np.full((2, 4), magnitude, np.float32)
    bias = np.array([value, 0.0], np.float32)
    x_scale = float(np.float32(x_scale))
    made = quantize_weight(weight, 0, EXACT, bias=bias, x_scale=x_scale, limit=CPU.bias.limit)
    scale = bias_scale(x_scale, made.scales)
    codes = quantize_bias(bias, scale)
    assert np.abs(codes.astype(np.int64)).max() < 2**30
    assert abs(float(codes[0]) * float(scale[0]) - float(bias[0])) <= 0.5001 * float(scale[0]) + abs(float(bias[0])) * 1e-6


def test_the_scale_of_a_bias_is_the_float32_product() -> None:
    scales = np.random.default_rng(1).uniform(1e-4, 1e-2, 50).astype(np.float32)
    x_scale = float(np.float32(0.0371))
    assert np.array_equal(bias_scale(x_scale, scales), np.float32(x_scale) * scales)


def worst_pair(codes: Array) -> int:
    """The largest sum of one sign over neighbours (2j, 2j + 1) of rows."""
    rows = np.pad(codes.astype(int), ((0, 0), (0, codes.shape[1] % 2))).reshape(len(codes), -1, 2)
    return int(np.maximum(np.maximum(rows, 0).sum(-1), np.maximum(-rows, 0).sum(-1)).max())


def restored(weight: QuantizedWeight, axis: int) -> Array:
    """The values that the codes stand for."""
    return weight.codes * np.expand_dims(weight.scales.astype(np.float64), tuple(i for i in range(weight.codes.ndim) if i != axis))


@pytest.mark.parametrize(
    ("shape", "axis", "rows"),
    [
        ((6, 5, 3, 3), 0, lambda c: np.moveaxis(c, 1, -1).reshape(6, -1)),  # Conv: taps, then channels
        ((6, 4, 3), 0, lambda c: np.moveaxis(c, 1, -1).reshape(6, -1)),
        ((6, 3, 1, 3, 2), 0, lambda c: np.moveaxis(c, 1, -1).reshape(6, -1)),
        ((9, 6), 1, lambda c: c.T),  # Gemm, MatMul
        ((6, 9), 0, lambda c: c),  # Gemm with transB
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_pairs_that_meet_in_one_instruction_keep_the_limit(shape: tuple[int, ...], axis: int, rows: Callable[[Array], Array], seed: int) -> None:
    random = np.random.default_rng(seed)
    weight = (random.normal(0, 1, shape) + random.choice([0.0, 2.0])).astype(np.float32)
    bounded, free = quantize_weight(weight, axis, CPU.weight), quantize_weight(weight, axis, EXACT)
    assert worst_pair(rows(free.codes)) > 128  # else nothing is tested
    assert worst_pair(rows(bounded.codes)) <= 128
    # Never worse than the cure that only raises scales, and never further than one of its coarse steps from what was there.
    raised = free.scales.astype(np.float64) * worst_pair(rows(free.codes)) / 128
    assert np.abs(restored(bounded, axis) - weight).max() <= np.abs(restored(free, axis) - weight).max() + 16 * raised.max()
    noise = np.square(restored(bounded, axis) - weight).sum()
    assert noise <= 1.05 * sum(np.square(raised[i] / np.sqrt(12)) * weight.size / len(raised) for i in range(len(raised)))


def test_a_channel_that_keeps_the_pair_limit_is_not_touched() -> None:
    weight = np.array([[1.0, 1.0, 1.0], [1.0, 0.001, -1.0], [1.0, -1.0, 0.5]], np.float32)
    bounded, free = quantize_weight(weight, 0, CPU.weight), quantize_weight(weight, 0, EXACT)
    assert np.array_equal(bounded.codes[1:], free.codes[1:]) and np.array_equal(bounded.scales[1:], free.scales[1:])
    assert bounded.scales[0] > free.scales[0]
    assert bounded.codes[0].tolist() == [64, 64, 64]


def test_a_pair_limit_with_one_scale_for_all_channels() -> None:
    rules = CPU.weight.model_copy(update={"granularity": "tensor"})
    weight = np.random.default_rng(0).normal(0, 1, (8, 16)).astype(np.float32)
    bounded = quantize_weight(weight, 0, rules)
    assert len(set(bounded.scales.tolist())) == 1
    assert worst_pair(bounded.codes) <= 128


def test_depthwise_weights_need_no_pair_limit() -> None:
    weight = np.full((8, 1, 3, 3), 0.5, np.float32)
    assert (quantize_weight(weight, 0, CPU.weight, groups=8).codes == 127).all()
    assert (quantize_weight(weight, 0, CPU.weight, groups=4).codes != 127).any()  # two output channels a group: the general kernel


def test_constants_get_the_activation_s_type() -> None:
    scale = QuantizationParameters(0.5, 10)
    assert to_codes(np.array([-100.0, -5.0, 0.0, 1.0, 1000.0], np.float32), scale, CPU.activation).tolist() == [0, 0, 10, 12, 255]
