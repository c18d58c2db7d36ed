"""Which range a tensor gets, and which tensors have none: what was not seen is not known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantized import EAGER, done, precision, reason, sqnr

from graphcompress.data import Dataset
from graphcompress.ir import Model, Tensor, nodes
from graphcompress.ir.files import text
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize import Options, quantize
from graphcompress.passes.quantize import observe as observation
from graphcompress.passes.quantize import run as stage
from graphcompress.passes.quantize.groups import columnwise
from graphcompress.runtime.watch import Watch
from graphcompress.step import Context, StepResult

Feeds = list[dict[str, np.ndarray[Any, Any]]]


def done_on(model: Model, feeds: Feeds, **options: Any) -> StepResult:
    data = Dataset("feeds of a test", "0" * 64, range(len(feeds)), lambda indices: (dict(feeds[i]) for i in indices))
    return quantize(model, Context(target=EAGER, data=data, threads=1), Options(**options)).boldest


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def near(model: Model, result: StepResult, feed: dict[str, Any], tools: Any, limit: float = 0.06) -> None:
    for a, b in zip(tools.run(model, feed), tools.run(result.model, feed), strict=True):
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(a)


# --- biases -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("shape", [(), (1,), (8,), (1, 1), (1, 8), (8, 1), (8, 8)])
def test_the_c_of_a_gemm_is_a_bias_only_where_it_adds_one_value_per_column(shape: tuple[int, ...], transposed: int, tools: Any) -> None:
    """Eight rows and eight columns: a value per row has the size of a value per column."""
    small = tools.Small()
    model = small.model(small.node("Gemm", small.input("x", 8, 8), small.weight(8, 8), small.constant(normal(*shape) * 5), name="g", transB=transposed))
    result = done(model, tools)
    assert precision(result) == {"g": "float" if shape in ((8, 1), (8, 8)) else "int8"}
    if shape in ((8, 1), (8, 8)):
        assert reason(result, "g").startswith("quantize/bias-shape")
    assert sqnr(model, result, tools) > 20


@pytest.mark.parametrize("shape", [(), (1,), (8,), (1, 8), (8, 1), (8, 8), (1, 1, 8)])
def test_what_is_added_to_a_product_is_a_bias_only_where_it_adds_one_value_per_column(shape: tuple[int, ...], tools: Any) -> None:
    small = tools.Small()
    x = small.node("MatMul", small.input("x", 8, 8), small.weight(8, 8), name="m")
    model = small.model(small.node("Tanh", small.node("Add", x, small.constant(normal(*shape)))))
    result = done(model, tools)
    assert precision(result) == {"m": "int8"}
    assert sqnr(model, result, tools) > 15


def test_one_value_per_column_for_every_number_of_rows() -> None:
    assert all(columnwise(shape, 3) for shape in ((), (1,), (3,), (1, 1), (1, 3)))
    assert not any(columnwise(shape, 3) for shape in ((3, 1), (3, 3), (2, 1), (2,), (2, 3)))
    assert columnwise((1, 1), 1) and not columnwise((2, 1), 1)


# --- bounds that hold whatever comes ------------------------------------------------------------------------------------------------------


def attention(tools: Any, length: int, sharp: float) -> Model:
    small = tools.Small()
    scores, values = small.input("s", 1, 4, length), small.input("v", 1, length, 8)
    x = small.node("Softmax", small.node("Mul", scores, small.constant(np.float32(sharp))), axis=-1)
    return small.model(small.node("MatMul", x, values, name="m"))


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
def test_a_long_row_of_probabilities_gets_the_range_that_was_seen(calibration: str, tools: Any) -> None:
    """1024 probabilities of about 0.001: with a step of 1/255 all of them are zero."""
    model = attention(tools, 1024, 0.1)
    result = done(model, tools, calibration=calibration)
    assert precision(result) == {"m": "int8"}
    assert sqnr(model, result, tools) > 25


def test_probabilities_that_come_near_one_keep_the_bound(tools: Any) -> None:
    result = done(attention(tools, 8, 3.0), tools)
    softmax = next(n for n in result.model.graph.nodes if n.op == "Softmax").outputs[0].name
    assert result.decisions["activations"][softmax] == {"scale": float(np.float32(1 / 255)), "zero_point": 0}


# --- values that are only moved ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", ["minmax", "mse"])
def test_moved_values_are_looked_at_once(calibration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics and shapes are those that each tensor has by itself: of a bounded range too, behind an operator that changes values, in a body of its own iterations."""
    model = text.parse_model(
        """g (float[n, 4, 6] x, int64 count) => (float[n, 24] z, float[n, 4, 6] u, float[k] v) {
            p = Softmax<axis = -1>(x) q = Transpose<perm = [2, 0, 1]>(p) r = Identity(q)
            s = Neg(r) axes = Constant<value_ints = [0]>() t = Unsqueeze(s, axes) w = Transpose(t) shape = Constant<value_ints = [0, -1]>()
            z = Reshape(x, shape)
            on = Constant<value_int = 1>() go = Cast<to = 9>(on)
            u, v = Loop(count, go, x) <body = b (int64 i, bool c, float[n, 4, 6] a) => (bool d, float[n, 4, 6] e, float[n, 24] f) { d = Identity(c) e = Abs(a) f = Reshape(e, shape) }>
        }"""
    )
    tensors = [t for node in nodes(model) for t in node.outputs if t.name in "pqrstwzuvef"]
    batch = [{"x": normal(rows, 4, 6, seed=rows), "count": np.array(rows)} for rows in (3, 2)]
    data = Dataset("two", "0" * 64, range(2), lambda indices: (dict(batch[i]) for i in indices))
    statistic, _ = stage.estimator(Options(calibration=calibration), EAGER)
    asked: list[Tensor] = []
    monkeypatch.setattr(observation, "Watch", lambda model, tensors: (asked.extend(tensors), Watch(model, tensors))[1])
    shapes = stage.feed_shapes(model, tensors, batch[0], infer(model))
    alone, shared = (observation.observe(model, tensors, data, statistic, shapes=known) for known in ({}, shapes))
    watched = [t.name for t in asked[len(tensors) :]]
    assert watched == [t.name for t in tensors if t.name not in (("r", "t", "w") if calibration == "minmax" else ("q", "r", "t", "w"))]
    for tensor in tensors:
        one, other = alone[tensor], shared[tensor]
        assert (one.shape, one.elements, one.feeds, one.dtype, one.unusable) == (other.shape, other.elements, other.feeds, other.dtype, other.unusable)
        assert (
            type(one.statistic) is type(other.statistic) and one.statistic.finish() == other.statistic.finish() and one.statistic.count == other.statistic.count
        )
        assert one.power == pytest.approx(other.power, rel=1e-5)


# --- ranges that nobody knows -----------------------------------------------------------------------------------------------------------


def stream(tools: Any) -> Model:
    """x and a state, each through a layer of its own, then added."""
    small = tools.Small()
    a = small.node("Relu", small.node("Gemm", small.input("x", 4, 32), small.weight(32, 32), small.weight(32), name="of x"))
    b = small.node("Gemm", small.input("state", "p", 32), small.weight(32, 32), name="of state")
    return small.model(small.node("Tanh", small.node("Gemm", a, small.weight(32, 32), name="behind")), b)


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ([np.zeros((4, 32), np.float32)] * 4, "'state' was zero in all calibration feeds"),
        ([np.full((4, 32), 0.5, np.float32)] * 4, "'state' was 0.5 in all calibration feeds"),
        ([np.zeros((0, 32), np.float32)] * 4, "no value of 'state' was seen in 4 calibration feeds"),
        ([normal(4, 32), np.full((4, 32), np.nan, np.float32)], "'state' has NaN values in calibration feed 2"),
        ([normal(4, 32), np.full((4, 32), -np.inf, np.float32)], "'state' has infinite values in calibration feed 2"),
    ],
    ids=["zero", "constant", "empty", "nan", "infinite"],
)
def test_what_reads_a_tensor_without_a_range_stays_float_and_the_rest_does_not(states: Feeds, says: str, tools: Any) -> None:
    model = stream(tools)
    result = done_on(model, [{"x": normal(4, 32, seed=i), "state": s} for i, s in enumerate(states)])
    assert precision(result) == {"of x": "int8", "of state": "float", "behind": "int8"}
    assert says in reason(result, "of state")
    near(model, result, {"x": normal(4, 32), "state": normal(4, 32, seed=9)}, tools)


def test_a_state_that_is_empty_or_zero_in_some_feeds_has_the_range_of_the_others(tools: Any) -> None:
    states = [np.zeros((0, 32), np.float32), np.zeros((4, 32), np.float32), normal(4, 32)]
    result = done_on(stream(tools), [{"x": normal(4, 32, seed=i), "state": s} for i, s in enumerate(states)])
    assert set(precision(result).values()) == {"int8"}


def test_nan_that_is_masked_later_leaves_its_neighbours_alone(tools: Any) -> None:
    """A row of scores that is masked altogether: 0/0 in the Softmax, replaced behind it."""
    small = tools.Small()
    zero = small.constant(np.float32(0))
    scores = small.node("MatMul", small.input("x", 4, 16), small.weight(16, 8), name="scores")
    masked = small.node("Where", small.node("Greater", small.input("mask", 4, 8), zero), scores, small.constant(np.float32(-np.inf)))
    x = small.node("Softmax", masked, axis=-1)
    x = small.node("Where", small.node("IsNaN", x), zero, x)
    model = small.model(small.node("MatMul", x, small.weight(8, 8), name="mix"))
    mask = np.ones((4, 8), np.float32)
    mask[2] = -1
    feeds = [{"x": normal(4, 16, seed=i), "mask": mask} for i in range(4)]
    assert not np.isnan(tools.run(model, feeds[0])[0]).any()
    result = done_on(model, feeds)
    assert precision(result) == {"scores": "int8", "mix": "int8"}
    assert any(r.id == "quantize/not-finite" and "NaN" in r.reason for r in result.refusals)
    near(model, result, feeds[0], tools)
