"""Weights as codes: laws of the 8-bit and 16-bit forms."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphcompress.passes.store.codes import EXPONENTS, LARGEST_CODE, SHARES, Codes, fits_float16, float16_codes, int8_codes, slice_factors
from graphcompress.passes.store.run import small_codes

WEIGHTS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6), elements=st.floats(-1e6, 1e6, width=32))


def restored(codes: Codes) -> np.ndarray[Any, Any]:
    """What a runtime makes of them."""
    return functools.reduce(np.multiply, codes.scales, codes.codes.astype(np.float32))


@given(WEIGHTS, st.data())
def test_no_value_within_reach_is_off_by_more_than_half_a_scale(values: np.ndarray[Any, Any], data: st.DataObject) -> None:
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, values.ndim - 1)))))
    codes = int8_codes(values, axes)
    assert codes.codes.shape == values.shape and codes.codes.dtype == np.int8
    assert codes.scales[0].shape == tuple(values.shape[a] if a in axes else 1 for a in range(values.ndim))
    assert int(np.abs(codes.codes.astype(int)).max(initial=0)) <= LARGEST_CODE
    scales = np.broadcast_to(codes.scales[0].astype(np.float64), values.shape)
    reachable = np.abs(values) <= LARGEST_CODE * scales
    off = np.abs(codes.codes * scales - values)
    assert (off[reachable] <= 0.5 * scales[reachable] * (1 + 1e-6)).all()
    assert (np.abs(codes.codes)[~reachable] == LARGEST_CODE).all()


@given(WEIGHTS)
def test_the_noise_is_that_of_what_the_runtime_restores(values: np.ndarray[Any, Any]) -> None:
    codes = int8_codes(values, (0,))
    power = float(np.square(values, dtype=np.float64).sum())
    lost = float(np.square(restored(codes).astype(np.float64) - values).sum())
    assert codes.noise == pytest.approx(lost / power if power else 0.0, rel=1e-3, abs=1e-12)


def test_the_scale_of_each_channel_has_the_least_error_of_those_tried() -> None:
    values = np.random.default_rng(0).standard_normal((4, 20_000)).astype(np.float32)
    values[0, 0] = 6.0  # worth cutting off a little
    codes = int8_codes(values, (0,))
    for row in range(4):
        peak = np.abs(values[row]).max()
        errors = []
        for scale in peak * SHARES / LARGEST_CODE:
            rounded = np.clip(np.rint(values[row] / scale), -LARGEST_CODE, LARGEST_CODE)
            errors.append(float(np.square(rounded * scale - values[row]).sum()))
        assert float(np.square(restored(codes)[row] - values[row]).sum()) == pytest.approx(min(errors), rel=1e-4)
    assert codes.scales[0][0, 0] < np.float32(6 / LARGEST_CODE)


@given(WEIGHTS.filter(lambda w: w.ndim > 1), st.data())
def test_factors_are_positive_with_a_geometric_mean_of_one(values: np.ndarray[Any, Any], data: st.DataObject) -> None:
    first, second = sorted(data.draw(st.permutations(range(values.ndim)))[:2])
    factors = slice_factors(values, (first,), second)
    assert factors.shape == tuple(values.shape[a] if a == second else 1 for a in range(values.ndim)) and factors.dtype == np.float32
    assert (factors > 0).all() and np.log(factors.astype(np.float64)).mean() == pytest.approx(0, abs=1e-3)


def test_factors_find_what_a_matrix_was_multiplied_by_and_codes_bear_it() -> None:
    random = np.random.default_rng(4)
    plain = random.standard_normal((64, 50)).astype(np.float32)
    columns = np.exp(random.normal(0, 1, (1, 50)))
    scaled = (plain * columns * np.exp(random.normal(0, 1, (64, 1)))).astype(np.float32)
    factors = slice_factors(scaled, (0,), 1)
    assert np.allclose(factors, columns / np.exp(np.log(columns).mean()), rtol=0.4)
    codes = int8_codes(scaled, (0,), factors)
    assert codes.scales[1] is factors and codes.noise < 0.5 * int8_codes(scaled, (0,)).noise
    lost = np.square(restored(codes).astype(np.float64) - scaled).sum() / np.square(scaled, dtype=np.float64).sum()
    assert codes.noise == pytest.approx(lost, rel=1e-3)


def test_a_finer_division_into_channels_never_loses_more() -> None:
    values = np.random.default_rng(1).standard_normal((6, 5, 4)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)[:, None, None]
    for few, more in itertools.pairwise([(), (0,), (0, 2)]):
        assert int8_codes(values, more).noise <= int8_codes(values, few).noise


def test_channels_of_zeros_and_of_next_to_nothing_are_zero() -> None:
    values = np.zeros((3, 4), np.float32)
    values[1] = 1e-40
    values[2] = 1.0
    codes = int8_codes(values, (0,))
    assert codes.codes[:2].tolist() == [[0] * 4] * 2 and np.allclose(restored(codes)[2], 1.0)
    assert np.isfinite(codes.scales[0]).all() and (codes.scales[0] > 0).all()


def test_a_large_weight_is_worked_on_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).standard_normal((7, 10)).astype(np.float32)
    whole = int8_codes(values, (0,))
    monkeypatch.setattr("graphcompress.passes.store.codes.BLOCK", 20)
    parts = int8_codes(values, (0,))
    assert np.array_equal(whole.codes, parts.codes) and np.array_equal(whole.scales[0], parts.scales[0])
    assert parts.noise == pytest.approx(whole.noise)


def test_float16_keeps_what_is_not_finite() -> None:
    codes = float16_codes(np.array([1.0, -np.inf, np.nan, 0.1], np.float32))
    assert codes.scales == () and codes.nbytes == 8
    assert np.array_equal(restored(codes)[:2], [1.0, -np.inf]) and np.isnan(restored(codes)[2])
    assert codes.noise == pytest.approx((np.float64(np.float16(0.1)) - 0.1) ** 2 / 1.01, rel=1e-3)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_what_fits_float16_stays_finite(value: float) -> None:
    values = np.array([value, np.inf, np.nan], np.float32)
    with np.errstate(over="ignore"):
        assert fits_float16(values) == bool(np.isfinite(values[:1].astype(np.float16)).all())


@pytest.mark.parametrize(("unlike", "worth"), [(0.3, False), (1.0, True)])
def test_factors_are_stored_where_they_pay(unlike: float, worth: bool) -> None:
    """Columns of unlike size lose less with factors of their own; a little less is not worth a second Mul."""
    random = np.random.default_rng(4)
    values = (random.standard_normal((64, 64)) * np.exp(random.normal(0, unlike, (1, 64)))).astype(np.float32)
    best = int8_codes(values, (0,)).noise
    finer = min(int8_codes(values, (0,), slice_factors(values, (0,), 1) ** exponent).noise for exponent in EXPONENTS)
    assert finer < best  # in both cases it would be less
    codes = small_codes(values, (0,))
    assert len(codes.scales) == (2 if worth else 1)
    assert codes.noise == pytest.approx(finer if worth else best)
