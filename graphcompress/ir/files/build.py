"""Model -> messages. What was not edited is its own message from the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from graphcompress.ir.check.graphs import check_signature
from graphcompress.ir.files.read import FIRST_IR_WITH_OVERRIDABLE
from graphcompress.ir.model.element_types import array_dtype_name, dtype_code
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable
from graphcompress.ir.model.tensors import TensorData, to_tensor_proto
from graphcompress.ir.model.walk import downstream, subgraphs, toposort


@paused()
def to_proto(model: Model) -> onnx.ModelProto:
    """The model as a new ModelProto, every tensor copied; external data stays a reference to where it was read from.

    Raises ModelError where a step changed the signature.
    """
    check_signature(model)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.header)
    _fill_graph(model.graph, proto.graph, stale_tensors(model), main=True, listed=lists_constants(model))
    return proto


def stale_tensors(model: Model) -> set[Tensor]:
    """The tensors of which the file says a shape that an edit has changed."""
    return downstream(model, model.changes.reshaped) if model.changes.reshaped else set()


def lists_constants(model: Model) -> bool:
    """True where the graph's inputs must list the constants too (before IR version 4)."""
    return model.ir_version < FIRST_IR_WITH_OVERRIDABLE


def _fill_graph(graph: Graph, proto: onnx.GraphProto, stale: set[Tensor], *, main: bool, listed: bool) -> None:
    rewired = is_rewired(graph)
    frame(graph, proto, stale, rewired=rewired, main=main, listed=listed)
    proto.node.extend(node_protos(graph, stale, rewired=rewired))
    proto.initializer.extend(
        t if isinstance(t, TensorProto) else to_tensor_proto(t.values if t.data is None else t.data, t.name) for t in stored_tensors(graph)
    )


def frame(graph: Graph, proto: onnx.GraphProto, stale: set[Tensor], *, rewired: bool, main: bool, listed: bool) -> None:
    """Fill `proto` with everything of `graph` but its nodes and initializers. `main` for a model's main graph; `stale` as `stale_tensors`, `rewired` as
    `is_rewired`, `listed` as `lists_constants`."""
    proto.CopyFrom(graph.shell)
    inputs = {t.name for t in graph.inputs}
    proto.input.extend(v for v in graph.input_protos if v.name in inputs or (v.name in graph.initializers and (listed or not main)))
    if main and listed:
        known = {v.name for v in graph.input_protos}
        proto.input.extend(_constant_info(c) for c in graph.initializers.values() if c.name not in known)
    for info, tensor in zip(graph.output_protos, graph.outputs, strict=True):
        entry = proto.output.add()
        entry.CopyFrom(info)
        if entry.name != tensor.name:
            entry.name = tensor.name
    if stale:
        _correct_shapes(graph, proto, stale, main=main)
    if stale or rewired:
        _drop_stale(graph, proto, stale)


def node_protos(graph: Graph, stale: set[Tensor], *, rewired: bool) -> Iterator[onnx.NodeProto]:
    """The messages of the nodes, in the order that the file has; an order that runs where the graph is `rewired`."""
    return (_node_proto(n, stale) for n in (toposort(graph) if rewired else graph.nodes))


def stored_tensors(graph: Graph) -> list[Constant | TensorProto]:
    """What belongs among the initializers, in the order of the file: constants, and the messages of values that callers may override."""
    stored: dict[str, Constant | TensorProto] = dict(graph.initializers)
    stored.update({t.name: t.default for t in graph.inputs if isinstance(t, Variable) and isinstance(t.default, TensorProto)})
    place = {name: i for i, name in enumerate(graph.file_order)}
    return [stored[name] for name in sorted(stored, key=lambda n: place.get(n, len(place)))]


def _correct_shapes(graph: Graph, proto: onnx.GraphProto, stale: set[Tensor], *, main: bool) -> None:
    """State the new shape of initializers that are listed as inputs, and none for stale inputs and outputs of subgraphs; those of the model are its signature."""
    names = {t.name for t in (*graph.inputs, *graph.outputs) if t in stale and not main}
    for entry in (*proto.input, *proto.output):
        if graph.initializers.get(entry.name) in stale:
            entry.CopyFrom(_constant_info(graph.initializers[entry.name]))
        elif entry.name in names and entry.type.HasField("tensor_type"):
            entry.type.tensor_type.ClearField("shape")


def _drop_stale(graph: Graph, proto: onnx.GraphProto, stale: set[Tensor]) -> None:
    """Leave out value_info and annotations of tensors that were removed, that another node makes now, or whose shape an edit changed (`stale`): a runtime would believe them."""
    tensors = (*(t for n in graph.nodes if n.proto is not None for t in n.outputs), *graph.initializers.values(), *graph.inputs)
    same = {t.name for t in tensors if t not in stale}
    infos = [v for v in proto.value_info if v.name in same or v.name not in graph.read_names]
    if len(infos) != len(proto.value_info):
        del proto.value_info[:]
        proto.value_info.extend(infos)
    notes = [a for a in proto.quantization_annotation if a.tensor_name in same or a.tensor_name not in graph.read_names]
    if len(notes) != len(proto.quantization_annotation):
        del proto.quantization_annotation[:]
        proto.quantization_annotation.extend(notes)


def is_rewired(graph: Graph) -> bool:
    """Whether nodes were added, removed, moved or rewired since the graph was read."""
    return (
        len(graph.nodes) != len(graph.order)
        or any(a is not b for a, b in zip(graph.nodes, graph.order, strict=True))
        or any(not _wired_as_read(n) for n in graph.nodes)
    )


def _wired_as_read(node: Node) -> bool:
    proto = node.proto
    return proto is not None and [t.name for t in node.inputs] == list(proto.input) and [t.name for t in node.outputs] == list(proto.output)


def _constant_info(constant: Constant) -> onnx.ValueInfoProto:
    name = constant.data.dtype_name if constant.data else array_dtype_name(constant.values)
    return helper.make_tensor_value_info(constant.name, dtype_code(name), list(constant.shape))


def _node_proto(node: Node, stale: set[Tensor]) -> onnx.NodeProto:
    old = node.proto
    same_attrs = node.attrs.keys() == node.read_attrs.keys() and all(_same(node.attrs[k], node.read_attrs[k]) for k in node.attrs) and not subgraphs(node)
    if old is not None and same_attrs and _wired_as_read(node) and (old.op_type, old.name, old.domain) == (node.op, node.name, node.domain or ""):
        return old
    built = onnx.NodeProto()
    if old is not None:  # doc string, metadata, overload, device configurations, fields that this onnx does not know
        built.CopyFrom(old)
        for field in ("input", "output"):
            built.ClearField(field)
    built.op_type = node.op
    if built.name != node.name:
        built.name = node.name
    if built.domain != (node.domain or ""):
        built.domain = node.domain or ""
    built.input.extend(t.name for t in node.inputs)
    built.output.extend(t.name for t in node.outputs)
    if same_attrs and old is not None:  # a tree's may be as large as the file: they are copied once
        return built
    built.ClearField("attribute")
    read = {a.name: a for a in old.attribute} if old is not None else {}
    for name, value in node.attrs.items():
        if name in read and name in node.read_attrs and _same(value, node.read_attrs[name]) and not _holds_graph(value):
            built.attribute.append(read[name])
        else:
            built.attribute.append(_attribute_proto(name, value, read.get(name), stale))
    return built


def _holds_graph(value: Any) -> bool:
    return isinstance(value, Graph) or (isinstance(value, list) and bool(value) and isinstance(value[0], Graph))


def _same(a: Any, b: Any) -> bool:
    """Equal and of one kind. Arrays and protos are compared by identity: an edited one is another object."""
    if a is b:
        return True
    return type(a) is type(b) and isinstance(a, int | float | str | bytes | list) and not _holds_graph(a) and (a == b or (a != a and b != b))


def _attribute_proto(name: str, value: Any, old: AttributeProto | None, stale: set[Tensor]) -> AttributeProto:
    built = AttributeProto()
    if old is not None and _holds_graph(value):
        for field in ("doc_string", "type"):
            if old.HasField(field):
                setattr(built, field, getattr(old, field))
    built.name = name
    match value:
        case AttributeProto():
            built.CopyFrom(value)
            built.name = name
        case Graph():
            built.type = AttributeProto.GRAPH
            _fill_graph(value, built.g, stale, main=False, listed=False)
        case [Graph(), *_]:
            built.type = AttributeProto.GRAPHS
            for graph in value:
                _fill_graph(graph, built.graphs.add(), stale, main=False, listed=False)
        case TensorData():
            built.type = AttributeProto.TENSOR
            built.t.CopyFrom(value.proto)
        case np.ndarray():
            built.type = AttributeProto.TENSOR
            built.t.CopyFrom(to_tensor_proto(value, ""))
        case []:  # only lists of integers are calculated; what a file holds is a message
            built.type = AttributeProto.INTS
        case _:
            built = helper.make_attribute(name, value)
    return built
