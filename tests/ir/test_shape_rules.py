"""Shapes of operators are those of the runtime for sizes that are numbers, and hold for every number where they are free."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from graphcompress.ir.files import text
from graphcompress.ir.files.write import to_bytes
from graphcompress.ir.model.dimensions import Polynomial, vanishes_with
from graphcompress.ir.shapes.infer import infer

SIZES = {"N": 2, "C": 4, "L": 6}
K = "i0 = Constant <value_ints = [0]> ()  i1 = Constant <value_ints = [1]> ()  i2 = Constant <value_ints = [2]> ()"
BODIES = [
    f"{K}  r = ArgMax <axis = 1> (x)  d = Constant <value_int = 7> ()  z = Constant <value_floats = [0.0, 1.0]> ()  y = OneHot (r, d, z)",
    f"{K}  r = ArgMin <axis = 1, keepdims = 0> (x)  d = Constant <value_int = 7> ()  z = Constant <value_floats = [0.0, 1.0]> ()  y = OneHot <axis = 0> (r, d, z)",
    f"{K}  r = ArgMin <axis = 1, keepdims = 0> (x)  d = Constant <value_int = 7> ()  z = Constant <value_floats = [0.0, 1.0]> ()  y = OneHot <axis = 1> (r, d, z)",
    "c = Constant <value = bool[3] {1, 0, 1}> ()  y = Compress <axis = 1> (x, c)",
    "c = Constant <value = bool[3] {1, 0, 1}> ()  y = Compress (x, c)",
    f"{K}  y = ReduceSum <keepdims = 0> (x, i1)",
    f"{K}  y = ReduceSum <keepdims = 1> (x, i1)",
    f"{K}  n = Constant <value_ints = [-1, 0]> ()  y = ReduceSum <keepdims = 0> (x, n)",
    "y = ReduceMean <axes = [1, 2], keepdims = 0> (x)",
    "y = ReduceMax <keepdims = 1> (x)",
    f"{K}  y, z = TopK <axis = 2> (x, i2)",
    "y = Einsum <equation = 'ncl,ncm->nlm'> (x, x)".replace("'", '"'),
    "y = Einsum <equation = 'n...->...n'> (x)".replace("'", '"'),
    "t = Transpose <perm = [0, 2, 1]> (x)  y = MatMul (x, t)",
    "y = MatMul (v, v)",
    "y = MatMul (x, w)",
    "y = Gemm <transA = 1> (m, m)",
    "y = Gemm <transB = 1> (m, m)",
    "k = ConstantOfShape (s)  s = Constant <value_ints = [5, 4, 3]> ()  y = Conv (x, k)",
    "k = ConstantOfShape (s)  s = Constant <value_ints = [5, 4, 6]> ()  y = Conv (x, k)",
    "y = MaxPool <kernel_shape = [6], strides = [3]> (x)",
    "k = ConstantOfShape (s)  s = Constant <value_ints = [5, 4, 3]> ()  y = Conv <pads = [2, 1], strides = [2], dilations = [2]> (x, k)",
    "k = ConstantOfShape (s)  s = Constant <value_ints = [5, 4, 3]> ()  y = Conv <auto_pad = 'SAME_LOWER', strides = [2]> (x, k)".replace("'", '"'),
    "k = ConstantOfShape (s)  s = Constant <value_ints = [4, 5, 3]> ()  y = ConvTranspose <strides = [2], output_padding = [1], pads = [1, 0]> (x, k)",
    "y = MaxPool <kernel_shape = [3], strides = [2], pads = [1, 1], ceil_mode = 1> (x)",
    "y = AveragePool <kernel_shape = [2], strides = [2]> (x)",
    "y = GlobalAveragePool (x)",
    "y = Flatten <axis = 2> (x)",
    f"{K}  y = Squeeze (u, i1)  u = Unsqueeze (x, i1)",
    f"{K}  n = Constant <value_ints = [0, -1]> ()  y = Unsqueeze (x, n)",
    f"{K}  y, z = Split <axis = 2> (x, s)  s = Constant <value_ints = [1, 5]> ()",
    "y, z = Split <axis = 1> (x)",
    f"{K}  e = Constant <value_ints = [9]> ()  y = Slice (x, i1, e, i2, i2)",
    f"{K}  e = Constant <value_ints = [-9]> ()  b = Constant <value_ints = [-1]> ()  y = Slice (x, b, e, i2, e2)  e2 = Constant <value_ints = [-2]> ()",
    "p = Constant <value_ints = [0, 1, 0, 0, 2, 3]> ()  y = Pad (x, p)",
    "r = Constant <value_ints = [1, 2, 3]> ()  y = Tile (x, r)",
    "i = Constant <value = int64[2,2] {0, 1, 2, 3}> ()  y = Gather <axis = 1> (x, i)",
    "i = Constant <value = int64[2,2] {0, 1, 1, 3}> ()  y = GatherND (x, i)",
    "s = Constant <value_ints = [0, -1, 2, 3]> ()  y = Reshape (x, s)",
    "s = Constant <value_ints = [3, 1, 1, 1]> ()  y = Expand (x, s)",
    "y = Concat <axis = -2> (x, x)",
    "y = Transpose (x)",
    "t = Unsqueeze (x, i)  i = Constant <value_ints = [3]> ()  y = DepthToSpace <blocksize = 2> (t)",
    "t = Unsqueeze (x, i)  i = Constant <value_ints = [3]> ()  r = Expand (t, e)  e = Constant <value_ints = [1, 1, 1, 4]> ()  y = SpaceToDepth <blocksize = 2> (r)",
    "n = Constant <value_floats = [1.0, 1.0, 2.5]> ()  y = Resize (x, , n)",
    "y = NonZero (x)",
    "y = Shape <start = 1> (x)",
    "y = Where (c, x, w1)  c = Greater (x, w1)  w1 = Constant <value = float[1,1] {1.0}> ()",
    "y = Trilu (x)",
    "y = EyeLike (m)",
    "s = Constant <value_ints = [6]> ()  g = ConstantOfShape (s)  y = LayerNormalization (x, g)",
    "s = Constant <value_ints = [6]> ()  g = ConstantOfShape (s)  q, y, i = LayerNormalization (x, g)",
    "s = Constant <value_ints = [4, 6]> ()  g = ConstantOfShape (s)  q, i, y = LayerNormalization <axis = 1> (x, g)",
]


@pytest.mark.parametrize("body", BODIES)
def test_shape_of_y(body: str) -> None:
    actual = run(model_of(body, **{name: str(size) for name, size in SIZES.items()}))
    static = shape(model_of(body, **{name: str(size) for name, size in SIZES.items()}))
    free = shape(model_of(body, N="N", C="4", L="L"))
    assert static is not None and len(static) == len(actual)
    assert all(a == b or (b is None and ("NonZero" in body or "Compress" in body)) for a, b in zip(actual, static, strict=True))
    if free is not None:
        known = [eval(str(d), {**SIZES, "min": min, "max": max}) if isinstance(d, str | Polynomial) else d for d in free]
        assert len(known) == len(actual) and all(k in (None, a) for k, a in zip(known, actual, strict=True))


@pytest.mark.parametrize(("start", "end"), [(-3, 2**62), (0, -2), (-3, -1), (1, -1), (2, 2**62), (-(2**62), 3)])
def test_a_slice_of_a_free_dimension(start: int, end: int) -> None:
    model = text.parse_model(
        f"g (float[N] x) => (y) {{ s = Constant <value_ints = [{start}]> ()  e = Constant <value_ints = [{end}]> ()  a = Constant <value_ints = [0]> ()  y = Slice (x, s, e, a) }}"
    )
    (size,) = shape(model) or ()
    assert [eval(str(size), {"N": n, "min": min, "max": max}) for n in range(8)] == [len(range(n)[start:end]) for n in range(8)]


def test_what_hangs_on_a_shape_that_is_not_known_is_not_known() -> None:
    body = "d = Constant <value_int = 7> ()  z = Constant <value_floats = [0.0, 1.0]> ()  y = OneHot (r, d, z)"
    model = text.parse_model(f"g (float x, int64[A] s, int64[B] q) => (y) {{ e = Expand (q, s)  r = Abs (e)  {body} }}")
    assert infer(model).shape(model.graph.outputs[0]) is None


@pytest.mark.parametrize(
    ("a", "b", "expected"), [("N", "N", True), (3, "N", True), ("N", "M", False), ("N", 3, False), (None, "N", False), ("N", None, False), (None, None, False)]
)
def test_a_size_that_vanishes_with_another(a: int | str | None, b: int | str | None, expected: bool) -> None:
    assert vanishes_with(a, b) is expected


def model_of(body: str, **sizes: str) -> text.Model:
    n, c, length = sizes["N"], sizes["C"], sizes["L"]
    return text.parse_model(f"g (float[{n},{c},{length}] x, float[{length},5] w, float[{length}] v, float[{n},{length}] m) => (y) {{ {body} }}")


def shape(model: text.Model) -> tuple[object, ...] | None:
    return infer(model).shape(model.graph.outputs[0])


def run(model: text.Model) -> tuple[int, ...]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feed = {i.name: random.normal(1, 1, i.shape).astype(np.float32) for i in session.get_inputs()}
    return tuple(session.run(None, feed)[0].shape)
