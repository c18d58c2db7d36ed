"""The INT8 step as a whole: form of the result, ranges, sizes of what is observed."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from quantized import EAGER, done, precision, reason, residual, sqnr

from graphcompress.data import Dataset
from graphcompress.ir import constant_value, lint, model_from_proto, nodes, output_ids, producer, to_proto
from graphcompress.ir.files import text
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize import observe as observation
from graphcompress.passes.quantize import quantize
from graphcompress.passes.quantize import run as stage
from graphcompress.runtime.session import LocalSession
from graphcompress.runtime.watch import Watch
from graphcompress.step import Certificate, Context


def test_everything_that_fuses_is_integer_and_near_float(tools: Any) -> None:
    model = residual(tools)
    result = done(model, tools)
    assert result.changed
    assert set(precision(result).values()) == {"int8"}
    assert result.applied == {"quantize/conv": 3, "quantize/add": 1, "quantize/globalaveragepool": 1, "quantize/flatten": 1, "quantize/gemm": 1}
    ops = Counter(n.op_type for n in tools.optimized(result.model))
    assert (ops["QLinearConv"], ops["QLinearAdd"], ops["QGemm"], ops["Conv"], ops["DequantizeLinear"]) == (3, 1, 1, 0, 0)
    assert sqnr(model, result, tools) > 25
    lint(result.model)


def test_one_q_per_tensor_and_a_dq_per_consumer(tools: Any) -> None:
    result = done(residual(tools), tools)
    qs = Counter(id(n.inputs[0]) for n in result.model.graph.nodes if n.op == "QuantizeLinear")
    assert set(qs.values()) == {1}
    for node in result.model.graph.nodes:
        if node.op == "DequantizeLinear":
            assert len(node.outputs[0].outputs) == 1
        if node.op == "QuantizeLinear":
            assert len(node.inputs[0].outputs) == 1 or producer(node.inputs[0]) is None


def test_activations_are_uint8_weights_int8_per_channel_and_biases_have_the_product_of_scales(tools: Any) -> None:
    result = done(residual(tools), tools)
    checked = 0
    for node in result.model.graph.nodes:
        if node.op not in ("Conv", "Gemm"):
            continue
        x, w, b = (producer(t) for t in node.inputs)
        assert x is not None and w is not None and b is not None
        codes, scales, zeros = (constant_value(t) for t in w.inputs)
        assert codes is not None and scales is not None and zeros is not None
        assert codes.dtype == np.int8 and codes.min() >= -127
        assert w.attrs["axis"] == 0 and scales.shape == (codes.shape[0],) and not zeros.any()
        x_scale, x_zero, b_scale, b_codes = constant_value(x.inputs[1]), constant_value(x.inputs[2]), constant_value(b.inputs[1]), constant_value(b.inputs[0])
        assert x_scale is not None and x_zero is not None and b_scale is not None and b_codes is not None
        assert x_zero.dtype == np.uint8 and x_zero.shape == x_scale.shape == ()
        assert b_codes.dtype == np.int32 and np.array_equal(b_scale, np.float32(x_scale) * scales)
        checked += 1
    assert checked == 4


def test_behind_a_relu_the_zero_point_is_zero(tools: Any) -> None:
    result = done(residual(tools), tools)
    for node in result.model.graph.nodes:
        if node.op == "QuantizeLinear" and (before := producer(node.inputs[0])) is not None and before.op == "Relu":
            assert constant_value(node.inputs[2]) == 0


def test_what_only_moves_data_has_one_scale(tools: Any) -> None:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 8, 12, 12), 8, 32))
    x = small.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = small.node("Transpose", x, perm=[0, 1, 3, 2])
    a, b = small.node("Split", x, outputs=2, axis=1)
    model = small.model(small.node("Tanh", small.conv(a, 16, 8)), small.node("Tanh", small.conv(b, 16, 8)))
    result = done(model, tools)
    assert {k: v for k, v in result.applied.items() if k != "quantize/conv"} == {"quantize/maxpool": 1, "quantize/transpose": 1, "quantize/split": 1}
    scales = result.decisions["activations"]
    moved = [scales[t] for t in scales if t in {n.inputs[0].name for n in result.model.graph.nodes if n.op == "QuantizeLinear"} and t not in ("x",)]
    assert len({(s["scale"], s["zero_point"]) for s in moved[:5]}) <= 3
    nodes = [n for n in result.model.graph.nodes if n.op in ("MaxPool", "Transpose", "Split")]
    for node in nodes:
        before = producer(node.inputs[0])
        assert before is not None
        for out in node.outputs:
            (behind,) = out.outputs
            assert behind.op == "QuantizeLinear"
            assert behind.inputs[1] is before.inputs[1] and behind.inputs[2] is before.inputs[2]


def test_softmax_and_sigmoid_have_the_range_0_to_1(tools: Any) -> None:
    small = tools.Small()
    x = small.input("x", 2, 8, 16)
    scores = small.node("MatMul", x, small.weight(16, 8))
    model = small.model(small.node("MatMul", small.node("Softmax", scores, axis=-1), x))
    result = done(model, tools)
    softmax = next(n for n in model.graph.nodes if n.op == "Softmax").outputs[0].name
    assert result.decisions["activations"][softmax] == {"scale": float(np.float32(1 / 255)), "zero_point": 0}


def test_a_conv_that_makes_an_output_of_the_model_hands_out_the_floats_of_its_codes(tools: Any) -> None:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 32, 12, 12), 32, 32, name="a"))
    y = small.conv(x, 32, 32, name="last")
    model = small.model(y, x)
    result = done(model, tools)
    assert precision(result) == {"a": "int8", "last": "int8"}
    assert [o.name for o in result.model.outputs] == [y, x]
    assert {t.inputs[0].op for t in result.model.graph.outputs} == {"DequantizeLinear"}
    assert Counter(n.op_type for n in tools.optimized(result.model))["QLinearConv"] == 2
    assert sqnr(model, result, tools) > 25


def test_what_computes_little_makes_no_output_of_codes(tools: Any) -> None:
    small = tools.Small()
    x = small.conv(small.input("x", 1, 32, 12, 12), 32, 32, name="a")
    model = small.model(small.node("Add", small.node("Relu", x), small.weight(1, 32, 1, 1), name="sum"))
    result = done(model, tools)
    assert precision(result) == {"a": "int8"}
    assert next(n for n in result.model.graph.nodes if n.name == "sum").outputs[0] is result.model.graph.outputs[0]


def test_a_gemm_hands_out_float_where_nobody_reads_integers(tools: Any) -> None:
    small = tools.Small()
    x = small.input("x", 4, 64)
    model = small.model(small.node("Gemm", x, small.weight(64, 32), small.weight(32), name="g"))
    result = done(model, tools)
    assert precision(result) == {"g": "int8"}
    assert Counter(n.op_type for n in tools.optimized(result.model)) == {"QuantizeLinear": 1, "QGemm": 1}


def test_equal_inputs_give_equal_bytes(tools: Any) -> None:
    a, b = (done(residual(tools), tools, calibration=c) for c in ("mse", "mse"))
    assert to_proto(a.model).SerializeToString(deterministic=True) == to_proto(b.model).SerializeToString(deterministic=True)
    assert a.certificate == b.certificate and a.decisions == b.decisions


def test_the_given_model_is_left_as_it_was(tools: Any) -> None:
    model = residual(tools)
    before = to_proto(model).SerializeToString(deterministic=True)
    done(model, tools)
    assert to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse"])
def test_every_way_to_choose_a_range(calibration: str, tools: Any) -> None:
    model = residual(tools)
    assert sqnr(model, done(model, tools, calibration=calibration), tools) > 20


def test_a_model_without_anything_to_quantize_comes_back_as_it_is(tools: Any) -> None:
    small = tools.Small()
    model = small.model(small.node("Tanh", small.input("x", 1, 4)))
    result = done(model, tools)
    assert result.model is model and not result.changed
    assert result.certificate == Certificate(EAGER.name, ())


def test_free_dimensions_and_ragged_feeds(tools: Any) -> None:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", "n", 8, "h", "w"), 8, 32, name="a"))
    model = small.model(small.node("Tanh", small.conv(x, 32, 8, name="b")))
    sizes = [(1, 8, 5, 9), (2, 8, 12, 3), (1, 8, 7, 7)]

    def read(indices: Any) -> Any:
        for i in indices:
            yield {"x": np.random.default_rng(i).normal(0, 1, sizes[i]).astype(np.float32)}

    result = quantize(model, Context(target=EAGER, data=Dataset("ragged", "0" * 64, range(3), read))).boldest
    assert precision(result) == {"a": "int8", "b": "int8"}
    assert replace(result, model=model).changed


def test_values_of_one_feed_are_held_and_no_run_is_spent_on_sizes(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With free dimensions too: their sizes are those of the first feed."""
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", "n", 8, "h", "w"), 8, 32, name="a"))
    model = small.model(small.node("Tanh", small.conv(x, 32, 8, name="b")))
    held: list[weakref.ref[Any]] = []
    take, run = observation._take, LocalSession.run

    def noting(entry: observation.Observed, array: Any, name: str) -> None:
        held.append(weakref.ref(array))
        take(entry, array, name)

    def running(self: LocalSession, *arguments: Any) -> Any:
        assert all(value() is None for value in held)
        return run(self, *arguments)

    def probe(*_: Any) -> None:
        raise AssertionError("sizes were known")

    monkeypatch.setattr(observation, "_take", noting)
    monkeypatch.setattr(LocalSession, "run", running)
    monkeypatch.setattr(Watch, "_probe", probe)
    data = Dataset(
        "three", "0" * 64, range(3), lambda indices: ({"x": np.random.default_rng(i).normal(0, 1, (1, 8, 5, 9)).astype(np.float32)} for i in indices)
    )
    assert quantize(model, Context(target=EAGER, data=data)).boldest.changed
    assert held


def test_shapes_are_known_of_the_main_graph_only(tools: Any) -> None:
    """What is inferred inside a body is the shape in one iteration."""
    model = text.parse_model(
        "g (float[4] x, int64 n, bool c) => (float[4] z) { y = Neg(x) z = Loop(n, c, y) <body = b (int64 i, bool p, float[4] s) => (bool q, float[4] t) { q = Identity(p) t = Abs(s) }> }"
    )
    tensors = [t for n in nodes(model) for t in n.outputs]
    feed = {"x": np.ones(4, np.float32), "n": np.int64(3), "c": np.bool_(True)}
    assert {t.name: shape for t, shape in stage.feed_shapes(model, tensors, feed, infer(model)).items()} == {"y": (4,), "z": (4,)}


@pytest.mark.parametrize(("rows", "inferred"), [("n", 0), ("", 1)])
def test_shapes_of_a_feed_follow_from_its_symbols_or_are_inferred(rows: str, inferred: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second axis, and a tensor that has all elements in one axis; a dimension without a name has no symbol."""
    model = text.parse_model(
        "g (float[n, m] x) => (float[k] z) { y = Neg(x) one = Constant<value_ints = [-1]>() z = Reshape(y, one) s = ReduceMax<keepdims = 0>(x) }"
    )
    proto = to_proto(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = rows
    model = model_from_proto(proto)
    shapes, calls = infer(model), []
    monkeypatch.setattr(stage, "infer", lambda *arguments: (calls.append(arguments), infer(*arguments))[1])
    tensors = [t for n in model.graph.nodes for t in n.outputs if t.name != "one"]
    known = stage.feed_shapes(model, tensors, {"x": np.ones((3, 5), np.float32)}, shapes)
    assert {t.name: shape for t, shape in known.items()} == {"y": (3, 5), "z": (15,), "s": ()}
    assert len(calls) == inferred


def test_dead_and_unused_values_do_not_disturb(tools: Any) -> None:
    """A channel of zeros, an output that nobody reads, and a tensor that is zero over the data: what its range is nobody knows."""
    small = tools.Small()
    weight = np.random.default_rng(0).normal(size=(8, 8, 3, 3)).astype(np.float32)
    weight[3] = 0
    x = small.input("x", 1, 8, 8, 8)
    x = small.node("Relu", small.node("Conv", x, small.constant(weight), small.weight(8), pads=[1] * 4, name="dead channel"))
    small.node("Relu", x)
    y = small.node("Relu", small.node("Conv", x, small.weight(8, 8, 1, 1), small.constant(np.full(8, -100, np.float32)), name="dead"))
    x = small.node("Add", x, small.conv(y, 8, 8, name="b"))
    model = small.model(small.node("Tanh", small.conv(x, 8, 8, name="c")))
    result = done(model, tools)
    assert precision(result) == {"dead channel": "int8", "dead": "float", "b": "float", "c": "int8"}
    assert reason(result, "b").startswith("quantize/no-range: 't4' was zero in all calibration feeds")
    for feed in tools.feeds(model, 2):
        assert np.isfinite(tools.run(result.model, feed)[0]).all()
    assert sqnr(model, result, tools) > 20


def test_the_result_is_a_file_that_reads_back(tools: Any) -> None:
    result = done(residual(tools), tools)
    again = model_from_proto(to_proto(result.model))
    assert len(output_ids(again)) == 1
