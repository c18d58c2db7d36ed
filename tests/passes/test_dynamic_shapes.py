"""Shape arithmetic over symbols: targets become constants, sizes are read off shapes, views are joined. Results are the same at every size, 0 and 1 included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from graphcompress.ir import Model, constant_value, lint, nodes, to_bytes
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.simplify import simplify
from graphcompress.passes.simplify.broadcasts import skip_expands
from graphcompress.passes.simplify.dead import remove_dead
from graphcompress.passes.simplify.sizes import read_sizes
from graphcompress.passes.simplify.view_targets import write_targets
from graphcompress.passes.simplify.views import join_views
from graphcompress.runtime.evaluate import run_once
from graphcompress.step import Context

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
OLD = '<ir_version: 7, opset_import: ["" : 13]>'
DIMS = "zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()  f = Constant <value_ints = [0]> ()  four = Constant <value_ints = [4]> ()  rest = Constant <value_ints = [-1]> ()"
SIZES = f"{DIMS}  s = Shape (x)  n = Gather (s, zero)  m = Gather (s, one)  n1 = Unsqueeze (n, f)  m1 = Unsqueeze (m, f)"
Stage = Callable[[Model, Callable[[], object]], int]


def changed(stage: Stage, source: str, sizes: tuple[tuple[int, ...], ...], header: str = HEADER) -> Model:
    """The model after `stage`, which must compute the same of inputs x and u of these sizes."""
    original = parse_model(header + source)
    model = original.copy()
    assert stage(model, lambda: infer(model))
    remove_dead(model)
    lint(model)
    assert stage(model, lambda: infer(model)) == 0, "a second time"
    for free in sizes:
        feed = {}
        for spec in original.inputs:
            names = sorted({d for d in spec.shape or () if isinstance(d, str)})
            symbols = dict(zip(("N", "M"), free, strict=True))
            assert set(names) <= set(symbols)
            shape = [symbols[d] if isinstance(d, str) else int(d or 0) for d in spec.shape or ()]
            feed[spec.name] = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        expected, outcome = run_once(original, feed), run_once(model, feed)
        for name, value in expected.items():
            assert value.shape == outcome[name].shape
            assert np.array_equal(value, outcome[name])
    return model


def ops(model: Model) -> Counter[str]:
    return Counter(n.op for n in nodes(model) if n.op != "Constant")


def target_of(model: Model, op: str) -> list[int]:
    (node,) = (n for n in nodes(model) if n.op == op)
    value = constant_value(node.inputs[1])
    assert value is not None
    return [int(v) for v in value]


ANY = ((2, 3), (1, 1), (5, 0), (0, 4))
"""Sizes of N and M."""


@pytest.mark.parametrize(
    ("signature", "body", "target"),
    [
        ("float[N,M,64] x", "t = Concat <axis = 0> (n1, m1, four, rest)  y = Reshape (x, t)", [0, 0, 4, 16]),
        ("float[N,M,4,16] x", "t = Concat <axis = 0> (n1, m1, rest)  y = Reshape (x, t)", [0, 0, 64]),
        ("float[N,4,4] x", "t = Concat <axis = 0> (n1, rest)  y = Reshape (x, t)", [0, 16]),
        ("float[N,4,4] x", "k = Mul (n1, four)  t = Concat <axis = 0> (k, four)  y = Reshape (x, t)", [-1, 4]),
    ],
)
def test_the_target_of_a_reshape_becomes_constant(signature: str, body: str, target: list[int]) -> None:
    sizes = tuple(s for s in ANY if 0 not in s) if "rest" in body else ANY
    model = changed(write_targets, f"g ({signature}) => (y) {{ {SIZES} {body} }}", sizes)
    assert ops(model) == {"Reshape": 1}
    assert target_of(model, "Reshape") == target


def test_an_expand_keeps_what_has_its_size_by_ones() -> None:
    model = changed(write_targets, f"g (float[N,M,1] x) => (y) {{ {SIZES} t = Concat <axis = 0> (n1, m1, four)  y = Expand (x, t) }}", ANY)
    assert target_of(model, "Expand") == [1, 1, 4]


@pytest.mark.parametrize(
    "body",
    [
        "t = Concat <axis = 0> (m1, n1, four)  y = Reshape (x, t)",  # the two change places
        "k = Mul (m1, four)  t = Concat <axis = 0> (n1, k)  y = Reshape (x, t)",  # [0, -1] would fail where N is 0
        "t = Concat <axis = 0> (n1, m1, four)  y = Reshape <allowzero = 1> (x, t)",
    ],
)
def test_a_target_that_no_constant_can_say_stays(body: str) -> None:
    model = parse_model(f"{HEADER} g (float[N,M,4] x) => (y) {{ {SIZES} {body} }}")
    assert write_targets(model, lambda: infer(model)) == 0


def test_where_the_file_contradicts_the_signature_targets_stay() -> None:
    source = f"g (float[N,4] x) => (float[a,b] y) <float[N,5] h> {{ {SIZES} h = Relu (x)  t = Concat <axis = 0> (n1, four)  y = Reshape (h, t) }}"
    stale, right = parse_model(HEADER + source), parse_model(HEADER + source.replace("[N,5] h", "[N,4] h"))
    assert write_targets(stale, lambda: infer(stale)) == 0
    assert write_targets(right, lambda: infer(right)) == 1


def test_sizes_are_read_off_the_shape_of_a_tensor_that_has_them() -> None:
    body = (
        f"{SIZES} h = Relu (x)  r = Shape (h)  k = Gather (r, one)  k1 = Unsqueeze (k, f)  t = Concat <axis = 0> (n1, k1)  y = ConstantOfShape (t)  z = Neg (h)"
    )
    model = changed(read_sizes, f"g (float[N,M,3] x) => (y, z) {{ {body} }}", ANY)
    assert ops(model) == {"Shape": 1, "ConstantOfShape": 1, "Relu": 1, "Neg": 1}
    (shape,) = (n for n in nodes(model) if n.op == "Shape")
    assert (shape.inputs[0].name, shape.attrs) == ("x", {"start": 0, "end": 2})


def test_before_opset_15_sizes_are_gathered() -> None:
    body = "h = Div (m1, four)  k = Mul (n1, four)  c = Div (k, four)  y = ConstantOfShape (c)  z = ConstantOfShape (h)"
    model = changed(read_sizes, f"g (float[N,M] x) => (y, z) {{ {SIZES} {body} }}", ANY, OLD)
    assert ops(model) == {"Shape": 1, "Gather": 2, "Div": 1, "ConstantOfShape": 2}


def test_equal_sizes_are_computed_once_also_for_a_branch() -> None:
    inside = "a = Shape (x)  i = Constant <value_int = 0> ()  j = Gather (a, i)  p = Constant <value_int = 3> ()  l = Mul (j, p)  q = Constant <value_ints = [1]> ()  v = Reshape (l, q)"
    source = f"""g (float[N,M] x, bool c) => (y, z) {{ {SIZES} three = Constant <value_int = 3> ()  k = Mul (n, three)  q1 = Unsqueeze (k, f)  y = ConstantOfShape (q1)
        z = If (c) <then_branch = t () => (float[a] u) {{ {inside}  u = ConstantOfShape (v) }}, else_branch = e () => (float[b] w) {{ w = Constant <value_floats = [1.0]> () }}> }}"""
    model = parse_model(HEADER + source)
    assert read_sizes(model, lambda: infer(model)) >= 1
    remove_dead(model)
    lint(model)
    assert ops(model)["Mul"] == 1


@pytest.mark.parametrize(
    ("signature", "body", "left"),
    [
        (
            "float[N,M,6] x",
            "p = Constant <value_ints = [0,0,2,3]> ()  q = Constant <value_ints = [0,0,6]> ()  a = Reshape (x, p)  y0 = Reshape (a, q)  y = Neg (y0)",
            {"Neg": 1},
        ),
        ("float[N,M,6] x", "a = Unsqueeze (x, f)  p = Constant <value_ints = [0,0,0,2,3]> ()  b = Reshape (a, p)  y = Squeeze (b, f)", {"Reshape": 1}),
        ("float[N,1,6] x", "a = Transpose <perm = [1,0,2]> (x)  y = Squeeze (a, f)", {"Reshape": 1}),
        ("float[N,3] x", "a = Unsqueeze (x, f)  b = Unsqueeze (a, f)  c = Squeeze (a, f)  y = Add (b, c)", {"Reshape": 1, "Add": 1}),  # two look at one view
        ("float[N,2,3] x", "a = Flatten (x)  p = Constant <value_ints = [0,3,2]> ()  y = Reshape (a, p)", {"Reshape": 1}),
    ],
)
def test_a_chain_of_views_is_one(signature: str, body: str, left: dict[str, int]) -> None:
    assert ops(changed(join_views, f"g ({signature}) => (y) {{ {DIMS} {body} }}", ANY)) == left


def test_no_rest_is_asked_for_where_a_size_is_zero() -> None:
    model = parse_model(f"{HEADER} g (float[0,1,0,3] x) => (y) {{ three = Constant <value_ints = [3]> ()  a = Squeeze (x)  y = Unsqueeze (a, three) }}")
    assert join_views(model, lambda: infer(model)) == 0


@pytest.mark.parametrize(
    "body",
    [
        "a = Transpose <perm = [1,0,2]> (x)  y = Unsqueeze (a, f)",  # axes that are not 1 change places
        "a = Unsqueeze (x, f)  y = Squeeze (a, f)  z = Relu (a)",  # what lies between is read by another node
        "p = Constant <value_ints = [-1,6]> ()  a = Reshape (x, p)  q = Constant <value_ints = [-1]> ()  y0 = Reshape (a, q)  y1 = Unsqueeze (y0, f)  y = Relu (y1)  z = Neg (y0)",
    ],
)
def test_what_is_no_chain_of_views_stays(body: str) -> None:
    outputs = "y, z" if "z =" in body else "y"
    model = parse_model(f"{HEADER} g (float[N,M,6] x) => ({outputs}) {{ {DIMS} {body} }}")
    before = ops(model)
    join_views(model, lambda: infer(model))
    remove_dead(model)
    assert sum(ops(model).values()) >= sum(before.values()) - 1
    if "Transpose" in body or "z = Relu" in body:
        assert ops(model) == before


def test_an_operator_that_broadcasts_needs_no_expand() -> None:
    source = "g (float[N,M] x, float[M] u) => (y) { s = Shape (x)  e = Expand (u, s)  y = Add (e, x) }"
    assert ops(changed(skip_expands, source, ANY)) == {"Add": 1}


def test_an_expand_that_gives_the_result_its_shape_stays() -> None:
    model = parse_model(f"{HEADER} g (float[N,M] x, float[M] u) => (y) {{ s = Shape (x)  e = Expand (u, s)  y = Add (e, u) }}")
    assert skip_expands(model, lambda: infer(model)) == 0


CONSTANTS = (
    "<bool[1,2] yes = {1, 0}, bool[1,1] all = {1}, float zero = {0}, float much = {-100}, float[2] two = {3, 4}, float[1,1] one = {2}, int64[1,1] none = {0}, int64 over = {3}, "
    "float[3,1,1] deep = {1, 2, 3}>"
)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("e = Expand (yes, s)  y = Where (e, zero, much)", {"Shape": 1, "Expand": 1}),
        ("e = Expand (yes, s)  n = Not (e)  m = Where (n, zero, much)  y = Add (x, m)", {"Add": 1}),
        ("e = Expand (all, s)  m = Where (e, zero, much)  a = Add (x, m)  y = Softmax (a)", {"Softmax": 1}),
        ("e = Expand (one, s)  m = Mul (e, two)  y = Sub (m, x)", {"Sub": 1}),
        ("e = ConstantOfShape (s)  m = Add (e, two)  y = Mul (x, m)", {"Mul": 1}),
        ("e = ConstantOfShape (s)  y = Max (x, e)", {"Max": 1}),
        ("e = Expand (none, s)  c = Cast <to = 1> (e)  f = Exp (c)  y = Div (f, x)", {"Div": 1}),
    ],
)
def test_what_is_calculated_from_an_expanded_constant_is_calculated_before(body: str, left: dict[str, int]) -> None:
    model = parse_model(f"{HEADER} g (float[N,2] x) => (float[a,b] y) {CONSTANTS} {{ s = Shape (x)  {body} }}")
    result = simplify(model, Context()).boldest
    assert ops(result.model) == left
    for rows in (1, 3):
        feed = {"x": np.arange(1, 2 * rows + 1, dtype=np.float32).reshape(rows, 2)}
        expected, actual = (onnxruntime.InferenceSession(to_bytes(m)).run(None, feed)[0] for m in (model, result.model))
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "body",
    [
        "e = Expand (one, s)  y = Add (e, deep)",  # which has more axes than what it is added to
        "e = Expand (none, s)  d = Div (over, e)  y = Cast <to = 1> (d)",  # where there are no rows, nothing is divided by zero
        "e = Expand (x, s)  y = Add (e, two)",
        "e = Expand (one, s)  f = Expand (two, s)  t = Transpose (x)  u = Shape (t)  h = Expand (one, u)  y = Where (yes, h, two)",
    ],
)
def test_where_it_is_expanded_stays(body: str) -> None:
    model = parse_model(f"{HEADER} g (float[N,2] x) => (y) {CONSTANTS} {{ s = Shape (x)  {body} }}").copy()
    skip_expands(model, lambda: infer(model))
    makers = [n.op for n in nodes(model) if any(o.name == "y" for o in n.outputs)]
    assert makers != ["Expand"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (  # the Reshape says that there is one row, its input does not
            """(float[N,2,1] x) => (float[A,B,C] y) <int64[3] s = {1, 2, 1}, int64[1] last = {-1}, int64[1] first = {0}, int64[1] end = {2147483647}>
            { a = Slice (x, last, end, first)  b = Reshape (a, s)  y = Slice (b, first, end, first) }""",
            {"Slice": 1},
        ),
        (  # nobody says what comes out of such a Pad, its input is a constant
            """(float[5] x) => (int64[5] r, int64[1] y, int64[4] z) <int64 zero = {0}, int64 one = {1}, int64[2] none = {0, 0}, int64[2] parts = {1, 4}>
            { s = Shape (x)  g = Gather (s, zero)  r = Range (zero, g, one)  p = Pad <mode = "edge"> (r, none)  y, z = Split <axis = 0> (p, parts) }""",
            {},
        ),
    ],
)
def test_what_is_known_of_either_of_two_tensors_that_are_one_is_used_in_the_same_run(text: str, left: dict[str, int]) -> None:
    result = simplify(parse_model(text, {"": 18}), Context()).boldest
    assert ops(result.model) == left
    assert not simplify(result.model, Context()).boldest.changed
