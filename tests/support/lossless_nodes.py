"""Cases of `lossless`: nodes, attributes, subgraphs, functions, and types other than tensors."""

from __future__ import annotations

import numpy as np
import onnx
from lossless import CASES, Feature, attribute, carrier, case, props
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, helper, numpy_helper

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
