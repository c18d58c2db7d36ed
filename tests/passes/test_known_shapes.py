"""What is known of integers in every run becomes a constant, wherever it is computed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from graphcompress.ir import Constant, Model, constant_value, lint, nodes
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.simplify.known_shapes import LARGEST_BYTES, STAGE, replace_known_shapes

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
SIZES = "s = Shape (x)  one = Constant <value_int = 1> ()  two = Constant <value_int = 2> ()  f = Constant <value_ints = [0]> ()  n = Gather (s, one)"


def replaced(source: str, header: str = HEADER) -> tuple[int, Model]:
    model = parse_model(header + source).copy()
    count = replace_known_shapes(model, lambda: infer(model))
    lint(model)
    return count, model


def ops(model: Model) -> Counter[str]:
    return Counter(n.op for n in nodes(model) if n.op != "Constant")


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("h = Mul (n, two)  v = Unsqueeze (h, f)  y = ConstantOfShape (v)", [12]),
        ("h = Div (n, two)  v = Unsqueeze (h, f)  y = ConstantOfShape (v)", [3]),
        ("c = Cast <to = 1> (n)  r = Sqrt (c)  g = Floor (r)  h = Cast <to = 7> (g)  v = Unsqueeze (h, f)  y = ConstantOfShape (v)", [2]),
        ("p = Greater (n, two)  h = Where (p, two, n)  v = Unsqueeze (h, f)  y = ConstantOfShape (v)", [2]),
        ("t = Shape <start = 1> (x)  v = ReduceProd <keepdims = 1> (t)  y = ConstantOfShape (v)", [24]),
        ("t = Shape <start = 1> (x)  a, v = Split <axis = 0> (t)  y = ConstantOfShape (v)", [4]),
    ],
)
def test_a_chain_becomes_one_constant(body: str, value: list[int]) -> None:
    count, model = replaced(f"g (float[N,6,4] x) => (y) {{ {SIZES} {body} }}")
    (node,) = (n for n in nodes(model) if n.op == "ConstantOfShape")
    found = constant_value(node.inputs[0])
    assert found is not None and found.tolist() == value
    assert count >= 3
    # Nothing in between is written: of the chain only what another node reads.
    assert len([c for c in model.graph.initializers.values() if isinstance(c, Constant)]) <= 2


def test_what_depends_on_a_symbol_stays() -> None:
    count, model = replaced("g (float[N,6] x) => (y) { s = Shape (x)  y = ConstantOfShape (s) }")
    assert (count, ops(model)) == (0, {"Shape": 1, "ConstantOfShape": 1})


def test_an_output_of_the_graph_keeps_its_name() -> None:
    count, model = replaced("g (float[N,6] x) => (int64[1] y) { y = Shape <start = 1> (x) }")
    assert count == 1
    (node,) = model.graph.nodes
    assert (node.op, node.outputs[0].name, node.origin) == ("Constant", "y", (STAGE, "Shape"))


@pytest.mark.parametrize(("ir_version", "op"), [(3, "Constant"), (8, None)])
def test_inside_a_branch(ir_version: int, op: str | None) -> None:
    """Before IR 4 an initializer must be an input, which a branch has not."""
    source = (
        "g (float[N,6] x, bool c) => (y) { y = If (c) <then_branch = a () => (float[6] p) { s = Shape <start = 1> (x)  p = ConstantOfShape (s) },"
        " else_branch = b () => (float[6] q) { t = Shape <start = 1> (x)  q = ConstantOfShape (t) }> }"
    )
    count, model = replaced(source, f'<ir_version: {ir_version}, opset_import: ["" : 17]>')
    assert count == 2
    readers = [n for n in nodes(model) if n.op == "ConstantOfShape"]
    for reader in readers:
        found = constant_value(reader.inputs[0])
        assert found is not None and found.tolist() == [6]
        assert [n.op for n in reader.inputs[0].inputs] == ([op] if op else [])


def test_what_is_large_stays_computed() -> None:
    long = LARGEST_BYTES // 8 + 1
    body = "z = Constant <value_int = 0> ()  o = Constant <value_int = 1> ()  n = Constant <value_int = {}> ()  r = Range (z, n, o)  y = Gather (x, r)"
    assert replaced(f"g (float[900] x) => (y) {{ {body.format(long)} }}")[0] == 0
    assert replaced(f"g (float[900] x) => (y) {{ {body.format(long - 1)} }}")[0] == 1


def test_floats_and_what_callers_may_override_stay() -> None:
    assert replaced("g (float[2,3] x) => (y) { s = Shape (x)  y = Cast <to = 1> (s) }")[0] == 1  # the Shape alone
    count, model = replaced("g (float[2] x, int64[1] k) => (y) <int64[1] k = {2}> { t = Add (k, k)  y = Expand (x, t) }")
    assert (count, ops(model)) == (0, {"Add": 1, "Expand": 1})


def test_a_node_with_one_unknown_result_stays() -> None:
    count, model = replaced("g (float[N,6] x) => (y, z) { s = Shape (x)  y, z = Split <axis = 0> (s) }")
    assert (count, ops(model)) == (0, {"Shape": 1, "Split": 1})
    assert np.array_equal(infer(model).value(model.graph.outputs[1]), [6])  # type: ignore[arg-type]
