"""Placement: the cut is the cheapest labelling, and the rules beside it hold."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.ir import Model, Tensor
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize import quantize
from graphcompress.passes.quantize.groups import Group, find
from graphcompress.passes.quantize.observe import Observed, observe
from graphcompress.passes.quantize.placement import SINK, SOURCE, Network, borders, cost, decide, figures_of, light_islands, source_side
from graphcompress.passes.quantize.ranges import MinMax
from graphcompress.step import Context
from graphcompress.targets import Target, load_target

CPU = load_target("cpu")


def seen_of(model: Model, groups: list[Group], tools: Any) -> dict[Tensor, Observed]:
    return observe(model, [t for g in groups for t in (*g.inputs, *g.outputs)], tools.feeds(model, 2), lambda t: MinMax())


def parts(model: Model, tools: Any) -> tuple[list[Group], dict[Tensor, Observed]]:
    groups = find(model, CPU, infer(model)).groups
    return groups, seen_of(model, groups, tools)


def without_size(**prices: float) -> Target:
    return CPU.model_copy(update={"boundary": CPU.boundary.model_copy(update={"size_share": 0.0, **prices})})


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 50)), max_size=18))
def test_the_source_side_is_a_least_cut(edges: list[tuple[int, int, int]]) -> None:
    capacity: dict[tuple[int, int], float] = {}
    for a, b, weight in edges:
        if a != b and weight:
            capacity[a, b] = capacity.get((a, b), 0) + weight
    if not capacity:
        return
    side = source_side(capacity, 7)
    assert SOURCE in side and SINK not in side

    def value(chosen: set[int]) -> float:
        return sum(w for (a, b), w in capacity.items() if a in chosen and b not in chosen)

    least = min(value({SOURCE, *extra}) for n in range(6) for extra in itertools.combinations(range(2, 7), n))
    assert value(side) == least


@pytest.mark.parametrize("floor", [0.0, 1000.0, 5000.0, 20_000.0])
def test_the_labelling_is_the_best_of_all(floor: float, tools: Any) -> None:
    """Against every labelling of a small residual net with a branch, with the costs counted by hand."""
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 3, 16, 16), 3, 32))
    y = small.node("Relu", small.conv(x, 32, 32))
    z = small.node("Relu", small.node("Add", small.conv(y, 32, 32), x))
    model = small.model(small.node("Tanh", small.conv(z, 32, 16, kernel=1)))
    groups, seen = parts(model, tools)
    network = Network(model, groups, groups, seen, without_size(floor=floor).boundary)
    values = {s: network.value(set(s)) for n in range(len(groups) + 1) for s in itertools.combinations(groups, n)}
    assert network.value(network.cheapest()) == pytest.approx(min(values.values()))


def test_the_value_of_a_labelling_counts_one_q_per_tensor_and_one_dq_per_float_reader(tools: Any) -> None:
    small = tools.Small()
    x = small.node("Tanh", small.input("x", 1, 64, 16, 16))
    a, b = small.conv(x, 64, 64, name="a"), small.conv(x, 64, 64, name="b")
    model = small.model(small.node("Sin", a), small.node("Cos", a), small.node("Tanh", b))
    groups, seen = parts(model, tools)
    free = without_size(floor=1.0, quantize=0.0, dequantize=0.0, layout=0.0).boundary
    network = Network(model, groups, groups, seen, free)
    first, second = groups
    gain = [network.capacities()[SOURCE, network.vertex[id(g.node)]] for g in groups]
    assert network.value(set()) == pytest.approx(sum(gain))
    assert network.value({first}) == pytest.approx(gain[1] + 1 + 2)
    assert network.value({first, second}) == pytest.approx(1 + 2 + 1)


def test_a_chain_of_cheap_layers_stays_float_and_a_dear_one_does_not(tools: Any) -> None:
    small = tools.Small()
    x = small.input("x", 1, 64, 28, 28)
    for _ in range(3):
        x = small.node("Relu", small.node("Conv", x, small.weight(64, 1, 3, 3), small.weight(64), group=64, pads=[1] * 4))
    x = small.node("Tanh", x)
    y = small.node("Relu", small.conv(x, 64, 64))
    model = small.model(small.node("Tanh", small.conv(y, 64, 64)))
    groups, seen = parts(model, tools)
    chosen = decide(model, groups, seen, CPU)
    assert [g in chosen for g in groups] == [False, False, False, True, True]


def test_pooling_goes_along_only_between_layers_in_integers(tools: Any) -> None:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 64, 28, 28), 64, 64))
    x = small.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = small.node("Relu", small.conv(x, 64, 64))
    x = small.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    model = small.model(small.node("Tanh", x))
    groups, seen = parts(model, tools)
    chosen = decide(model, groups, seen, CPU)
    assert [(g.row.op, g in chosen) for g in groups] == [("Conv", True), ("MaxPool", True), ("Conv", True), ("MaxPool", False)]


def test_pooling_is_not_drawn_into_integers_alone(tools: Any) -> None:
    """The provider moves the Q of the second layer in front of the pooling, which is slow there unless the first layer is in integers too."""
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 3, 32, 32), 3, 32))
    x = small.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    model = small.model(small.node("Tanh", small.node("Relu", small.conv(x, 32, 64))))
    groups, seen = parts(model, tools)
    rows = [CPU.rows("MaxPool")[0].model_copy(update={"pulled": p}) for p in (None, 8.0)]
    networks = [Network(model, groups, [replace(g, row=row) if g.row.op == "MaxPool" else g for g in groups], seen, CPU.boundary) for row in rows]
    first, pool, second = groups
    extra = [networks[1].value(chosen) - networks[0].value(chosen) for chosen in (set(), {first}, {second}, {pool, second}, {first, pool, second})]
    assert extra == pytest.approx([0, 0, 7 * cost(groups[1], seen, CPU.boundary).floating, 7 * cost(groups[1], seen, CPU.boundary).floating, 0])


def test_an_island_without_a_heavy_operator_is_none(tools: Any) -> None:
    small = tools.Small()
    x = small.node("Add", small.input("x", 1, 8, 64, 64), small.input("z", 1, 8, 64, 64))
    model = small.model(small.node("Tanh", small.node("Add", small.node("Transpose", x, perm=[0, 1, 3, 2]), x)))
    groups, seen = parts(model, tools)
    assert light_islands(groups, set(groups)) == set(groups)
    assert decide(model, groups, seen, without_size(floor=0.0, quantize=0.0, dequantize=0.0, layout=0.0)) == set()


def test_a_share_of_the_time_gained_may_be_spent_on_bytes(tools: Any) -> None:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 64, 28, 28), 64, 64))
    x = small.node("Flatten", small.node("GlobalMaxPool", x))
    model = small.model(small.node("Gemm", x, small.weight(200, 64), small.weight(200), transB=1))
    groups, seen = parts(model, tools)
    gemm = next(g for g in groups if g.row.op == "Gemm")
    assert gemm not in decide(model, groups, seen, without_size())
    assert gemm in decide(model, groups, seen, CPU)


def test_figures_of_a_grouped_conv(tools: Any) -> None:
    small = tools.Small()
    x = small.input("x", 1, 32, 10, 10)
    model = small.model(small.node("Tanh", small.node("Conv", x, small.weight(48, 8, 3, 3), group=4, pads=[1] * 4)))
    groups, seen = parts(model, tools)
    figures = figures_of(groups[0], seen)
    assert figures == {"elements": 4800.0, "macs": 48 * 100 * 72, "reduction": 72, "depth": 8, "groups": 4, "channels": 32, "width": 12}


def test_figures_of_a_product_of_two_computed_matrices(tools: Any) -> None:
    small = tools.Small()
    model = small.model(small.node("MatMul", small.input("q", 2, 8, 16), small.input("k", 2, 16, 4)))
    groups, seen = parts(model, tools)
    assert figures_of(groups[0], seen)["macs"] == 2 * 8 * 16 * 4
    assert np.isclose(figures_of(groups[0], seen)["elements"], 256)


def test_what_stays_float_for_its_cost_says_times_that_add_up(tools: Any) -> None:
    """INT8 and its borders take longer than float, as the reader is told, in units that show it; or it is said that what surrounds it decides."""
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 3, 8, 8), 3, 8, kernel=1))
    y = small.node("Sin", small.conv(small.node("Tanh", x), 8, 40, kernel=1))
    model = small.model(small.node("Softmax", small.node("Mul", y, small.node("Cos", y))))
    said = [r.reason for r in quantize(model, Context(target=CPU, data=tools.feeds(model, 4))).boldest.refusals if r.id == "quantize/cost"]
    assert len(said) >= 2
    for reason in said:
        times = [float(number) * (1000 if unit == "us" else 1) for number, unit in re.findall(r"([0-9.]+) (ns|us)", reason)]
        alone = "with what surrounds it" in reason
        assert len(times) == (2 if alone else 3) and min(times) > 0
        assert times[0] <= times[1] if alone else times[0] + times[1] >= 0.97 * times[2]
        assert "by the target's table" in reason


def test_borders_are_those_of_the_cut_problem(tools: Any) -> None:
    """A group alone in integers costs its Q and DQ, counted as the cut counts them."""
    small = tools.Small()
    x = small.node("Tanh", small.input("x", 1, 8, 8, 8))
    model = small.model(small.node("Sin", small.node("Relu", small.conv(x, 8, 8))))
    groups, seen = parts(model, tools)
    (group,) = (g for g in groups if g.row.heavy)
    network = Network(model, [group], [group], seen, CPU.boundary)
    price = cost(group, seen, CPU.boundary)
    assert network.value({group}) - network.value(set()) == pytest.approx(price.integer - price.floating + borders(group, seen, CPU.boundary))
