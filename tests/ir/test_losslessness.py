"""Whatever a file holds is still there after load and save, and after an edit elsewhere in the graph.

One case per field that onnx-graphsurgeon or onnx-ir is known to lose or to change, and a few that are easy to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, helper, numpy_helper

import graphcompress
from graphcompress import ir

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


# --- the model ----------------------------------------------------------------------------------------------------------------------


@case
def model_fields(model: ModelProto) -> None:
    model.producer_name, model.producer_version, model.domain = "somebody", "1.2", "org.example"
    model.model_version, model.doc_string = 7, "what it is for"
    props(model.metadata_props, licence="mine", author="me")


@case
def model_without_producer(model: ModelProto) -> None:
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        model.ClearField(field)


@case
def training_info(model: ModelProto) -> None:
    info = model.training_info.add()
    info.algorithm.CopyFrom(
        helper.make_graph([helper.make_node("Neg", ["w"], ["w2"])], "step", [], [helper.make_tensor_value_info("w2", TensorProto.FLOAT, [2])])
    )
    info.initialization.name = "start"
    props(info.update_binding, w="w2")


@case
def device_configuration(model: ModelProto) -> None:
    model.configuration.add(name="two", num_devices=2, device=["a", "b"])
    placed = model.graph.node[0].device_configurations.add(configuration_id="two", pipeline_stage=1)
    placed.sharding_spec.add(tensor_name="x", device=[0, 1])


@case
def device_configuration_before_ir_11(model: ModelProto) -> None:
    device_configuration(model)
    model.ir_version = 10


@case
def opset_import_spelled_out(model: ModelProto) -> None:
    model.opset_import[0].domain = "ai.onnx"


@case
def opset_import_unused(model: ModelProto) -> None:
    model.opset_import.add(domain="never.used", version=12)


@case
def unknown_fields(model: ModelProto) -> None:
    """Fields of an onnx that is newer than the installed one: number 1000, one byte string, in model, graph and node."""
    unknown = b"\xc2\x3e\x03new"
    for message in (model.graph.node[0], model.graph, model):
        message.MergeFromString(unknown)


# --- graph and tensors --------------------------------------------------------------------------------------------------------------


@case
def graph_fields(model: ModelProto) -> None:
    model.graph.doc_string = "the graph"
    props(model.graph.metadata_props, a="b")


@case
def quantization_annotation(model: ModelProto) -> None:
    note = model.graph.quantization_annotation.add(tensor_name="a")
    props(note.quant_parameter_tensor_names, SCALE_TENSOR="w")


@case
def sparse_initializer(model: ModelProto) -> None:
    values = numpy_helper.from_array(np.array([3.0], np.float32), "sparse")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1]), "indices"), [2]))
    model.graph.node.append(helper.make_node("Identity", ["sparse"], ["dense"], name="use"))


@case
def value_info(model: ModelProto) -> None:
    info = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 2], doc_string="inner")
    props(info.metadata_props, k="v")
    model.graph.value_info.append(info)


@case
def value_info_of_unused_tensor(model: ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("nobody", TensorProto.INT64, [3]))


@case
def value_info_of_initializer(model: ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))


@case
def value_info_without_type(model: ModelProto) -> None:
    model.graph.value_info.add(name="a", doc_string="typeless")


@case
def input_and_output_fields(model: ModelProto) -> None:
    for info in (model.graph.input[0], model.graph.output[0]):
        info.doc_string = "outer"
        props(info.metadata_props, unit="m")


@case
def denotations(model: ModelProto) -> None:
    for info in (model.graph.input[0], model.graph.output[0]):
        info.type.denotation = "TENSOR"
        info.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"


@case
def unnamed_dimension(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()


@case
def output_without_shape(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


@case
def overridable_initializer(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))


@case
def overridable_initializer_in_the_middle(model: ModelProto) -> None:
    infos = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend([infos[0], helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]), infos[1]])


@case
def ir_3_lists_initializers_as_inputs(model: ModelProto) -> None:
    model.ir_version, model.opset_import[0].version = 3, 8
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))


@case
def unused_initializer(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int64), "spare"))


@case
def initializer_fields(model: ModelProto) -> None:
    model.graph.initializer[0].doc_string = "weights"
    props(model.graph.initializer[0].metadata_props, k="v")


@case
def initializer_in_a_typed_field(model: ModelProto) -> None:
    initializer(model, helper.make_tensor("", TensorProto.FLOAT, [2], [1.5, -0.0]))


@case
def nan_payload(model: ModelProto) -> None:
    initializer(model, TensorProto(data_type=TensorProto.FLOAT, dims=[2], raw_data=np.array([0x7FC12345, 0xFFA00001], np.uint32).tobytes()))


@case
def strings_not_utf8(model: ModelProto) -> None:
    initializer(model, TensorProto(data_type=TensorProto.STRING, dims=[2], string_data=[b"\xff\xfe", b"fine"]))


@case
def order_of_initializers(model: ModelProto) -> None:
    for name in ("zz", "aa", "mm"):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), name))


@case
def input_used_by_nobody(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("idle", TensorProto.FLOAT, None))


@case
def input_that_is_an_output(model: ModelProto) -> None:
    model.graph.output.append(model.graph.input[0])


ELEMENTS = {
    "bfloat16": 2, "float16": 2, "float8e4m3fn": 1, "float8e4m3fnuz": 1, "float8e5m2": 1, "float8e5m2fnuz": 1, "float8e8m0": 1, "float4e2m1": 0.5,
    "int4": 0.5, "uint4": 0.5, "int2": 0.25, "uint2": 0.25, "int16": 2, "uint64": 8, "bool": 1, "complex64": 8, "complex128": 16, "double": 8,
}  # fmt: skip


def element(name: str, size: float) -> Feature:
    """Five elements of a type (an odd number, so that packed types end inside a byte)."""

    def feature(model: ModelProto) -> None:
        code, count = TensorProto.DataType.Value(name.upper()), int(np.ceil(5 * size))
        raw = b"\x01\x00\x01\x00\x01" if name == "bool" else bytes(np.random.default_rng(1).integers(0, 256, count, np.uint8))
        if name in ("int4", "uint4", "float4e2m1"):
            raw = raw[:-1] + b"\x05"
        elif name in ("int2", "uint2"):
            raw = raw[:-1] + b"\x01"
        initializer(model, TensorProto(data_type=code, dims=[5], raw_data=raw))

    return feature


CASES.update({f"element_type_{name}": element(name, size) for name, size in ELEMENTS.items()})


# --- nodes and attributes -----------------------------------------------------------------------------------------------------------


@case
def node_fields(model: ModelProto) -> None:
    model.graph.node[0].doc_string = "says something"
    props(model.graph.node[0].metadata_props, source="layer 1")


@case
def node_domain_spelled_out(model: ModelProto) -> None:
    model.graph.node[0].domain = "ai.onnx"


@case
def node_without_name(model: ModelProto) -> None:
    model.graph.node[0].ClearField("name")
    model.graph.node[1].name = ""


@case
def nodes_with_equal_names(model: ModelProto) -> None:
    model.graph.node[1].name = "first"


@case
def nodes_not_sorted(model: ModelProto) -> None:
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])


@case
def empty_optional_input(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Clip", ["a", "", "top"], ["clipped"], name="clip"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(6), "top"))


@case
def trailing_empty_input_and_output(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Clip", ["a", "", ""], ["clipped"], name="clip"))
    model.graph.node.append(helper.make_node("Dropout", ["a"], ["dropped", ""], name="drop"))


@case
def dead_node(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Exp", ["a"], ["unseen"], name="dead"))


@case
def attribute_doc_string(model: ModelProto) -> None:
    made = helper.make_attribute("alpha", 0.1, doc_string="slope")
    node = helper.make_node("LeakyRelu", ["a"], ["leaky"], name="leaky")
    node.attribute.append(made)
    model.graph.node.append(node)


@case
def attribute_empty_lists(model: ModelProto) -> None:
    kinds = (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS, AttributeProto.TENSORS, AttributeProto.GRAPHS)
    carrier(model, *(attribute(kind, f"empty{kind}") for kind in kinds))


@case
def attribute_tensors(model: ModelProto) -> None:
    made = attribute(AttributeProto.TENSORS)
    made.tensors.extend(numpy_helper.from_array(np.full(2, v, np.float32), f"t{v}") for v in range(2))
    carrier(model, made)


@case
def attribute_sparse_tensors(model: ModelProto) -> None:
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(1, np.float32), "v"), numpy_helper.from_array(np.array([0]), "i"), [4])
    one, many = attribute(AttributeProto.SPARSE_TENSOR, "one"), attribute(AttributeProto.SPARSE_TENSORS, "many")
    one.sparse_tensor.CopyFrom(sparse)
    many.sparse_tensors.extend([sparse, sparse])
    carrier(model, one, many)


@case
def attribute_types(model: ModelProto) -> None:
    one, many = attribute(AttributeProto.TYPE_PROTO, "one"), attribute(AttributeProto.TYPE_PROTOS, "many")
    one.tp.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", None]))
    many.type_protos.extend([helper.make_sequence_type_proto(one.tp), helper.make_optional_type_proto(one.tp)])
    carrier(model, one, many)


@case
def attribute_type_of_optional(model: ModelProto) -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    model.graph.node.append(helper.make_node("Optional", [], ["maybe"], name="maybe", type=kind))


@case
def attribute_bytes_not_utf8(model: ModelProto) -> None:
    one, many = attribute(AttributeProto.STRING, "one"), attribute(AttributeProto.STRINGS, "many")
    one.s = b"\xff\x00\xfe"
    many.strings.extend([b"\xc3", b"fine", b""])
    carrier(model, one, many)


@case
def attribute_numbers(model: ModelProto) -> None:
    nan = attribute(AttributeProto.FLOATS, "odd")
    nan.floats.extend([float("nan"), float("-inf"), -0.0, 0.1])
    carrier(model, nan, helper.make_attribute("big", -(2**63)), helper.make_attribute("small", 1e-45), helper.make_attribute("text", ""))


@case
def attribute_graphs(model: ModelProto) -> None:
    made = attribute(AttributeProto.GRAPHS)
    for i in range(2):
        body = helper.make_graph([helper.make_node("Neg", ["w"], [f"inner{i}"])], f"body{i}", [], [onnx.ValueInfoProto(name=f"inner{i}")], doc_string="a body")
        props(body.metadata_props, k=str(i))
        made.graphs.append(body)
    carrier(model, made)


@case
def attribute_tensor_with_fields(model: ModelProto) -> None:
    tensor = helper.make_tensor("named", TensorProto.FLOAT, [1], [2.0])
    tensor.doc_string = "a constant"
    model.graph.node.append(helper.make_node("Constant", [], ["k"], name="constant", value=tensor))


# --- subgraphs, functions, types ----------------------------------------------------------------------------------------------------


@case
def outer_initializer_used_in_a_branch_only(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "captured"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "which"))
    branches = {}
    for name in ("then", "else"):
        info = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2], doc_string="of a branch")
        body = helper.make_graph([helper.make_node("Neg", ["captured"], [f"{name}_out"], doc_string="inside")], name, [], [info])
        body.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), f"{name}_unused"))
        body.value_info.append(helper.make_tensor_value_info("captured", TensorProto.FLOAT, [2]))
        branches[f"{name}_branch"] = body
    model.graph.node.append(helper.make_node("If", ["which"], ["chosen"], name="if", **branches))


@case
def function_overloads(model: ModelProto) -> None:
    model.opset_import.add(domain="my.functions", version=1)
    for overload in ("", "other"):
        made = helper.make_function(
            "my.functions",
            "Twice",
            ["v"],
            ["r"],
            [helper.make_node("LeakyRelu", ["v"], ["h"]), helper.make_node("Add", ["h", "h"], ["r"])],
            [helper.make_opsetid("", 21)],
            attributes=["slope"],
            attribute_protos=[helper.make_attribute("bias", 0.5)],
            doc_string="two times",
            overload=overload,
            value_info=[helper.make_tensor_value_info("h", TensorProto.FLOAT, [2])],
        )
        made.node[0].attribute.append(AttributeProto(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT))
        props(made.metadata_props, k="v")
        model.functions.append(made)
        call = helper.make_node("Twice", ["w"], [f"twice{overload}"], name=f"call{overload}", domain="my.functions", overload=overload, slope=0.2)
        model.graph.node.append(call)


def typed_input(kind: TypeProto) -> Feature:
    """A graph input of another type than a tensor, passed through to an output."""

    def feature(model: ModelProto) -> None:
        for field, name in ((model.graph.input, "odd"), (model.graph.output, "odd_out")):
            field.add(name=name).type.CopyFrom(kind)
        model.graph.node.append(helper.make_node("Identity", ["odd"], ["odd_out"], name="odd"))

    return feature


TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 3])
CASES["type_sequence"] = typed_input(helper.make_sequence_type_proto(TENSOR))
CASES["type_optional"] = typed_input(helper.make_optional_type_proto(TENSOR))
CASES["type_optional_of_sequence"] = typed_input(helper.make_optional_type_proto(helper.make_sequence_type_proto(TENSOR)))


@case
def type_map(model: ModelProto) -> None:
    """What ZipMap hands out, as scikit-learn classifiers do."""
    model.opset_import.add(domain="ai.onnx.ml", version=1)
    model.graph.node.append(helper.make_node("ZipMap", ["y"], ["zipped"], name="zip", domain="ai.onnx.ml", classlabels_int64s=[0, 1]))
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output.add(name="zipped").type.CopyFrom(helper.make_sequence_type_proto(kind))


@case
def type_sparse_tensor(model: ModelProto) -> None:
    carrier(model)
    model.graph.input.add(name="thin").type.CopyFrom(helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [3, "m"]))
    model.graph.node[-1].input.append("thin")


@case
def type_opaque(model: ModelProto) -> None:
    carrier(model)
    kind = TypeProto()
    kind.opaque_type.domain, kind.opaque_type.name = "some.where", "Thing"
    model.graph.input.add(name="thing").type.CopyFrom(kind)
    model.graph.node[-1].input.append("thing")


# --- the laws -----------------------------------------------------------------------------------------------------------------------


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
    last.inputs[0] = model.add("Tanh", [aside.outputs[0]], near=aside).outputs[0]
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
def test_references_to_external_data_are_kept(names: tuple[str, str], tmp_path: Path) -> None:
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

    assert written(onnx.load(target / "m.onnx", load_external_data=False)) == written(original)
    for name in names:
        assert (target / name).read_bytes() == (source / name).read_bytes()
    loaded = graphcompress.load(target / "m.onnx").graph.initializers
    assert [list(loaded[f"far{i}"].values) for i in range(2)] == [[0, 1, 2, 3], [1, 2, 3, 4]]
