"""Rounding to few levels: codes and scales, and what error feedback is good for."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from graphcompress.reconstruction.rounding import code_range, column_scales, round_by_error, round_to_nearest

Array = np.ndarray[Any, Any]


def problem(n: int = 160, o: int = 12) -> tuple[Array, Array]:
    """A matrix [1, n, o], and moments of inputs that are mixtures of fewer sources: more inputs than a block."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((600, n // 4)) @ rng.standard_normal((n // 4, n)) + 0.3 * rng.standard_normal((600, n))
    return rng.standard_normal((1, n, o)), (x.T @ x)[None]


def error(change: Array, moments: Array) -> float:
    return float(np.einsum("gno,gnm,gmo->", change, moments, change))


@pytest.mark.parametrize("bits", [3, 4])
def test_values_are_codes_times_scales(bits: int) -> None:
    matrix, moments = problem()
    low, high = code_range(bits)
    for levels in (round_by_error(matrix, moments, bits), round_to_nearest(matrix, bits)):
        assert levels.codes.dtype == np.int8 and levels.codes.min() >= low and levels.codes.max() <= high
        assert levels.scales.shape == (1, 1, 12) and levels.scales.dtype == np.float32
        np.testing.assert_array_equal(levels.values, levels.codes * levels.scales.astype(np.float64))
    nearest = round_to_nearest(matrix, bits)
    inside = np.abs(matrix / nearest.scales) < high
    assert np.abs(nearest.values - matrix)[inside].max() <= 0.51 * np.abs(nearest.scales).max()


@pytest.mark.parametrize("inputs", [64, 70])
def test_blocks_of_inputs_have_scales_of_their_own(inputs: int) -> None:
    matrix, moments = problem(inputs, 6)
    matrix[:, 16:32] *= 20
    fed_back, nearest, shared = round_by_error(matrix, moments, 4, block=16), round_to_nearest(matrix, 4, 16), round_by_error(matrix, moments, 4)
    for levels in (fed_back, nearest):
        assert levels.scales.shape == (1, -(-inputs // 16), 6)
        np.testing.assert_array_equal(levels.values[0, 16:32], levels.codes[0, 16:32] * levels.scales[0, 1].astype(np.float64))
    errors = [error(levels.values - matrix, moments) for levels in (fed_back, nearest, shared)]
    assert errors[0] < 0.5 * errors[1] and errors[0] < 0.2 * errors[2]
    better = round_by_error(matrix, moments, 4, 50, block=16)
    least = error(better.values - matrix, moments)
    for index, factor in itertools.product(np.ndindex(*better.scales.shape), (0.999, 1.001)):
        scales = better.scales.astype(np.float64)
        scales[index] *= factor
        moved = better.codes * np.repeat(scales, 16, axis=1)[:, :inputs]
        assert error(moved - matrix, moments) >= least * (1 - 1e-6)


@pytest.mark.parametrize("bits", [3, 4])
def test_inputs_behind_take_over_what_they_can(bits: int) -> None:
    matrix, moments = problem()
    fed_back, nearest = (error(levels.values - matrix, moments) for levels in (round_by_error(matrix, moments, bits), round_to_nearest(matrix, bits)))
    assert fed_back < 0.25 * nearest


@pytest.mark.parametrize("bits", [3, 4])
def test_no_other_code_and_no_other_scale_is_better(bits: int) -> None:
    matrix, moments = problem(40, 5)
    levels = round_by_error(matrix, moments, bits, 50)
    least = error(levels.values - matrix, moments)
    low, high = code_range(bits)
    for place in np.ndindex(*levels.codes.shape):
        for step in (-1, 1):
            codes = levels.codes.copy()
            codes[place] = np.clip(codes[place] + step, low, high)
            assert error(codes * levels.scales.astype(np.float64) - matrix, moments) >= least * (1 - 1e-6)
    for column, factor in itertools.product(range(5), (0.999, 1.001)):
        scales = levels.scales.astype(np.float64)
        scales[0, 0, column] *= factor
        assert error(levels.codes * scales - matrix, moments) >= least * (1 - 1e-6)


@pytest.mark.parametrize("bits", [3, 4])
def test_polishing_makes_no_column_worse(bits: int) -> None:
    matrix, moments = problem(200)
    costs = []
    for rounds in (0, 1, 4):
        off = (round_by_error(matrix, moments, bits, rounds).values - matrix)[0]
        costs.append((off * (moments[0] @ off)).sum(axis=0))
    assert (costs[1] <= costs[0] * (1 + 1e-6)).all() and (costs[2] <= costs[1] * (1 + 1e-6)).all() and costs[2].sum() < 0.85 * costs[0].sum()


def test_inputs_that_have_nothing_to_do_with_one_another_are_rounded_by_themselves() -> None:
    matrix, _ = problem()
    np.testing.assert_array_equal(round_by_error(matrix, np.eye(160)[None], 4, 0).codes, round_to_nearest(matrix, 4).codes)
    levels, nearest = round_by_error(matrix, np.eye(160)[None], 4), round_to_nearest(matrix, 4)
    assert (levels.codes != np.clip(np.rint(matrix / levels.scales), *code_range(4))).mean() < 0.01  # a scale is put right once more after the codes
    assert 0.97 < error(levels.values - matrix, np.eye(160)[None]) / error(nearest.values - matrix, np.eye(160)[None]) <= 1


def test_groups_are_independent() -> None:
    matrix, moments = problem(40)
    two = round_by_error(np.concatenate([matrix, 2 * matrix]), np.concatenate([moments, moments[:, ::-1, ::-1]]), 4)
    np.testing.assert_array_equal(two.codes[0], round_by_error(matrix, moments, 4).codes[0])
    np.testing.assert_array_equal(two.codes[1], round_by_error(2 * matrix, moments[:, ::-1, ::-1], 4).codes[0])


def test_the_largest_magnitude_may_take_the_longer_end() -> None:
    column = np.array([[4.0], [1.0], [-3.0], [2.0], [0.0]])
    scales = column_scales(column, np.ones(5), 3)
    assert scales[0] == -1.0  # codes -4 to 3 hold all of it exactly
    assert column_scales(-column, np.ones(5), 3)[0] == 1.0


def test_rows_count_by_their_weights() -> None:
    column = np.array([[10.0], [1.0], [0.9], [1.1]])
    alike, small = (abs(float(column_scales(column, np.array(w), 3)[0])) for w in ([1, 1, 1, 1], [0, 1, 1, 1]))
    assert small < alike


def test_a_column_of_zeros_stays_zero() -> None:
    assert not round_to_nearest(np.zeros((1, 4, 2)), 4).values.any()
