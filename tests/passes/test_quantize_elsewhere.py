"""The tables of targets that this machine is not: what they write keeps their rules, and runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model, Node, constant_value, consumers, producer
from graphcompress.passes.quantize import quantize
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.session import open_session
from graphcompress.step import Context
from graphcompress.targets import load_target, target_names

CPU_TABLES = [name for name in target_names() if load_target(name).provider == "cpu"]


@pytest.fixture
def network(tools: Any) -> Model:
    """Convs, a sum, a Softmax and a Gemm."""
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 8, 12, 12), 8, 32, name="a"))
    y = small.node("Relu", small.node("Add", small.conv(x, 32, 32, name="b"), x, name="sum"))
    return small.model(small.node("Softmax", small.conv(y, 32, 64, name="c"), axis=1))


def written(model: Model, target: str, tools: Any, place: LocalPlace | None = None) -> tuple[Model, Any]:
    result = quantize(model, Context(target=load_target(target), data=tools.feeds(model), place=place)).boldest
    assert result.certificate is not None
    return result.model, result.certificate


def pairs(node: Node) -> list[tuple[int, Any, Any, str]]:
    """Of a node: the inputs that are dequantized, with scale, zero point and the type of the codes."""
    out = []
    for index, tensor in enumerate(node.inputs):
        dq = producer(tensor)
        if dq is not None and dq.is_op("DequantizeLinear"):
            absent = len(dq.inputs) < 3  # a bias: zero points of zero
            zero = None if absent else constant_value(dq.inputs[2])
            out.append((index, constant_value(dq.inputs[1]), zero, "" if zero is None else str(zero.dtype)))
    return out


@pytest.mark.parametrize("target", CPU_TABLES)
def test_tables_of_the_cpu_provider_run_in_integers(target: str, network: Model, tools: Any) -> None:
    model, certificate = written(network, target, tools)
    assert certificate.integer == 3 and certificate.target == target
    feed = next(iter(tools.feeds(network)))
    with open_session(model) as after, open_session(network) as before:
        ours, right = (next(iter(s.run(feed).values())) for s in (after, before))
    assert np.abs(ours - right).mean() < 0.01


def test_tensorrt_gets_symmetric_codes_float_biases_and_no_quantized_outputs(network: Model, tools: Any) -> None:
    """NVIDIA's rules for explicit quantization. Nobody is asked what was taken: there is no TensorRT here."""
    model, certificate = written(network, "tensorrt", tools, LocalPlace())
    convs = [n for n in model.graph.nodes if n.op == "Conv"]
    assert len(convs) == certificate.integer == 3
    for conv in convs:
        assert [index for index, *_ in pairs(conv)] == [0, 1], "input and weight, but not the bias"
        assert all(kind == "int8" and not np.any(zero) for _, _, zero, kind in pairs(conv))
        assert np.ndim(pairs(conv)[1][1]) == 1, "a scale per channel for the weight"
        codes = constant_value(producer(conv.inputs[1]).inputs[0])  # type: ignore[union-attr]
        assert codes is not None and codes.min() >= -127
    # Behind a Conv comes what it fuses with, or the pair that the next layer's input wants.
    behind = {r.op for conv in convs for r in consumers(conv.outputs[0])}
    assert behind <= {"Relu", "Add", "Softmax"}


def test_openvino_keeps_softmax_in_float(network: Model, tools: Any) -> None:
    table = load_target("openvino")
    assert not table.rows("Softmax") and table.certificate == "nodes-taken"
    unasked = table.model_copy(update={"certificate": "none"})
    result = quantize(network, Context(target=unasked, data=tools.feeds(network), place=LocalPlace())).boldest
    (softmax,) = (n for n in result.model.graph.nodes if n.op == "Softmax")
    assert pairs(softmax) == [] and all(r.op != "QuantizeLinear" for r in consumers(softmax.outputs[0]))
    assert len([n for n in result.model.graph.nodes if n.op == "Conv" and len(pairs(n)) >= 2]) == 3


def test_what_was_taken_is_asked_at_the_place_where_results_are_judged(network: Model, tools: Any) -> None:
    """A place that takes nothing: everything stays float, and the reason says so."""

    class NothingTaken:
        reference = LocalPlace()
        asked = 0

        def describe(self) -> dict[str, Any]:
            return {"provider": "openvino"}

        def open(self, model: Any, **settings: Any) -> Any:
            session = LocalPlace().open(model, **settings)
            NothingTaken.asked += 1
            session.assigned_nodes = list  # type: ignore[method-assign]
            return session

    context = Context(target=load_target("openvino"), data=tools.feeds(network), place=NothingTaken())  # type: ignore[arg-type]
    result = quantize(network, context).boldest
    assert NothingTaken.asked and result.certificate is not None and result.certificate.integer == 0
