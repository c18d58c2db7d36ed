"""Rows times the matrix plus the bias is what the runtime calculates, at any position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model, output_ids
from graphcompress.reconstruction.rows import Layer, layer_of, sample
from graphcompress.runtime.evaluate import run_once

Tools = Any

CONVOLUTIONS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "plain": ("Conv", (6, 4, 3, 3), {}),
    "padded and strided": ("Conv", (6, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "dilated": ("Conv", (6, 4, 3, 2), {"dilations": [2, 3], "pads": [2, 2, 2, 2]}),
    "grouped": ("Conv", (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": ("Conv", (8, 1, 3, 3), {"group": 4}),
    "same upper": ("Conv", (6, 4, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same lower": ("Conv", (6, 4, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [3, 2]}),
    "valid": ("Conv", (6, 4, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    "transposed": ("ConvTranspose", (4, 6, 3, 3), {}),
    "transposed, strided": ("ConvTranspose", (4, 6, 3, 2), {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}),
    "transposed, grouped": ("ConvTranspose", (4, 3, 2, 2), {"group": 2, "strides": [2, 2], "dilations": [2, 1]}),
    "transposed, same upper": ("ConvTranspose", (4, 6, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "transposed, same lower": ("ConvTranspose", (4, 6, 3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "transposed, of a stated size": ("ConvTranspose", (4, 6, 3, 3), {"output_shape": [14, 11], "strides": [2, 2]}),
}


def reproduces(model: Model, feed: dict[str, np.ndarray], items: int) -> Layer:
    """Whether the first layer's rows give its outputs, at sampled positions and at all."""
    outputs = output_ids(model)
    layer = next(found for n in model.graph.nodes if (found := layer_of(n, outputs)) is not None)
    values = run_once(model, feed, [layer.x.name, layer.output.name])
    x, y = values[layer.x.name], values[layer.output.name]
    places = layer.form.places(y.shape)
    assert places == layer.form.places_from(x.shape)
    for positions in (np.arange(places), sample(places, items, 5, np.random.default_rng(0))):
        targets = layer.grouped(layer.form.outputs(y, positions))
        rows = layer.form.rows(x, positions)
        assert rows.shape == (layer.form.shape[0], len(positions), layer.form.shape[1])
        np.testing.assert_allclose(rows @ layer.weight_matrix() + layer.bias_vector()[:, None], targets, atol=1e-4)
    np.testing.assert_array_equal(layer.weight_from_matrix(layer.weight_matrix()), layer.weight.values)
    return layer


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind: str, tools: Tools) -> None:
    op, shape, attrs = CONVOLUTIONS[kind]
    small = tools.Small()
    x = small.input("x", 2, 4, 7, 6)
    outputs = shape[0] if op == "Conv" else shape[1] * attrs.get("group", 1)
    small.node(op, x, small.weight(*shape), small.weight(outputs), **attrs)
    reproduces(small.model("t0"), {"x": np.random.default_rng(0).normal(0, 1, (2, 4, 7, 6)).astype(np.float32)}, 2)


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_ranks(rank: int, tools: Tools) -> None:
    small = tools.Small()
    size = (2, 4, *[5] * rank)
    small.node("Conv", small.input("x", *size), small.weight(6, 4, *[3] * rank), pads=[1] * 2 * rank)
    layer = reproduces(small.model("t0"), {"x": np.random.default_rng(0).normal(0, 1, size).astype(np.float32)}, 2)
    assert layer.bias is None and layer.bias_site == (layer.node, 2)


@pytest.mark.parametrize("attrs", [{}, {"transB": 1, "alpha": 0.5, "beta": 2.0}, {"transA": 1}])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,)])
def test_gemm(attrs: dict[str, Any], bias: tuple[int, ...], tools: Tools) -> None:
    small = tools.Small()
    size = (3, 8) if attrs.get("transA") else (8, 3)
    small.node("Gemm", small.input("x", *size), small.weight(*((5, 3) if attrs.get("transB") else (3, 5))), small.weight(*bias), **attrs)
    layer = reproduces(small.model("t0"), {"x": np.random.default_rng(0).normal(0, 1, size).astype(np.float32)}, 8)
    np.testing.assert_allclose(layer.bias_from_vector(layer.bias_vector()), np.broadcast_to(layer.bias.values.reshape(-1), 5))


def test_a_bias_for_each_row_of_gemm_is_none(tools: Tools) -> None:
    small = tools.Small()
    small.node("Gemm", small.input("x", 8, 3), small.weight(3, 5), small.weight(8, 5))
    assert layer_of(small.model("t0").graph.nodes[0], set()) is None


def test_matmul_takes_the_vector_that_is_added_for_its_bias(tools: Tools) -> None:
    small = tools.Small()
    product = small.node("MatMul", small.input("x", 2, 7, 3), small.weight(3, 5))
    small.node("Add", small.weight(5), product)
    layer = reproduces(small.model("t1"), {"x": np.random.default_rng(0).normal(0, 1, (2, 7, 3)).astype(np.float32)}, 2)
    assert layer.bias_site == (layer.output.inputs[0], 0)


def test_a_product_that_is_an_output_keeps_its_sum_to_itself(tools: Tools) -> None:
    small = tools.Small()
    product = small.node("MatMul", small.input("x", 2, 7, 3), small.weight(3, 5))
    small.node("Add", small.weight(5), product)
    layer = reproduces(small.model(product, "t1"), {"x": np.random.default_rng(0).normal(0, 1, (2, 7, 3)).astype(np.float32)}, 2)
    assert layer.bias is None and layer.bias_site is None


@pytest.mark.parametrize("size", [(2, 3, 7), (3, 7), (3,)])
def test_a_matrix_on_the_left(size: tuple[int, ...], tools: Tools) -> None:
    small = tools.Small()
    small.node("MatMul", small.weight(5, 3), small.input("x", *size))
    reproduces(small.model("t0"), {"x": np.random.default_rng(0).normal(0, 1, size).astype(np.float32)}, 1)


def test_a_weight_that_is_calculated_is_none(tools: Tools) -> None:
    small = tools.Small()
    x = small.input("x", 3, 3)
    small.node("MatMul", x, x)
    small.node("Conv", small.input("y", 1, 1, 5), small.input("w", 1, 1, 3))
    assert [layer_of(n, set()) for n in small.model("t0", "t1").graph.nodes] == [None, None]


def test_a_product_of_constants_is_none(tools: Tools) -> None:
    small = tools.Small()
    small.node("MatMul", small.weight(3, 3), small.weight(3, 5))
    assert layer_of(small.model("t0").graph.nodes[0], set()) is None


def test_rows_of_channels(tools: Tools) -> None:
    small = tools.Small()
    small.node("Conv", small.input("x", 1, 4, 5, 5), small.weight(6, 2, 2, 2), group=2)
    layer = layer_of(small.model("t0").graph.nodes[0], set())
    assert layer is not None
    group, rows = layer.rows_of(np.array([1, 2]))
    assert group.tolist() == [0, 1]
    assert rows.tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]


def test_as_many_positions_of_each_input_and_none_twice() -> None:
    positions = sample(4 * 100, 4, 9, np.random.default_rng(0))
    assert np.bincount(positions // 100).tolist() == [9, 9, 9, 9]
    assert len(np.unique(positions)) == 36
    large = sample(2 * 10000, 2, 9, np.random.default_rng(0))
    assert np.bincount(large // 10000).tolist() == [9, 9]


def test_few_positions_are_all_taken_and_odd_ones_drawn_from_all() -> None:
    assert sample(7, 7, 12, np.random.default_rng(0)).tolist() == list(range(7))
    assert len(np.unique(sample(101, 4, 9, np.random.default_rng(0)))) == 36


def test_the_border_is_as_likely_as_the_middle() -> None:
    positions = sample(2000 * 16, 2000, 4, np.random.default_rng(0)) % 16
    assert np.bincount(positions).min() > 400
