"""Whatever a file holds is still there after load and save, and after an edit elsewhere in the graph. The cases are in `tests/support/lossless*.py`."""

from __future__ import annotations

from pathlib import Path

import lossless_nodes  # noqa: F401 (registers its cases)
import lossless_tensors  # noqa: F401
import numpy as np
import onnx
import pytest
from lossless import CASES, plain
from onnx import ModelProto, TensorProto, numpy_helper, parser

import graphcompress
from graphcompress import ir
from graphcompress.ir import lint, model_from_proto, nodes, to_proto
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.walk import consumers, subgraphs


def written(proto: ModelProto) -> bytes:
    """Every field as bytes; unlike `==`, equal NaNs are equal."""
    return proto.SerializeToString(deterministic=True)


@pytest.fixture(params=sorted(CASES))
def original(request: pytest.FixtureRequest) -> ModelProto:
    model = plain()
    CASES[request.param](model)
    return model


@pytest.fixture
def file(original: ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    path.write_bytes(original.SerializeToString())
    return path


def test_load_and_save_keep_every_field(original: ModelProto, file: Path, tmp_path: Path) -> None:
    graphcompress.save(graphcompress.load(file), tmp_path / "out.onnx")
    assert written(onnx.load(tmp_path / "out.onnx")) == written(original)


def test_reading_every_value_changes_nothing(original: ModelProto, file: Path) -> None:
    model = graphcompress.load(file)
    for graph in ir.graphs(model):
        for constant in graph.initializers.values():
            assert constant.values.shape == constant.shape
    assert written(ir.to_proto(model)) == written(original)


def test_renaming_a_node_elsewhere_changes_nothing_else(original: ModelProto, file: Path) -> None:
    model = graphcompress.load(file)
    next(n for n in model.graph.nodes if n.name == "aside").name = "renamed"
    next(n for n in original.graph.node if n.name == "aside").name = "renamed"
    assert written(ir.to_proto(model)) == written(original)


def test_a_node_put_in_elsewhere_changes_nothing_else(original: ModelProto, file: Path) -> None:
    """The edited model without the new node is the original, but that unsorted nodes are sorted once the graph was edited."""
    model = graphcompress.load(file)
    aside, last = (next(n for n in model.graph.nodes if n.name == name) for name in ("aside", "last"))
    with Edits(model) as edits:
        edits.set_input(last, 0, model.add("Tanh", [aside.outputs[0]], near=aside).outputs[0])
    result = ir.to_proto(model)
    tanh = next(n for n in result.graph.node if n.op_type == "Tanh")
    assert list(tanh.input) == ["s"]
    last_proto = next(n for n in result.graph.node if n.name == "last")
    assert list(last_proto.input) == list(tanh.output)
    last_proto.input[0] = "s"
    result.graph.node.remove(tanh)
    if [n.name for n in original.graph.node][:2] == ["second", "first"]:
        second = onnx.NodeProto.FromString(original.graph.node[0].SerializeToString())
        del original.graph.node[0]
        original.graph.node.insert(1, second)
    assert written(result) == written(original)


def test_a_copy_is_the_same_and_independent(original: ModelProto, file: Path) -> None:
    model = graphcompress.load(file)
    copy = model.copy()
    copy.graph.nodes[0].name = "changed in the copy"
    copy.header.doc_string = "changed in the copy"
    assert written(ir.to_proto(model)) == written(original)


@pytest.mark.parametrize("names", [("weights.bin", "weights.bin"), ("one.bin", "folder/two.bin")])
def test_external_data_goes_inside_and_all_else_is_kept(names: tuple[str, str], tmp_path: Path) -> None:
    original, source, target = plain(), tmp_path / "from", tmp_path / "to"
    for folder in (source / "folder", target):
        folder.mkdir(parents=True)
    for index, name in enumerate(names):
        offset = 4096 * index if len(set(names)) == 1 else 0
        values = np.arange(4, dtype=np.float32) + index
        with open(source / name, "ab") as data:
            data.write(b"\0" * (offset - data.tell() if data.tell() < offset else 0) + values.tobytes())
        tensor = TensorProto(name=f"far{index}", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", name), ("offset", str(offset)), ("length", "16"), ("checksum", "unknown")):
            tensor.external_data.add(key=key, value=value)
        original.graph.initializer.append(tensor)
    (source / "m.onnx").write_bytes(original.SerializeToString())

    graphcompress.save(graphcompress.load(source / "m.onnx"), target / "m.onnx")

    assert written(onnx.load(target / "m.onnx", load_external_data=False)) == written(onnx.load(source / "m.onnx"))
    assert [p.name for p in target.iterdir() if p.is_file()] == ["m.onnx"]


def test_the_pieces_of_a_message_are_what_protobuf_writes(original: ModelProto, file: Path, tmp_path: Path) -> None:
    """The order of the fields too: files stay the same byte by byte when nothing was edited."""
    graphcompress.save(graphcompress.load(file), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == written(original)


def test_what_subgraphs_read_is_the_tensor_outside_whatever_the_order_of_nodes() -> None:
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = a () => (float[2] o) { o = Add (t, s) }, else_branch = b () => (float[2] p) { p = Mul (t, s) }>
            t = Neg (x)
        }"""
    )
    sparse = proto.graph.sparse_initializer.add(dims=[2])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), ""))
    model = model_from_proto(proto)
    lint(model)
    negative = next(n for n in model.graph.nodes if n.op == "Neg")
    branches = [g.nodes[0] for n in model.graph.nodes for g in subgraphs(n)]
    assert consumers(negative.outputs[0]) == branches and len({id(n.inputs[1]) for n in branches}) == 1


def test_what_a_branch_hands_out_is_written_by_its_name() -> None:
    model = model_from_proto(
        parser.parse_model(
            """<ir_version: 8, opset_import: ["": 17]>
            g (bool c, float[2] x) => (float[2] y) { y = If (c) <then_branch = a () => (float[2] o) { m = Neg (x) o = Abs (m) }, else_branch = b () => (float[2] p) { p = Exp (x) }> }"""
        )
    )
    branch = next(g for n in nodes(model) for g in subgraphs(n) if len(g.nodes) == 2)
    branch.outputs = [branch.nodes[0].outputs[0]]
    written_branch = next(a.g for a in to_proto(model).graph.node[0].attribute if a.name == "then_branch")
    assert [o.name for o in written_branch.output] == ["m"]
