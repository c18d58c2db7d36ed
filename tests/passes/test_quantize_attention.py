"""Scores in front of a Softmax: sharp ones stay float, with the layers behind them, and ordinary ones do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantized import done, precision, reason, sqnr

from graphcompress.ir import Model


def attention(tools: Any, scale: float, *, op: str = "Mul", mask: bool = False, softmax: bool = True) -> Model:
    """Two layers q and k, their product, scaled, and the probabilities times the values. With a scale of 1 the scores are in the tens."""
    small = tools.Small()
    x = small.input("x", 1, 32, 64)
    random = np.random.default_rng(4)
    q, k = (small.node("MatMul", x, small.constant(random.normal(0, 0.125, (64, 64)).astype(np.float32)), name=name) for name in "qk")
    scores = small.node("MatMul", q, small.node("Transpose", k, perm=[0, 2, 1]), name="scores")
    scores = small.node(op, scores, small.constant(np.float32(scale)))
    if mask:
        scores = small.node("Add", scores, small.input("mask", 1, 1, 32))
    x = small.node("Softmax", scores, axis=-1) if softmax else small.node("Tanh", scores)
    return small.model(small.node("Tanh", small.node("MatMul", x, small.weight(1, 32, 8), name="mix")))


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(("op", "sharp", "mild"), [("Mul", 2.0, 0.125), ("Div", 0.5, 8.0)])
def test_scores_that_would_blur_stay_float(op: str, sharp: float, mild: float, mask: bool, tools: Any) -> None:
    result = done(attention(tools, sharp, op=op, mask=mask), tools)
    assert {name for name, kind in precision(result).items() if kind == "float"} >= {"scores"}
    assert reason(result, "scores").startswith("quantize/sharp-scores: in INT8 the scores of Softmax")
    assert sqnr(attention(tools, sharp, op=op, mask=mask), result, tools) > 20
    assert "float" not in {kind for name, kind in precision(done(attention(tools, mild, op=op, mask=mask), tools)).items() if name != "mix"}


def test_without_a_softmax_large_products_are_no_danger(tools: Any) -> None:
    assert precision(done(attention(tools, 2.0, softmax=False), tools))["scores"] == "int8"


def test_the_layer_in_front_of_a_classifier_is_no_score(tools: Any) -> None:
    """What is exponentiated there is compared by rank, and nothing behind it adds the probabilities up."""
    small = tools.Small()
    x = small.node("Gemm", small.input("x", 4, 64), small.constant(np.random.default_rng(0).normal(0, 5, (64, 10)).astype(np.float32)), name="head")
    assert precision(done(small.model(small.node("Softmax", x, axis=-1)), tools)) == {"head": "int8"}
