"""What passes may rely on when they edit a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from graphcompress import ir
from graphcompress.errors import ModelError


def model_of(text: str, *, opset: int = 17, ir_version: int = 8) -> ir.Model:
    return ir.model_from_proto(parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]>\n{text}'))


CHAIN = "g (float[n] x) => (float[n] y) { a = Relu(x)  b = Neg(a)  c = Abs(b)  y = Exp(c) }"


def ops(model: ir.Model) -> list[str]:
    return [n.op_type for n in ir.to_proto(model).graph.node]


def test_equal_nodes_are_told_apart() -> None:
    """graphsurgeon compares by value, and `list.remove` would take the first of two equal nodes."""
    model = model_of("g (float[n] x) => (float[n] y, float[n] z) { y = Relu(x)  z = Relu(x) }")
    first, second = model.graph.nodes
    x = model.graph.inputs[0]
    second.inputs[0] = model.constant("k", np.ones(1, np.float32))
    assert [n is first for n in x.outputs] == [True]


def test_removed_nodes_leave_no_links() -> None:
    model = model_of(CHAIN)
    relu, neg, *_ = model.graph.nodes
    neg.inputs[0] = model.graph.inputs[0]
    model.remove([relu])
    assert ops(model) == ["Neg", "Abs", "Exp"]
    assert ir.consumers(model.graph.inputs[0]) == [neg]
    ir.lint(model)


def test_new_node_is_written_before_its_consumer() -> None:
    model = model_of(CHAIN)
    relu, neg = model.graph.nodes[:2]
    neg.inputs[0] = model.add("Tanh", [relu.outputs[0]]).outputs[0]
    assert ops(model) == ["Relu", "Tanh", "Neg", "Abs", "Exp"]


def test_unsorted_order_is_kept_until_an_edit() -> None:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{CHAIN}')
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    model = ir.model_from_proto(proto)
    assert ops(model) == ["Exp", "Abs", "Neg", "Relu"]
    abs_, neg = model.graph.nodes[1:3]
    abs_.inputs[0] = neg.inputs[0]
    model.remove([neg])
    assert ops(model) == ["Relu", "Abs", "Exp"]


def test_uses_in_subgraphs_are_uses() -> None:
    model = model_of(
        "g (bool c, float[n] x) => (float[n] y) { a = Relu(x)  y = If (c) <then_branch = t () => (float[n] p) { p = Neg(a) }, else_branch = e () => (float[n] q) { q = Identity(a) }> }"
    )
    relu, if_ = model.graph.nodes
    a = relu.outputs[0]
    assert [n.op for n in a.outputs] == ["Neg", "Identity"]
    assert [t.name for t in ir.captured(if_)] == ["a"]
    model.replace_uses(a, model.graph.inputs[1])
    model.remove([relu])
    assert [t.name for t in ir.captured(if_)] == ["x"]
    ir.lint(model)


def test_fresh_names_avoid_every_scope() -> None:
    model = model_of(
        "g (bool c, float[n] x) => (float[n] y) { y = If (c) <then_branch = t () => (float[n] k) { k = Neg(x) }, else_branch = e () => (float[n] k_1) { k_1 = Abs(x) }> }"
    )
    assert model.fresh("k") == "k_2"
    assert model.fresh("k") == "k_3"
    assert model.fresh("new") == "new"


def test_changed_signature_is_refused() -> None:
    model = model_of(CHAIN)
    model.graph.outputs[0] = model.graph.nodes[2].outputs[0]
    with pytest.raises(ModelError, match="signature"):
        ir.to_proto(model)


def test_dangling_input_is_found() -> None:
    model = model_of(CHAIN)
    model.graph.nodes[1].inputs[0] = ir.Variable("nobody")
    with pytest.raises(ModelError, match="nobody"):
        ir.lint(model)


def test_cycle_after_an_edit_is_found() -> None:
    model = model_of(CHAIN)
    model.graph.nodes[0].inputs[0] = model.graph.nodes[2].outputs[0]
    with pytest.raises(ModelError, match="cycle"):
        ir.lint(model)


def test_copies_do_not_share_their_graph() -> None:
    model = model_of(CHAIN)
    twin = model.copy()
    twin.graph.nodes[0].op = "Tanh"
    assert ops(model)[0] == "Relu"
    assert ops(twin)[0] == "Tanh"


@pytest.mark.parametrize("value", [3, 0.5, "text", [1, 2], [0.5], ["a", "b"]])
def test_edited_attribute_is_written(value: object) -> None:
    model = model_of(CHAIN)
    model.graph.nodes[0].attrs["k"] = value
    written = helper.get_attribute_value(ir.to_proto(model).graph.node[0].attribute[0])
    assert (
        written.decode()
        if isinstance(written, bytes)
        else [w.decode() if isinstance(w, bytes) else w for w in written]
        if isinstance(written, list)
        else written
    ) == value


def test_list_attribute_edited_in_place_is_written() -> None:
    model = model_of("g (float[a,b] x) => (float[b,a] y) { y = Transpose <perm = [1, 0]> (x) }")
    model.graph.nodes[0].attrs["perm"].reverse()
    assert list(ir.to_proto(model).graph.node[0].attribute[0].ints) == [0, 1]


def test_origin_reaches_the_file() -> None:
    model = model_of(CHAIN)
    made = model.add("Tanh", [model.graph.inputs[0]], origin=("some-rule", "relu"))
    model.graph.nodes[1].inputs[0] = made.outputs[0]
    node = next(n for n in ir.to_proto(model).graph.node if n.op_type == "Tanh")
    assert [(p.key, p.value) for p in node.metadata_props] == [("graphcompress.origin", "some-rule relu")]


def test_new_initializer_below_ir_4_is_listed_as_input() -> None:
    """Before IR version 4 every initializer has to be an input as well; callers never feed it."""
    model = model_of("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }", opset=8, ir_version=3)
    assert [s.name for s in model.inputs] == ["x"]
    assert model.overridable == ()
    node = model.graph.nodes[0]
    node.inputs[1] = model.constant("v", np.zeros(2, np.float32))
    assert [v.name for v in ir.to_proto(model).graph.input] == ["x", "w", "v"]


def test_overridable_initializer_is_no_constant() -> None:
    model = model_of("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    w = model.graph.nodes[0].inputs[1]
    assert ir.constant_value(w) is None
    assert [s.name for s in model.inputs] == ["x"]
    assert [s.name for s in model.overridable] == ["w"]


def test_stale_value_info_goes_with_its_producer() -> None:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\n{CHAIN}')
    proto.graph.value_info.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in ("a", "b", "elsewhere"))
    model = ir.model_from_proto(proto)
    relu, neg = model.graph.nodes[:2]
    neg.inputs[0] = model.graph.inputs[0]
    model.remove([relu])
    assert [v.name for v in ir.to_proto(model).graph.value_info] == ["b", "elsewhere"]
