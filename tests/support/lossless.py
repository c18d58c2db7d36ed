"""What a file can hold, one case each: a plain model, and the register of functions that put one thing into it.

Each field that onnx-graphsurgeon or onnx-ir is known to lose or to change is a case, and a few that are easy to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

Feature = Callable[[ModelProto], None]
CASES: dict[str, Feature] = {}


def case(feature: Feature) -> Feature:
    """Register a feature: a function that puts one thing into the plain model."""
    CASES[feature.__name__] = feature
    return feature


def plain() -> ModelProto:
    """y = Relu(x) + w beside z = Abs(Neg(q)); the second chain is the one that gets edited."""
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["a"], name="first"),
            helper.make_node("Add", ["a", "w"], ["y"], name="second"),
            helper.make_node("Neg", ["q"], ["s"], name="aside"),
            helper.make_node("Abs", ["s"], ["z"], name="last"),
        ],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]), helper.make_tensor_value_info("q", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2]), helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.array([1, 2], np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=11)


def props(field: Any, **entries: str) -> None:
    """Fill a metadata_props field."""
    for key, value in entries.items():
        field.add(key=key, value=value)


def carrier(model: ModelProto, *attributes: AttributeProto) -> None:
    """A node of a domain that nothing knows, with these attributes."""
    model.opset_import.add(domain="some.where", version=3)
    node = helper.make_node("Carry", ["w"], ["carried"], name="carrier", domain="some.where")
    node.attribute.extend(attributes)
    model.graph.node.append(node)


def initializer(model: ModelProto, tensor: TensorProto) -> None:
    """Add an initializer called `extra` that a node uses."""
    tensor.name = "extra"
    model.graph.initializer.append(tensor)
    model.graph.node.append(helper.make_node("Identity", ["extra"], ["passed"], name="pass"))


def attribute(kind: int, name: str = "thing") -> AttributeProto:
    """An attribute of `kind` without a value."""
    return AttributeProto(name=name, type=kind)
