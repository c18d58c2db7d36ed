"""INT8 of models whose weights are stored small already."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantized import done, precision, reason, sqnr

from graphcompress.ir import Model, nodes, to_bytes


def stored(small: Any, how: str, shape: tuple[int, ...]) -> str:
    """A weight of 8-bit codes or 16-bit floats, and what makes floats of it."""
    codes = small.random.integers(-127, 128, shape).astype(np.int8)
    scales = np.exp(small.random.normal(-6, 0.5, shape[0])).astype(np.float32)
    rows = scales.reshape(-1, *(1 for _ in shape[1:]))
    match how:
        case "float16":
            return str(small.node("Cast", small.constant((codes * rows).astype(np.float16)), to=1))
        case "scaled":
            return str(small.node("Mul", small.node("Cast", small.constant(codes), to=1), small.constant(rows)))
        case _:
            return str(small.node("DequantizeLinear", small.constant(codes), small.constant(scales), small.constant(np.zeros(shape[0], np.int8)), axis=0))


def network(tools: Any, how: str) -> Model:
    small = tools.Small()
    x = small.node("Relu", small.node("Conv", small.input("x", 1, 16, 8, 8), stored(small, how, (24, 16, 3, 3)), name="a"))
    x = small.node("Relu", small.node("Conv", x, stored(small, how, (16, 24, 3, 3)), stored(small, how, (16,)), name="b"))
    return small.model(small.node("Tanh", x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["float16", "scaled", "dequantized"])
def test_operators_with_stored_weights_go_to_integers(tools: Any, how: str) -> None:
    model = network(tools, how)
    result = done(model, tools)
    assert precision(result) == {"a": "int8", "b": "int8"} and sqnr(model, result, tools) > 25
    assert len([c for c in result.model.graph.initializers.values() if c.values.ndim == 4]) == 2
    assert {"Cast", "Mul"}.isdisjoint(n.op for n in nodes(result.model))


@pytest.mark.parametrize("how", ["float16", "scaled", "dequantized"])
def test_what_stays_float_stays_stored_as_it_was(tools: Any, how: str) -> None:
    model = network(tools, how)
    result = done(model, tools, exclude=("^a$",))
    assert precision(result) == {"a": "float", "b": "int8"}
    kept = {"float16": np.float16, "scaled": np.int8, "dequantized": np.int8}[how]
    assert [c.values.dtype for c in result.model.graph.initializers.values() if c.shape == (24, 16, 3, 3)] == [kept]
    assert len(to_bytes(result.model)) < len(to_bytes(model)) + 1000
    assert sqnr(model, result, tools) > 25


def test_nothing_in_integers_is_the_model_itself(tools: Any) -> None:
    model = network(tools, "scaled")
    result = done(model, tools, exclude=("^[ab]$",))
    assert result.model is model and not result.changed


def test_an_operator_that_is_quantized_already_is_left_alone(tools: Any) -> None:
    small = tools.Small()
    scale, zero = small.constant(np.float32(0.05)), small.constant(np.uint8(128))
    x = small.node("DequantizeLinear", small.node("QuantizeLinear", small.input("x", 1, 16, 8, 8), scale, zero), scale, zero)
    x = small.node("Conv", x, stored(small, "dequantized", (16, 16, 3, 3)), name="a")
    x = small.node("DequantizeLinear", small.node("QuantizeLinear", x, scale, zero), scale, zero)
    model = small.model(small.node("Tanh", x))
    result = done(model, tools)
    assert not result.changed and reason(result, "a").startswith("quantize/already-quantized")


def test_two_weights_of_one_cast_leave_nothing_behind(tools: Any) -> None:
    small = tools.Small()
    wide = small.node("Cast", small.constant(small.random.integers(-127, 128, (16, 16, 3, 3)).astype(np.int8)), to=1)
    x = small.input("x", 1, 16, 8, 8)
    for scale in (0.005, 0.004):
        x = small.node("Relu", small.node("Conv", x, small.node("Mul", wide, small.constant(np.float32(scale))), pads=[1] * 4))
    result = done(small.model(small.node("Tanh", x)), tools).model
    assert {"Cast", "Mul"}.isdisjoint(n.op for n in nodes(result))
