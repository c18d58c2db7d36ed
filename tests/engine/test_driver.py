"""Matching and rewriting: where a pattern is found, what is put in its place, when it stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress.engine import Rule, Stop, load_rule, load_rules, rewrite
from graphcompress.engine.expression import parse
from graphcompress.engine.functions import Binding
from graphcompress.engine.match import COMMUTATIVE
from graphcompress.engine.structural_functions import same_shape
from graphcompress.errors import ModelError
from graphcompress.ir import Model, Variable, lint, model_from_proto, nodes, to_proto
from graphcompress.ir.files.text import parse_model
from graphcompress.runtime.evaluate import run_once
from graphcompress.targets import rules_root

ROOT = rules_root() / "rewrite"
CONV = "<float[2,1,1,1] w = {1, -3}, float[2] s = {2, -0.5}, float[2] b = {1, 3}, float[2] m = {0.25, -2}, float[2] v = {4, 0.01}>"


def rule(name: str) -> Rule:
    return load_rule(ROOT / f"{name}.toml", ROOT)


def written(tmp_path: Path, name: str, before: str, after: str, graph: str) -> Rule:
    path = tmp_path / f"{name}.toml"
    path.write_text(
        f"summary = 'for a test'\neffect = 'exact'\nopset = '>=13'\nbefore = '''{before}'''\nafter = '''{after}'''\n[[example]]\ngraph = '''{graph}'''\n",
        encoding="utf-8",
    )
    return load_rule(path)


def ops(model: Model) -> list[str]:
    return sorted(n.op for n in nodes(model))


def again(model: Model) -> Model:
    lint(model)
    return model_from_proto(to_proto(model))


def chain(count: int, op: str = "Identity") -> Model:
    body = "\n".join(f"t{i} = {op} ({'x' if i == 0 else f't{i - 1}'})" for i in range(count))
    return parse_model(f"(float[N,4] x) => (float[N,4] y) {{ {body}\n y = Relu (t{count - 1}) }}")


def test_visits_grow_with_the_graph_and_no_faster() -> None:
    rules = load_rules(ROOT)
    for op in ("Identity", "Relu", "Transpose"):
        few, many = (rewrite(chain(n, op), rules).visits for n in (200, 800))
        assert many <= 4.2 * few


def test_a_tensor_that_everybody_reads_does_not_make_it_slow() -> None:
    def wide(count: int) -> Model:
        body = "\n".join(f"t{i} = Identity (x)" for i in range(count))
        return parse_model(f"(float[N,4] x) => (float[N,4] y) {{ {body}\n y = Sum ({', '.join(f't{i}' for i in range(count))}) }}")

    few, many = (rewrite(wide(n), [rule("eliminate/identity")]) for n in (200, 800))
    assert many.applied["eliminate/identity"] == 800
    assert many.visits <= 4.2 * few.visits


def test_what_a_rewrite_enables_is_found_whatever_the_order_of_nodes() -> None:
    for reverse in (False, True):
        model = parse_model(
            f"(float[N,1,2,2] x) => (float[N,2,2,2] y) {CONV} {{ c = Conv (x, w) d = BatchNormalization (c, s, b, m, v) y = BatchNormalization (d, s, b, m, v) }}"
        )
        if reverse:
            model.graph.nodes.reverse()
        assert rewrite(model, [rule("fuse/conv_bn")]).applied == {"fuse/conv_bn": 2}
        assert ops(model) == ["Conv"]


def test_new_nodes_say_what_they_stand_for_and_keep_what_they_inherit() -> None:
    model = parse_model(
        f"(float[N,1,2,2] x) => (float[N,2,2,2] y) {CONV} {{ [first] c = Conv <dilations = [1, 1]> (x, w) [second] y = BatchNormalization (c, s, b, m, v) }}"
    )
    model.graph.nodes[0].proto.doc_string = "kept"  # type: ignore[union-attr]
    rewrite(model, [rule("fuse/conv_bn")])
    node = to_proto(model).graph.node[0]
    assert (node.name, node.op_type, node.doc_string, [a.name for a in node.attribute]) == ("first", "Conv", "kept", ["dilations"])
    assert not node.metadata_props
    assert model.graph.nodes[0].origin == ("fuse/conv_bn", "second", "first")


def test_what_was_rewritten_twice_stands_for_the_nodes_of_the_file() -> None:
    model = parse_model(
        f"(float[N,1,2,2] x) => (float[N,2,2,2] y) {CONV} {{ [a] c = Conv (x, w) [b] d = BatchNormalization (c, s, b, m, v) [c] y = BatchNormalization (d, s, b, m, v) }}"
    )
    outcome = rewrite(model, [rule("fuse/conv_bn")])
    (node,) = model.graph.nodes
    assert (node.origin[0], sorted(node.origin[1:])) == ("fuse/conv_bn", ["a", "b", "c"])
    assert [(a.by, set(a.removed), a.added) for a in outcome.applications] == [("fuse/conv_bn", {"a", "b"}, ("a",)), ("fuse/conv_bn", {"a", "c"}, ("a",))]


def test_what_each_rule_cost_is_counted() -> None:
    model = parse_model(
        f"(float[N,1,2,2] x) => (float[N,2,2,2] y, float[N,2,2,2] z) {CONV} {{ c = Conv (x, w) z = BatchNormalization (c, s, b, m, v) d = Conv (x, w) e = BatchNormalization (d, s, b, m, v) y = Add (e, c) }}"
    )
    count = rewrite(model, [rule("fuse/conv_bn"), rule("eliminate/identity")]).rules["fuse/conv_bn"]
    assert (count.tried, count.matched, count.applied, count.refused) == (3, 3, 1, 2)  # what reads c is looked at once more after the rewrite
    assert count.seconds > 0


def test_rewriting_can_be_stopped_after_so_many_rewrites() -> None:
    model = parse_model("(float[N] x) => (float[N] y) { a = Identity (x) b = Relu (a) c = Identity (b) y = Neg (c) }")
    outcome = rewrite(model, [rule("eliminate/identity")], limit=1)
    assert (outcome.stop, outcome.applied, ops(again(model))) == (Stop.LIMIT, {"eliminate/identity": 1}, ["Identity", "Neg", "Relu"])


def test_a_shared_weight_is_copied_not_changed() -> None:
    text = f"(float[N,1,2,2] x) => (float[N,2,2,2] y, float[N,2,2,2] z) {CONV} {{ c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) z = Conv (x, w) }}"
    original, model = parse_model(text), parse_model(text)
    assert rewrite(model, [rule("fuse/conv_bn")]).applied
    feed = {"x": np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)}
    expected, found = run_once(original, feed), run_once(again(model), feed)
    for name in ("y", "z"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_rules_hold_in_branches_and_what_is_outside_stays_outside() -> None:
    text = f"""(float[N,1,2,2] x, bool p) => (float[N,2,2,2] y) {CONV} {{
        c = Conv (x, w)
        y = If (p) <
            then_branch = t () => (float[N,2,2,2] a) {{ d = Conv (x, w) a = BatchNormalization (d, s, b, m, v) }},
            else_branch = e () => (float[N,2,2,2] f) {{ f = BatchNormalization (c, s, b, m, v) }}>
    }}"""
    original, model = parse_model(text), parse_model(text)
    assert rewrite(model, [rule("fuse/conv_bn")]).applied == {"fuse/conv_bn": 1}
    assert ops(model) == ["BatchNormalization", "Conv", "Conv", "If"]
    for taken in (True, False):
        feed = {"x": np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2), "p": np.array(taken)}
        np.testing.assert_allclose(run_once(again(model), feed)["y"], run_once(original, feed)["y"], rtol=1e-5, atol=1e-5)


def test_a_use_in_a_branch_is_a_use() -> None:
    text = f"""(float[N,1,2,2] x, bool p) => (float[N,2,2,2] y, float[N,2,2,2] z) {CONV} {{
        c = Conv (x, w)
        y = BatchNormalization (c, s, b, m, v)
        z = If (p) <then_branch = t () => (float[N,2,2,2] a) {{ a = Relu (c) }}, else_branch = e () => (float[N,2,2,2] d) {{ d = Neg (c) }}>
    }}"""
    outcome = rewrite(parse_model(text), [rule("fuse/conv_bn")])
    assert not outcome.applied
    assert list(outcome.refused) == [("fuse/conv_bn", "uses(c) == 1")]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("(float[N] x) => (float[N] y) { y = Identity (x) }", 1),  # input to output
        ("() => (float[2] y) <float[2] k = {1, 2}> { y = Identity (k) }", 1),  # constant to output
        ("(float[N] x) => (float[N] y, float[N] a) { a = Relu (x) y = Identity (a) }", 1),  # two outputs of one value
        ("(float[N] x) => (float[N] y) { a = Relu (x) y = Identity (a) }", 0),
        ("(float[N] x) => (float[N] y) { a = Relu (x) b = Identity (a) y = Identity (b) }", 0),
        ("(float[4] x) => (float[2] y) { a, r = Split <num_outputs = 2> (x) y = Identity (a) }", 0),
    ],
)
def test_outputs_keep_their_names(text: str, left: int) -> None:
    model = parse_model(text, {"": 18})
    rewrite(model, [rule("eliminate/identity")])
    assert ops(again(model)).count("Identity") == left


def test_a_branch_that_hands_out_what_is_outside_keeps_its_identity() -> None:
    text = "(float[N] x, bool p) => (float[N] y) { y = If (p) <then_branch = t () => (float[N] a) { a = Identity (x) }, else_branch = e () => (float[N] b) { b = Neg (x) }> }"
    model = parse_model(text)
    outcome = rewrite(model, [rule("eliminate/identity")])
    assert not outcome.applied
    assert ops(again(model)) == ["Identity", "If", "Neg"]


def test_a_branch_that_returns_what_is_calculated_outside_keeps_its_identity() -> None:
    """The maker stands in another graph, so it cannot make the branch's output instead."""
    text = "(float[N] x, bool p) => (float[N] y) { o = Relu (x)  y = If (p) <then_branch = t () => (float[N] a) { a = Identity (o) }, else_branch = e () => (float[N] b) { b = Neg (x) }> }"
    model = parse_model(text)
    assert not rewrite(model, [rule("eliminate/identity")]).applied
    assert ops(again(model)) == ["Identity", "If", "Neg", "Relu"]


def test_a_tensor_that_replaces_another_takes_over_its_uses() -> None:
    """Without the Identity the Conv has two readers, and must not be folded into the BatchNormalization."""
    text = f"""(float[N,1,2,2] x) => (float[N,2,2,2] y, float[N,2,2,2] z) {CONV} {{
        c = Conv (x, w)
        i = Identity (c)
        z = Relu (i)
        y = BatchNormalization (c, s, b, m, v)
    }}"""
    original, model = parse_model(text), parse_model(text)
    outcome = rewrite(model, [rule("eliminate/identity"), rule("fuse/conv_bn")])
    assert outcome.applied == {"eliminate/identity": 1}
    assert ("fuse/conv_bn", "uses(c) == 1") in outcome.refused
    feed = {"x": np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)}
    for name, value in run_once(again(model), feed).items():
        np.testing.assert_array_equal(value, run_once(original, feed)[name])


def test_uses_that_disappear_are_not_counted() -> None:
    """The second reader of the Conv is removed itself, which makes the first one the only one."""
    text = f"""(float[N,1,2,2] x) => (float[N,2,2,2] y) {CONV} {{
        c = Conv (x, w)
        i = Identity (c)
        y = BatchNormalization (i, s, b, m, v)
    }}"""
    outcome = rewrite(parse_model(text), [rule("eliminate/identity"), rule("fuse/conv_bn")])
    assert outcome.applied == {"eliminate/identity": 1, "fuse/conv_bn": 1}


OPERANDS = {
    "float": [np.array([[0.5, -2.0], [3.0, np.inf]], np.float32), np.array([[1.5, 4.0], [-1.0, np.nan]], np.float32)],
    "int64": [np.array([[1, -2], [3, 7]], np.int64), np.array([[5, 4], [-1, 2]], np.int64)],
    "bool": [np.array([[True, False], [True, False]]), np.array([[True, True], [False, False]])],
}


@pytest.mark.parametrize("op", sorted(COMMUTATIVE))
def test_what_is_matched_in_both_orders_is_commutative(op: str) -> None:
    ran = 0
    for dtype, (first, second) in OPERANDS.items():
        model = parse_model(f"({dtype}[2,2] a, {dtype}[2,2] b) => ({dtype if op != 'Equal' else 'bool'}[2,2] y) {{ y = {op} (a, b) }}", {"": 18})
        try:
            forward = run_once(model, {"a": first, "b": second})["y"]
        except ModelError:  # no kernel for the type
            continue
        ran += 1
        assert forward.tobytes() == run_once(model, {"a": second, "b": first})["y"].tobytes()
    assert ran


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("y0 = Div (k, x)", "eliminate/divide_one"),
        ("y0 = Sub (k, x)", "eliminate/subtract_zero"),
    ],
)
def test_a_constant_on_the_left_is_another_operation(text: str, name: str) -> None:
    value = "{1}" if "divide" in name else "{0}"
    model = parse_model(f"(float[N] x) => (float[N] y) <float[1] k = {value}> {{ {text} y = Neg (y0) }}")
    assert not rewrite(model, [rule(name)]).applied


@pytest.mark.parametrize(
    ("written_attribute", "attribute", "matches"),
    [
        ("axis = -1", "axis = -1", True),
        ("axis = 1", "axis = -1", False),
        ("axis = -1", "axis = 1", False),
        ("axis = -1", "", True),  # the operator's default
        ("axis = 1", "", False),
        ("alpha = 0.1", "alpha = 0.1", True),
        ("alpha = -0.5", "alpha = 0.5", False),
        ("alpha = 0.01", "", True),
        ("alpha = 0.5", "", False),
        ('mode = "edge"', 'mode = "edge"', True),
        ('mode = "edge"', 'mode = "reflect"', False),
        ("perm = [1, 0]", "perm = [1, 0]", True),
        ("perm = [1, 0]", "perm = [0, 1]", False),
        ("perm = [1, 0]", "", False),
    ],
)
def test_written_attributes_are_compared_with_defaults_counted(tmp_path: Path, written_attribute: str, attribute: str, matches: bool) -> None:
    name = written_attribute.partition(" ")[0]
    op, rest = {"axis": ("Softmax", ""), "alpha": ("LeakyRelu", ""), "mode": ("Pad", ", p"), "perm": ("Transpose", "")}[name]
    inputs, weight = ("x, p", "<int64[4] p = {0, 0, 0, 0}>") if rest else ("x", "")
    graph = f"(float[2,2] x) => (float[2,2] z) {weight} {{ y = {op} {{}} (x{rest}) z = Neg (y) }}".replace("{ y", "{ y")
    before = f"({inputs}) => (y) {{ y = {op} <{written_attribute}> (x{rest}) }}"
    after = "(x) => (y) { y = Abs (x) }"
    rule_ = written(tmp_path, "attribute", before, after, graph.replace("{}", f"<{written_attribute}>"))
    model = parse_model(graph.replace("{}", f"<{attribute}>" if attribute else ""))
    assert bool(rewrite(model, [rule_]).applied) == matches


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (("N", 4), ("N", 4), True),
        (("N", 4), (None, 4), True),  # as many elements, and only one dimension is open
        (("N", 0), (None, 0), False),  # [3,0] may become [5,0]
        (("N", 4, "M"), (None, 4, "M"), False),  # M may be 0
        (("N", "M"), (None, None), False),
        ((None, 4), (None, 4), True),
        ((2, 4), (4, 2), False),
        ((2, 4), (3, 4), False),
        ((4,), (4, 1), False),
        ((), (), True),
    ],
)
def test_shapes_are_the_same_only_where_nothing_else_is_possible(first: Any, second: Any, same: bool) -> None:
    a, b = Variable("a"), Variable("b")

    class Queries:
        opset = 17

        def shape(self, tensor: Any) -> Any:
            return first if tensor is a else second

    assert same_shape(Queries(), Binding("a", a, None), Binding("b", b, None)) is same


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
@pytest.mark.parametrize("shadowed", ["Squeeze", "Unsqueeze"])
def test_a_function_of_ai_onnx_is_not_the_operator_of_its_name(shadowed: str, domain: str) -> None:
    """At the last node of a pattern, and above it."""
    text = "(float[N,1,4] x) => (float[N,1,4] z) <int64[1] a = {1}> { s = Squeeze (x, a) y = Unsqueeze (s, a) z = Relu (y) }"
    rule_ = rule("eliminate/squeeze_unsqueeze")
    proto = to_proto(parse_model(text))
    assert rewrite(parse_model(text), [rule_]).applied
    function = proto.functions.add(name=shadowed, domain=domain, input=["q", "a"], output=["r"])
    function.node.add(op_type="Identity", input=["q"], output=["r"])
    function.opset_import.add(domain="", version=17)
    assert not rewrite(model_from_proto(proto, check=False), [rule_]).applied


def test_a_name_that_two_scopes_define_is_left_alone() -> None:
    text = """(float[N] x, bool p) => (float[N] z) {
        a = Relu (x)
        z = If (p) <then_branch = t () => (float[N] c) { b = Neg (x) d = Identity (a) c = Add (b, d) }, else_branch = e () => (float[N] f) { f = Neg (x) }>
    }"""
    model = parse_model(text)
    branch = next(n for n in model.graph.nodes if n.op == "If").attrs["then_branch"]
    next(n for n in branch.nodes if n.op == "Neg").outputs[0].name = "a2"
    branch.nodes[0].outputs[0].name = "a"  # shadows what the Identity reads: only the objects tell them apart
    assert not rewrite(model, [rule("eliminate/identity")]).applied


def test_functions_and_other_domains_are_not_what_they_are_named_like() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "my.dom" : 1]>
        g (float[N] x) => (float[N] y) { a = my.dom.Identity (x) y = Relu (a) }
        <domain: "my.dom", opset_import: ["" : 17]> Identity (q) => (r) { r = Neg (q) }"""
    assert not rewrite(parse_model(text), [rule("eliminate/identity")]).applied


def test_a_callers_default_is_no_constant() -> None:
    model = parse_model('<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, float[1] k = {1}) => (float[N,4] y) { a = Mul (x, k) y = Relu (a) }')
    assert model.overridable
    outcome = rewrite(model, [rule("eliminate/multiply_one")])
    assert not outcome.applied
    assert ("eliminate/multiply_one", "constant(k)") in outcome.refused


def test_an_output_that_the_rule_does_not_know_must_be_unused() -> None:
    model = parse_model("(float[N] x) => (float[N] y, bool[N] m) { d, m = Dropout (x) y = Relu (d) }")
    outcome = rewrite(model, [rule("eliminate/dropout")])
    assert [clause for _, clause in outcome.refused] == ["engine: another output of the last node is in use"]


def test_two_rules_that_undo_one_another_are_named(tmp_path: Path) -> None:
    one = written(tmp_path, "to_neg", "(x) => (y) { y = Relu (x) }", "(x) => (y) { y = Neg (x) }", "(float[N] x) => (float[N] y) { y = Relu (x) }")
    other = written(tmp_path, "to_relu", "(x) => (y) { y = Neg (x) }", "(x) => (y) { y = Relu (x) }", "(float[N] x) => (float[N] y) { y = Neg (x) }")
    outcome = rewrite(chain(3), [one, other])
    assert outcome.stop is Stop.LOOP
    assert outcome.loop == ("to_neg", "to_relu")


def test_a_rule_that_grows_for_ever_is_stopped(tmp_path: Path) -> None:
    rule_ = written(tmp_path, "grow", "(x) => (y) { y = Neg (x) }", "(x) => (y) { a = Neg (x) y = Relu (a) }", "(float[N] x) => (float[N] y) { y = Neg (x) }")
    model = parse_model("(float[N] x) => (float[N] y) { y = Neg (x) }")
    outcome = rewrite(model, [rule_])
    assert outcome.stop is not Stop.FIXED_POINT
    lint(model)


def test_larger_patterns_go_first(tmp_path: Path) -> None:
    small = written(tmp_path, "a_small", "(x) => (y) { y = Relu (x) }", "(x) => (y) { y = Abs (x) }", "(float[N] x) => (float[N] y) { y = Relu (x) }")
    large = written(
        tmp_path,
        "b_large",
        "(x) => (y) { a = Neg (x) y = Relu (a) }",
        "(x) => (y) { y = Abs (x) }",
        "(float[N] x) => (float[N] y) { a = Neg (x) y = Relu (a) }",
    )
    outcome = rewrite(parse_model("(float[N] x) => (float[N] y) { a = Neg (x) y = Relu (a) }"), [small, large])
    assert outcome.applied == {"b_large": 1}


@pytest.mark.parametrize(
    ("clause", "constant", "holds"),
    [
        ("k == 1", "float k = {1}", True),
        ("k == 1", "float k = {2}", False),
        ("k == 1", "float[2] k = {1, 1}", False),
        ("k", "float k = {1}", False),
        ("k", "bool k = {1}", True),
        ("k", "bool k = {0}", False),
        ("1", "float k = {1}", False),
        ("[k]", "float k = {1}", False),
        ("1 == 1", "float k = {1}", True),
    ],
)
def test_a_clause_holds_where_it_is_true_and_nowhere_else(tmp_path: Path, clause: str, constant: str, holds: bool) -> None:
    times = written(
        tmp_path, "times", "(x, k) => (y) { y = Mul (x, k) }", "(x) => (x) { }", "(float[2] x, float k) => (float[2] z) { y = Mul (x, k) z = Relu (y) }"
    )
    model = parse_model(f"(float[2] x) => (float[2] z) <{constant}> {{ y = Mul (x, k) z = Relu (y) }}")
    assert bool(rewrite(model, [replace(times, clauses=(parse(clause),))]).applied) is holds
