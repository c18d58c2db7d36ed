"""Weights that a file stores small: what they are, and what the runtime makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir.model.stored import stored_weight
from graphcompress.runtime.evaluate import run_once
from tests.support.weights import with_weights

R = np.random.default_rng(5)
CODES = R.integers(-127, 128, (3, 4)).astype(np.int8)
ROWS = np.array([[0.5], [0.25], [2.0]], np.float32)
GRAPH = "(float[3,4] x) => (float[3,4] y) {{ {body} y = Add (x, w) }}"


@pytest.mark.parametrize(
    ("body", "weights", "opset"),
    [
        ("w = Cast <to = 1> (q)", {"q": R.standard_normal((3, 4)).astype(np.float16)}, 13),
        ("w = Cast <to = 1> (q)", {"q": CODES}, 13),
        ("c = Cast <to = 1> (q) w = Mul (c, s)", {"q": CODES, "s": ROWS}, 13),
        ("c = Cast <to = 1> (q) w = Mul (s, c)", {"q": CODES, "s": ROWS}, 13),
        ("c = Cast <to = 1> (q) w = Mul (c, s)", {"q": CODES.view(np.uint8), "s": np.float32(0.1)}, 9),
        ("w = DequantizeLinear (q, s)", {"q": CODES, "s": np.float32(0.1)}, 10),
        ("w = DequantizeLinear (q, s, z)", {"q": CODES.view(np.uint8), "s": np.float32(0.1), "z": np.uint8(128)}, 10),
        ("w = DequantizeLinear <axis = 0> (q, s, z)", {"q": CODES, "s": ROWS[:, 0], "z": np.array([0, 1, -5], np.int8)}, 13),
        ("w = DequantizeLinear <axis = -1> (q, s)", {"q": CODES, "s": np.arange(1, 5, dtype=np.float32)}, 13),
    ],
)
def test_the_value_is_what_the_runtime_makes_of_it(body: str, weights: dict[str, Any], opset: int) -> None:
    model = with_weights(GRAPH.format(body=body), weights, opset=opset)
    (add,) = (n for n in model.graph.nodes if n.op == "Add")
    weight = stored_weight(add.inputs[1])
    assert weight is not None and weight.value.dtype == np.float32
    assert [n.op for n in weight.nodes] == [n.op for n in model.graph.nodes if n.op != "Add"]
    assert np.array_equal(weight.value, run_once(model, {"x": np.zeros((3, 4), np.float32)})["y"])


@pytest.mark.parametrize(
    ("body", "weights", "opset"),
    [
        ("w = Cast <to = 1> (q)", {"q": np.ones((3, 4), np.int64)}, 13),
        ("w = Cast <to = 1> (q)", {"q": np.ones((3, 4), np.float64)}, 13),
        ("c = Cast <to = 1> (q) w = Mul (c, x)", {"q": CODES}, 13),
        ("c = Cast <to = 6> (q) d = Cast <to = 1> (c) w = Mul (d, s)", {"q": CODES, "s": ROWS}, 13),
        ("w = DequantizeLinear (q, s)", {"q": np.ones((3, 4), np.int32), "s": np.float32(0.1)}, 13),
        ("w = DequantizeLinear <axis = 1, block_size = 2> (q, s)", {"q": CODES, "s": np.ones((3, 2), np.float32)}, 21),
        ("q = QuantizeLinear (x, s) w = DequantizeLinear (q, s)", {"s": np.float32(0.1)}, 13),
        ("w = Mul (q, s)", {"q": np.ones((3, 4), np.float32), "s": ROWS}, 13),
        ("w = Relu (x)", {}, 13),
    ],
)
def test_what_is_none(body: str, weights: dict[str, Any], opset: int) -> None:
    model = with_weights(GRAPH.format(body=body), weights, opset=opset)
    (add,) = (n for n in model.graph.nodes if n.op == "Add")
    assert stored_weight(add.inputs[1]) is None and stored_weight(add.inputs[0]) is None
