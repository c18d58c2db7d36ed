"""HardSigmoid in INT8: the codes of what it reads, clipped, under another scale and zero point. Nothing is lost that the codes had not lost before."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model, lint, nodes
from graphcompress.passes.quantize import Options, quantize
from graphcompress.passes.quantize.parameters import QuantizationParameters, scale_with_code
from graphcompress.passes.quantize.ranges import Range
from graphcompress.passes.quantize.scales import clipped_codes
from graphcompress.runtime.session import open_session
from graphcompress.step import Context, StepResult
from graphcompress.targets import load_target
from tests.support.weights import with_weights

F32 = np.float32
RULES = load_target("cpu").activation

SWISH = "(float[N,64,24,24] x) => (float[N,64,24,24] y) { c = Conv (x, w, b) h = HardSigmoid <alpha = 0.16666667> (c) m = Mul (c, h) y = Conv (m, v) }"


def weights(spread: float = 4.0, shift: float = 0.0) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(2)
    return {
        "w": (rng.standard_normal((128, 64, 1, 1)) * spread / 8).astype(F32),
        "b": (rng.standard_normal(128) * spread / 4 + shift).astype(F32),
        "v": (rng.standard_normal((64, 128, 1, 1)) / 12).astype(F32),
    }


def feeds(count: int = 8, **others: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [{"x": rng.standard_normal((2, 64, 24, 24)).astype(F32), **others} for _ in range(count)]


def done(text: str, constants: dict[str, Any], data: list[dict[str, Any]] | None = None, opset: int = 13) -> tuple[Model, StepResult]:
    model = with_weights(text, constants, opset=opset)
    result = quantize(model, Context(data=data or feeds(), threads=1, measure=False)).boldest
    lint(result.model)
    return model, result


def sqnr(model: Model, other: Model, data: list[dict[str, Any]] | None = None) -> float:
    power = lost = 0.0
    with open_session(model, threads=1) as first, open_session(other, threads=1) as second:
        for feed in data or feeds():
            for name, value in first.run(feed).items():
                power += float(np.square(value).sum())
                lost += float(np.square(value - second.run(feed)[name]).sum())
    return 10 * np.log10(power / lost)


@pytest.mark.parametrize("seed", range(40))
def test_clipped_codes_are_the_function_of_the_codes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    alpha, beta = float(rng.uniform(0.05, 0.6)), float(rng.uniform(0.2, 0.8))
    text = f"(float[N,4] x) => (float[N,4] y) {{ y = HardSigmoid <alpha = {alpha}, beta = {beta}> (x) }}"
    node = with_weights(text, {}).graph.nodes[0]
    alpha, beta = float(F32(alpha)), float(F32(beta))
    seen = Range(-float(rng.uniform(0, 20)), float(rng.uniform(0.1, 20)))
    scale = scale_with_code(seen, RULES, beta / alpha)
    low, high = clipped_codes(node, scale)
    assert 0 <= low < high and low <= scale.zero
    codes = np.arange(256)
    made = QuantizationParameters(alpha * scale.scale, low)
    got = (np.clip(codes, low, min(high, 255)) - made.zero) * made.scale
    exact = np.clip(alpha * (codes - scale.zero) * scale.scale + beta, 0, 1)
    assert np.abs(got - exact).max() <= made.scale / 2 + 1e-6  # at the upper end, which need not be a code
    inside = (exact > 0) & (exact < 1 - made.scale)
    assert np.abs(got - exact)[inside].max(initial=0.0) < 1e-6
    # No value that was seen is cut off by more than half a step, and the steps are hardly wider than they must be.
    reach = (seen.low, min(seen.low, -beta / alpha)), (seen.high, seen.high)
    assert (0 - scale.zero) * scale.scale <= reach[0][0] + scale.scale / 2 and (255 - scale.zero) * scale.scale >= reach[1][0] - scale.scale / 2
    needed = (seen.high - min(seen.low, -beta / alpha)) / 255
    assert needed <= scale.scale * (1 + 1e-6) and scale.scale <= needed * (1 + 1.01 * needed / (beta / alpha - needed))


def test_between_convs_nothing_is_left_in_float(tools: Any) -> None:
    model, result = done(SWISH, weights())
    assert result.applied["quantize/hardsigmoid"] == 1
    assert Counter(n.op_type for n in tools.optimized(result.model)) == {
        "QuantizeLinear": 1, "QLinearConv": 2, "Clip": 1, "QLinearMul": 1, "DequantizeLinear": 1, "Transpose": 2,
    }  # fmt: skip
    assert sqnr(model, result.model) > 31


def test_hard_swish_is_taken_apart() -> None:
    whole = SWISH.replace("h = HardSigmoid <alpha = 0.16666667> (c) m = Mul (c, h)", "m = HardSwish (c)")
    model, result = done(whole, weights(), opset=14)
    assert (result.applied["quantize/split-hard-swish"], result.applied["quantize/hardsigmoid"]) == (1, 1)
    assert not any(n.is_op("HardSwish") for n in nodes(result.model))
    _, apart = done(SWISH, weights(), opset=14)
    np.testing.assert_allclose(sqnr(model, result.model), sqnr(model, apart.model), atol=0.01)
    kept = quantize(model, Context(data=feeds(), threads=1, measure=False), Options(exclude=(".",))).boldest
    assert kept.model is model and not kept.changed


def test_it_loses_no_more_than_without() -> None:
    """With the gate in float and a Q behind it there is one rounding more."""
    model, result = done(SWISH, weights())
    table = load_target("cpu")
    rows = tuple(row for row in table.operator if row.op != "HardSigmoid")
    other = quantize(model, Context(data=feeds(), threads=1, measure=False, target=table.model_copy(update={"operator": rows}))).boldest
    assert "quantize/hardsigmoid" not in other.applied
    assert sqnr(model, result.model) > sqnr(model, other.model) - 0.1


@pytest.mark.parametrize(
    ("text", "constants", "clipped"),
    [
        (SWISH, weights(0.3), False),  # between -1 and 1: with -3 among the codes they would be three times as coarse
        (SWISH.replace("c = Conv (x, w, b)", "d = Conv (x, w, b) c = Relu (d)"), weights(20.0), False),
        (SWISH.replace("c = Conv (x, w, b)", "d = Conv (x, w, b) e = Relu (d) c = MaxPool <kernel_shape = [1, 1]> (e)"), weights(20.0), False),
        (SWISH.replace("alpha = 0.16666667", "alpha = -0.2"), weights(), False),
        (SWISH.replace("h = ", "g = HardSigmoid (c) h = ").replace("> (c)", "> (g)"), weights(), True),  # the first of two
        (SWISH.replace("alpha = 0.16666667", "alpha = 0.16666667, beta = 0.3"), weights(), True),
        (SWISH.replace("y = Conv", "t = Tanh (h) s = ReduceMean <axes = [1], keepdims = 1> (t) n = Add (m, s) y = Conv").replace("(m, v)", "(n, v)"), weights(), True),
    ],
)  # fmt: skip
def test_where_it_is_done(text: str, constants: dict[str, Any], clipped: bool) -> None:
    model, result = done(text, constants)
    assert result.changed and ("quantize/hardsigmoid" in result.applied) == clipped
    assert [n.op for n in nodes(result.model)].count("Clip") == clipped
    assert sqnr(model, result.model) > 28


def test_in_a_branch() -> None:
    text = """(float[N,64,24,24] x, bool k) => (float[N,64,24,24] y) {
        y = If (k) <
            then_branch = yes () => (float[N,64,24,24] p) { c = Conv (x, w, b) h = HardSigmoid <alpha = 0.16666667> (c) m = Mul (c, h) p = Conv (m, v) },
            else_branch = no () => (float[N,64,24,24] q) { q = Identity (x) }
        >
    }"""
    data = [*feeds(6, k=np.array(True)), *feeds(2, k=np.array(False))]
    model, result = done(text, weights(), data)
    assert result.applied["quantize/hardsigmoid"] == 1
    assert sqnr(model, result.model, data) > 31
