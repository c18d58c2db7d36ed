"""Moments of rows: the same whatever the parts, with all digits, without what is not finite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.reconstruction.gram import Gram, Moments


def rows(count: int, *, mean: float = 0.0, seed: int = 0, lead: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(mean, 1, (*lead, count, 4)), random.normal(-mean, 2, (*lead, count, 3))


def direct(x: np.ndarray, y: np.ndarray) -> Moments:
    mx, my = x.mean(axis=-2), y.mean(axis=-2)
    cx, cy = x - mx[..., None, :], y - my[..., None, :]
    return Moments(x.shape[-2], mx, my, np.swapaxes(cx, -1, -2) @ cx, np.swapaxes(cx, -1, -2) @ cy, np.square(cy).sum(axis=-2))


def same(a: Moments, b: Moments, rtol: float = 1e-10) -> None:
    assert a.rows == b.rows
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        expected = getattr(b, name)
        np.testing.assert_allclose(getattr(a, name), expected, rtol=rtol, atol=rtol * np.abs(expected).max(), err_msg=name)


@given(cuts=st.lists(st.integers(0, 30), max_size=4), merged=st.booleans())
def test_parts_give_the_moments_of_the_whole(cuts: list[int], merged: bool) -> None:
    x, y = rows(30, mean=3)
    whole = Gram()
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 30], strict=True):
        part = Gram() if merged else whole
        part.update(x[begin:end], y[begin:end])
        if merged:
            whole.merge(part)
    same(whole.finish(), direct(x, y))


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x, y = rows(50)
    gram = Gram()
    gram.update(x + 1e7, y - 1e7)
    np.testing.assert_allclose(gram.finish().xx, direct(x, y).xx, rtol=1e-6)


def test_groups_are_independent() -> None:
    x, y = rows(20, lead=(2,))
    gram = Gram()
    gram.update(x, y)
    same(gram.finish(), direct(x, y))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_left_out(bad: float) -> None:
    x, y = rows(10)
    broken_x, broken_y = x.copy(), y.copy()
    broken_x[2, 1] = broken_y[5, 0] = bad
    gram = Gram()
    gram.update(broken_x, broken_y)
    sound = np.delete(np.arange(10), [2, 5])
    same(gram.finish(), direct(x[sound], y[sound]))


def test_targets_may_be_left_out() -> None:
    x, _ = rows(10)
    gram = Gram()
    gram.update(x)
    np.testing.assert_allclose(gram.finish().xx, direct(x, x).xx)


def test_without_rows_there_is_nothing() -> None:
    gram = Gram()
    gram.update(np.zeros((0, 4)), np.zeros((0, 3)))
    assert gram.merge(Gram()).finish().rows == 0


def test_moments_about_zero_are_those_of_the_raw_rows() -> None:
    x, y = rows(20, mean=2)
    gram = Gram()
    gram.update(x, y)
    raw = gram.finish().about_zero()
    np.testing.assert_allclose(raw.xx, x.T @ x)
    np.testing.assert_allclose(raw.xy, x.T @ y)
    np.testing.assert_allclose(raw.yy, np.square(y).sum(axis=0))
    assert not raw.mean_x.any() and not raw.mean_y.any()
