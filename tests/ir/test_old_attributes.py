"""Attributes that do not say their kind, as files of IR version 1 and 2 have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphcompress.ir import Graph, TensorData, model_from_proto, to_proto

GRAPH = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "inner", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])])
VALUES: list[Any] = [1.5, 3, b"text", numpy_helper.from_array(np.float32([1, 2])), GRAPH, [1.5, 2.5], [3, 4], [b"a", b"b"], [GRAPH, GRAPH]]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v[0] if isinstance(v, list) else v).__name__ + "s" * isinstance(v, list))
def test_the_field_that_is_filled_says_it(value: Any) -> None:
    node = helper.make_node("Anything", ["x"], ["y"], domain="other", a=value)
    node.attribute[0].ClearField("type")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("other", 1)]
    proto = helper.make_model(helper.make_graph([node], "g", infos[:1], infos[1:]), opset_imports=opsets, ir_version=8)
    before = proto.SerializeToString()
    model = model_from_proto(proto, check=False)
    found = model.graph.nodes[0].attrs["a"]
    kinds = [type(v) for v in (found if isinstance(found, list) else [found])]
    expected = {TensorProto: TensorData, type(GRAPH): Graph, bytes: str}
    assert kinds == [expected.get(type(v), type(v)) for v in (value if isinstance(value, list) else [value])]
    if Graph not in kinds:  # a graph is written anew, with its kind
        assert to_proto(model).SerializeToString() == before
