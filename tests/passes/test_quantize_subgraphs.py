"""INT8 inside branches and bodies: what runs is observed and fused there, names being no keys; what does not run stays float with that reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from quantized import EAGER, INTEGER, precision, reason

from graphcompress.data import Dataset
from graphcompress.ir import Model, lint, model_from_proto, nodes, to_proto
from graphcompress.passes.quantize import Options, quantize
from graphcompress.passes.quantize.feedback import fed_back
from graphcompress.runtime.profile import optimized_model
from graphcompress.step import Context, StepResult

WIDTH = 32


def weight(random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Exact in 8 bits, and no two neighbours in a column add up to more than 127: right on processors that add two products in 16 bits, too."""
    codes = random.integers(-60, 61, (WIDTH, WIDTH))
    codes[0], codes[1] = 127, 0
    return (codes / 256).astype(np.float32)


def built(text: str, *weights: str, **constants: Any) -> Model:
    """A model from ONNX text with square weights and other initializers by name."""
    random = np.random.default_rng(0)
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{text}')
    values = {name: weight(random) for name in weights} | {name: np.asarray(value) for name, value in constants.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return model_from_proto(proto)


def feeds(**flags: list[Any]) -> list[dict[str, Any]]:
    count = max((len(v) for v in flags.values()), default=4)
    return [{"x": np.random.default_rng(i).normal(0, 1, (4, WIDTH)).astype(np.float32), **{k: np.array(v[i]) for k, v in flags.items()}} for i in range(count)]


def done(model: Model, given: list[dict[str, Any]], **options: Any) -> StepResult:
    data = Dataset("test", "0" * 64, range(len(given)), lambda indices: (dict(given[i]) for i in indices))
    result = quantize(model, Context(target=EAGER, data=data, threads=1), Options(**options)).boldest
    lint(result.model)
    return result


def near(model: Model, result: StepResult, given: list[dict[str, Any]], tools: Any) -> None:
    for feed in given:
        for a, b in zip(tools.run(model, feed), tools.run(model_from_proto(to_proto(result.model)), feed), strict=True):
            assert np.linalg.norm(a - b) <= 0.06 * np.linalg.norm(a)


def integer_kernels(model: Model) -> int:
    return sum(n.op in INTEGER for n in nodes(optimized_model(model)))


BRANCHES = """g (float[4,32] x, bool p) => (float[4,32] y) {
    a = MatMul (x, w0) b = Relu (a)
    c = If (p) <
        then_branch = t () => (float[4,32] u) { m = MatMul (b, w1) k = Relu (m) u = MatMul (k, w2) },
        else_branch = e () => (float[4,32] v) { m = MatMul (b, w2) k = Abs (m) n = MatMul (k, w1) v = Relu (n) }>
    y = MatMul (c, w0)
}"""


def test_both_branches_are_integer_though_their_tensors_have_the_same_names(tools: Any) -> None:
    model = built(BRANCHES, "w0", "w1", "w2")
    given = feeds(p=[True, False, True, False])
    result = done(model, given)
    assert set(precision(result).values()) == {"int8"} and len(result.certificate.operators) == 6  # type: ignore[union-attr]
    assert integer_kernels(result.model) == 6
    near(model, result, given, tools)
    scales = [v["scale"] for k, v in result.decisions["activations"].items() if k.split(" ")[0] == "k"]
    assert len(set(scales)) == 2  # each branch has its own


def test_a_branch_that_is_never_taken_has_no_range(tools: Any) -> None:
    model = built(BRANCHES, "w0", "w1", "w2")
    result = done(model, feeds(p=[True] * 4))
    floats = [o for o in result.certificate.operators if o.precision == "float"]  # type: ignore[union-attr]
    assert len(floats) == 2
    assert all(o.id == "quantize/no-range" and "branch is not taken" in o.reason for o in floats)
    near(model, result, feeds(p=[False, True]), tools)


def test_what_is_integer_outside_is_read_as_float_and_as_integer_in_branches(tools: Any) -> None:
    model = built(BRANCHES, "w0", "w1", "w2")
    given = feeds(p=[True, False])
    result = done(model, given, exclude=("^n$|^m$",))  # unnamed nodes are called after their outputs
    assert [o.precision for o in result.certificate.operators].count("float") == 3  # type: ignore[union-attr]
    near(model, result, given, tools)


def test_branches_in_branches(tools: Any) -> None:
    model = built(
        """g (float[4,32] x, bool p, bool q) => (float[4,32] y) {
            c = If (p) <
                then_branch = t () => (float[4,32] u) {
                    k = If (q) <then_branch = t2 () => (float[4,32] i) { a = Neg (x) m = MatMul (a, w1) i = Relu (m) }, else_branch = e2 () => (float[4,32] j) { j = Abs (x) }>
                    u = MatMul (k, w2)
                },
                else_branch = e () => (float[4,32] v) { v = Neg (x) }>
            y = Abs (c)
        }""",
        "w1",
        "w2",
    )
    given = feeds(p=[True, True, False, True], q=[True, False, True, True])
    result = done(model, given)
    assert list(precision(result).values()) == ["int8", "int8"]
    assert integer_kernels(result.model) == 2
    near(model, result, given, tools)


def test_a_loop_body_is_observed_over_all_iterations(tools: Any) -> None:
    """The state grows with each iteration: a range of the first one alone would cut it off."""
    model = built(
        """g (float[4,32] x, int64 n, bool go) => (float[4,32] y, float[k,4,32] z) {
            y, z = Loop (n, go, x) <body = b (int64 i, bool c, float[4,32] s) => (bool c2, float[4,32] s2, float[4,32] o) {
                c2 = Identity (c) s2 = Mul (s, two) m = MatMul (s2, w1) o = Relu (m)
            }>
        }""",
        "w1",
        two=np.float32(1.4),
    )
    given = feeds(n=[3, 3, 2], go=[True] * 3)
    result = done(model, given)
    assert list(precision(result).values()) == ["int8"]
    assert integer_kernels(result.model) == 1
    near(model, result, given, tools)


def test_a_scan_body(tools: Any) -> None:
    model = built(
        """g (float[4,32] x) => (float[1,32] y, float[4,1,32] z) {
            u = Unsqueeze (x, one) s0 = Slice (x, zero, one, zero)
            y, z = Scan (s0, u) <num_scan_inputs = 1, body = b (float[1,32] s, float[1,32] e) => (float[1,32] s2, float[1,32] o) {
                s2 = Add (s, e) m = MatMul (s2, w1) r = Relu (m) t = MatMul (r, w2) o = Tanh (t)
            }>
        }""",
        "w1",
        "w2",
        zero=[0],
        one=[1],
    )
    result = done(model, feeds())
    assert list(precision(result).values()) == ["int8", "int8"]
    near(model, result, feeds(), tools)


LOOP = "y, z = Loop (n, go, x) <body = b (int64 i, bool c, float[4,32] s) => (bool c2, float[4,32] s2, float[4,32] o) {"
SCAN = "y, z = Scan (x, u) <num_scan_inputs = 1, body = b (float[4,32] s, float[32] e) => (float[4,32] s2, float[4,32] o) {"


@pytest.mark.parametrize(
    ("head", "body", "float_layers"),
    [
        (LOOP, "c2 = Identity (c) back = MatMul (s, w1) s2 = Tanh (back) out = MatMul (s2, w2) o = Relu (out)", {"back"}),
        (LOOP, "c2 = Identity (c) back = MatMul (s, w1) s2 = If (c) <then_branch = t () => (float[4,32] p) { deep = MatMul (back, w2) p = Tanh (deep) }, "
         "else_branch = f () => (float[4,32] q) { q = Identity (s) }> o = Relu (s)", {"back", "deep"}),
        (LOOP, "c2 = Identity (c) out = MatMul (x, w1) s2 = Relu (out) o = Relu (s)", set()),  # returned, and does not depend on what was returned before
        (SCAN, "back = MatMul (s, w1) s2 = Add (back, e) out = MatMul (s2, w2) o = Relu (out)", {"back"}),
        (SCAN, "s2 = Add (s, e) out = MatMul (s2, w1) o = Relu (out)", set()),
    ],
)  # fmt: skip
def test_what_is_fed_back_stays_float(head: str, body: str, float_layers: set[str]) -> None:
    model = built(f"g (float[4,32] x, float[3,32] u, int64 n, bool go) => (float[4,32] y, float[k,4,32] z) {{ {head} {body} }}> }}", "w1", "w2")
    assert {n.outputs[0].name for n in fed_back(model) if n.op == "MatMul"} == float_layers


def test_the_certificate_says_what_is_fed_back() -> None:
    model = built(f"g (float[4,32] x, int64 n, bool go) => (float[4,32] y) {{ {LOOP.replace('y, z', 'y').replace(', float[4,32] o', '')} c2 = Identity (c) m = MatMul (s, w1) s2 = Tanh (m) }}> }}", "w1")  # fmt: skip
    assert reason(done(model, feeds(n=[3] * 4, go=[True] * 4)), "m").startswith("quantize/fed-back: ")


def test_a_body_of_another_operator_stays_float_with_that_reason() -> None:
    model = built(
        """g (float[4,32] x) => (float[n,32] y) {
            s = SplitToSequence <axis = 0> (x)
            t = SequenceMap (s) <body = b (float[1,32] e) => (float[1,32] o) { m = MatMul (e, w1) o = Relu (m) }>
            y = ConcatFromSequence <axis = 0> (t)
        }""",
        "w1",
    )
    assert reason(done(model, feeds()), "m").startswith("quantize/in-subgraph: it stands in a subgraph of SequenceMap")


def with_functions(opset: int) -> Model:
    """A product in a function that a function calls, and one outside; `opset` is that of the inner function. A third function nobody calls."""
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17, "loc": 1]>
        g (float[4,32] x) => (float[4,32] y) {{ a = loc.outer (x, w1) b = loc.outer (a, w1) y = MatMul (b, w1) }}
        <domain: "loc", opset_import: ["": 17, "loc": 1]> outer (x, w) => (y) {{ y = loc.inner (x, w) }}
        <domain: "loc", opset_import: ["": {opset}]> inner (x, w) => (y) {{ m = MatMul (x, w) y = Relu (m) }}
        <domain: "loc", opset_import: ["": 17]> unused (x, w) => (y) {{ y = MatMul (x, w) }}"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(weight(np.random.default_rng(0)), "w1"))
    return model_from_proto(proto)


def test_functions_with_layers_are_written_out(tools: Any) -> None:
    model = with_functions(17)
    result = done(model, feeds())
    assert list(precision(result).values()) == ["int8"] * 3
    assert result.applied["quantize/inline-functions"] == 1
    assert {f.name for f in result.model.header.functions} == {"unused"}
    near(model, result, feeds(), tools)


def test_operators_in_functions_that_cannot_be_written_out_are_counted() -> None:
    """Relu is another operator at opset 12."""
    result = done(with_functions(12), feeds())
    assert precision(result) == {"y": "int8", "inner/m": "float"}
    assert reason(result, "inner/m").startswith("quantize/in-function")


def test_where_nothing_goes_to_integers_functions_stay() -> None:
    model = with_functions(17)
    result = done(model, feeds(), exclude=(".",))
    assert result.model is model and not result.changed


def test_a_constant_of_a_branch_goes_with_its_layer(tools: Any) -> None:
    """Weights that belong to the branch are replaced there, and those of the same name in the other branch are not."""
    random = np.random.default_rng(3)

    def branch(name: str, weight: np.ndarray[Any, Any]) -> Any:
        body = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], [name])]
        return helper.make_graph(body, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)], [numpy_helper.from_array(weight, "w")])

    then, other = weight(random), weight(random)
    node = helper.make_node("If", ["p"], ["y"], then_branch=branch("u", then), else_branch=branch("v", other))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, WIDTH]), helper.make_tensor_value_info("p", TensorProto.BOOL, [])]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    given = feeds(p=[True, True, True])
    result = done(model, given)
    assert [o.precision for o in result.certificate.operators] == ["int8", "float"] or [o.precision for o in result.certificate.operators] == ["float", "int8"]  # type: ignore[union-attr]
    written = to_proto(result.model)
    (owner,) = [n for n in written.graph.node if n.op_type == "If"]
    bodies = {a.name: a.g for a in owner.attribute}
    assert [t.name for t in bodies["then_branch"].initializer] == [] and [t.name for t in bodies["else_branch"].initializer] == ["w"]
    near(model, result, feeds(p=[True, False]), tools)
