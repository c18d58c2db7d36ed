"""Channels that cost nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from topologies import TOPOLOGIES

from graphcompress.ir import Model
from graphcompress.passes.prune import Options, prune
from graphcompress.passes.prune.free import may_be_free
from graphcompress.step import Context, StepResult


def freed(model: Model, tools: Any, *, data: bool = True) -> StepResult:
    return prune(model, Context(data=tools.feeds(model, 3) if data else None, threads=1), Options(free=True)).boldest


def network(tools: Any, weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any], kernel: int = 3, activation: str = "Relu") -> Model:
    """A layer with these weights and a Conv of `kernel` that reads it."""
    s = tools.Small()
    x = s.node("Conv", s.input("x", "n", 3, 8, 8), s.constant(weight.astype(np.float32), "w"), s.constant(bias.astype(np.float32)), pads=[1] * 4, name="first")
    y = s.conv(s.node(activation, x), len(weight), 5, kernel=kernel, name="last")
    return s.model(y)  # type: ignore[no-any-return]


def weights(count: int = 8) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    return random.normal(0, 1, (count, 3, 3, 3)), random.normal(0, 1, count)


def same(model: Model, result: StepResult, tools: Any) -> None:
    for feed in tools.feeds(model, 3, 11):
        for a, b in zip(tools.run(model, feed), tools.run(result.model, feed), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * float(np.abs(a).max()))


@pytest.mark.parametrize("data", [True, False])
def test_copies_go_and_their_weights_are_added(data: bool, tools: Any) -> None:
    weight, bias = weights()
    weight[5], bias[5] = weight[2], bias[2]
    weight[6] = weight[1]  # but not its bias
    model = network(tools, weight, bias)
    result = freed(model, tools, data=data)
    assert result.applied == {"prune/copy": 1}
    assert result.model.graph.initializers["w"].shape[0] == 7
    same(model, result, tools)


def test_channels_that_are_always_zero_go(tools: Any) -> None:
    weight, bias = weights()
    weight[[3, 6]] = 0.0
    bias[[3, 6]] = [-1.0, 0.0]
    model = network(tools, weight, bias)
    result = freed(model, tools)
    assert result.applied == {"prune/zero": 2}
    same(model, result, tools)


def test_a_constant_goes_into_the_bias_where_there_is_no_border(tools: Any) -> None:
    weight, bias = weights()
    weight[3], bias[3] = 0.0, 2.0
    weight[4], bias[4] = 0.0, 3.0
    model = network(tools, weight, bias, kernel=1)
    result = freed(model, tools)
    assert result.applied == {"prune/constant": 2}
    same(model, result, tools)
    assert not freed(network(tools, weight, bias, kernel=3), tools).changed


def test_both_sides_of_a_sum_must_repeat(tools: Any) -> None:
    """Channels 1 and 2 are equal in one of the two layers that are added, 3 and 4 in both."""
    s = tools.Small()
    a, b = (s.random.normal(0, 1, (6, 3, 3, 3)).astype(np.float32) for _ in range(2))
    a[2], a[4], b[4] = a[1], a[3], b[3]
    x = s.input("x", 1, 3, 8, 8)
    total = s.node("Add", s.node("Conv", x, s.constant(a, "a")), s.node("Conv", x, s.constant(b)))
    model = s.model(s.conv(s.node("Relu", total), 6, 5))
    result = freed(model, tools)
    assert result.applied == {"prune/copy": 1} and result.model.graph.initializers["a"].shape[0] == 5
    same(model, result, tools)


def test_weights_of_a_node_constant_make_channels_too(tools: Any) -> None:
    """Channel 3 is below 0 on all that is fed, but not for every input."""
    s = tools.Small()
    weight, bias, other = (s.random.normal(0, 0.01, shape).astype(np.float32) for shape in ((6, 8), (1, 8), (6, 8)))
    bias[0, 3], other[:, [3, 5]] = 0.0, 0.0
    x = s.input("x", "n", 6)
    y = s.node("Gemm", x, s.node("Constant", value=onnx.numpy_helper.from_array(weight)), s.constant(bias))
    y = s.node("Relu", s.node("Add", y, s.constant(np.where(np.arange(8) == 3, -100, 0).astype(np.float32))))
    model = s.model(s.node("Gemm", y, s.weight(8, 4), s.weight(4)), s.node("MatMul", x, s.constant(other)))
    assert may_be_free(model)
    result = freed(model, tools)
    large = {"x": np.full((3, 6), 1e6, np.float32) * np.array([[1], [-1], [2]], np.float32)}
    for a, b in zip(tools.run(model, large), tools.run(result.model, large), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_a_bias_that_is_one_number_in_a_matrix(tools: Any) -> None:
    """[1, 1]: all units have it."""
    s = tools.Small()
    weight = s.random.normal(0, 1, (6, 8)).astype(np.float32)
    weight[:, 3], weight[:, 5] = 0.0, weight[:, 2]
    y = s.node("Relu", s.node("Gemm", s.input("x", "n", 6), s.constant(weight), s.constant(np.float32([[-0.5]]))))
    model = s.model(s.node("Gemm", y, s.weight(8, 4), s.weight(4)))
    result = freed(model, tools)
    assert result.applied == {"prune/zero": 1, "prune/copy": 1}
    same(model, result, tools)


def test_groups_of_a_convolution_lose_as_many_and_equal_rows_of_two_groups_are_no_copies(tools: Any) -> None:
    """Channels 0 to 3 read other inputs than 4 to 7. Of the first two go (a copy, and one that is 0), of the second one is a copy: one of each goes."""
    s = tools.Small()
    weight, bias = (s.random.normal(0, 1, shape).astype(np.float32) for shape in ((8, 2, 3, 3), (8,)))
    weight[1], bias[1], weight[2], bias[2] = weight[0], bias[0], 0.0, -1.0
    weight[7], bias[7] = weight[6], bias[6]
    weight[4], bias[4] = weight[0], bias[0]
    x = s.node("Conv", s.input("x", "n", 4, 6, 6), s.constant(weight, "w"), s.constant(bias), group=2, pads=[1] * 4, name="first")
    model = s.model(s.conv(s.node("Relu", x), 8, 5, name="last"))
    result = freed(model, tools)
    assert result.changed and not result.refusals and result.model.graph.initializers["w"].shape[0] == 6
    same(model, result, tools)


def test_a_sum_over_a_free_axis_is_no_constant(tools: Any) -> None:
    """Channels 3 and 4 hold one number each, and a sum over the picture, or its mean inside a border, another one at each height."""
    weight, bias = weights()
    weight[[3, 4]], bias[3], bias[4] = 0.0, 1.0, 2.0
    for op in ("ReduceSum", "GlobalAveragePool"):
        s = tools.Small()
        x = s.node("Conv", s.input("x", "n", 3, "h", 8), s.constant(weight.astype(np.float32)), s.constant(bias.astype(np.float32)), pads=[1] * 4)
        depthwise = s.node("Conv", x, s.weight(8, 1, 3, 3), pads=[1] * 4, group=8)
        y = s.node(op, depthwise, *([s.constant(np.array([2, 3]))] if op == "ReduceSum" else []))
        model = s.model(s.conv(y, 8, 5, kernel=1))
        result = freed(model, tools)
        assert not result.changed and not result.refusals
    fixed = s.model(
        s.conv(s.node("ReduceSum", s.node("Conv", s.input("z", 1, 3, 8, 8), s.constant(weight.astype(np.float32))), s.constant(np.array([2, 3]))), 8, 5)
    )
    assert freed(fixed, tools).changed


def test_what_is_expanded_and_added_makes_none_constant(tools: Any) -> None:
    """One number of each picture, spread over all channels by an Expand: with a single feed it looks constant."""
    s = tools.Small()
    weight, bias = weights()
    weight[[3, 4]], bias[3], bias[4] = 0.0, 1.0, 2.0
    x = s.input("x", 1, 3, 8, 8)
    y = s.node("Conv", x, s.constant(weight.astype(np.float32)), s.constant(bias.astype(np.float32)), pads=[1] * 4)
    spread = s.node("Expand", s.node("ReduceMean", x, axes=[1, 2, 3]), s.constant(np.array([1, 8, 8, 8])))
    model = s.model(s.conv(s.node("Add", y, spread), 8, 5, kernel=1))
    one = prune(model, Context(data=tools.feeds(model, 1), threads=1), Options(free=True)).boldest
    assert not one.changed and not one.refusals


@pytest.mark.parametrize("name", ["residual", "dense", "excite", "unet", "flat", "packed_attention", "recurrent"])
def test_networks_with_copies_and_zeros(name: str, tools: Any) -> None:
    """Every weight has its second row or column equal to the first, and the third zero."""
    model = TOPOLOGIES[name][0](tools.Small())
    for constant in model.graph.initializers.values():
        if constant.values.ndim in (1, 2, 4) and constant.values.dtype == np.float32:
            values = constant.values.copy()
            axis = 0 if values.ndim != 2 else 1
            rows = np.moveaxis(values, axis, 0)
            if len(rows) > 4:
                rows[1] = rows[0]
            constant.values = values
    result = freed(model, tools)
    assert result.changed or name in ("packed_attention", "recurrent")
    same(model, result, tools)


def test_nothing_is_looked_for_where_nothing_repeats(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphcompress.passes.prune import run as step

    monkeypatch.setattr(step, "find_groups", None)
    assert not freed(TOPOLOGIES["residual"][0](tools.Small()), tools).changed


def test_repeats_are_noticed_in_every_form_of_a_weight(tools: Any) -> None:
    """The layer is first of a model in which nothing else repeats."""

    def repeats(op: str, axis: int, shape: tuple[int, ...], **attributes: Any) -> bool:
        s = tools.Small()
        values = s.random.normal(0, 1, shape).astype(np.float32)
        np.moveaxis(values, axis, 0)[2] = np.moveaxis(values, axis, 0)[0]
        x = s.input("x", 1, shape[1 - axis], *[4] * (len(shape) - 2))
        return may_be_free(s.model(s.node(op, x, s.constant(values), **attributes)))

    forms: list[tuple[str, int, tuple[int, ...], dict[str, Any]]] = [
        ("Conv", 0, (6, 5, 3, 3), {}),
        ("ConvTranspose", 1, (5, 6, 3, 3), {}),
        ("Gemm", 1, (5, 6), {}),
        ("Gemm", 0, (6, 5), {"transB": 1}),
        ("MatMul", 1, (5, 6), {}),
    ]
    for op, axis, shape, attributes in forms:
        assert repeats(op, axis, shape, **attributes), op
    assert not may_be_free(TOPOLOGIES["residual"][0](tools.Small()))


def test_what_is_added_to_all_channels_makes_none_constant(tools: Any) -> None:
    """The mean of the picture is one number for all channels and positions, but another one for each picture."""
    s = tools.Small()
    weight, bias = weights()
    weight[[3, 4]], bias[3], bias[4] = 0.0, 1.0, 2.0
    x = s.input("x", 1, 3, 8, 8)
    y = s.node("Conv", x, s.constant(weight.astype(np.float32)), s.constant(bias.astype(np.float32)), pads=[1] * 4)
    model = s.model(s.conv(s.node("Add", y, s.node("ReduceMean", x, axes=[1, 2, 3])), 8, 5, kernel=1))
    result = freed(model, tools)
    assert not result.changed and not result.refusals
