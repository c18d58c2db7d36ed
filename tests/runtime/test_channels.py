"""Outputs that join parts of unlike scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.runtime.compare import Comparison, ComparisonStatistic
from graphcompress.runtime.output_statistics import OutputStatistic

Array = np.ndarray[Any, Any]
AXES = pytest.mark.parametrize("axis", [1, 2])


def judged(*pairs: tuple[Array, Array]) -> Comparison:
    statistic = ComparisonStatistic(["y"], {"y": "value"})
    for r, c in pairs:
        statistic.update({"y": r}, {"y": c})
    return statistic.finish()


def joined(axis: int, *parts: tuple[int, float], seed: int = 0, feeds: int = 3) -> list[Array]:
    """Uniform values with `count` positions up to `scale` for each part, along an axis."""
    generator = np.random.default_rng(seed)
    arrays = [np.concatenate([generator.uniform(0, scale, (1, count, 50)) for count, scale in parts], axis=1).astype(np.float32) for _ in range(feeds)]
    return [np.ascontiguousarray(np.moveaxis(a, 1, axis)) for a in arrays]


def without(array: Array, axis: int, positions: slice) -> Array:
    changed = array.copy()
    np.moveaxis(changed, axis, 0)[positions] = 0
    return changed


@AXES
@pytest.mark.parametrize("small", [1.0, 3.0])
def test_each_part_is_held_against_its_own_scale(axis: int, small: float) -> None:
    """Four boxes in hundreds beside eight scores: all scores lost, one box lost, all a little off."""
    feeds = joined(axis, (4, 600.0), (8, small))
    lost = judged(*((r, without(r, axis, slice(4, None))) for r in feeds))
    assert lost.agreement is not None and lost.agreement < 0.1
    output = lost.outputs["y"]
    assert (output.decisions, output.disagreements) == (8 * 50 * 3, round((1 - lost.agreement) * 8 * 50 * 3))
    box = judged(*((r, without(r, axis, slice(0, 1))) for r in feeds))
    assert box.agreement == pytest.approx(1 - 0.25 * 0.95, abs=0.02)
    assert judged(*((r, (r * 1.02).astype(np.float32)) for r in feeds)).agreement == 1.0


@AXES
def test_where_no_part_is_worse_than_the_whole_all_elements_are_counted(axis: int) -> None:
    output = judged(*((r, r) for r in joined(axis, (4, 600.0), (8, 1.0)))).outputs["y"]
    assert (output.decisions, output.disagreements) == (12 * 50 * 3, 0)


@AXES
def test_three_scales(axis: int) -> None:
    feeds = joined(axis, (4, 5000.0), (4, 80.0), (4, 1.0))
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        found = judged(*((r, without(r, axis, part)) for r in feeds))
        assert found.agreement is not None and found.agreement < 0.1


@AXES
def test_rare_answers_have_the_scale_of_probabilities(axis: int) -> None:
    """A class that never comes up is 0.003 at most, with or without boxes beside it; an error of 0.004 there is none."""
    for parts in [((3, 0.9), (1, 0.003)), ((4, 600.0), (3, 0.9), (1, 0.003)), ((4, 600.0), (4, 0.003)), ((4, 600.0), (4, 1e-9))]:
        feeds = joined(axis, *parts)
        assert judged(*((r, (r + 0.004).astype(np.float32)) for r in feeds)).agreement == 1.0


@AXES
def test_a_continuum_of_scales_is_one_part_and_is_told_where_it_hides_half(axis: int) -> None:
    def spectrum(lowest: float) -> list[Array]:
        shape = [-1 if i == axis else 1 for i in range(3)]
        return [r * np.geomspace(1, lowest, 24).astype(np.float32).reshape(shape) for r in joined(axis, (24, 600.0))]

    told = judged(*((r, r) for r in spectrum(1e-4)))
    assert [f.id for f in told.findings] == ["compare/hidden-channels"] and f"of the 24 positions along axis {axis}" in told.findings[0].text
    assert judged(*((r, r) for r in spectrum(1e-2))).findings == ()
    assert judged(*((r / 600, r / 600) for r in spectrum(1e-4))).findings == ()  # probabilities


def test_values_that_are_not_finite_count_in_their_part() -> None:
    (r,) = joined(1, (4, 600.0), (8, 3.0), feeds=1)
    c = r.copy()
    c[0, 4:, :10] = np.nan
    both = r.copy()
    both[0, 5, :] = np.nan
    assert judged((r, c)).agreement == pytest.approx(0.8)
    assert judged((both, both)).agreement == 1.0


def test_always_zero_is_no_part() -> None:
    (r,) = joined(1, (4, 600.0), (8, 0.0), feeds=1)
    c = r.copy()
    c[0, 4:] = 20.0
    assert judged((r, c)).agreement == 1.0
    c[0, 4:] = 100.0
    assert judged((r, c)).agreement == pytest.approx(1 / 3)


def test_feeds_of_other_lengths_and_long_axes_have_no_parts() -> None:
    ragged = [joined(1, (4, 600.0), (n, 1.0), feeds=1)[0][..., :n] for n in (8, 9)]
    assert judged(*((r, without(r, 1, slice(4, None))) for r in ragged)).agreement == 1.0
    (long,) = joined(2, (500, 600.0), (4000, 1.0), feeds=1)
    assert judged((long[:, :3], without(long[:, :3], 2, slice(500, None)))).agreement == 1.0


@given(cut=st.integers(0, 4), seed=st.integers(0, 5), swap=st.booleans())
def test_parts_do_not_depend_on_how_feeds_were_split(cut: int, seed: int, swap: bool) -> None:
    feeds = joined(1, (3, 600.0), (5, 2.0), seed=seed, feeds=4)
    pairs = [(r, (r + np.random.default_rng(seed).normal(0, 0.1, r.shape)).astype(np.float32)) for r in feeds]

    def learned(part: list[tuple[Array, Array]]) -> OutputStatistic:
        statistic = OutputStatistic("value")
        for r, c in part:
            statistic.update(r, c)
        return statistic

    whole, left, right = learned(pairs), learned(pairs[:cut]), learned(pairs[cut:])
    before = right.finish().agreement
    merged = right.merge(left) if swap else left.merge(right)
    assert merged.finish().agreement == whole.finish().agreement
    if not swap:
        left.update(*pairs[0])
        assert right.finish().agreement == before  # nothing is shared with what was merged
