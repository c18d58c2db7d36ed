"""What simplify does with a model as a whole: functions, constant branches, weights listed as inputs, results that do not load, no runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress.engine import load_rule
from graphcompress.errors import RuntimeUnavailable
from graphcompress.ir import Model, lint, model_from_proto, nodes, to_proto
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.simplify import Options, loading, run, simplify
from graphcompress.runtime import ort
from graphcompress.runtime.evaluate import run_once
from graphcompress.step import Context, StepResult

HEAD = '<ir_version: 10, opset_import: ["": 18, "loc": 1]>'


def simplified(model: Model | str, **options: Any) -> StepResult:
    model = parse_model(model, None if model.lstrip().startswith("<") else {"": 17}) if isinstance(model, str) else model
    result = simplify(model, Context(), Options(**options)).boldest
    lint(result.model)
    return result


def ops(model: Model) -> Counter[str]:
    return Counter(n.op for n in nodes(model))


def same(original: Model, result: Model, *feeds: dict[str, np.ndarray[Any, Any]]) -> None:
    again = model_from_proto(to_proto(result))
    for feed in feeds:
        expected = run_once(original, feed)
        for name, value in run_once(again, feed).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


# --- functions ------------------------------------------------------------------------------------------------------------------


def test_a_function_is_not_written_out_for_its_constant_nodes() -> None:
    model = parse_model(
        f"""{HEAD} g (float[2,3] x) => (float[2,3] y) {{ y = loc.twice (x) }}
        <domain: "loc", opset_import: ["": 18]> twice (x) => (y) {{ k = Constant <value_float = 2.0> ()  y = Mul (x, k) }}"""
    )
    assert not simplified(model).changed


def test_functions_in_which_nothing_changes_stay() -> None:
    model = parse_model(
        f"""{HEAD} g (float[2,3] x) => (float[2,3] y) {{ a = loc.swish (x)  b = loc.clean (a)  c = loc.clean (b)  y = loc.outer (c) }}
        <domain: "loc", opset_import: ["": 18]> swish (x) => (y) {{ s = Sigmoid (x)  y = Mul (x, s) }}
        <domain: "loc", opset_import: ["": 18]> clean (x) => (y) {{ i = Identity (x)  y = Exp (i) }}
        <domain: "loc", opset_import: ["": 18, "loc": 1]> outer (x) => (y) {{ a = loc.inner (x)  y = Neg (a) }}
        <domain: "loc", opset_import: ["": 18]> inner (x) => (y) {{ one = Constant <value_int = 1> ()  f = Cast <to = 1> (one)  y = Div (x, f) }}"""
    )
    result = simplified(model)
    assert ops(result.model) == {"swish": 1, "Exp": 2, "Neg": 1}
    assert [f.name for f in result.model.header.functions] == ["swish"]
    assert result.applied["simplify/function"] == 3
    same(model, result.model, {"x": np.ones((2, 3), np.float32)})
    again = simplified(result.model)
    assert not again.changed


def test_a_fusion_that_needs_what_the_caller_gives_is_made() -> None:
    model = parse_model(
        f"""{HEAD} g (float[1,1,3,3] x) => (float[1,2,3,3] y) <float[2,1,1,1] w = {{1, -3}}, float[2] s = {{2, -0.5}}, float[2] b = {{1, 3}}, float[2] m = {{0.25, -2}}, float[2] v = {{4, 0.01}}>
        {{ y = loc.block (x, w, s, b, m, v) }}
        <domain: "loc", opset_import: ["": 18]> block (x, w, s, b, m, v) => (y) {{ c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }}"""
    )
    result = simplified(model)
    assert ops(result.model) == {"Conv": 1}
    assert not result.model.header.functions
    same(model, result.model, {"x": np.random.default_rng(0).standard_normal((1, 1, 3, 3)).astype(np.float32)})
    assert not simplified(model, off=("simplify/function",)).changed


# --- branches -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "left"), [(1, {"Exp": 1, "Squeeze": 1}), (4, {"Exp": 1, "Relu": 1})])
def test_an_if_on_a_size_that_the_signature_fixes_is_decided(size: int, left: dict[str, int]) -> None:
    text = """(float[N,%s,8] x) => (float[K,8] y) <int64 i = {1}, int64[2] flat = {-1, 8}> {
        h = Exp (x)  s = Shape (x)  d = Gather <axis = 0> (s, i)  one = Constant <value_int = 1> ()  p = Equal (d, one)
        f = If (p) <then_branch = t () => (float[A,B] u) <int64[1] axes = {1}> { u = Squeeze (h, axes) }, else_branch = e () => (float[A,1,B] v) <int64[1] axes = {0}> { q = Identity (h)  v = Relu (q) }>
        y = Reshape (f, flat)
    }"""
    original = parse_model(text % size, {"": 17})
    result = simplified(text % size)
    assert ops(result.model) - Counter({"Reshape": 1}) == left
    assert result.applied["simplify/if"] == 1
    if size == 1:  # onnxruntime refuses the other one for what stands in the branch that is not taken
        same(original, result.model, {"x": np.random.default_rng(0).standard_normal((3, size, 8)).astype(np.float32)})
    assert ops(simplified(text % "M").model)["If"] == 1
    assert ops(simplified(text % size, off=("simplify/if",)).model)["If"] == 1


def test_constant_ifs_inside_one_another_and_in_loops_are_decided() -> None:
    text = """(float[2] x, int64 n) => (float[2] y) <bool yes = {1}, bool no = {0}> {
        y = If (yes) <
            then_branch = t () => (float[2] p) { p = If (no) <then_branch = t2 () => (float[2] a) { a = Abs (x) }, else_branch = e2 () => (float[2] b) {
                b = Loop (n, yes, x) <body = l (int64 i, bool go, float[2] s) => (bool on, float[2] r) { on = Identity (go)  r = If (no) <then_branch = t3 () => (float[2] k) { k = Neg (s) }, else_branch = e3 () => (float[2] m) { m = Add (s, x) }> }> }> },
            else_branch = e () => (float[2] q) { q = Neg (x) }>
    }"""
    result = simplified(text)
    assert ops(result.model) - Counter({"Identity": 1}) == {"Loop": 1, "Add": 1}
    same(parse_model(text, {"": 17}), result.model, *({"x": np.array([1.0, 2.0], np.float32), "n": np.array(k, np.int64)} for k in (0, 1, 3)))


def test_a_condition_that_callers_may_override_decides_nothing() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x, bool c = {1}) => (float[2] y) { y = If (c) <then_branch = t () => (float[2] p) { p = Neg (x) }, else_branch = e () => (float[2] q) { q = Abs (x) }> }'
    assert not simplified(text).changed


# --- weights that are listed as inputs ------------------------------------------------------------------------------------------

LISTED = "(float[1,1,3,3] x, float[2,1,1,1] w = {1, -3}, float[2] s = {2, -0.5}, float[2] b = {1, 3}, float[2] m = {0.25, -2}, float[2] v = {4, 0.01}) => (float[1,2,3,3] y) { c = Conv (x, w)  y = BatchNormalization (c, s, b, m, v) }"


@pytest.mark.parametrize(("ir_version", "opset"), [(3, 7), (3, 8), (4, 9), (8, 17)])
def test_weights_of_which_all_are_listed_as_inputs_are_constants(ir_version: int, opset: int) -> None:
    model = parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {LISTED}')
    result = simplified(model)
    assert ops(result.model) == {"Conv": 1}
    written = to_proto(result.model)
    names = {t.name for t in written.graph.initializer}
    assert len(names) == 2
    assert {i.name for i in written.graph.input} == {"x"} | (names if ir_version == 3 else set())
    assert result.model.overridable == ()
    assert [s.name for s in result.model.inputs] == ["x"]
    assert ("simplify/listed" in {r.id for r in result.refusals}) == (ir_version > 3)
    same(model, result.model, {"x": np.random.default_rng(0).standard_normal((1, 1, 3, 3)).astype(np.float32)})
    if ir_version > 3:
        assert not simplified(model, off=("simplify/listed",)).changed


@pytest.mark.parametrize(
    "text",
    [
        "(float[2] x, float[2] a = {1, 1}) => (float[2] y) { t = Mul (x, a)  y = Neg (t) }",  # the only one may be meant to be set
        "(float[2] x, float[2] a = {1, 1}, float[2] b = {2, 2}) => (float[2] y) <float[2] k = {3, 3}> { t = Mul (x, a)  u = Mul (t, b)  y = Add (u, k) }",  # some are, others not
        "(float[2] x, float[2] a = {1, 2}, float[2] b = {2, 2}) => (float[2] y) { t = Mul (x, a)  y = Add (t, b) }",  # nothing would come of it
    ],
)
def test_other_defaults_stay_what_callers_may_override(text: str) -> None:
    result = simplified(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    assert not result.changed
    assert not {r.id for r in result.refusals} & {"simplify/listed"}


def test_defaults_that_were_meant_stay_so_when_the_other_initializers_are_gone() -> None:
    model = parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x, float[2] a = {1, 1}, float[2] b = {2, 2}) => (float[2] y) <float[1] k = {1}> { t = Mul (x, a)  u = Mul (t, b)  v = Mul (u, k)  y = Neg (v) }'
    )
    result = simplified(model)
    assert result.applied == {"eliminate/multiply_one": 1, "simplify/dead": 1}
    assert not simplified(result.model).changed
    assert not simplified(model_from_proto(to_proto(result.model))).changed
    assert [s.name for s in result.model.overridable] == ["a", "b"]


# --- results that do not load ---------------------------------------------------------------------------------------------------

BROKEN = """summary = "Write what has no kernel"
effect = "exact"
opset = ">=7"
before = "(x) => (y) { y = Neg (x) }"
after = "(x) => (y) { y = GlobalAveragePool (x) }"
[[example]]
graph = "(float[N,2,3] x) => (float[N,2,1] y) { y = Neg (x) }"
"""


@pytest.fixture
def broken_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "broken.toml"
    path.write_text(BROKEN, encoding="utf-8")
    rule, rules, ids = load_rule(path), run.load_rules, run.rule_ids
    monkeypatch.setattr(run, "load_rules", lambda *a: [*rules(*a), rule])
    monkeypatch.setattr(run, "rule_ids", lambda *a: [*ids(*a), rule.id])
    return rule.id


def test_a_rule_whose_result_does_not_load_is_left_out(broken_rule: str) -> None:
    text = "(double[1,2,3] x) => (double[1,2,3] y) <double[1] one = {1}> { a = Identity (x)  b = Mul (a, one)  c = Neg (b)  d = Exp (c)  dead = Abs (d)  y = Identity (d) }"
    result = simplified(text)
    assert ops(result.model) == {"Neg": 1, "Exp": 1}
    refusal = next(r for r in result.refusals if r.id == f"{broken_rule}/load")
    assert "GlobalAveragePool" in refusal.reason
    assert broken_rule not in result.applied
    assert {"eliminate/identity", "eliminate/multiply_one", "simplify/dead"} <= result.applied.keys()
    again = simplified(text, off=(broken_rule,))
    assert again.applied == result.applied


def test_every_rule_that_breaks_it_is_left_out(broken_rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "also.toml"
    path.write_text(BROKEN.replace("Neg (x)", "Exp (x)"), encoding="utf-8")
    other, rules = load_rule(path), run.load_rules
    monkeypatch.setattr(run, "load_rules", lambda *a: [*rules(*a), other])
    result = simplified("(double[1,2,3] x) => (double[1,2,3] y) { a = Identity (x)  c = Neg (a)  y = Exp (c) }")
    assert ops(result.model) == {"Neg": 1, "Exp": 1}
    assert {f"{broken_rule}/load", f"{other.id}/load"} <= {r.id for r in result.refusals}


def test_what_did_not_load_before_is_no_reason(broken_rule: str) -> None:
    """An operator that onnxruntime does not know is a barrier; whether the rest would load cannot be asked."""
    result = simplified(
        '<ir_version: 8, opset_import: ["": 17, "my": 1]> g (double[1,2,3] x) => (double[1,2,3] y) { a = my.Op (x)  b = Identity (a)  y = Relu (b) }'
    )
    assert ops(result.model) == {"Op": 1, "Relu": 1}
    assert not [r for r in result.refusals if r.id.endswith("/load")]


def test_a_result_that_never_loads_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    model = parse_model("(float[2] x) => (float[2] y) { a = Identity (x)  y = Relu (a) }", {"": 17})
    monkeypatch.setattr(run, "load_problem", lambda m: None if m is model else "it is broken")
    result = simplified(model)
    assert not result.changed
    assert result.model is model
    assert [r.id for r in result.refusals if "load" in r.id] == ["simplify/load"]


def test_weights_are_not_loaded_to_see_whether_a_result_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    create = ort.create
    monkeypatch.setattr(ort, "create", lambda content, *rest: (sizes.append(len(content)), create(content, *rest))[1])
    model = parse_model("(float[1,512] x) => (float[1,512] y) <int64[2] s = {1, 512}> { a = MatMul (x, x)  b = Reshape (a, s)  y = Neg (b) }", {"": 17})
    weight = model.constant("w", np.zeros((512, 512), np.float32))
    with Edits(model) as edits:
        edits.set_input(model.graph.nodes[0], 1, weight)
    assert loading.load_problem(model) is None
    assert len(sizes) == 2
    assert max(sizes) < 4096


@pytest.mark.parametrize(("numbers", "sessions"), [(1000, 1), (loading.LARGEST_TABLES // 8, 0)])
def test_a_table_in_attributes_is_not_loaded_to_see_whether_a_result_loads(numbers: int, sessions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rule touches it, and a session holds it in many times its bytes."""
    made: list[int] = []
    monkeypatch.setattr(ort, "create", lambda content, *rest: made.append(len(content)))
    monkeypatch.setattr(loading, "MANY_NODES", 0)
    proto = to_proto(parse_model("(float[2] x) => (float[2] y) { y = loc.trees (x) }", {"": 17, "loc": 1}))
    table = proto.graph.node[0].attribute.add(name="table", type=7)
    table.ints.extend(range(2**50, 2**50 + numbers))
    assert loading.load_problem(model_from_proto(proto, check=False)) is None
    assert len(made) == sessions


def test_without_a_runtime_the_rest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise RuntimeUnavailable(ort.MISSING)

    monkeypatch.setattr(ort, "load", missing)
    result = simplified("(float[2] x) => (float[2] y) <float[2] k = {1, 2}> { n = Exp (k)  a = Identity (x)  b = Add (a, n)  y = Relu (b) }")
    assert ops(result.model) == {"Exp": 1, "Add": 1, "Relu": 1}
    assert "simplify/fold/runtime" in {r.id for r in result.refusals}


# --- names that subgraphs use as well -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("int64[] t7, int64[] t8", "t7 = Shape <end: int = -1, start: int = -1> (t1s)  t8 = Neg (t7)"),
        ("int64[] t7, int64[] t8", "t3 = Neg (t2)  t7 = Abs (t3)  t8 = Neg (t7)"),
        ("int64[] t8, int64[] t9", "t7 = Neg (t2)  t8 = Add (t7, x1)  t9 = Mul (t7, x1)"),
    ],
)
def test_a_constant_whose_name_a_subgraph_uses(outputs: str, body: str) -> None:
    """onnxruntime knows constants before it looks at subgraphs, and then refuses the inner tensor of that name. An output cannot have another name; it keeps its node."""
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[0] x0, int64[1] x1) => ({outputs}) <int64 w1 = {{1}}> {{
            t1 = Loop (w1, "", x0) <body: graph = body (int64 i3, bool w1, float[] s5) => (bool[] t6, float[] t7) {{ t6 = Identity (w1)  t7 = Identity (s5) }}>
            t1s = Shape (t1)  t2 = Shape <end: int = -1, start: int = -1> (t1s)
            {body}
        }}"""
    model = parse_model(text)
    result = simplified(model)
    same(model, result.model, {"x0": np.zeros(0, np.float32), "x1": np.array([3], np.int64)})
    assert not [r for r in result.refusals if r.id.endswith("/load")]


def test_a_constant_that_is_no_output_gets_another_name() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[1,1] x) => (bool[] t1, float[] y) <int64[1] one = {1}, int64[1] three = {3}> {
            t1 = If (c) <then_branch = t () => (bool[] t9) { t9 = Identity (c) }, else_branch = e () => (bool[] u) { u = Not (c) }>
            s = Shape (x)  p = Slice (s, zero, one)
            t9 = Concat <axis = 0> (p, three)
            y = Tile (x, t9)
        }""".replace("one = {1},", "one = {1}, int64[1] zero = {0},")
    model = parse_model(text)
    result = simplified(model)
    assert ops(result.model)["Concat"] == 0
    assert not [r for r in result.refusals if r.id.endswith("/load")]
    same(model, result.model, {"c": np.array(True), "x": np.ones((1, 1), np.float32)})
