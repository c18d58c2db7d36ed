"""A copy is written as its original is, knows what each object became, and is edited by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import lossless_nodes  # noqa: F401 (registers its cases)
import lossless_tensors  # noqa: F401
import numpy as np
import onnx
import pytest
from lossless import CASES, plain
from onnx import ModelProto, TensorProto, helper, parser

from graphcompress import ir
from graphcompress.ir.model.edit import Edits

NESTED = """<ir_version: 8, opset_import: ["": 17]>
g (float[n] x, bool c, int64 m) => (float[n] y, float[n] a) <float[1] k = {2}, float[1] unused = {3}> {
    a = Mul (x, k)
    t = If (c) <
        then_branch = t () => (float[n] p) <float[1] k2 = {4}> {
            p = Loop (m, c, a) <body = b (int64 i, bool go, float[n] v) => (bool stay, float[n] w) { stay = Identity (go)  s = Mul (v, k)  w = Mul (s, k2) }>
        },
        else_branch = e () => (float[n] q) { s = Neg (a)  q = Add (s, k) }>
    y = Neg (t)
}"""
OVERRIDABLE = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }'
OLD = '<ir_version: 3, opset_import: ["": 8]> g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add (x, w) }'
SHARED_BY_BRANCHES = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> { y = If (c) <then_branch = t () => (float[2] p) { p = Add (x, w) }, else_branch = e () => (float[2] q) { q = Sub (x, w) }> }'


def unsorted() -> ModelProto:
    proto = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[n] x) => (float[n] y) { a = Relu(x)  b = Neg(a)  y = Exp(b) }')
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def sparse_in_a_branch() -> ModelProto:
    proto = parser.parse_model(SHARED_BY_BRANCHES)
    del proto.graph.initializer[:]
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [5.0])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, helper.make_tensor("", TensorProto.INT64, [1], [1]), [2]))
    return proto


def branches_in_a_list() -> ModelProto:
    proto = parser.parse_model('<ir_version: 8, opset_import: ["": 17, "other": 1]> g (float[n] x) => (float[n] y) { a = Relu(x)  y = other.Switch(a) }')
    bodies = [parser.parse_graph(f"b{i} () => (float[n] r) {{ s = {op}(a)  r = Neg(s) }}") for i, op in enumerate(("Abs", "Exp"))]
    proto.graph.node[1].attribute.append(helper.make_attribute("branches", bodies))
    return proto


def from_case(name: str) -> Callable[[], ModelProto]:
    def build() -> ModelProto:
        model = plain()
        CASES[name](model)
        return model

    return build


def from_text(text: str) -> Callable[[], ModelProto]:
    return lambda: parser.parse_model(text)


MODELS: dict[str, Callable[[], ModelProto]] = {
    **{name: from_case(name) for name in sorted(CASES)},
    "nested": from_text(NESTED),
    "overridable": from_text(OVERRIDABLE),
    "ir 3": from_text(OLD),
    "shared by branches": from_text(SHARED_BY_BRANCHES),
    "unsorted": unsorted,
    "sparse in a branch": sparse_in_a_branch,
    "branches in a list": branches_in_a_list,
}


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> ir.Model:
    return ir.model_from_proto(MODELS[request.param](), check=False)


def written(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def edit_everything(model: ir.Model) -> None:
    """Change whatever an edit can change, in every graph."""
    for graph in ir.graphs(model):
        for constant in graph.initializers.values():
            with Edits(model) as edits:
                edits.set_value(constant, np.zeros(7, np.float32))
        for node in graph.nodes:
            node.op += "X"
            node.name += "x"
            node.domain = "elsewhere"
            node.origin = ("edited",)
            for value in node.attrs.values():
                if isinstance(value, list):
                    value.reverse()
                    value.append(value[0])
            node.attrs["new"] = 1
        with Edits(model) as edits:
            edits.remove(graph.nodes[::2])
            for node in graph.nodes[1::2]:
                edits.set_input(node, 0, model.constant("new", np.ones(1, np.float32)))
        graph.initializers.clear()
        for tensor in (*graph.inputs, *graph.outputs):
            tensor.name += "x"
    model.import_opset("", 1)
    model.import_opset("elsewhere", 1)
    model.header.producer_name = "somebody else"


def test_a_copy_is_written_as_its_original(model: ir.Model) -> None:
    assert written(model.copy()) == written(model)


def test_a_copy_of_an_edited_model_is_written_as_that(model: ir.Model) -> None:
    with Edits(model) as edits:
        for graph in ir.graphs(model):
            for node in graph.nodes[:1]:
                node.attrs["new"] = [1, 2]
                if node.inputs:
                    edits.set_input(node, 0, model.constant("new", np.ones(1, np.float32)))
            for constant in list(graph.initializers.values())[:1]:
                edits.set_value(constant, np.ones((3, 5), np.float32))
    assert written(model.copy()) == written(model)
    assert written(model.copy().copy()) == written(model)


def test_edits_of_a_copy_do_not_reach_the_original(model: ir.Model) -> None:
    before = written(model)
    copy = model.copy()
    edit_everything(copy)
    assert written(model) == before
    untouched = model.copy()
    edit_everything(model)
    assert written(untouched) == before


def test_nothing_of_a_copy_is_an_object_of_the_original(model: ir.Model) -> None:
    copy, twins = model.clone()
    originals = {id(o) for g in ir.graphs(model) for o in (g, *g.nodes, *g.inputs, *g.outputs, *g.initializers.values())}
    originals |= {id(t) for n in ir.nodes(model) for t in (*n.inputs, *n.outputs)}
    for graph, twin in zip(ir.graphs(model), ir.graphs(copy), strict=True):
        assert twins.graph(graph) is twin
        for node, other in zip(graph.nodes, twin.nodes, strict=True):
            assert twins.node(node) is other
            assert id(other) not in originals
            for mine, theirs in zip((*node.inputs, *node.outputs), (*other.inputs, *other.outputs), strict=True):
                assert twins.tensor(mine) is theirs
                assert id(theirs) not in originals
                assert Counter(twins.node(n) for n in mine.outputs) == Counter(theirs.outputs)
                assert [twins.node(n) for n in mine.inputs] == theirs.inputs
        for name, constant in graph.initializers.items():
            assert twins.tensor(constant) is twin.initializers[name]
        assert [twins.tensor(t) for t in (*graph.inputs, *graph.outputs)] == [*twin.inputs, *twin.outputs]


def test_bytes_are_shared_and_nobody_writes_into_them() -> None:
    model = ir.model_from_proto(parser.parse_model(NESTED))
    values = np.arange(4, dtype=np.float32)
    constant = model.constant("big", values)
    copy, twins = model.clone()
    twin = twins.tensor(constant)
    assert isinstance(twin, ir.Constant)
    assert np.shares_memory(twin.values, values)
    with pytest.raises(ValueError, match="read-only"):
        twin.values[0] = 1
    k, other = model.graph.initializers["k"], copy.graph.initializers["k"]
    assert k.data is not None and k.data is other.data


def test_what_is_not_part_of_the_model_has_no_twin() -> None:
    model = ir.model_from_proto(parser.parse_model(OVERRIDABLE))
    _, twins = model.clone()
    stranger = ir.Variable("x")
    assert stranger not in twins
    with pytest.raises(KeyError):
        twins.tensor(stranger)
    assert model.graph.nodes[0] in twins
