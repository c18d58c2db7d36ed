"""ONNX text: bodies of rules, small models, printing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphcompress.ir import to_proto
from graphcompress.ir.files import text

OPSETS = {"": 17, "com.microsoft": 1}


def test_body_is_read_in_order_with_domains_names_and_absent_inputs() -> None:
    body = text.parse_body("(x, w) => (y, z) {\n  c = Conv (x, w)\n  [n1] y, z = com.microsoft.Foo (c, , x)\n  q = ai.onnx.Relu (y)\n}", OPSETS)
    assert body.inputs == ("x", "w")
    assert body.outputs == ("y", "z")
    assert [(n.op, n.domain, n.inputs, n.outputs, n.name, n.line) for n in body.nodes] == [
        ("Conv", "", ("x", "w"), ("c",), "", 2),
        ("Foo", "com.microsoft", ("c", "", "x"), ("y", "z"), "n1", 3),
        ("Relu", "", ("y",), ("q",), "", 4),
    ]


def test_body_gives_attribute_values_as_plain_python() -> None:
    (node,) = text.parse_body(
        '(x) => (y) { y = Foo <i = -3, f: float = 1, g = 1e-05, s = "a}#", l = [1, 2], m: floats = [1, 2], n = ["a", "b"]> (x) }', OPSETS
    ).nodes
    assert node.attrs == {"i": -3, "f": 1.0, "g": pytest.approx(1e-5), "s": "a}#", "l": [1, 2], "m": [1.0, 2.0], "n": ["a", "b"]}
    assert isinstance(node.attrs["f"], float)
    assert not node.refs


def test_body_tensor_literal_becomes_an_array_and_empty_list_keeps_its_kind() -> None:
    (node,) = text.parse_body("(x) => (y) { y = Foo <t = float[2] {1, 2}, z = int64 {3}, e: ints = []> (x) }", OPSETS).nodes
    np.testing.assert_array_equal(node.attrs["t"], np.array([1, 2], np.float32))
    assert node.attrs["z"].dtype == np.int64
    assert node.attrs["z"].shape == ()
    assert node.attrs["e"].type == onnx.AttributeProto.INTS


def test_attribute_references_are_apart_from_values() -> None:
    (node,) = text.parse_body("(x) => (y) { y = Transpose <perm = @p, k: ints = @q, a = 1> (x) }", OPSETS).nodes
    assert node.refs == {"perm": "p", "k": "q"}
    assert node.ref_kinds == {"k": "ints"}
    assert node.attrs == {"a": 1}


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        ("\n(x) => (y) {\n  y = Relu <a: int = 1 (x)\n}", 3, "Expected character >"),
        ("(x) => (y) { y = Relu (x) ", 1, "Expected character"),
        ("(x) => (y) {\n y = Relu (x)\n}\n# fine\nmore", 5, "'more' stands behind the end"),
        ("(x) => (y) {\n y = Relu <a = 99999999999999999999> (x)\n}", 2, "does not fit"),
        ("(x) => (y) {\n\n y = Relu <a = 1e999> (x)\n}", 3, "does not fit"),
        ("(x) => (y) {\n y = Relu <a = 1, a = 2> (x)\n}", 2, "'a' twice"),
        ("(float x) => (y) { y = Relu (x) }", 1, "has a type"),
        ("(x) => (y) {\n y = If (x) <then_branch = g () => (q) { q = Relu (x) }>\n}", 2, "subgraph"),
        ("(x) => (y) {\n c = Relu (x)\n y = Foo <t = int4[3] {1, 2, 3}> (c)\n}", 3, "4-bit"),
        ("<a>(x) => (y) { y = Relu (x) }", 1, "attribute parameters"),
        ("", 1, "Expected character"),
    ],
)
def test_what_is_no_body_is_an_error_with_its_line(body: str, line: int, says: str) -> None:
    with pytest.raises(ValueError, match="line") as caught:
        text.parse_body(body, OPSETS)
    assert isinstance(caught.value, text.TextError)
    assert caught.value.line == line
    assert says in caught.value.message


def test_lines_of_nodes_survive_multi_line_attributes_and_comments() -> None:
    body = text.parse_body("\n(x) => (y) {  # c = Foo (x)\n  c = Foo <a =\n 1, b = float[2]\n {1, 2}> (x)\n  d, e =\n   Bar (c)  y = Relu (d)\n}", OPSETS)
    assert [n.line for n in body.nodes] == [3, 7, 7]


def test_model_from_a_graph_with_and_without_a_name_and_header() -> None:
    bare = "(float[N,3] x) => (float[N,3] y) <float[3] w = {1, 2, 3}> { y = Add (x, w) }"
    for source in (bare, "g " + bare, '<ir_version: 8, opset_import: ["" : 17]> g ' + bare):
        model = text.parse_model(source)
        assert model.opset == 17
        assert [n.op for n in model.graph.nodes] == ["Add"]
        np.testing.assert_array_equal(model.graph.initializers["w"].values, np.array([1, 2, 3], np.float32))
    assert text.parse_model(bare, {"": 13}).opset == 13


def test_model_fault_has_its_line() -> None:
    with pytest.raises(text.TextError) as caught:
        text.parse_model("g (float[N] x) => (y) {\n  y = Relu (x\n}")
    assert caught.value.line in (2, 3)
    with pytest.raises(text.TextError, match="4"):
        text.parse_model("g (float[N] x) => (y) <int4[3] w = {1, 2, 3}> { y = DequantizeLinear (w, x) }")


def test_text_of_a_model_parses_back_to_the_same_graph() -> None:
    model = text.parse_model(
        'g (float[N,3] x) => (float[N,3] y) <float[3] w = {1, 2.5, inf}> { ["n 1"] "a/b.1" = Constant <value = float[3] {1, 0, -1}> ()  y = Sum (x, "a/b.1", w) }'
    )
    again = text.parse_model(text.to_text(model))
    assert to_proto(again).graph == to_proto(model).graph


def test_large_tensors_are_printed_as_dots() -> None:
    model = text.parse_model("g (float[100] x) => (y) { w = ConstantOfShape <value = float[1] {0}> (x)  y = Add (x, w) }").copy()
    w = model.constant("big", np.zeros(100, np.float32))
    model.graph.nodes[1].inputs[1] = w
    shown = text.to_text(model)
    assert "float[100] big = ..." in shown
    assert "0,0,0" not in shown
    assert "0,0,0" in text.to_text(model, elements=100)


def test_neighbourhood_shows_producers_and_consumers_only() -> None:
    model = text.parse_model("g (float[N] x) => (y) { a = Relu (x)  b = Abs (a)  c = Neg (b)  d = Exp (c)  y = Log (d) }")
    shown = text.to_text(model, around=model.graph.nodes[2])
    assert [op for op in ("Relu", "Abs", "Neg", "Exp", "Log") if op in shown] == ["Abs", "Neg", "Exp"]
    assert "a" in shown.split("=>")[0]


def test_node_text_is_one_line() -> None:
    model = text.parse_model("g (float[N] x) => (y) { y = LeakyRelu <alpha = 0.5> (x) }")
    assert text.node_text(model.graph.nodes[0]) == "y = LeakyRelu <alpha: float = 0.5> (x)"


def test_values_that_an_edit_put_into_an_attribute_are_printed() -> None:
    model = text.parse_model("g (int64[1] x) => (y) { y = ConstantOfShape <value = float[1] {0}> (x) }").copy()
    model.graph.nodes[0].attrs["value"] = np.float32([2.5])
    assert text.node_text(model.graph.nodes[0]) == "y = ConstantOfShape <value: tensor = float[1] {2.5}> (x)"


def test_branches_are_named_not_printed_in_a_neighbourhood() -> None:
    model = text.parse_model(
        "g (float[N] x, bool c) => (y) { y = If (c) <then_branch = t () => (p) { p = Relu (x) }, else_branch = e () => (q) { q = Abs (x) }> }",
    )
    shown = text.to_text(model, around=model.graph.nodes[0])
    assert "If (c)" in shown
    assert "Abs" not in shown
