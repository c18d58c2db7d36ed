"""Tables in attributes (tree ensembles, vocabularies, compiled blobs) are never made into Python objects, nor copied for a comparison."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper

import graphcompress
from graphcompress import api, ir
from graphcompress.ir.files import text
from graphcompress.ir.files.hashes import sha256_of_model
from graphcompress.ir.files.read import LONGEST_LIST, LONGEST_TEXT

ROWS = 99_999


def ensemble(rows: int = ROWS) -> onnx.ModelProto:
    """Trees of one decision and two leaves (the last may be cut), with tables of numbers and of texts."""
    trees, ids = np.arange(rows) // 3, np.arange(rows) % 3
    leaf = ids > 0
    zeros = np.zeros(rows, np.int64)
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["t"], "tree", domain="ai.onnx.ml", n_targets=1)
    integers = {
        "nodes_treeids": trees, "nodes_nodeids": ids, "nodes_featureids": zeros, "nodes_truenodeids": np.where(leaf, 0, 1), "nodes_falsenodeids": np.where(leaf, 0, 2),
        "target_treeids": trees[leaf], "target_nodeids": ids[leaf], "target_ids": zeros[leaf],
    }  # fmt: skip
    for name, values in integers.items():
        node.attribute.append(AttributeProto(name=name, type=AttributeProto.INTS, ints=values))
    for name, values in {"nodes_values": np.linspace(0, 1, rows), "target_weights": np.linspace(0, 1, int(leaf.sum()))}.items():
        node.attribute.append(AttributeProto(name=name, type=AttributeProto.FLOATS, floats=values))
    node.attribute.append(AttributeProto(name="nodes_modes", type=AttributeProto.STRINGS, strings=[b"LEAF" if last else b"BRANCH_LEQ" for last in leaf]))
    nodes = [node, helper.make_node("Identity", ["t"], ["i"], "copy"), helper.make_node("Relu", ["i"], ["y"], "relu")]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1]) for n in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:]), opset_imports=opsets, ir_version=8)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "m.onnx"
    path.write_bytes(ensemble().SerializeToString())
    return path


def saved(path: Path) -> None:
    graphcompress.save(graphcompress.load(path).copy(), path.with_name("copy.onnx"))


def edited(path: Path) -> None:
    model = graphcompress.load(path)
    model.graph.nodes[0].name = "renamed"
    graphcompress.save(model, path.with_name("edited.onnx"))


@pytest.mark.parametrize("work", [saved, edited, lambda p: sha256_of_model(ir.load(p)), api.inspect, api.simplify, lambda p: text.to_text(ir.load(p))])
def test_python_holds_no_tables(large: Path, work: Callable[[Path], object]) -> None:
    """What Python allocates is bytes of messages; lists of the numbers would be ten times the file."""
    work(large)  # imports, and what is cached
    tracemalloc.start()
    work(large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * large.stat().st_size


def test_tables_are_kept(large: Path, tmp_path: Path) -> None:
    model = graphcompress.load(large)
    assert all(isinstance(v, AttributeProto) for k, v in model.graph.nodes[0].attrs.items() if k != "n_targets")
    result = api.simplify(model).model
    assert [n.op for n in result.graph.nodes] == ["TreeEnsembleRegressor", "Relu"]
    graphcompress.save(result, tmp_path / "o.onnx")
    assert onnx.load(tmp_path / "o.onnx").graph.node[0].attribute == onnx.load(large).graph.node[0].attribute


@pytest.mark.parametrize("length", [1, LONGEST_LIST, LONGEST_LIST + 1])
def test_short_lists_are_lists(length: int) -> None:
    model = ir.model_from_proto(ensemble(length))
    assert isinstance(model.graph.nodes[0].attrs["nodes_values"], list) == (length <= LONGEST_LIST)


@pytest.mark.parametrize("length", [10, LONGEST_TEXT, LONGEST_TEXT + 1])
def test_long_texts_are_messages(length: int) -> None:
    proto = ensemble(3)
    proto.graph.node[0].attribute.add(name="post_transform", type=AttributeProto.STRING, s=b"x" * length)
    model = ir.model_from_proto(proto, check=False)
    assert isinstance(model.graph.nodes[0].attrs["post_transform"], str) == (length <= LONGEST_TEXT)
    assert ir.to_proto(model).graph.node[0].attribute[-1].s == b"x" * length


@pytest.mark.parametrize("length", [0, 3, LONGEST_LIST + 1])
@pytest.mark.parametrize("kind", ["floats", "ints", "strings"])
def test_values_of_constants_are_the_same_however_they_are_held(kind: str, length: int) -> None:
    values = {"floats": np.arange(length, dtype=np.float32), "ints": np.arange(length), "strings": np.array([f"s{i}" for i in range(length)], object)}[kind]
    attribute = AttributeProto(name=f"value_{kind}", type=getattr(AttributeProto, kind.upper()))
    getattr(attribute, kind).extend([v.encode() for v in values] if kind == "strings" else values)
    node = onnx.NodeProto(op_type="Constant", output=["c"], attribute=[attribute])
    dtype = {"floats": TensorProto.FLOAT, "ints": TensorProto.INT64, "strings": TensorProto.STRING}[kind]
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("c", dtype, [length])])
    model = ir.model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    constant = ir.constant_value(model.graph.outputs[0])
    assert constant is not None and constant.dtype == values.dtype
    np.testing.assert_array_equal(constant, values)


def test_tables_are_dots_in_text() -> None:
    model = ir.model_from_proto(ensemble(1000))
    for shown in (text.to_text(model), text.node_text(model.graph.nodes[0])):
        assert "nodes_values" in shown and "..." in shown and len(shown) < 4000
