"""Files that look wrong and that onnxruntime runs: they must be taken. onnxruntime is the judge of what counts as a model, not onnx's checker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bad_input_bench import Bench, tensor, value
from onnx import AttributeProto, TensorProto, helper

Model = onnx.ModelProto


def node(model: Model, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def weight(model: Model, name: str = "fc.bias") -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def unsorted(model: Model) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def listed_constants(model: Model, ir_version: int) -> None:
    model.ir_version = ir_version
    model.graph.input.extend(value(t.name, tuple(t.dims)) for t in model.graph.initializer)


def microsoft_gelu(model: Model) -> None:
    node(model, "relu").op_type = "Gelu"
    node(model, "relu").domain = "com.microsoft"


def leaky(model: Model, **fields: Any) -> AttributeProto:
    node(model, "relu").op_type = "LeakyRelu"
    return node(model, "relu").attribute.add(name="alpha", type=AttributeProto.FLOAT, **fields)


def branches(model: Model) -> None:
    """Branches with one name in both, a shadowed outer initializer, and a capture of what a later node makes."""
    model.graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))
    then = helper.make_graph(
        [helper.make_node("Add", ["late", "fc.bias"], ["inner"], name="relu")], "then", [], [value("inner", ("N", 4))], [tensor("fc.bias", (4,), 9)]
    )
    other = helper.make_graph([helper.make_node("Neg", ["scores"], ["inner"], name="neg")], "else", [], [value("inner", ("N", 4))])
    model.graph.node.append(helper.make_node("If", ["always"], ["chosen"], name="choice", then_branch=then, else_branch=other))
    model.graph.node.append(helper.make_node("Abs", ["scores"], ["late"], name="late"))
    model.graph.output.append(value("chosen", ("N", 4)))


def broken_function_that_nobody_calls(model: Model) -> None:
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], [helper.make_node("Zork", ["nowhere"], ["b"])], [helper.make_opsetid("", 17)]))


def function_in_place_of_relu(model: Model) -> None:
    body = [helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.5)]
    model.functions.append(helper.make_function("local", "Own", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.add(domain="local", version=1)
    node(model, "relu").op_type, node(model, "relu").domain = "Own", "local"


def raw_and_typed(model: Model) -> None:
    weight(model).float_data.extend([1.0, 2.0])


def overridable(model: Model) -> None:
    model.graph.input.append(value("fc.bias", (4,)))


ODD: dict[str, Callable[[Model], object]] = {
    "nodes in reverse": unsorted,
    "the domain spelled out in the import": lambda m: setattr(m.opset_import[0], "domain", "ai.onnx"),
    "the domain spelled out in a node": lambda m: setattr(node(m, "relu"), "domain", "ai.onnx"),
    "opset imported twice": lambda m: m.opset_import.add(domain="ai.onnx", version=17),
    "an import that nobody needs": lambda m: m.opset_import.add(domain="foo.bar", version=3),
    "com.microsoft without import": microsoft_gelu,
    "output without shape": lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
    "output without type": lambda m: m.graph.output[0].ClearField("type"),
    "output with another shape": lambda m: m.graph.output[0].CopyFrom(value("scores", ("M", "K"))),
    "one output twice": lambda m: m.graph.output.append(value("scores", ("N", 4))),
    "an input as output": lambda m: m.graph.output.append(value("image")),
    "an initializer as output": lambda m: m.graph.output.append(value("fc.bias", (4,))),
    "input without shape": lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
    "negative dimensions in the signature": lambda m: [setattr(m.graph.input[0].type.tensor_type.shape.dim[i], "dim_value", -1) for i in (0, 2, 3)],
    "IR version 0": lambda m: setattr(m, "ir_version", 0),
    "IR version 3": lambda m: listed_constants(m, 3),
    "IR version 3, constants not listed": lambda m: setattr(m, "ir_version", 3),
    "all weights overridable": lambda m: listed_constants(m, 8),
    "one weight overridable": overridable,
    "graph without name": lambda m: m.graph.ClearField("name"),
    "nodes without names": lambda m: [n.ClearField("name") for n in m.graph.node],
    "names with control characters": lambda m: setattr(node(m, "relu"), "name", "a\n\n\x1b[31mb\0"),
    "attribute without value": leaky,
    "attribute that refers to nothing": lambda m: leaky(m, ref_attr_name="beta"),
    "an internal attribute": lambda m: node(m, "relu").attribute.append(helper.make_attribute("__note", 1)),
    "raw and typed data": raw_and_typed,
    "an empty tensor": lambda m: m.graph.initializer.append(helper.make_tensor("nothing", TensorProto.FLOAT, [0], [])),
    "an unused initializer without name": lambda m: m.graph.initializer.append(helper.make_tensor("", TensorProto.FLOAT, [1], [1.0])),
    "value_info twice, once wrong": lambda m: m.graph.value_info.extend([value("flat", ("N", 8)), value("flat", ("N", 9)), value("stranger", (1,))]),
    "branches": branches,
    "a broken function that nobody calls": broken_function_that_nobody_calls,
    "a function of its own domain": function_in_place_of_relu,
}


def answers(path: Path, feed: dict[str, Any]) -> list[Any]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, feed)
    return found


@pytest.mark.parametrize("name", ODD)
def test_taken(bench: Bench, name: str) -> None:
    bench.change(ODD[name])
    feed = {"image": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}
    wanted = answers(bench.model, feed)  # the claim of this file: it runs
    for command in ("inspect {model} -q", "simplify {model} -o {out} -q", "quantize {model} -o {here}/int8.onnx --data {data} --no-measure -q"):
        outcome = bench.run(command)
        assert outcome.status == 0, outcome.stderr
    for one, other in zip(wanted, answers(bench.out, feed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert len(answers(bench.here / "int8.onnx", feed)) == len(wanted)
