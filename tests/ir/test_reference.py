"""onnx's reference evaluator with what is mended in it: the same results as onnxruntime, in double precision where that has no kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphcompress.errors import ModelError
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.reference import Reference
from graphcompress.runtime.session import open_session


@pytest.mark.parametrize(
    "body",
    [
        "y = ConvTranspose <group = 2, strides = [2, 1], pads = [1, 0, 0, 1]> (x, w)",
        "y = ConvTranspose <group = 2, strides = [2, 1], output_padding = [1, 0], dilations = [2, 1]> (x, w, b)",
        "y = ConvTranspose <group = 2, strides = [2, 2], output_shape = [8, 9]> (x, w)",
        'y = ConvTranspose <group = 2, strides = [2, 2], output_shape = [8, 9], auto_pad = "SAME_UPPER"> (x, w)',
        "y = GlobalMaxPool (x)",
        "p = Gelu (x)  y = Erf (p)",
    ],
)
def test_it_computes_what_onnxruntime_computes(body: str) -> None:
    model = parse_model(f"(float[2,4,4,5] x, float[4,3,3,2] w, float[6] b) => (float y) {{ {body} }}", {"": 20})
    rng = np.random.default_rng(0)
    feed = {i.name: rng.standard_normal([int(d or 0) for d in i.shape or ()]).astype(np.float32) for i in model.inputs}
    np.testing.assert_allclose(Reference(model).run(feed)["y"], open_session(model).run(feed)["y"], rtol=1e-4, atol=1e-5)


def test_statistics_of_a_batch_normalization_are_taken_as_they_are_given() -> None:
    """Before opset 14, too, where onnx's evaluator takes part of them from the input."""
    text = (
        "(double[2,1,3] x, double[1] s, double[1] b, double[1] m, double[1] v) => (double[2,1,3] y) { y = BatchNormalization <epsilon = 0.5> (x, s, b, m, v) }"
    )
    x = np.arange(6.0).reshape(2, 1, 3)
    feed = {"x": x} | {name: np.array([value]) for name, value in {"s": 3.0, "b": -1.0, "m": 10.0, "v": 3.5}.items()}
    for opset in (9, 13, 15):
        np.testing.assert_allclose(Reference(parse_model(text, {"": opset})).run(feed)["y"], (x - 10) / 2 * 3 - 1, rtol=1e-7)


def test_erf_is_in_double_precision() -> None:
    model = parse_model("(double[3] x) => (double[3] y) { y = Erf (x) }")
    x = np.array([-0.3, 0.1, 2.0])
    np.testing.assert_allclose(Reference(model).run({"x": x})["y"], [math.erf(v) for v in x], rtol=1e-15)


def test_what_it_cannot_run_is_an_error() -> None:
    model = parse_model("(float[n] x, float[m] z) => (float[k] y) { y = Add (x, z) }")
    with pytest.raises(ModelError, match="reference evaluator"):
        Reference(model).run({"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)})
