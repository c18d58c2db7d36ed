"""Moments of what layers read, and the consumers that scores are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model
from graphcompress.passes.prune import moments as module
from graphcompress.passes.prune.moments import SeenLayer, see
from graphcompress.passes.prune.scores import Consumer, removal_order
from graphcompress.reconstruction.rows import layer_of

Tools = Any


def model(tools: Tools, group: int = 1) -> Model:
    small = tools.Small()
    x = small.node("Relu", small.input("x", "n", 4, 6, 6))
    return small.model(small.node("Conv", x, small.weight(6, 4 // group, 3, 3), group=group, pads=[1] * 4))


def seen(tools: Tools, group: int = 1, **how: Any) -> SeenLayer:
    graph = model(tools, group)
    layer = layer_of(graph.graph.nodes[1], set())
    assert layer is not None
    return see(graph, [layer], feeds(), seed=0, **how)[0]


def feeds() -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(i).normal(0, 1, (1, 4, 6, 6)).astype(np.float32)} for i in range(40)]


def test_all_positions_give_the_moments_of_all_rows(tools: Tools) -> None:
    one = seen(tools, positions=36)
    x = np.maximum(np.concatenate([f["x"] for f in feeds()]), 0)
    rows = one.layer.form.rows(x, np.arange(40 * 36))[0].astype(np.float64)
    np.testing.assert_allclose(one.xx[0], np.cov(rows.T) * (len(rows) - 1), rtol=1e-6, atol=1e-6)


def test_positions_are_seeded(tools: Tools) -> None:
    np.testing.assert_array_equal(seen(tools).xx, seen(tools).xx)


@pytest.mark.parametrize("group", [1, 2])
def test_each_group_is_a_consumer_with_a_share_of_the_energy(group: int, tools: Tools) -> None:
    one = seen(tools, group)
    consumers = one.consumers([np.array([c]) for c in range(4)])
    assert len(consumers) == group
    assert [[len(rows) for rows in c.units] for c in consumers] == ([[9] * 4] if group == 1 else [[9, 9, 0, 0], [0, 0, 9, 9]])
    # With the last unit everything is gone: all of the energy (and the ridge).
    assert 0.99 < removal_order(consumers, 4).errors[-1] < 1.05


def test_wide_layers_are_seen_by_channel(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WIDE", 8)
    one = seen(tools)
    assert one.width == 9 and one.xx.shape == (1, 4, 4)
    (consumer,) = one.consumers([np.array([0, 3]), np.array([1]), np.array([2])])
    assert [rows.tolist() for rows in consumer.units] == [[0, 3], [1], [2]]
    assert consumer.weight.shape == (4, 54)


def flat(tools: Tools) -> Model:
    small = tools.Small()
    x = small.node("Flatten", small.node("Relu", small.input("x", "n", 4, 6, 6)))
    return small.model(small.node("Gemm", x, small.weight(144, 5)))


def test_flattened_maps_are_seen_by_channel(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 36 places of a channel are as many outputs of it: what the Gram matrix of single rows says of removing it, and no more than WIDE rows."""
    graph = flat(tools)
    layer = layer_of(graph.graph.nodes[2], set())
    assert layer is not None
    x = np.maximum(np.concatenate([f["x"] for f in feeds()]), 0).astype(np.float64)
    monkeypatch.setattr(module, "WIDE", 100)
    (one,) = see(graph, [layer], feeds(), seed=0, runs={layer: 36})
    assert one.width == 36 and one.xx.shape == (1, 4, 4)
    places = x.reshape(40, 4, 36).swapaxes(1, 2).reshape(-1, 4)
    np.testing.assert_allclose(one.xx[0], np.cov(places.T) * (len(places) - 1), rtol=1e-6)
    (consumer,) = one.consumers([np.arange(36 * c, 36 * c + 36) for c in (3, 1)])
    assert consumer.weight.shape == (2, 180) and [rows.tolist() for rows in consumer.units] == [[1], [0]]


def test_a_layer_with_too_many_rows_is_left_out(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its matrix of moments would need gigabytes."""
    graph = flat(tools)
    layer = layer_of(graph.graph.nodes[2], set())
    assert layer is not None
    monkeypatch.setattr(module, "MOST_ROWS", 143)
    assert not see(graph, [layer], feeds(), seed=0)
    monkeypatch.setattr(module, "MOST_ROWS", 144)
    assert see(graph, [layer], feeds(), seed=0)


def test_rows_of_other_units_change_nothing(tools: Tools) -> None:
    """Of a layer that reads several groups each is scored by its own block of the inverse: as with the whole matrix, in which the others stay."""
    one = seen(tools)
    (block,) = one.consumers([np.array([c]) for c in (2, 0)])
    assert block.gram.shape == (18, 18)
    matrix = one.layer.weight_matrix()[0]
    units = [np.arange(9 * c, 9 * c + 9) for c in (2, 0)]
    whole = removal_order([Consumer(one.xx[0], matrix, units)], 2)
    part = removal_order([block], 2)
    assert part.steps == whole.steps
    np.testing.assert_allclose(part.errors, whole.errors, rtol=1e-9)


def test_without_feeds_all_moments_are_zero(tools: Tools) -> None:
    graph = model(tools)
    layer = layer_of(graph.graph.nodes[1], set())
    assert layer is not None
    assert not see(graph, [layer], [], seed=0)[0].xx.any()
