"""Rewriting: what is put in the place of a match, what stays, and when it stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphcompress.engine import Stop, load_rules, rewrite
from graphcompress.ir import Model, lint, to_proto
from graphcompress.ir.files.text import parse_model
from graphcompress.runtime.evaluate import run_once
from tests.support.rewriting import CONV, ROOT, again, chain, ops, rule, written


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
