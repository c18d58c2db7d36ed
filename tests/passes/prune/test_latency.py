"""Time as a cost of widths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from topologies import TOPOLOGIES

from graphcompress.passes.prune import Options, latency, prune
from graphcompress.passes.prune import run as step
from graphcompress.passes.prune.costs import Factor
from graphcompress.passes.prune.cut import Cut, cut
from graphcompress.passes.prune.groups import Groups, find_groups
from graphcompress.passes.prune.latency import LatencyCost, measured_time
from graphcompress.step import Context


def at_part(groups: Groups, part: float) -> tuple[Any, Cut]:
    keep = np.ones(len(groups.group_of), bool)
    for group in groups.groups:
        keep[group.units[: group.size - max(2, round(part * group.size))]] = False
    return groups.widths_of(keep), cut(groups.algebra, keep)


def test_the_time_of_a_node_is_read_off_its_table() -> None:
    factor = Factor(np.array([1.0, 0.0]), 0, 16)
    cost = LatencyCost(None, (factor,), np.array([[0.25, 2.0], [0.5, 3.0], [1.0, 8.0]]))  # type: ignore[arg-type]
    assert [cost.at(np.array([width, 5])) for width in (16, 12, 8, 4, 2)] == [8.0, 5.5, 3.0, 2.0, 1.5]


def test_the_table_has_what_was_measured(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With times that are the multiply-accumulates plus a constant for each node, the table is right at what was measured and near it elsewhere."""
    model = TOPOLOGIES["residual"][0](tools.Small())
    groups = find_groups(model)
    sizes = {node: p.at for p in groups.macs.products for node in [p.owner]}  # type: ignore[attr-defined]
    cuts = [at_part(groups, part) for part in (0.75, 0.5, 0.25)]

    def times(model: Any, *_: Any, **__: Any) -> dict[Any, float]:
        widths, twins = next(((w, c.twins) for w, c in cuts if c.model is model), (groups.widths, None))
        return {node if twins is None else twins.node(node): 1000.0 + at(widths) for node, at in sizes.items()}

    monkeypatch.setattr(latency, "node_times", times)
    cost = measured_time(groups, cuts, {}, Context())
    for widths, _ in [*cuts, (groups.widths, None)]:
        assert cost.at(widths) == pytest.approx(len(sizes) * 1000 + groups.macs.at(widths) - groups.macs.other)
    uneven = groups.widths
    uneven[0] //= 2
    assert cost.at(uneven) == pytest.approx(len(sizes) * 1000 + groups.macs.at(uneven) - groups.macs.other, rel=0.1)


@pytest.mark.parametrize("overhead", [0.0, 0.2])
def test_what_is_measured_corrects_what_the_table_expects(overhead: float, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here time is the share of the multiply-accumulates and an overhead that no table knows."""
    model = TOPOLOGIES["residual"][0](tools.Small())
    groups = find_groups(model)
    monkeypatch.setattr(step, "measured_time", lambda groups, *_: groups.macs)
    monkeypatch.setattr(step, "slowness_of_two", lambda *_: {})

    def share(original: Any, candidate: Any, *_: Any) -> float:
        from graphcompress.ir.analysis.statistics import statistics

        return overhead + (1 - overhead) * float(statistics(candidate).macs or 0) / float(statistics(original).macs or 1)

    monkeypatch.setattr(step, "time_share", share)
    result = prune(model, Context(data=tools.feeds(model, 16), threads=1), Options(latency=0.6, round_to=1)).boldest
    assert 0.5 < result.decisions["reached"]["latency"] <= 0.6
    assert result.decisions["goal"] == {"latency": 0.6} and groups.groups


def test_a_model_gets_faster(tools: Any) -> None:
    """From end to end, with what this machine measures; how much faster is for benchmarks."""
    model = TOPOLOGIES["residual"][0](tools.Small())
    result = prune(model, Context(data=tools.feeds(model, 16), threads=1), Options(latency=0.9, round_to=1)).boldest
    assert set(result.decisions["reached"]) == {"macs", "params", "latency"} and result.decisions["reached"]["macs"] < 1


def test_a_model_that_lost_nothing_does_not_reach_a_goal(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may measure a first cut as much faster than asked for, and then the whole model as faster than itself."""
    model = TOPOLOGIES["residual"][0](tools.Small())
    monkeypatch.setattr(step, "measured_time", lambda groups, *_: groups.macs)

    def share(original: Any, candidate: Any, *_: Any) -> float:
        from graphcompress.ir.analysis.statistics import statistics

        return 0.85 if statistics(candidate).macs == statistics(original).macs else 0.3

    monkeypatch.setattr(step, "time_share", share)
    result = prune(model, Context(data=tools.feeds(model, 16), threads=1), Options(latency=0.9, round_to=1)).boldest
    assert result.changed and result.decisions["reached"]["latency"] == 0.3
