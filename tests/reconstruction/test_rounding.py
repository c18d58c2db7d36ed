"""Rounding to few levels: codes and scales, and what error feedback is good for."""

from __future__ import annotations

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


@pytest.mark.parametrize("bits", [3, 4])
def test_inputs_behind_take_over_what_they_can(bits: int) -> None:
    matrix, moments = problem()
    fed_back, nearest = (error(levels.values - matrix, moments) for levels in (round_by_error(matrix, moments, bits), round_to_nearest(matrix, bits)))
    assert fed_back < 0.35 * nearest


def test_inputs_that_have_nothing_to_do_with_one_another_are_rounded_by_themselves() -> None:
    matrix, _ = problem()
    np.testing.assert_array_equal(round_by_error(matrix, np.eye(160)[None], 4).codes, round_to_nearest(matrix, 4).codes)


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
