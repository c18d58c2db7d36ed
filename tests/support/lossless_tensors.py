"""Cases of `lossless`: fields of the model, the graph, its signature and its tensors."""

from __future__ import annotations

import numpy as np
from lossless import CASES, Feature, case, initializer, props
from onnx import ModelProto, TensorProto, helper, numpy_helper

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
