"""The stages of simplify, and what it leaves alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis
import numpy as np
import onnx
import pytest
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphcompress.errors import UsageError
from graphcompress.ir import Model, TensorData, lint, model_from_proto, nodes, to_bytes, to_proto
from graphcompress.ir.files.text import parse_model
from graphcompress.passes.simplify import Options, fold, run, simplify
from graphcompress.runtime.evaluate import run_once
from graphcompress.step import Context, StepResult
from graphcompress.targets import load_target


def simplified(text: str, opset: int = 17, **options: Any) -> StepResult:
    model = parse_model(text, {"": opset}) if not text.lstrip().startswith("<") else parse_model(text)
    result = simplify(model, Context(), Options(**options)).boldest
    lint(result.model)
    return result


def ops(model: Model) -> Counter[str]:
    return Counter(n.op for n in nodes(model))


def constants(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    return {name: c.values for name, c in model.graph.initializers.items()}


def refusals(result: StepResult) -> set[str]:
    return {r.id for r in result.refusals}


# --- dead code ------------------------------------------------------------------------------------------------------------------


def test_what_no_output_needs_goes() -> None:
    result = simplified(
        "(float[N] x, float[N] unused) => (float[N] y) <float[2] k = {1, 2}, float[N] dead> { a = Erf (x) b = Tanh (a) y = Relu (x) }".replace(
            ", float[N] dead", ""
        )
    )
    assert ops(result.model) == {"Relu": 1}
    assert not constants(result.model)
    assert [i.name for i in result.model.inputs] == ["x", "unused"]
    assert result.applied == {"simplify/dead": 3}


def test_what_only_a_branch_reads_stays() -> None:
    result = simplified(
        """(float[N] x, bool p) => (float[N] y) <float[1] k = {2}> {
            a = Erf (x)
            y = If (p) <then_branch = t () => (float[N] b) { b = Mul (a, k) c = Neg (a) }, else_branch = e () => (float[N] d) { d = Neg (x) }>
        }"""
    )
    assert ops(result.model) == {"Erf": 1, "If": 1, "Mul": 1, "Neg": 1}
    assert "k" in constants(result.model)


def test_an_operator_of_an_unknown_domain_stays_whether_read_or_not() -> None:
    result = simplified('<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[N] x) => (float[N] y) { a = Erf (x) b = my.Log (a) y = Relu (x) }')
    assert not result.changed


IMPURE = '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[N] x, bool p) => (float[N] y) '


def test_what_holds_an_unknown_operator_in_a_branch_stays_whether_read_or_not() -> None:
    result = simplified(
        IMPURE
        + "{ y = Relu (x)  u = If (p) <then_branch = t () => (float[N] a) { a = Neg (x) b = my.Log (a) }, else_branch = e () => (float[N] d) { d = Abs (x) }> }"
    )
    assert not result.changed
    pure = simplified(
        IMPURE + "{ y = Relu (x)  u = If (p) <then_branch = t () => (float[N] a) { a = Neg (x) }, else_branch = e () => (float[N] d) { d = Abs (x) }> }"
    )
    assert ops(pure.model) == {"Relu": 1}


def test_an_unknown_operator_in_a_branch_that_is_read_keeps_what_it_needs() -> None:
    result = simplified(
        IMPURE
        + "{ h = Exp (x)  y = If (p) <then_branch = t () => (float[N] a) { a = Neg (x) b = Abs (h) c = my.Log (b) e = Tanh (a) }, else_branch = e () => (float[N] d) { d = Abs (x) }> }"
    )
    assert ops(result.model) == {"Exp": 1, "If": 1, "Neg": 1, "Abs": 2, "Log": 1}


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape (x)  y = Slice (s, back, far, zero, back)",
        "s = Shape (x)  y = Slice (s, one, far2, zero, two)",
        "s = Shape <start = 1> (x)  y = Gather (s, back)",
        "s = Shape <start = -2, end = -1> (x)  y = Gather (s, zero)",
        "s = Shape (x)  y = Gather <axis = -1> (s, table)",
        "s = Size (x)  y = Reshape (s, one)",
    ],
)
def test_pieces_of_a_known_shape_are_what_the_runtime_says(body: str) -> None:
    text = f"(float[2,3,5,7] x) => (int64[A] y) <int64[1] back = {{-1}}, int64[1] far = {{-100}}, int64[1] far2 = {{100}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[2,2] table = {{0, -1, 2, 1}}> {{ {body} }}"
    if "table" in body:
        text = text.replace("int64[A] y", "int64[A,B] y")
    result = simplified(text)
    feed = {"x": np.zeros((2, 3, 5, 7), np.float32)}
    np.testing.assert_array_equal(run_once(model_from_proto(to_proto(result.model)), feed)["y"], run_once(parse_model(text), feed)["y"])


def test_a_call_of_a_function_is_judged_by_its_body() -> None:
    def text(inside: str) -> str:
        return f"""<ir_version: 10, opset_import: ["" : 17, "own" : 1, "my" : 1]> g (float[N] x) => (float[N] y) {{ a = own.F (x) y = Relu (x) }}
            <domain: "own", opset_import: ["" : 17, "my" : 1]> F (q) => (r) {{ r = {inside} (q) }}"""

    assert ops(simplified(text("Neg")).model) == {"Relu": 1}
    assert ops(simplified(text("my.Log")).model) == {"Relu": 1, "F": 1}
    in_a_branch = text("Neg").replace(
        "r = Neg (q)", "c = Constant <value = bool {1}> () r = If (c) <then_branch = t () => (a) { a = my.Log (q) }, else_branch = e () => (b) { b = Neg (q) }>"
    )
    assert ops(simplified(in_a_branch, off=("simplify/function",)).model) == {"Relu": 1, "F": 1}


def test_constants_that_a_quantization_annotation_names_stay() -> None:
    model = parse_model("(float[N] x) => (float[N] y) <float k = {1}, float other = {1}> { y = Relu (x) }")
    note = model.graph.shell.quantization_annotation.add(tensor_name="y")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="k")
    assert list(constants(simplify(model, Context()).boldest.model)) == ["k"]


# --- constants ------------------------------------------------------------------------------------------------------------------


def test_constant_nodes_become_initializers_of_the_type_that_they_say() -> None:
    result = simplified(
        "(float[N,1] x) => (float[N,1] y) { a = Constant <value_float = 0.5> () b = Constant <value_floats = [1.5]> () c = Mul (x, a) y = Add (c, b) }",
    )
    assert {n: (v.dtype.name, v.shape) for n, v in constants(result.model).items()} == {"a": ("float32", ()), "b": ("float32", (1,))}


def test_a_constant_that_is_an_output_keeps_its_node_and_name() -> None:
    result = simplified("(float[N] x) => (float[2] k, float[2] y) <float[2] a = {1, 2}> { k = Constant <value_floats = [1.5, 2.5]> () y = Neg (a) }")
    assert ops(result.model) == {"Constant": 2}
    found = run_once(model_from_proto(to_proto(result.model)), {"x": np.zeros(1, np.float32)})
    assert found["k"].tolist() == [1.5, 2.5]
    assert found["y"].tolist() == [-1.0, -2.0]


def test_before_ir_4_a_new_constant_is_an_input_too() -> None:
    result = simplified('<ir_version: 3, opset_import: ["" : 8]> g (float[2] x, float[2] k = {1, 2}) => (float[2] y) { a = Neg (k) y = Add (x, a) }')
    proto = to_proto(result.model)
    assert result.applied["simplify/fold"] == 1
    assert {t.name for t in proto.graph.initializer} == {"a"}
    assert [i.name for i in proto.graph.input] == ["x", "a"]
    onnx.checker.check_model(proto)


def test_inside_a_branch_constants_stand_in_the_branch() -> None:
    result = simplified(
        """(float[2] x, bool p) => (float[2] y) {
            y = If (p) <
                then_branch = t () => (float[2] b) { k = Constant <value_floats = [1.0, 2.0]> () n = Neg (k) b = Mul (x, n) },
                else_branch = e () => (float[2] d) { k = Constant <value_floats = [3.0, 4.0]> () d = Neg (k) }>
        }"""
    )
    assert ops(result.model) == {"If": 1, "Mul": 1, "Constant": 1}
    changed = model_from_proto(to_proto(result.model))
    for taken, expected in ((True, [-1.0, -4.0]), (False, [-3.0, -4.0])):
        assert run_once(changed, {"x": np.array([1, 2], np.float32), "p": np.array(taken)})["y"].tolist() == expected


# --- folding --------------------------------------------------------------------------------------------------------------------


def test_a_chain_of_constants_is_run_in_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(fold, "run_once", lambda model, feed, names: (calls.append(len(model.graph.nodes)), run_once(model, feed, names))[1])
    body = " ".join(f"t{i} = Neg ({f't{i - 1}' if i else 'k'})" for i in range(100))
    result = simplified(f"(float[2] x) => (float[2] y) <float[2] k = {{1, 2}}> {{ {body} s = Sqrt (k) z = Add (s, t99) y = Add (x, z) }}")
    k = np.array([1, 2], np.float32)
    assert calls == [102]
    assert ops(result.model) == {"Add": 1}
    assert constants(result.model)["z"].tolist() == np.add(np.sqrt(k), k).tolist()


def test_a_node_that_cannot_be_computed_stays_and_the_others_are_folded() -> None:
    text = """(float[2] x, bool p) => (float[2] y) <float[2] k = {1, 2}, int64[1] far = {7}> {
        n = Neg (k)
        y = If (p) <
            then_branch = t () => (float[2] b) { g = Gather (k, far) h = Neg (g) b = Add (x, h) },
            else_branch = e () => (float[2] d) { m = Abs (n) d = Mul (x, m) }>
    }"""
    result = simplified(text)
    assert ops(result.model) == {"If": 1, "Gather": 1, "Neg": 1, "Add": 1, "Mul": 1}
    assert "simplify/fold/raises" in refusals(result)
    assert run_once(model_from_proto(to_proto(result.model)), {"x": np.ones(2, np.float32), "p": np.array(False)})["y"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[2] x) => (float[2] y) <float[2] k = {1, 2}> { r = RandomNormalLike (k) y = Add (x, r) }", "random"),
        ("(float[2] x) => (float[2] y) <float[2] k = {1, 2}> { r = Bernoulli (k) y = Add (x, r) }", "random"),
        ("(float[2] x) => (float[2] y) <float[2] k = {1, 2}> { r = RandomUniformLike (k) y = Add (x, r) }", "random"),
        ("(int32[1,2] x) => (int32[1,2] y) <float[1,2] k = {1, 2}> { r = Multinomial <sample_size = 2> (k) y = Add (x, r) }", "random"),
        ("(float[2] x) => (float[2] y) <float[2] k = {1, 2}, float p = {0.5}, bool t = {1}> { r = Dropout (k, p, t) y = Add (x, r) }", "random"),
        ("(float[2] x) => (float[2] y) <int8[2] k = {1, 2}, float s = {0.5}> { r = DequantizeLinear (k, s) y = Add (x, r) }", "quantized"),
        ("(float[1] x) => (float[N] y) <int64[1] s = {1000000}> { r = ConstantOfShape <value = float[1] {0.5}> (s) y = Add (x, r) }", "growth"),
        ("(float[1] x) => (float[N] y) <float a = {0}, float b = {1000000}, float d = {1}> { r = Range (a, b, d) y = Add (x, r) }", "growth"),
    ],
)
def test_what_is_not_folded_says_why(text: str, reason: str) -> None:
    result = simplified(text)
    assert not result.changed
    assert f"simplify/fold/{reason}" in refusals(result)


def test_a_weight_that_others_read_is_not_written_a_second_time() -> None:
    weight = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["w"], ["t"]),
            helper.make_node("MatMul", ["x", "t"], ["a"]),
            helper.make_node("MatMul", ["a", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 256])],
        [helper.make_tensor_value_info("y", 1, ["N", 256])],
        [numpy_helper.from_array(weight, "w")],
    )
    shared = model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert not simplify(shared, Context()).boldest.changed
    del graph.node[2]
    graph.node[1].output[0] = "y"
    alone = model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert ops(simplify(alone, Context()).boldest.model) == {"MatMul": 1}


def test_a_tensor_that_nobody_needs_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """(float[N,1,3,3] x) => (float[N,64] y)
        <float[2,1,1,1] w = {1, -3}, float[2] s = {2, -0.5}, float[2] b = {1, 3}, float[2] m = {0.25, -2}, float[2] v = {4, 0.01}, float[18,64] large, int64[2] shape = {-1, 18}>
        { c = Conv (x, w) d = BatchNormalization (c, s, b, m, v) e = Reshape (d, shape) y = MatMul (e, large) }"""
    values = ", ".join(str(i) for i in range(18 * 64))
    model = parse_model(text.replace("large,", f"large = {{{values}}},"))
    load = TensorData.load
    read: list[str] = []
    monkeypatch.setattr(TensorData, "load", lambda self: (read.append(self.proto.name), load(self))[1])
    assert simplify(model, Context()).boldest.applied["fuse/conv_bn"] == 1
    assert "large" not in read
    assert {"w", "s", "b", "m", "v"} <= set(read)


# --- shapes ---------------------------------------------------------------------------------------------------------------------


def test_only_what_the_signature_fixes_is_a_known_shape() -> None:
    text = """(float[N,3,8,8] x) => (int64[1] n, int64[2] hw, int64[4] all, int64 c, int64 size) <int64[1] zero = {0}, int64 one = {1}, int64[1] two = {2}, int64[1] far = {9223372036854775807}> {
        s = Shape (x)
        n = Gather (s, zero)
        hw = Slice (s, two, far)
        c = Gather (s, one)
        all = Identity (s)
        size = Size (x)
    }"""
    result = simplified(text)
    assert result.applied["simplify/shape"] == 2
    changed = model_from_proto(to_proto(result.model))
    assert {n.outputs[0].name for n in nodes(changed) if n.op == "Constant"} == {"hw", "c"}
    for batch in (1, 5):
        found = run_once(changed, {"x": np.zeros((batch, 3, 8, 8), np.float32)})
        assert [v.tolist() for v in found.values()] == [[batch], [8, 8], [batch, 3, 8, 8], 3, batch * 192]


def test_stale_shapes_decide_nothing() -> None:
    model = parse_model("(float[N,4] x) => (int64[2] y) { a = Relu (x) y = Shape (a) }")
    model.graph.shell.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 4]))
    assert not simplify(model, Context()).boldest.changed


# --- as a whole -----------------------------------------------------------------------------------------------------------------


def test_the_given_model_is_not_touched_and_comes_back_where_nothing_is_done() -> None:
    model = parse_model("(float[N] x) => (float[N] y) { a = Identity (x) y = Relu (a) }")
    before = to_bytes(model)
    result = simplify(model, Context()).boldest
    assert result.changed
    assert to_bytes(model) == before
    again = simplify(result.model, Context()).boldest
    assert not again.changed
    assert again.model is result.model


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 17, 18, 21, 23])
def test_the_opset_stays(opset: int) -> None:
    model = parse_model("(float[N,4] x) => (float[N,4] y) { a = Identity (x) b = Relu (a) y = Sum (b, x) }", {"": opset})
    result = simplify(model, Context()).boldest
    assert result.model.opset == opset
    assert ops(result.model)["Identity"] == 0


def test_below_opset_7_nothing_is_done() -> None:
    result = simplified("(float[N,4] x) => (float[N,4] y) { a = Identity (x) y = Relu (a) }", opset=6)
    assert not result.changed
    assert refusals(result) == {"simplify/opset"}


def test_a_model_with_training_information_stays() -> None:
    model = parse_model("(float[N,4] x) => (float[N,4] y) { a = Identity (x) y = Relu (a) }")
    model.header.training_info.add()
    result = simplify(model, Context()).boldest
    assert not result.changed
    assert refusals(result) == {"simplify/training-info"}


def test_what_is_off_is_off_and_a_name_that_there_is_not_is_an_error() -> None:
    text = "(float[N] x) => (float[N] y) <float[1] k = {1}> { a = Identity (x) b = Erf (a) y = Relu (a) }"
    assert ops(simplified(text, off=("eliminate/identity",)).model) == {"Identity": 1, "Relu": 1}
    assert ops(simplified(text, off=("simplify/dead", "eliminate/identity")).model) == {"Identity": 1, "Erf": 1, "Relu": 1}
    with pytest.raises(UsageError, match="eliminate/identify"):
        simplified(text, off=("eliminate/identify",))


def test_what_pays_on_a_target_only_needs_that_target() -> None:
    text = "(float[N,2,3,3] x) => (float[N,2] y) { y = ReduceMean <axes = [2, 3], keepdims = 0> (x) }"
    assert not simplified(text).changed
    result = simplify(parse_model(text), Context(target=load_target("cpu"))).boldest
    assert ops(result.model) == {"GlobalAveragePool": 1, "Flatten": 1}


def test_a_keras_export_becomes_what_int8_wants() -> None:
    """Zero padding, convolution, normalization as multiplication and addition, and a second one as an operator."""
    text = """(float[N,1,3,3] x) => (float[N,2,2,2] y)
        <float[2,1,2,2] w = {1, 2, 3, 4, -1, 0.5, 2, 1}, float[1,2,1,1] k = {0.5, -2}, float[1,2,1,1] a = {1, 3}, int64[8] p = {0, 0, 0, 0, 0, 0, 1, 1},
         float[2] s = {2, -0.5}, float[2] b = {1, 3}, float[2] m = {0.25, -2}, float[2] v = {4, 0.01}>
        { q = Pad (x, p) c = Conv <strides = [2, 2]> (q, w) d = Mul (c, k) e = Add (a, d) f = BatchNormalization (e, s, b, m, v) y = Relu (f) }"""
    original = parse_model(text)
    result = simplified(text)
    assert ops(result.model) == {"Conv": 1, "Relu": 1}
    feed = {"x": np.random.default_rng(0).standard_normal((3, 1, 3, 3)).astype(np.float32)}
    np.testing.assert_allclose(run_once(model_from_proto(to_proto(result.model)), feed)["y"], run_once(original, feed)["y"], rtol=1e-5, atol=1e-5)


# --- a law ----------------------------------------------------------------------------------------------------------------------

UNARY = ("Relu", "Neg", "Identity", "Abs", "Dropout", "Transpose", "Sum", "Cast <to = 1>")
BINARY = ("Add", "Sub", "Mul", "Sum", "Max")
VALUES = ("{0.0, 0.0}", "{-0.0, -0.0}", "{1.0, 1.0}", "{2.0, 0.5}")


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A graph over [2,2] tensors and constants, in any order, with outputs anywhere."""
    known = ["x", "k0", "k1"]
    body: list[str] = []
    for index in range(draw(st.integers(1, 12))):
        made = f"t{index}"
        if draw(st.booleans()):
            op, operands = draw(st.sampled_from(UNARY)), [draw(st.sampled_from(known))]
        else:
            op, operands = draw(st.sampled_from(BINARY)), [draw(st.sampled_from(known)), draw(st.sampled_from(known))]
        body.append(f"{made} = {op} ({', '.join(operands)})")
        known.append(made)
    outputs = draw(st.lists(st.sampled_from(known[3:]), min_size=1, max_size=3, unique=True))
    lines = draw(st.permutations(body))
    shown = ", ".join(f"float[2,2] {o}" for o in outputs)
    return f"(float[2,2] x) => ({shown}) <float[2] k0 = {draw(st.sampled_from(VALUES))}, float[2] k1 = {draw(st.sampled_from(VALUES))}> {{ {' '.join(lines)} }}"


@hypothesis.given(texts())
def test_the_result_computes_the_same_and_cannot_be_simplified_further(text: str) -> None:
    original = parse_model(text)
    feed = {"x": np.array([[0.0, -0.0], [-1.5, 3.0]], np.float32)}
    expected = run_once(original, feed)
    result = simplify(original, Context()).boldest
    lint(result.model)
    found = run_once(model_from_proto(to_proto(result.model)), feed)
    assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in expected.items()}
    assert not simplify(result.model, Context()).boldest.changed


def test_constant_nodes_become_initializers_without_any_other_stage() -> None:
    model = "(float[2] x) => (float[2] y) { k = Constant <value_floats = [1.0, 2.0]> ()  y = Mul (x, k) }"
    result = simplified(model, off=tuple(stage for stage in run.STAGES if stage != "simplify/constant")).model
    assert ops(result) == {"Mul": 1} and list(result.graph.initializers) == ["k"]
