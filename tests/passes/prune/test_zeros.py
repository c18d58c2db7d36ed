"""Which entries of a matrix become zero, and what the others become."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.passes.prune.zeros import BLOCK, ZeroRule, zero_by_error, zero_by_magnitude

Array = np.ndarray[Any, Any]


def matrix(g: int, n: int, o: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, (g, n, o))


def correlated(n: int, seed: int = 0, rank: int = 0) -> Array:
    """Moments of inputs that are mixtures of fewer sources, and a little noise."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 1, (8 * n, rank or max(1, n // 3))) @ random.normal(0, 1, (rank or max(1, n // 3), n)) + random.normal(0, 0.3, (8 * n, n))
    return np.asarray(rows.T @ rows / len(rows))


def error(change: Array, moments: Array) -> float:
    return float(np.einsum("gno,gnm,gmo->", change, moments, change))


def by_error(weights: Array, moments: Array, rule: ZeroRule, taps: int = 1, zeros: Array | None = None) -> Array:
    return zero_by_error(weights, moments, rule, taps, weights == 0 if zeros is None else zeros)


def both(weights: Array, moments: Array, rule: ZeroRule, taps: int) -> list[Array]:
    return [zero_by_magnitude(weights, rule, taps), by_error(weights, moments, rule, taps)]


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.sampled_from([0.1, 0.25, 0.5, 0.9]))
def test_a_share_is_met_to_the_entry(g: int, channels: int, taps: int, o: int, share: float) -> None:
    weights, moments = matrix(g, channels * taps, o), np.stack([correlated(channels * taps, i) for i in range(g)])
    for result in both(weights, moments, ZeroRule(share), taps):
        assert (result == 0).sum() == int(np.ceil(share * weights.size - 1e-9))


@given(st.integers(1, 2), st.integers(1, 11), st.integers(1, 4), st.integers(1, 4), st.sampled_from([(2, 4), (1, 4), (1, 2), (4, 8)]))
def test_a_pattern_holds_for_each_output_and_tap(g: int, channels: int, taps: int, o: int, pattern: tuple[int, int]) -> None:
    """Of a last group that is not full as many stay as of a full one."""
    kept, group = pattern
    weights, moments = matrix(g, channels * taps, o), np.stack([correlated(channels * taps, i) for i in range(g)])
    for result in both(weights, moments, ZeroRule(pattern=pattern), taps):
        by_channel = (result != 0).reshape(g, channels, taps, o)
        for start in range(0, channels, group):
            part = by_channel[:, start : start + group]
            assert (part.sum(axis=1) == min(kept, part.shape[1])).all()


@pytest.mark.parametrize("rule", [ZeroRule(0.3), ZeroRule(0.5), ZeroRule(pattern=(2, 4))])
@pytest.mark.parametrize("n", [16, BLOCK + 32])
def test_the_error_is_far_below_that_of_plain_zeros_in_the_same_places(rule: ZeroRule, n: int) -> None:
    weights, moments = matrix(1, n, 12), correlated(n)[None]
    result = by_error(weights, moments, rule)
    plain = np.where(result == 0, 0, weights)
    assert error(result - weights, moments) < 0.6 * error(plain - weights, moments)
    assert error(result - weights, moments) < 0.7 * error(zero_by_magnitude(weights, rule, 1) - weights, moments)


@pytest.mark.parametrize("taps", [1, 2])
def test_zeros_in_front_leave_the_least_squares_solution(taps: int) -> None:
    """What becomes zero first is taken over by all others, in the best way there is."""
    weights, moments = matrix(1, 8, 3), correlated(8)[None]
    first = np.zeros((1, 8, 3), bool)
    first[0, : 8 // taps : taps] = True  # in front tap by tap: the channels of the first tap
    rule = ZeroRule(first.sum() / first.size)
    weights[first] *= 1e-3
    result = by_error(weights, moments, rule, taps, first)
    at, rest = np.flatnonzero(first[0, :, 0]), np.flatnonzero(~first[0, :, 0])
    best = weights[0, rest] + np.linalg.solve(moments[0][np.ix_(rest, rest)], moments[0][np.ix_(rest, at)] @ weights[0, at])
    assert ((result == 0) == first).all()
    np.testing.assert_allclose(result[0, rest], best, rtol=1e-9)


def test_inputs_without_correlation_keep_what_stays_as_it_is() -> None:
    """Then the cost is the square of a weight, and nothing can take over."""
    weights = matrix(1, 24, 5)
    rule = ZeroRule(0.5)
    np.testing.assert_allclose(by_error(weights, np.eye(24)[None], rule), zero_by_magnitude(weights, rule, 1), rtol=1e-12)


@pytest.mark.parametrize("rule", [ZeroRule(0.5), ZeroRule(pattern=(2, 4))])
def test_of_inputs_that_repeat_one_takes_the_place_of_both(rule: ZeroRule) -> None:
    random = np.random.default_rng(0)
    rows = np.repeat(random.normal(0, 1, (200, 8)), 2, axis=1)
    moments = (rows.T @ rows / 200 + 1e-6 * np.eye(16))[None]
    weights = matrix(1, 16, 4)
    result = by_error(weights, moments, rule)
    assert (result == 0).mean() == 0.5
    np.testing.assert_allclose(rows @ result[0], rows @ weights[0], atol=1e-3)


def test_the_order_of_outputs_does_not_matter() -> None:
    weights, moments, order = matrix(1, 16, 6), correlated(16)[None], [3, 5, 0, 1, 4, 2]
    np.testing.assert_array_equal(by_error(weights[:, :, order], moments, ZeroRule(0.5)), by_error(weights, moments, ZeroRule(0.5))[:, :, order])


def test_what_is_zero_stays_and_counts() -> None:
    weights, moments = matrix(1, 16, 6), correlated(16)[None]
    once = by_error(weights, moments, ZeroRule(0.5))
    np.testing.assert_array_equal(by_error(once, moments, ZeroRule(0.5)), once)
    fewer = by_error(once, moments, ZeroRule(0.25))
    assert ((fewer == 0) == (once == 0)).all()


def test_zeros_that_were_there_count_though_the_fit_moved_them() -> None:
    weights, moments = matrix(1, 16, 6), correlated(16)[None]
    zeros = np.random.default_rng(1).random(weights.shape) < 0.3
    result = by_error(weights, moments, ZeroRule(0.5), zeros=zeros)
    assert (result == 0).mean() == 0.5 and (result[zeros] == 0).all()


def test_rounding_does_not_ask_for_one_more() -> None:
    assert 0.07 * 100 > 7
    assert ZeroRule(0.07).count(100) == 7


def test_groups_share_one_count() -> None:
    """The second group has what the first one could not give: zeros that were there already."""
    weights, moments = matrix(2, 4, 4), np.stack([correlated(4), correlated(4, 1)])
    weights[0, 1:] = 0
    result = by_error(weights, moments, ZeroRule(0.5))
    assert ((result == 0).sum(), (result[1] == 0).sum()) == (16, 4)


def test_of_equal_weights_the_first_become_zero() -> None:
    np.testing.assert_array_equal(zero_by_magnitude(np.ones((1, 4, 2)), ZeroRule(0.5), 1)[0], [[0, 0], [0, 0], [1, 1], [1, 1]])
    np.testing.assert_array_equal(zero_by_magnitude(np.ones((1, 4, 1)), ZeroRule(pattern=(1, 2)), 1)[0, :, 0], [0, 1, 0, 1])
