"""Models over one graph with another signature."""

from __future__ import annotations

import numpy as np

from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.signature import with_signature, with_values
from graphcompress.runtime.session import open_session

TEXT = "(float[n,2] x) => (float[n,2] y)\n<float[2] w = {1, 2}>\n{ p = Mul (x, w)  y = Neg (p) }"


def test_a_constant_becomes_an_input_and_a_tensor_inside_an_output() -> None:
    model = parse_model(TEXT)
    tensors = {t.name: t for n in model.graph.nodes for t in n.outputs}
    changed = with_signature(model, [(model.graph.initializers["w"], "float", (2,))], [tensors["p"]])
    assert [i.name for i in changed.inputs] == ["x", "w"] and [o.name for o in changed.outputs] == ["p"]
    values = open_session(changed).run({"x": np.ones((1, 2), np.float32), "w": np.array([3, 4], np.float32)})
    np.testing.assert_array_equal(values["p"], [[3, 4]])


def test_shapes_of_inputs_can_be_stated() -> None:
    model = parse_model(TEXT)
    assert with_signature(model, [], model.graph.outputs, {"x": (5, 2)}).inputs[0].shape == (5, 2)


def test_an_input_becomes_a_constant() -> None:
    changed = with_values(parse_model(TEXT), {"x": np.array([[5, 6]], np.float32)})
    assert changed.inputs == ()
    np.testing.assert_array_equal(open_session(changed).run({})["y"], [[-5, -12]])
