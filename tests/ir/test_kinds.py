"""Kinds of outputs: class decisions, exact answers, values."""

from __future__ import annotations

import pytest

from graphcompress.ir.analysis.output_kinds import output_kinds
from graphcompress.ir.files import text

HEAD = "g (float[N,4] x, float[N,3,4] u, float[N,5,1,4] v, float[N,3,4,4] q, bool c)"
ML = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>'


@pytest.mark.parametrize(
    ("opset", "body", "kind"),
    [
        (17, "y = Softmax (u)", "class"),
        (17, "y = Softmax <axis = 2> (u)", "class"),
        (17, "y = LogSoftmax <axis = -1> (x)", "class"),
        (17, "y = Softmax <axis = 1> (u)", "value"),
        (17, "y = Softmax <axis = -2> (u)", "value"),
        (12, "y = Softmax (x)", "class"),
        (12, "y = Softmax (u)", "value"),
        (12, "y = Softmax <axis = 2> (u)", "class"),
        (12, "y = LogSoftmax <axis = -1> (u)", "class"),
        (12, "y = Softmax <axis = 2> (v)", "class"),
        (17, "y = Softmax <axis = 2> (v)", "value"),
        (17, "s = Softmax (x)  y = Identity (s)", "class"),
        (17, "s = Softmax (x)  y = Cast <to = 10> (s)", "class"),
        (17, "i = Cast <to = 6> (x)  y = Cast <to = 1> (i)", "value"),
        (17, "s = Softmax (x)  k = Constant <value = float {0.1}> ()  r = QuantizeLinear (s, k)  y = DequantizeLinear (r, k)", "class"),
        (17, "s = Softmax (x)  i = Cast <to = 6> (s)  k = Constant <value = float {0.1}> ()  y = DequantizeLinear (i, k)", "value"),
        (17, "s = Softmax (x)  y = Relu (s)", "value"),
        (17, "y = Sigmoid (x)", "value"),
        (17, "w = Constant <value = float[4,2] {1, 2, 3, 4, 5, 6, 7, 8}> ()  y = MatMul (x, w)", "class"),
        (17, "w = Constant <value = float[4,1] {1, 2, 3, 4}> ()  y = MatMul (x, w)", "value"),
        (17, "w = Constant <value = float[2,4] {1, 2, 3, 4, 5, 6, 7, 8}> ()  y = Gemm <transB = 1> (x, w)", "class"),
        (
            17,
            "w = Constant <value = float[4,2] {1, 2, 3, 4, 5, 6, 7, 8}> ()  b = Constant <value = float[2] {1, 2}> ()  m = MatMul (x, w)  y = Add (b, m)",
            "class",
        ),
        (17, "w = Constant <value = float[4,4] {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}> ()  m = MatMul (x, w)  y = Add (x, m)", "value"),
        (17, "w = Constant <value = float[4,2] {1, 2, 3, 4, 5, 6, 7, 8}> ()  y = MatMul (u, w)", "value"),
        (17, "y = ArgMax <axis = 1> (x)", "exact"),
        (17, "y = Greater (x, x)", "exact"),
        (17, "y = Cast <to = 8> (x)", "exact"),
        (17, "y = If (c) <then_branch = t () => (a) { a = Softmax (x) }, else_branch = e () => (b) { b = LogSoftmax (x) }>", "class"),
        (17, "y = If (c) <then_branch = t () => (a) { a = Softmax (x) }, else_branch = e () => (b) { b = Relu (x) }>", "value"),
    ],
)
def test_kind_of_an_output(opset: int, body: str, kind: str) -> None:
    assert output_kinds(text.parse_model(f"{HEAD} => (y) {{ {body} }}", {"": opset})) == {"y": kind}


def test_an_output_that_is_an_input_or_a_constant() -> None:
    model = text.parse_model("g (float[N,4] x, int64[N] i) => (x, i, k) <float[1] k = {1}> { z = Relu (x) }")
    assert output_kinds(model) == {"x": "value", "i": "exact", "k": "value"}


def test_rank_of_the_signature_serves_where_inference_knows_none() -> None:
    """ai.onnx.ml operators without shape inference, as scikit-learn exports have them."""
    model = text.parse_model(ML + " g (float[N,4] x) => (float[N,3] y) { a = ai.onnx.ml.SVMRegressor (x)  y = Softmax <axis = 1> (a) }")
    assert output_kinds(model) == {"y": "class"}


def test_an_output_of_unknown_rank_is_values() -> None:
    assert output_kinds(text.parse_model("g (float[N,4] x, int64[K] p) => (y) { y = Reshape (x, p) }")) == {"y": "value"}


def test_maps_and_sequences_are_values() -> None:
    model = text.parse_model(
        ML
        + " g (float[N,4] x) => (seq(map(int64, float)) y, seq(float[N,4]) z) { s = Softmax (x)  y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2, 3]> (s)  z = SequenceConstruct (x) }"
    )
    assert output_kinds(model) == {"y": "value", "z": "value"}
