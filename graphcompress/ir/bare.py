"""A model without what computes nothing: long names, notes, stated shapes."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator

import onnx

from graphcompress.ir.model.model import Model
from graphcompress.ir.model.walk import graphs, nodes

NOTES = ("doc_string", "metadata_props")


def shorten_names(model: Model) -> None:
    """Give short names to all tensors that nodes make or initializers hold, but for outputs of the model, and none to nodes. Inputs of the model and of subgraphs keep theirs.

    Not for graphs with quantization annotations, which refer to tensors by name. Edits the model.
    """
    fixed = {t.name for g in graphs(model) for t in g.inputs} | {t.name for t in model.graph.outputs}
    fixed |= {s.values.name for g in graphs(model) for s in g.shell.sparse_initializer}
    outputs = {id(t) for t in model.graph.outputs}
    names = (name for name in _short_names() if name not in fixed)
    for graph in graphs(model):
        for tensor in (*graph.initializers.values(), *(t for n in graph.nodes for t in n.outputs if t.name)):
            if id(tensor) not in outputs:
                tensor.name = next(names)
        graph.initializers = {c.name: c for c in graph.initializers.values()}
        for node in graph.nodes:
            node.name = ""
    model.forget_names()


def leave_out_notes(model: Model, *, shapes: bool) -> None:
    """Leave out doc strings and metadata of graphs and nodes, the names of nodes that have none any more, and, unless `shapes`, value_info. What is said of the model as a
    whole stays: applications read it. Edits the model."""
    for graph in graphs(model):
        shell = onnx.GraphProto()
        shell.CopyFrom(graph.shell)
        for field in (*NOTES, *(() if shapes else ("value_info",))):
            shell.ClearField(field)
        graph.shell = shell
    for node in nodes(model):
        node.origin = ()
        if node.proto is not None:
            proto = onnx.NodeProto()
            proto.CopyFrom(node.proto)
            for field in (*NOTES, *(() if node.name else ("name",))):
                proto.ClearField(field)
            node.proto = proto


def leave_out_origin(model: Model) -> None:
    """Leave out what is said of the model as a whole: metadata, doc string, producer, the name of the main graph; notes of its inputs and outputs, of functions and of initializers.
    Edits the model."""
    header = onnx.ModelProto()
    header.CopyFrom(model.header)
    for field in (*NOTES, "producer_name", "producer_version", "domain"):
        header.ClearField(field)
    for function in header.functions:
        for part in (function, *function.node, *function.value_info):
            for field in NOTES:
                part.ClearField(field)
    model.header = header
    model.input_protos, model.output_protos = _without_notes(model.input_protos), _without_notes(model.output_protos)
    for graph in graphs(model):
        graph.input_protos, graph.output_protos = _without_notes(graph.input_protos), _without_notes(graph.output_protos)
    shell = onnx.GraphProto()
    shell.CopyFrom(model.graph.shell)
    shell.name = "graph"  # a graph must have a name
    for info in shell.value_info:
        for field in NOTES:
            info.ClearField(field)
    model.graph.shell = shell


def _without_notes(infos: tuple[onnx.ValueInfoProto, ...]) -> tuple[onnx.ValueInfoProto, ...]:
    copies = []
    for info in infos:
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(info)
        for field in NOTES:
            copy.ClearField(field)
        copies.append(copy)
    return tuple(copies)


def _short_names() -> Iterator[str]:
    """a, b, ... Z, aa, ab, ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_letters, repeat=length))
