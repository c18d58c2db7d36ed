"""What belongs to a layer: the activation that it absorbs, the normalization that should have been folded into it, the layers around an operator."""

from __future__ import annotations

import numpy as np
import pytest
from quantized import EAGER, precision

from graphcompress.data.memory import memory_data
from graphcompress.ir.files import text
from graphcompress.passes.quantize import Options, quantize
from graphcompress.passes.quantize.certify import neighbours
from graphcompress.passes.quantize.groups import activation_bounds, unfolded
from graphcompress.runtime.session import open_session
from graphcompress.step import Context
from tests.support.weights import with_weights


@pytest.mark.parametrize(
    ("limits", "bounds"),
    [
        ("low, high", (-1.0, 6.0)),
        ("low", (-1.0, np.inf)),
        (", high", (-np.inf, 6.0)),
        ("low, computed", None),
        ("high", None),  # 0 is not in it
    ],
)
def test_the_bounds_of_a_clip(limits: str, bounds: tuple[float, float] | None) -> None:
    model = text.parse_model(f"g (float[4] x, float computed) => (float[4] y) <float low = {{-1}}, float high = {{6}}> {{ y = Clip (x, {limits}) }}")
    assert activation_bounds(model.graph.nodes[0]) == bounds


@pytest.mark.parametrize(("scale", "expected"), [("one", True), ("computed", False)])
def test_a_normalization_with_computed_parameters_is_not_one_that_simplify_folds(scale: str, expected: bool) -> None:
    model = text.parse_model(
        f"""g (float[1,1,2,2] x, float[1] computed) => (float[1,1,2,2] y) <float[1,1,1,1] w = {{1}}, float[1] one = {{1}}> {{
            c = Conv (x, w)
            y = BatchNormalization (c, {scale}, one, one, one) }}"""
    )
    convolution, normalization = model.graph.nodes
    assert unfolded(normalization, convolution) is expected


def test_the_neighbours_of_an_operator_are_looked_for_once_on_each_tensor() -> None:
    """Each Add reads what is before it twice: there are 2**60 ways back."""
    chain = " ".join(f"t{i + 1} = Add (t{i}, t{i})" for i in range(60))
    model = text.parse_model(f"g (float[4] t0) => (float[4] t60) {{ {chain} }}")
    assert neighbours([], model.graph.nodes[-1]) == []


def test_a_bias_behind_a_product_does_not_rely_on_the_rank_of_the_feeds() -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((32, 48)).astype(np.float32), "b": random.standard_normal(48).astype(np.float32)}
    model = with_weights("(float[] x) => (float[] y) { [m] a = MatMul (x, w) y = Add (a, b) }", weights)
    feeds = [{"x": random.standard_normal((2, 5, 32)).astype(np.float32)} for _ in range(4)]
    result = quantize(model, Context(target=EAGER, data=memory_data(feeds, model.inputs), threads=1), Options()).boldest
    assert precision(result) == {"m": "int8"}
    for shape in ((2, 5, 32), (5, 32), (3, 1, 2, 32)):
        with open_session(model) as first, open_session(result.model) as second:
            feed = {"x": random.standard_normal(shape).astype(np.float32)}
            assert second.run(feed)["y"].shape == first.run(feed)["y"].shape
