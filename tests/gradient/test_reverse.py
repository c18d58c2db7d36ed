"""Differentiating whole graphs: what is trained, what is frozen and why, and that sums over paths, broadcasting and dynamic shapes are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.errors import ModelError, UsageError
from graphcompress.gradient import Gradient, gradient
from graphcompress.gradient.rulefile import GradientExample
from graphcompress.gradient.verify import fault_of
from graphcompress.ir import Model
from graphcompress.ir.files.text import parse_model
from graphcompress.runtime.session import open_session

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)


def run(result: Gradient, **feed: Array) -> dict[str, Array]:
    """Gradients by the name of the tensor."""
    values = open_session(result.model, threads=1).run(feed)
    return {name: values[output] for name, output in result.gradients.items()}


def graph(text: str, opset: int = 18) -> Model:
    return parse_model(text, {"": opset})


def array(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def test_a_scalar_loss_needs_no_cotangent() -> None:
    result = gradient(graph("(float[3] x) => (float y) { s = Mul (x, x)  y = ReduceSum <keepdims = 0> (s) }"), None, ["x"])
    assert result.cotangents == {}
    x = array(3)
    np.testing.assert_allclose(run(result, x=x)["x"], 2 * x, rtol=1e-6)


def test_outputs_stand_beside_their_gradients() -> None:
    result = gradient(graph("(float[3] x) => (float[3] y, float[3] z) { y = Relu (x)  z = Neg (x) }"), ["y"], ["x"])
    assert [o.name for o in result.model.outputs] == ["y", result.gradients["x"]]


def test_a_vector_is_weighed_by_its_cotangent() -> None:
    result = gradient(graph("(float[3] x) => (float[3] y) { y = Mul (x, x) }"), ["y"], ["x"])
    x, v = array(3), array(3)
    np.testing.assert_allclose(run(result, x=x, **{result.cotangents["y"]: v})["x"], 2 * x * v, rtol=1e-6)


def test_what_is_read_twice_gets_both_gradients() -> None:
    result = gradient(graph("(float[3] x) => (float y) { a = Exp (x)  b = Mul (a, x)  c = Add (b, a)  y = ReduceSum <keepdims = 0> (c) }"), None, ["x"])
    x = array(3)
    np.testing.assert_allclose(run(result, x=x)["x"], np.exp(x) * (x + 2), rtol=1e-5)


def test_a_gradient_of_a_tensor_inside() -> None:
    result = gradient(graph("(float[3] x) => (float y) { a = Exp (x)  b = Mul (a, a)  y = ReduceSum <keepdims = 0> (b) }"), None, ["a"])
    x = array(3)
    np.testing.assert_allclose(run(result, x=x)["a"], 2 * np.exp(x), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_free_dimension_may_turn_out_to_be_one(rows: int) -> None:
    """Which axes were broadcast is found out when the model runs."""
    result = gradient(graph("(float[n,3] a, float[m,3] b) => (float[k,3] y) { y = Mul (a, b) }"), ["y"], ["a", "b"])
    a, b, v = array(rows, 3), array(4, 3), array(4, 3)
    gradients = run(result, a=a, b=b, **{result.cotangents["y"]: v})
    np.testing.assert_allclose(gradients["a"], v * b if rows == 4 else (v * b).sum(0, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(gradients["b"], v * a, rtol=1e-5)


def test_initializers_are_the_default_and_can_be_fed() -> None:
    text = "(float[2,2] x) => (float y)\n<float[2,2] w = {1, 2, 3, 4}, int64[1] s = {4}>\n{ p = MatMul (x, w)  f = Reshape (p, s)  y = ReduceSum <keepdims = 0> (f) }"
    result = gradient(graph(text), fed=True)
    assert list(result.gradients) == ["w"] and [i.name for i in result.model.inputs] == ["x", "w"]
    x, w = array(2, 2), array(2, 2)
    np.testing.assert_allclose(run(result, x=x, w=w)["w"], x.T @ np.ones((2, 2)), rtol=1e-5)


def test_the_original_is_not_touched() -> None:
    model = graph("(float[2,2] x) => (float[2,2] y)\n<float[2,2] w = {1, 2, 3, 4}>\n{ y = MatMul (x, w) }", 13)
    gradient(model, fed=True)
    assert model.opset == 13 and [n.op for n in model.graph.nodes] == ["MatMul"] and list(model.graph.initializers) == ["w"]


def test_a_constant_node_is_a_weight_unless_it_is_one_number() -> None:
    text = "(float[2] x) => (float[2] y) { w = Constant <value = float[2] {1, 2}> ()  c = Constant <value = float {3}> ()  p = Mul (x, w)  y = Mul (p, c) }"
    assert list(gradient(graph(text)).gradients) == ["w"]


def test_a_weight_before_an_operator_without_a_rule_is_frozen_with_the_reason() -> None:
    text = (
        "(float[1,1,4,4] x) => (float[1,1,4,4] y)\n<float[1,1,4,4] a = {1}, float[1,1,4,4] b = {1}>\n{ p = Mul (x, a)  q = Det (p)  y = Mul (b, q) }".replace(
            "{1}", "{" + ",".join("1" * 16) + "}"
        )
    )
    result = gradient(graph(text))
    assert list(result.gradients) == ["b"]
    assert result.frozen["a"].id == "gradient/no-rule" and "Det has no gradient rule" in result.frozen["a"].reason


def test_a_weight_of_which_one_path_has_no_gradient_is_frozen() -> None:
    """Half a gradient would be a wrong one."""
    text = "(float[2,2] x) => (float y)\n<float[2,2] a = {1, 2, 3, 4}>\n{ p = Mul (x, a)  q = Det (p)  s = ReduceSum <keepdims = 0> (p)  y = Add (q, s) }"
    assert gradient(graph(text)).frozen["a"].id == "gradient/no-rule"


def test_a_weight_that_changes_nothing_is_frozen() -> None:
    text = "(float[2] x) => (float[2] y)\n<float[2] a = {1, 2}>\n{ p = Add (x, a)  q = Round (p)  y = Add (q, x) }"
    assert gradient(graph(text)).frozen["a"].id == "gradient/unused"


@pytest.mark.parametrize(
    ("inputs", "body", "opset"),
    [
        ("float[4] x", "y = Mish (x)", 18),
        ("float[4] x", "y = Gelu (x)", 20),
        ("float[4] x", 'y = Gelu <approximate = "tanh"> (x)', 20),
        ("float[1,3,4] x, float[1,3,4] k, float[1,3,4] v", "y = Attention <q_num_heads = 2, kv_num_heads = 2, is_causal = 1> (x, k, v)", 23),
        ("float[1,3,4] x, float[1,3,1] c, float[1,3,1] s", "y = RotaryEmbedding <num_heads = 2> (x, c, s)", 23),
    ],
)
def test_an_operator_without_a_rule_is_written_out_by_its_definition(inputs: str, body: str, opset: int) -> None:
    example = GradientExample("", {}, {}, opset, 0, None)
    assert fault_of(f"({inputs}) => (float y) {{ {body} }}", example, np.random.default_rng(0)) is None


def test_a_branch_is_taken_by_the_value_of_an_input() -> None:
    text = """(float[2] x, bool c) => (float[2] y) {
        y = If (c) <then_branch = yes () => (float[2] a) { a = Mul (x, x) }, else_branch = no () => (float[2] b) { b = Neg (x) }>
    }"""
    assert gradient(graph(text), None, ["x"]).frozen["x"].id == "gradient/no-rule"
    result = gradient(graph(text), None, ["x"], fixed={"c": np.array(True)})
    assert [i.name for i in result.model.inputs] == ["x", result.cotangents["y"]]
    x = array(2)
    np.testing.assert_allclose(run(result, x=x, **{result.cotangents["y"]: np.ones(2, np.float32)})["x"], 2 * x, rtol=1e-6)


def test_stated_shapes_serve_rules_that_need_numbers() -> None:
    model = graph("(float[n,h] x, float[k,h] z) => (float[m,h] y) { y = Concat <axis = 0> (x, z) }")
    assert gradient(model, None, ["x"]).frozen["x"].id == "gradient/dynamic-shape"
    assert gradient(model, None, ["x"], shapes={"x": (2, 3), "z": (1, 3)}).frozen == {}


def test_a_name_that_is_no_tensor_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"no tensor 'z' in its main graph"):
        gradient(graph("(float[2] x) => (float[2] y) { y = Relu (x) }"), None, ["z"])


def test_a_model_of_integers_is_an_error() -> None:
    with pytest.raises(ModelError, match="no output of floating-point numbers"):
        gradient(graph("(float[2] x) => (int64[1] y) { y = Shape (x) }"), None, ["x"])


def test_an_input_of_integers_is_frozen() -> None:
    model = graph("(float[3] x, int64[2] i) => (float[2] y) { y = Gather (x, i) }")
    assert gradient(model, None, ["i"]).frozen["i"].id == "gradient/no-float"


def test_nothing_is_written_that_no_gradient_needs() -> None:
    result = gradient(graph("(float[3] a, float[3] b) => (float[3] y) { p = Mul (a, b)  z = Exp (a)  y = Relu (p) }"), None, ["a"])
    assert "Exp" not in [n.op for n in result.model.graph.nodes]
    assert sum(n.op == "Mul" for n in result.model.graph.nodes) == 3


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "gates", "more"),
    [("LSTM", 4, ""), ("GRU", 3, ""), ("GRU", 3, ", linear_before_reset = 1"), ("RNN", 1, "")],
    ids=["lstm", "gru", "gru-before", "rnn"],
)
def test_recurrent_operators_are_written_out_step_by_step(op: str, gates: int, more: str, direction: str) -> None:
    d = 2 if direction == "bidirectional" else 1
    inputs = f"float[3,2,4] x, float[{d},{5 * gates},4] w, float[{d},{5 * gates},5] r, float[{d},{10 * gates}] b, float[{d},2,5] h"
    inputs, cell = (f"{inputs}, float[{d},2,5] c", ", c") if op == "LSTM" else (inputs, "")
    for outputs in (("y", "z", "v") if op == "LSTM" else ("y", "z")), ("", "z"):
        names = ", ".join(outputs)
        signature = ", ".join(f"float {name}" for name in outputs if name)
        text = f'({inputs}) => ({signature}) {{ {names} = {op} <hidden_size = 5, direction = "{direction}"{more}> (x, w, r, b, , h{cell}) }}'
        assert fault_of(text, GradientExample("", {}, {}, 18, 0, None), np.random.default_rng(0)) is None


def test_a_recurrent_operator_with_lengths_stays_and_is_named() -> None:
    text = "(float[3,2,4] x, float[1,5,4] w, float[1,5,5] r, int32[2] n) => (float[3,1,2,5] y) { y = RNN <hidden_size = 5> (x, w, r, , n) }"
    assert gradient(graph(text), None, ["w"]).frozen["w"].id == "gradient/no-rule"


def test_the_slope_of_a_scale_is_that_of_learned_step_sizes() -> None:
    """Of a pair of Q and DQ: what rounding adds for a number inside the range, the end of the range for one outside (Esser et al., arXiv 1902.08153)."""
    model = parse_model(
        """(float[6] x) => (float[6] y)
        <float s = {0.5}, int8 z = {3}>
        {
            q = QuantizeLinear (x, s, z)
            y = DequantizeLinear (q, s, z)
        }""",
        {"": 19},
    )
    slopes = gradient(model, ["y"], ["s", "x"])
    x = np.array([0.1, -0.9, 3.3, 70.0, -80.0, 12.24], np.float32)
    weights = np.array([1.0, -2.0, 0.5, 3.0, 0.25, 4.0], np.float32)
    values = open_session(slopes.model, threads=1).run({"x": x, slopes.cotangents["y"]: weights})
    codes = np.clip(np.rint(x / 0.5) + 3, -128, 127) - 3
    inside = np.abs(x) < 60
    assert values[slopes.gradients["s"]] == pytest.approx(float((weights * np.where(inside, codes - x / 0.5, codes)).sum()), rel=1e-5)
    np.testing.assert_allclose(values[slopes.gradients["x"]], weights * inside)


def test_codes_in_a_calculation_are_named() -> None:
    """What is learned through them would be lost in silence."""
    model = parse_model(
        """(float[6] x) => (float[6] y)
        <float s = {0.5}, int8 z = {0}, int8[1] one = {1}>
        {
            q = QuantizeLinear (x, s, z)
            m = Mul (q, one)
            y = DequantizeLinear (m, s, z)
        }""",
        {"": 19},
    )
    assert gradient(model, ["y"], ["x"]).frozen["x"].id == "gradient/codes"
