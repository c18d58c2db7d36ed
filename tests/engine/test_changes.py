"""What a rule writes: computed attributes, origins, and what its change makes possible elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphcompress.engine import load_rule, rewrite
from graphcompress.ir.files.text import parse_model
from tests.support.rewriting import ops, written


@pytest.mark.parametrize(
    ("formula", "constant", "attribute", "expected"),
    [
        ("a * 2", "float a = {0.25}", "LeakyRelu <alpha: float = @v> (x)", 0.5),
        ("a * 2", "float[1] a = {0.25}", "LeakyRelu <alpha: float = @v> (x)", 0.5),
        ("smallest(a)", "float[2] a = {0.5, 0.75}", "LeakyRelu <alpha: float = @v> (x)", 0.5),
        ("a + 1", "int64[2] a = {0, -1}", "Transpose <perm: ints = @v> (x)", [1, 0]),
        ("a + 1", "int64 a = {0}", "ArgMax <axis: int = @v> (x)", 1),
        ("rank(x) == 3", "int64 a = {0}", "ArgMax <keepdims: int = @v> (x)", 0),
    ],
)
def test_computed_attributes_are_numbers_and_lists_of_numbers(formula: str, constant: str, attribute: str, expected: Any, tmp_path: Path) -> None:
    graph = f"(float[2,2] x) => (float[2,2] y) <{constant}> {{ y = Div (x, a) }}"
    body = written(tmp_path, "computed", "(x, a) => (y) { y = Div (x, a) }", "(x) => (y) { y = Relu (x) }", graph)
    text = (tmp_path / "computed.toml").read_text(encoding="utf-8")
    head, example = text.replace("Relu (x)", attribute).split("[[example]]")
    (tmp_path / "computed.toml").write_text(f"{head}[let]\nv = '{formula}'\n[[example]]{example}", encoding="utf-8")
    model = parse_model(graph)
    assert rewrite(model, [load_rule(tmp_path / "computed.toml")]).applied == {body.id: 1}
    (node,) = model.graph.nodes
    (value,) = node.attrs.values()
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize("others", [1, 2])
def test_a_tensor_that_lost_its_other_readers_is_looked_at_again(others: int, tmp_path: Path) -> None:
    """Abs comes first, while there are more readers; a rule takes them away later."""
    drop = written(
        tmp_path, "drop", "(x, s) => (y) { y = PRelu (x, s) }", "(x) => (y) { y = Relu (x) }", "(float[4] x, float[4] s) => (float[4] y) { y = PRelu (x, s) }"
    )
    two = "(float[4] x) => (float[4] y) { r = Exp (x) y = Abs (r) }"
    written(tmp_path, "merge", "(x) => (y) { r = Exp (x) y = Abs (r) }", "(x) => (y) { y = Exp (x) }", two)
    path = tmp_path / "merge.toml"
    refused = "\n[[example]]\nrefused = 'uses(r) == 1'\ngraph = '''(float[4] x) => (float[4] y, float[4] z) { r = Exp (x) y = Abs (r) z = Neg (r) }'''\n"
    path.write_text(path.read_text(encoding="utf-8").replace("[[example]]", "where = ['uses(r) == 1']\n[[example]]") + refused, encoding="utf-8")
    more = " ".join(f"z{i} = PRelu (x, r)" for i in range(others))
    outputs = ", ".join(f"float[4] z{i}" for i in range(others))
    model = parse_model(f"(float[4] x) => (float[4] y, {outputs}) {{ r = Exp (x) y = Abs (r) {more} }}")
    result = rewrite(model, [drop, load_rule(path)])
    assert result.applied == {"drop": others, "merge": 1} and not result.refused
    assert ops(model) == ["Exp", *["Relu"] * others]


def test_an_unnamed_node_is_called_by_its_output_where_a_change_says_where_it_comes_from(tmp_path: Path) -> None:
    change = written(
        tmp_path, "sign", "(x) => (y) { n = Neg (x) y = Neg (n) }", "(x) => (y) { y = Relu (x) }", "(float[4] x) => (float[4] y) { n = Neg (x) y = Neg (n) }"
    )
    model = parse_model("(float[4] x) => (float[4] y) { n = Neg (x) [last] y = Neg (n) }")
    rewrite(model, [change])
    assert [n.origin for n in model.graph.nodes] == [("sign", "last", "n")]
