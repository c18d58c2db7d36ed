"""INT8 that costs no more bytes than it must: short names, equal constants once, one set of codes for a weight of several readers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantized import EAGER, done, precision

from graphcompress.ir import Model, TensorData, nodes, to_bytes
from graphcompress.runtime import profile


def tied(tools: Any, rows: int = 60) -> Model:
    """A table that is also the output layer."""
    small = tools.Small()
    table = small.weight(rows, 32)
    x = small.node("Gather", table, small.input("x", 4, kind=7))
    x = small.node("Relu", small.node("Gemm", x, small.weight(32, 32), small.weight(32), name="middle"))
    return small.model(small.node("Gemm", x, table, small.weight(rows), transB=1, name="head"))  # type: ignore[no-any-return]


def ids(tools: Any, model: Model) -> Any:
    data = tools.feeds(model, 8)

    def read(indices: Any) -> Any:
        return ({"x": np.random.default_rng(i).integers(0, 60, 4)} for i in indices)

    return type(data)(data.source, data.sha256, range(8), read)


def quantized(model: Model, tools: Any, target: Any = EAGER) -> Any:
    from graphcompress.passes.quantize import quantize
    from graphcompress.step import Context

    return quantize(model, Context(target=target, data=ids(tools, model))).boldest


def test_a_float_reader_of_a_weight_in_integers_reads_the_same_codes(tools: Any) -> None:
    model = tied(tools)
    result = quantized(model, tools)
    assert precision(result)["head"] == "int8"
    assert len([c for c in result.model.graph.initializers.values() if c.shape == (60, 32)]) == 1
    assert {
        c.data.dtype_name if isinstance(c.data, TensorData) else str(c.values.dtype) for c in result.model.graph.initializers.values() if c.shape == (60, 32)
    } == {"int8"}
    (gather,) = (n for n in profile.optimized_model(result.model).graph.nodes if n.op == "Gather")
    assert gather.inputs[0].name in profile.optimized_model(result.model).graph.initializers
    feed = {"x": np.array([0, 1, 2, 59])}
    before, after = tools.run(model, feed)[0], tools.run(result.model, feed)[0]
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


def test_where_folding_cannot_be_seen_the_weight_stays_float_for_its_float_readers(tools: Any) -> None:
    result = quantized(tied(tools), tools, EAGER.model_copy(update={"certificate": "none"}))
    assert {"Cast", "Mul"}.isdisjoint(n.op for n in nodes(result.model))
    assert len([c for c in result.model.graph.initializers.values() if c.shape == (60, 32)]) == 2


def test_equal_weights_of_several_operators_are_one_constant(tools: Any) -> None:
    small = tools.Small()
    values = small.random.standard_normal((32, 32)).astype(np.float32)
    x = small.input("x", 4, 32)
    for number in range(3):
        x = small.node("Relu", small.node("Gemm", x, small.constant(values, f"w{number}"), small.constant(np.zeros(32, np.float32), f"b{number}")))
    result = done(small.model(x), tools)
    assert [c.shape for c in result.model.graph.initializers.values()].count((32, 32)) == 1


@pytest.mark.parametrize("length", [3, 300])
def test_what_is_inserted_costs_the_same_whatever_the_tensors_are_called(tools: Any, length: int) -> None:
    small = tools.Small()
    x = small.input("x", 1, 16, 8, 8)
    x = small.node("Relu", small.conv(x, 16, 16))
    model = small.model(small.conv(x, 16, 16))
    for node in nodes(model):
        for tensor in node.outputs:
            if tensor.name not in {o.name for o in model.outputs}:
                tensor.name = tensor.name.rjust(length, "n")
    result = done(model, tools).model
    inserted = {t.name for n in nodes(result) for t in n.outputs} | set(result.graph.initializers)
    assert max(len(name) for name in inserted - {t.name for n in nodes(model) for t in n.outputs}) <= 5
    assert len(to_bytes(result)) < len(to_bytes(model))
