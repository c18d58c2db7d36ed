"""Where a pattern matches: operators and their domains, orders of operands, attributes, shapes, clauses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress.engine import rewrite
from graphcompress.engine.expression import parse
from graphcompress.engine.functions import Binding
from graphcompress.engine.match import COMMUTATIVE
from graphcompress.engine.structural_functions import same_shape
from graphcompress.errors import ModelError
from graphcompress.ir import Variable, model_from_proto, to_proto
from graphcompress.ir.files.text import parse_model
from graphcompress.runtime.evaluate import run_once
from tests.support.rewriting import rule, written

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
