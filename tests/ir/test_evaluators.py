"""Values that shape inference computes are those of the runtime: each operator of shape arithmetic, on numbers, makes the dimensions of `y`."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.ir.files import text
from graphcompress.ir.files.write import to_bytes
from graphcompress.ir.model.dimensions import Polynomial, evaluated, minus, plus, times
from graphcompress.ir.shapes.infer import infer
from graphcompress.ir.shapes.values import _divide_sizes, _remainder_of_sizes

# a, b: two lists of three numbers; zero, one, two, five: scalars; i: a list of one index.
CONSTANTS = (
    "b = Constant <value_ints = [2, 6, 3]> ()  zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()  two = Constant <value_int = 2> ()"
    "  five = Constant <value_int = 5> ()  i = Constant <value_ints = [1]> ()  o = Constant <value_ints = [0]> ()  e = Constant <value_ints = [3]> ()"
)
NUMBERS = "a = Constant <value_ints = [4, 6, 1]> ()"
SIZES = "a = Shape (x)"

BODIES = [
    "v = Add (a, b)",
    "s = Sub (a, b)  v = Add (s, five)",
    "v = Mul (a, b)",
    "v = Div (b, two)",
    "p = Add (a, b)  v = Mod (p, five)",
    "v = Max (a, b)",
    "v = Min (a, b)",
    "v = Max (a, b, e)",
    "f = Cast <to = 1> (a)  g = Cast <to = 1> (b)  k = Sum (f, g, g)  v = Cast <to = 7> (k)",
    "n = Neg (a)  v = Abs (n)",
    "n = Neg (a)  v = Neg (n)",
    "v = Sign (b)",
    "v = Pow (a, two)",
    "v = Clip (a, two, five)",
    "v = Clip (a, two)",
    "v = Concat <axis = 0> (a, b)",
    "v = CumSum (a, zero)",
    "v = ReduceMax (a)",
    "v = ReduceMin (a)",
    "v = ReduceProd (b)",
    "v = ReduceSum (a)",
    "v = ReduceSum <keepdims = 1> (a, o)",
    "v = Tile (a, i)",
    "n = Constant <value_ints = [2]> ()  v = Tile (b, n)",
    "w, v = Split <axis = 0> (q)  q = Concat <axis = 0> (a, b)",
    "n = Constant <value_ints = [1, 2]> ()  w, v = Split <axis = 0> (a, n)",
    "v = Slice (a, i, e)",
    "m = Constant <value_ints = [-1]> ()  l = Constant <value_ints = [-9]> ()  v = Slice (a, m, l, o, m)",
    "n = Constant <value_ints = [2, 0]> ()  v = Gather (a, n)",
    "n = Constant <value_ints = [-1, 0, 0]> ()  v = GatherElements (a, n)",
    "n = Constant <value = int64[2,1] {2, 1}> ()  v = GatherND (a, n)",
    "v = ScatterElements (a, i, e)",
    "n = Constant <value = int64[1,1] {2}> ()  v = ScatterND (a, n, e)",
    "n = Expand (two, e)  v = Add (n, b)",
    "n = Constant <value_ints = [3, 1]> ()  r = Reshape (a, n)  t = Transpose (r)  f = Flatten <axis = 0> (t)  v = Squeeze (f, o)",
    "n = Unsqueeze (a, o)  v = Squeeze (n, o)",
    "v = Range (one, five, two)",
    "n = Size (x)  v = Unsqueeze (n, o)",
    "k = ConstantOfShape <value = int64[1] {2}> (e)  v = Add (k, b)",
    "z = Mod (a, two)  n = NonZero (z)  f = Squeeze (n, o)  v = Add (f, one)",
    "f = Cast <to = 1> (b)  h = Constant <value_float = 0.4> ()  g = Mul (f, h)  k = Ceil (g)  v = Cast <to = 7> (k)",
    "f = Cast <to = 1> (b)  h = Constant <value_float = 0.5> ()  g = Mul (f, h)  k = Floor (g)  v = Cast <to = 7> (k)",
    "f = Cast <to = 1> (b)  h = Constant <value_float = 0.5> ()  g = Mul (f, h)  k = Round (g)  v = Cast <to = 7> (k)",
    "f = Cast <to = 1> (a)  k = Sqrt (f)  v = CastLike (k, a)",
    *(f"c = {op} (a, b)  v = Where (c, a, b)" for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")),
    *(f"c = Less (a, b)  d = Equal (a, b)  n = Not (d)  f = {op} (c, n)  v = Where (f, a, five)" for op in ("And", "Or", "Xor")),
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("source", [NUMBERS, SIZES])
def test_what_is_computed_of_numbers(source: str, body: str) -> None:
    model = text.parse_model(f"g (float[4,6,1] x) => (y) {{ {CONSTANTS}  {source}  {body}  y = ConstantOfShape (v) }}")
    assert infer(model).shape(model.graph.outputs[0]) == run(model)


@pytest.mark.parametrize("body", BODIES)
def test_what_is_said_of_free_dimensions_holds_for_every_number(body: str) -> None:
    model = text.parse_model(f"g (float[N,M,K] x) => (y) {{ {CONSTANTS}  {SIZES}  {body}  y = ConstantOfShape (v) }}")
    shape = infer(model).shape(model.graph.outputs[0])
    if shape is None:
        return
    known = tuple(eval(str(d), {"N": 4, "M": 6, "K": 1, "max": max, "min": min}) if isinstance(d, str | Polynomial) else d for d in shape)
    actual = run(model)
    assert len(known) == len(actual) and all(k in (None, a) for k, a in zip(known, actual, strict=True))


def run(model: text.Model) -> tuple[int, ...]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {i.name: np.ones((4, 6, 1), np.float32) for i in session.get_inputs()})
    return tuple(y.shape)


@pytest.mark.parametrize(
    ("op", "attributes", "shapes"),
    [
        ("LSTM", "hidden_size = 3", [(5, 1, "N", 3), (1, "N", 3), (1, "N", 3)]),
        ("LSTM", 'hidden_size = 3, direction = "bidirectional"', [(5, 2, "N", 3), (2, "N", 3), (2, "N", 3)]),
        ("GRU", "hidden_size = 3, layout = 1", [(5, "N", 1, 3), (5, 1, 3)]),
        ("RNN", 'hidden_size = 3, direction = "reverse"', [(5, 1, "N", 3), (1, "N", 3)]),
    ],
)
def test_recurrent_layers(op: str, attributes: str, shapes: list[tuple[int | str, ...]]) -> None:
    names = ", ".join("yhc"[: len(shapes)])
    model = text.parse_model(f"g (float[5,N,2] x, float[D,G,2] w, float[D,G,3] r) => ({names}) {{ {names} = {op} <{attributes}> (x, w, r) }}")
    assert [infer(model).shape(t) for t in model.graph.outputs] == shapes


@pytest.mark.parametrize("op", ["Div", "Mod"])
@given(st.integers(-4, 4), st.integers(-4, 4), st.integers(-9, 9), st.integers(-5, 7))
def test_quotients_and_remainders_of_sizes_hold_for_every_number(op: str, n: int, m: int, c: int, divisor: int) -> None:
    """Of n*N + m*M + c, which may be negative: quotients of integers are cut off towards zero, remainders are positive for a positive divisor."""
    a = plus(plus(times("N", n), times("M", m)), c)
    found = (_divide_sizes if op == "Div" else _remainder_of_sizes)(a, divisor)
    if found is None:
        return
    for big in (0, 1, 2, 3, 10):
        for small in (0, 1, 5):
            number = n * big + m * small + c
            expected = int(number / divisor) if op == "Div" else number % divisor
            assert evaluated(found, {"N": big, "M": small}) == expected


@given(st.integers(1, 7), st.integers(0, 9), st.integers(1, 6))
def test_what_is_never_negative_is_divided(n: int, c: int, divisor: int) -> None:
    a = plus(times("N", n), c)
    assert _divide_sizes(a, divisor) is not None and _remainder_of_sizes(a, divisor) is not None
    assert _divide_sizes(minus(a, divisor - 1), divisor) is not None  # above -divisor, a quotient is 0 at least
