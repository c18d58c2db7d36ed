"""File -> Model, losslessly: every message of the file is kept, the objects that passes edit are built beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto

from graphcompress.ir.check.faults import Fault, raise_faults
from graphcompress.ir.check.models import model_faults
from graphcompress.ir.files.detach import Array
from graphcompress.ir.files.parse import parse_apart, sniff
from graphcompress.ir.model.external import DataFolder
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.messages import tensor_protos
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable, type_spec
from graphcompress.ir.model.tensors import TensorData

FIRST_IR_WITH_OVERRIDABLE = 4

# What is longer in an attribute is a table (of a tree ensemble, a vocabulary, a compiled blob): Python objects for it would take many times its bytes.
LONGEST_LIST = 256
LONGEST_TEXT = 1 << 16


@paused()
def load(path: str | os.PathLike[str]) -> Model:
    """Read an ONNX file. The bytes of external data are read when their values are asked for; its place and size are checked here.

    Raises ModelError where the file is not a valid model, or where its external data is missing, outside its folder or too short.
    """
    file = Path(path)
    sniff(file)
    proto, weights = parse_apart(file)
    data = DataFolder(file.parent, str(file))
    raise_faults([*model_faults(proto, weights), *external_faults(proto, data)], str(file))
    return _model(proto, file, data, weights)


def model_from_proto(proto: onnx.ModelProto, *, source: Model | None = None, check: bool = True) -> Model:
    """A Model over the messages of `proto`, which is taken over: the caller must not use it again.

    `source` is the model that `proto` was derived from: external data is looked for in its files. Raises ModelError as `load` does if `check`.
    """
    path, data = (source.path, source.data) if source else (None, None)
    if check:
        raise_faults(model_faults(proto), str(path or "The model"))
    return _model(proto, path, data)


@paused()
def _model(proto: onnx.ModelProto, path: Path | None, data: DataFolder | None, weights: Mapping[str, Array] | None = None) -> Model:
    graph_proto = proto.graph
    graph = _Reader(data, proto.ir_version, weights or {}).graph(graph_proto, {}, main=True)
    # Clearing a field detaches the message that Python still holds: nothing is copied, and unknown fields stay.
    proto.ClearField("graph")
    return Model(proto, graph, graph.input_protos, graph.output_protos, path, data)


def external_faults(proto: onnx.ModelProto, data: DataFolder) -> list[Fault]:
    """What is wrong with the external data that a model refers to."""
    tensors = [t for t in tensor_protos(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
    return [Fault("external-data", what, tensor=str(t.name)) for t in tensors if (what := data.fault(t)) is not None]


def graph_from_proto(proto: onnx.GraphProto) -> Graph:
    """A graph that stands alone over the messages of `proto`, which is taken over: the body of a function, for example."""
    return _Reader(None, FIRST_IR_WITH_OVERRIDABLE, {}).graph(proto, {})


class _Reader:
    """Builds graphs; `data` holds external data, `ir_version` decides what an initializer that is also an input means, `weights` are values of the main graph's that are
    not in its message."""

    def __init__(self, data: DataFolder | None, ir_version: int, weights: Mapping[str, Array]) -> None:
        self.data = data
        self.weights = weights
        self.overridable = ir_version >= FIRST_IR_WITH_OVERRIDABLE

    def graph(self, proto: onnx.GraphProto, outer: Mapping[str, Tensor], *, main: bool = False) -> Graph:
        graph = Graph(proto.name)
        node_protos = list(proto.node)
        graph.input_protos, graph.output_protos = tuple(proto.input), tuple(proto.output)
        graph.file_order = [t.name for t in proto.initializer]
        scope: dict[str, Tensor] = {}
        input_names = {v.name for v in graph.input_protos}
        for tensor in proto.initializer:
            values = self.weights.get(tensor.name) if main else None
            if tensor.name in input_names and (self.overridable or not main):
                if values is not None:
                    tensor.raw_data = values.tobytes()
                default = Variable(tensor.name)
                default.default = tensor
                scope[tensor.name] = default
            else:
                constant = Constant(tensor.name, TensorData(tensor, self.data) if values is None else values)
                scope[tensor.name] = graph.initializers[tensor.name] = constant
        sparse = {s.values.name: s for s in proto.sparse_initializer}
        for name, value in sparse.items():
            scope[name] = Variable(name)
            if name in input_names:
                scope[name].default = value
        for info in graph.input_protos:
            if info.name not in scope:
                spec = type_spec(info.name, info.type)
                scope[info.name] = Variable(info.name, spec.dtype, spec.shape)
            if isinstance(scope[info.name], Variable):
                graph.inputs.append(scope[info.name])
        for node_proto in node_protos:
            for name in node_proto.output:
                if name and name not in scope:
                    scope[name] = Variable(name)
        visible = _NameScope(scope, outer)
        graph.nodes = [self.node(p, visible, rank) for rank, p in enumerate(node_protos)]
        graph.order = list(graph.nodes)
        graph.outputs.extend(visible.find(info.name) for info in graph.output_protos)
        graph.read_names = {name for p in node_protos for name in p.output} | set(graph.file_order) | input_names
        for field in ("node", "initializer", "input", "output"):
            proto.ClearField(field)
        graph.shell = proto
        return graph

    def node(self, proto: onnx.NodeProto, scope: _NameScope, rank: int) -> Node:
        attrs = {a.name: self.attribute(a, scope) for a in proto.attribute}
        node = Node(proto.op_type, proto.name, attrs, [scope.find(n) for n in proto.input], [scope.find(n) for n in proto.output], proto.domain)
        node.proto = proto
        node.read_attrs = {k: list(v) if isinstance(v, list) else v for k, v in attrs.items()}
        node.rank = rank
        return node

    def attribute(self, proto: AttributeProto, scope: _NameScope) -> Any:
        """The value as Python data; what has no faithful form stays the proto that it was."""
        if proto.ref_attr_name:
            return proto
        kind = proto.type or _guess_type(proto)
        if kind == AttributeProto.TENSOR:
            return TensorData(proto.t, self.data)
        if kind == AttributeProto.GRAPH:
            return self.graph(proto.g, scope)
        if kind == AttributeProto.GRAPHS and proto.graphs:
            return [self.graph(g, scope) for g in proto.graphs]
        return plain_attribute(proto, kind)


def plain_attribute(proto: AttributeProto, kind: int) -> Any:
    """Numbers and texts as Python data, bytes where a text is not UTF-8; any other kind, empty lists and long ones too, is the proto itself."""
    if kind == AttributeProto.FLOAT:
        return proto.f
    if kind == AttributeProto.INT:
        return proto.i
    if kind == AttributeProto.STRING:
        text = proto.s
        return _decoded([text])[0] if len(text) <= LONGEST_TEXT else proto
    if kind == AttributeProto.FLOATS and 0 < len(proto.floats) <= LONGEST_LIST:
        return list(proto.floats)
    if kind == AttributeProto.INTS and 0 < len(proto.ints) <= LONGEST_LIST:
        return list(proto.ints)
    if kind == AttributeProto.STRINGS and 0 < len(proto.strings) <= LONGEST_LIST:
        return _decoded(proto.strings)
    return proto


class _NameScope(Mapping[str, "Tensor"]):
    """Names of one graph, then those of the graphs around it."""

    def __init__(self, local: dict[str, Tensor], outer: Mapping[str, Tensor]) -> None:
        self.local, self.outer = local, outer

    def find(self, name: str) -> Tensor:
        """The tensor called `name`. An empty name is an absent input or output: a tensor of its own each time."""
        if name == "":
            return Variable("")
        tensor = self.get(name)
        if tensor is None:  # odd, yet the file said so: it is kept unchanged
            tensor = self.local[name] = Variable(name)
        return tensor

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.local.get(name)
        return self.outer[name] if tensor is None else tensor

    def __iter__(self) -> Any:
        return iter({**self.outer, **self.local})

    def __len__(self) -> int:
        return len({**self.outer, **self.local})


def _decoded(values: Sequence[bytes]) -> list[str] | list[bytes]:
    try:
        return [v.decode() for v in values]
    except UnicodeDecodeError:
        return list(values)


def _guess_type(proto: AttributeProto) -> int:
    """The kind of an attribute that does not say it (IR versions 1 and 2): the field that is filled."""
    for field, kind in (
        ("f", AttributeProto.FLOAT),
        ("i", AttributeProto.INT),
        ("s", AttributeProto.STRING),
        ("t", AttributeProto.TENSOR),
        ("g", AttributeProto.GRAPH),
    ):
        if proto.HasField(field):
            return kind
    for field, kind in (
        ("floats", AttributeProto.FLOATS),
        ("ints", AttributeProto.INTS),
        ("strings", AttributeProto.STRINGS),
        ("graphs", AttributeProto.GRAPHS),
    ):
        if getattr(proto, field):
            return kind
    return int(AttributeProto.UNDEFINED)
