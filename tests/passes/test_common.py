"""Common subexpressions: what is equal becomes one, what only looks so stays."""

from __future__ import annotations

from collections import Counter

import pytest

from graphcompress.ir import Model, lint, nodes
from graphcompress.ir.files.text import parse_model
from graphcompress.passes.simplify.common import merge_equal_nodes
from graphcompress.passes.simplify.duplicates import Digests

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def merged(source: str, header: str = HEADER) -> tuple[int, Model]:
    model = parse_model(header + source).copy()
    count = merge_equal_nodes(model, Digests())
    lint(model)
    return count, model


def ops(model: Model) -> Counter[str]:
    return Counter(n.op for n in nodes(model))


@pytest.mark.parametrize(
    "body",
    [
        "a = Relu (x)  b = Relu (x)  y = Add (a, b)",
        "a = Softmax (x)  b = Softmax <axis = -1> (x)  y = Add (a, b)",  # a default written out
        "a = Mul (x, w)  b = Mul (w, x)  y = Add (a, b)",
        "a = Mul (x, k1)  b = Mul (x, k2)  y = Add (a, b)",  # constants of equal content
    ],
)
def test_equal_nodes_become_one(body: str) -> None:
    count, model = merged(f"g (float[N,2] x, float[N,2] w) => (float[N,2] y) <float[2] k1 = {{1, 2}}, float[2] k2 = {{1, 2}}> {{ {body} }}")
    assert count == 1
    add = model.graph.nodes[-1]
    assert add.op == "Add" and add.inputs[0] is add.inputs[1]


def test_chains_are_merged_from_the_top() -> None:
    count, model = merged("g (float[N] x) => (float[N] y) { a = Relu (x)  b = Relu (x)  c = Neg (a)  d = Neg (b)  y = Add (c, d) }")
    assert (count, ops(model)) == (2, {"Relu": 1, "Neg": 1, "Add": 1})


@pytest.mark.parametrize(
    "body",
    [
        "a = Sub (x, w)  b = Sub (w, x)  y = Add (a, b)",
        "a = Softmax <axis = 0> (x)  b = Softmax (x)  y = Add (a, b)",
        "a = Mul (x, k1)  b = Mul (x, k3)  y = Add (a, b)",  # +0 and -0
        "a = LeakyRelu <alpha = 0.0> (x)  b = LeakyRelu <alpha = -0.0> (x)  y = Add (a, b)",
        "a = RandomNormalLike (x)  b = RandomNormalLike (x)  y = Add (a, b)",
        "a = Bernoulli (x)  b = Bernoulli (x)  y = Add (a, b)",
        "a = own.Thing (x)  b = own.Thing (x)  y = Add (a, b)",
    ],
)
def test_what_only_looks_equal_stays(body: str) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
    constants = "<float[2] k1 = {0.0, 2}, float[2] k3 = {-0.0, 2}>"
    assert merged(f"g (float[N,2] x, float[N,2] w) => (float[N,2] y) {constants} {{ {body} }}", header)[0] == 0


def test_an_output_keeps_its_name_and_two_of_them_their_nodes() -> None:
    count, model = merged("g (float[N] x) => (float[N] y, float[N] z) { a = Relu (x)  z = Neg (a)  y = Relu (x) }")
    assert (count, ops(model)) == (1, {"Relu": 1, "Neg": 1})
    assert [t.name for t in model.graph.outputs] == ["y", "z"]
    assert merged("g (float[N] x) => (float[N] y, float[N] z) { y = Relu (x)  z = Relu (x) }")[0] == 0


def test_a_branch_reads_what_stands_outside_but_branches_share_nothing() -> None:
    branch = "{name}_branch = {name} () => (float[N] {name}_y) {{ {name}_a = {op} (x)  {name}_y = Neg ({name}_a) }}"
    both = ", ".join(branch.format(name=n, op="{op}") for n in ("then", "else"))
    source = "g (float[N] x, bool c) => (float[N] y, float[N] z) {{ z = Relu (x)  y = If (c) <" + both.replace("{op}", "{op}") + "> }}"
    inside, outside = (source.replace("{op}", op).replace("{{", "{").replace("}}", "}") for op in ("Abs", "Relu"))
    assert merged(inside)[0] == 0
    count, model = merged(outside)
    assert (count, ops(model)) == (2, {"Relu": 1, "If": 1, "Neg": 2})
