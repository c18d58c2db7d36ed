"""Shapes that hang on computed sizes, beyond onnx's data propagation (the patterns of knowledge/simplification.md, section 5)."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from graphcompress.ir.files import text
from graphcompress.ir.files.write import to_bytes
from graphcompress.ir.model import walk
from graphcompress.ir.model.dimensions import Polynomial
from graphcompress.ir.shapes.infer import infer

IN = "float[N,3,4,8] x, float[N,4] u"
DIMS = "s = Shape (x)  i1 = Constant <value_int = 1> ()  i3 = Constant <value_int = 3> ()  a0 = Constant <value_ints = [0]> ()  c = Gather (s, i1)  w = Gather (s, i3)"
# The numbers 0 to n - 1 are known up to a length; the last of them is a size here.
COUNTED = (
    "z = Constant <value_int = 0> ()  n = Constant <value_int = {n}> ()  d = Constant <value_int = 1> ()  r = Range (z, n, d)"
    "  k = Constant <value_ints = [1, -1]> ()  g = Gather (r, k)  i = Abs (g)  o = Constant <value_ints = [0, 1]> ()  e = Add (i, o)  y = ConstantOfShape (e)"
)
TWO = "two = Constant <value_int = 2> ()"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            f"{DIMS} {TWO} h = Div (w, two)  m = Constant <value_ints = [-1]> ()  hv = Unsqueeze (h, a0)  t = Concat <axis = 0> (m, hv)  y = Reshape (x, t)",
            ("24*N", 4),
        ),
        (f"{DIMS} o = Constant <value_int = 0> ()  d = Constant <value_int = 2> ()  y = Range (o, w, d)", (4,)),
        (f"{DIMS} p = Min (c, w)  pv = Unsqueeze (p, a0)  y = ConstantOfShape (pv)", (3,)),
        (
            "s = Shape <start = 1> (x)  p = ReduceProd <keepdims = 1> (s)  m = Constant <value_ints = [-1]> ()  t = Concat <axis = 0> (m, p)  y = Reshape (x, t)",
            ("N", 96),
        ),
        (
            "s = Shape <start = 2> (x)  f = Cast <to = 1> (s)  h = Constant <value_floats = [1.5, 0.3]> ()  g = Mul (f, h)  k = Floor (g)  z = Cast <to = 7> (k)"
            "  n = Constant <value_ints = [1, 3]> ()  t = Concat <axis = 0> (n, z)  one = Constant <value = float {0}> ()  y = Expand (one, t)",
            (1, 3, 6, 2),
        ),
        (
            "m = Constant <value_ints = [-1, 4]> ()  e = Constant <value_ints = [-1]> ()  q = Equal (m, e)  o = Constant <value_ints = [1, 1]> ()  t = Where (q, o, m)"
            "  k = Constant <value = float[1,4] {1, 2, 3, 4}> ()  y = Expand (k, t)",
            (1, 4),
        ),
        (
            "s = Shape (x)  l = Constant <value_ints = [0]> ()  n = Gather (s, l)  d = Constant <value_ints = [5]> ()  t = Concat <axis = 0> (n, d)  y = ConstantOfShape (t)",
            ("N", 5),
        ),
        (f"{DIMS} {TWO} h = Div (w, two)  z = Gather (s, a0)  hv = Unsqueeze (h, a0)  t = Concat <axis = 0> (z, hv)  y = ConstantOfShape (t)", ("N", 4)),
        (
            f"{DIMS} b = Greater (w, c)  y = If (b) <then_branch = t () => (p) {{ p = ReduceSum <keepdims = 0> (u, a0) }}, else_branch = e () => (q) {{ q = Relu (u) }}>",
            (4,),
        ),
        (
            f"{DIMS} z = Cast <to = 6> (w)  k = Constant <value = int32 {{3}}> ()  h = Div (z, k)  l = Cast <to = 7> (h)  lv = Unsqueeze (l, a0)  m = Constant <value_ints = [-1]> ()"
            "  t = Concat <axis = 0> (m, lv)  y = Reshape (x, t)",
            ("48*N", 2),
        ),
        ("t = NonZero (u)  v = Transpose (t)  y = Abs (v)", (None, 2)),
        (COUNTED.format(n=1024), (1, 1024)),
        (COUNTED.format(n=1025), (None, None)),
    ],
)
def test_shape_of_y(body: str, expected: tuple[object, ...]) -> None:
    model = text.parse_model(f"g ({IN}) => (y) {{ {body} }}")
    shape = infer(model).shape(model.graph.outputs[0])
    assert shape is not None
    assert tuple(str(d) if isinstance(d, Polynomial) else d for d in shape) == expected
    _is_what_the_runtime_makes(model, expected)


def _is_what_the_runtime_makes(model: text.Model, expected: tuple[object, ...]) -> None:
    feed = {"x": np.ones((7, 3, 4, 8), np.float32), "u": np.ones((7, 4), np.float32)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})
    assert len(found.shape) == len(expected)
    assert all(want in (None, got) or (isinstance(want, str) and eval(want, {"N": 7}) == got) for want, got in zip(expected, found.shape, strict=True))


def test_integer_division_is_towards_zero() -> None:
    model = text.parse_model(
        f"g ({IN}) => (y) {{ {DIMS} n = Constant <value_int = -7> ()  d = Div (n, w)  o = Constant <value_int = 2> ()  e = Add (d, o)  ev = Unsqueeze (e, a0)  y = ConstantOfShape (ev) }}"
    )
    assert infer(model).shape(model.graph.outputs[0]) == (2,)
    _is_what_the_runtime_makes(model, (2,))


def test_long_tensors_do_not_go_through_onnx_data_propagation() -> None:
    """It would keep one message per entry (onnx 1.23): here ten thousand million."""
    model = text.parse_model(
        "g (float[4] x, int64[N] i) => (y) { n = Constant <value_ints = [10000000000]> ()  o = Constant <value = int64[1] {1}> ()  e = Expand (o, n)  k = Add (e, e)  z = NonZero (i)  y = Gather (x, k) }"
    )
    assert infer(model).shape(model.graph.outputs[0]) == (10_000_000_000,)


def test_what_would_be_large_is_not_computed() -> None:
    model = text.parse_model(
        "g (float[4] x) => (y) { o = Constant <value_int = 0> ()  n = Constant <value_int = 1000000000000> ()  d = Constant <value_int = 1> ()  r = Range (o, n, d)  y = Gather (x, r) }"
    )
    assert infer(model).rank(model.graph.outputs[0]) == 1


def test_a_condition_that_callers_may_change_decides_nothing() -> None:
    model = text.parse_model(
        "g (float[2,4] x, bool c) => (y) <bool c = {1}> { z = Constant <value_ints = [0]> ()  y = If (c) <then_branch = t () => (p) { p = ReduceSum <keepdims = 0> (x, z) }, else_branch = e () => (q) { q = Relu (x) }> }"
    )
    shapes = infer(model)
    assert shapes.shape(model.graph.outputs[0]) is None
    assert [shapes.shape(n.outputs[0]) for g in walk.subgraphs(model.graph.nodes[1]) for n in g.nodes] == [(4,), (2, 4)]
