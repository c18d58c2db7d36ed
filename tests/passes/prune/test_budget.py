"""The search for widths."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from topologies import TOPOLOGIES

from graphcompress.ir.analysis.statistics import statistics
from graphcompress.passes.prune.budget import allowed_widths, hull, search_widths
from graphcompress.passes.prune.costs import Factor, ProductCost, WidthCost
from graphcompress.passes.prune.cut import cut
from graphcompress.passes.prune.groups import find_groups


def chain(*sizes: int) -> WidthCost:
    """Layers between groups of these sizes."""
    one = np.eye(len(sizes))
    factors = [Factor(one[i], 0, size) for i, size in enumerate(sizes)]
    return WidthCost([ProductCost(None, a.length * b.length, (a, b)) for a, b in pairwise(factors)], 5.0, len(sizes))  # type: ignore[arg-type]


def test_allowed_widths() -> None:
    assert allowed_widths(20, 8, 2) == [20, 16, 8]
    assert allowed_widths(6, 1, 2) == [6, 5, 4, 3, 2]
    assert allowed_widths(100, 1, 2)[-1] == 10  # a tenth stays
    assert allowed_widths(16, 16, 2) == [16]


@given(st.lists(st.floats(0, 10), min_size=2, max_size=12))
def test_the_hull_is_convex_and_below(errors: list[float]) -> None:
    curve = np.cumsum(errors)
    widths = list(range(len(curve), 0, -1))
    points = hull((w, float(curve[len(curve) - w])) for w in widths)
    assert points[0][0] == widths[0] and points[-1][0] == widths[-1]
    slopes = [(b[1] - a[1]) / (a[0] - b[0]) for a, b in pairwise(points)]
    assert all(x <= y + 1e-9 for x, y in pairwise(slopes))
    for w in widths:
        assert np.interp(-w, [-p[0] for p in points], [p[1] for p in points]) <= curve[len(curve) - w] + 1e-9


@pytest.mark.parametrize("goal", [0.8, 0.5, 0.2])
def test_the_goal_is_reached_at_nearly_the_least_error(goal: float) -> None:
    cost = chain(6, 8, 7)
    random = np.random.default_rng(1)
    errors = [np.concatenate([[0.0], np.cumsum(np.sort(random.exponential(1, size)))]) for size in (6, 8, 7)]
    curves = [hull((w, float(e[size - w])) for w in allowed_widths(size, 1, 2)) for e, size in zip(errors, (6, 8, 7), strict=True)]
    whole = cost.at(np.array([6, 8, 7]))
    widths = search_widths(curves, cost, goal * whole)
    assert cost.at(widths) <= goal * whole
    total = sum(float(e[s - w]) for e, s, w in zip(errors, (6, 8, 7), widths.tolist(), strict=True))
    best = min(
        sum(float(e[s - w]) for e, s, w in zip(errors, (6, 8, 7), w3, strict=True))
        for w3 in product(range(2, 7), range(2, 9), range(2, 8))
        if cost.at(np.array(w3)) <= goal * whole
    )
    assert total <= 1.25 * best


def test_out_of_reach_is_as_narrow_as_allowed() -> None:
    cost = chain(6, 8)
    curves = [hull((w, float(size - w)) for w in allowed_widths(size, 1, 2)) for size in (6, 8)]
    assert search_widths(curves, cost, 0.0).tolist() == [2, 2]


@pytest.mark.parametrize("name", ["residual", "dense", "grouped", "excite", "unet", "flat", "separate_attention", "packed_attention"])
def test_expected_costs_are_those_of_the_cut_model(name: str, tools: Any) -> None:
    model = TOPOLOGIES[name][0](tools.Small())
    shapes = {"x": (1, 5, 16)} if "attention" in name else None
    groups = find_groups(model, shapes)
    keep = np.ones(len(groups.group_of), bool)
    widths = groups.widths
    for index, group in enumerate(groups.groups):
        lost = [u for block in group.partition for u in block[: len(block) // 2]]
        widths[index] -= len(lost)
        keep[group.units[lost]] = False
    before, after = statistics(model, shapes), statistics(cut(groups.algebra, keep).model, shapes)
    assert before.macs == pytest.approx(groups.macs.at(groups.widths))
    assert after.macs == pytest.approx(groups.macs.at(widths))
