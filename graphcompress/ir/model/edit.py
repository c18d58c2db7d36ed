"""Edits of many nodes at once. One by one, graphsurgeon's linked lists cost a walk over all users of a tensor per edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable
from graphcompress.ir.model.walk import constant_data, graphs


def set_input(node: Node, index: int, tensor: Tensor) -> None:
    """Put `tensor` at an input of `node` without telling the tensors; `relink` must follow."""
    list.__setitem__(node.inputs, index, tensor)


def set_output(node: Node, index: int, tensor: Tensor) -> None:
    """As `set_input`, for an output."""
    list.__setitem__(node.outputs, index, tensor)


def relink(model: Model, gone: Iterable[Node] = ()) -> None:
    """Make the producers and consumers of every tensor agree with the nodes of the model; `gone` are nodes that were taken out of it. Linear in the graph."""
    for node in gone:
        for tensor in (*node.inputs, *node.outputs):
            list.clear(tensor.inputs)
            list.clear(tensor.outputs)
        list.clear(node.inputs)
        list.clear(node.outputs)
    everything = [n for g in graphs(model) for n in g.nodes]
    for graph in graphs(model):
        for tensor in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            list.clear(tensor.inputs)
            list.clear(tensor.outputs)
    for node in everything:
        for tensor in (*node.inputs, *node.outputs):
            list.clear(tensor.inputs)
            list.clear(tensor.outputs)
    for node in everything:
        for tensor in node.inputs:
            list.append(tensor.outputs, node)
        for tensor in node.outputs:
            list.append(tensor.inputs, node)


def extract(model: Model, nodes: Sequence[Node], outputs: Sequence[Tensor]) -> tuple[Model, list[str]]:
    """A model of its own that computes `outputs` with copies of `nodes`, and the names of its outputs in that order.

    Whatever the nodes read beside one another must be constants. Names are made new, because nodes of different scopes may share them. The bytes of constants
    are shared; the given graph is not touched. `nodes` must stand in an order that runs, and hold no subgraphs.
    """
    graph = Graph("part")
    made: dict[int, Tensor] = {}
    inner = {id(t) for n in nodes for t in n.outputs}

    def copy(tensor: Tensor) -> Tensor:
        if not tensor.name:
            return Variable("")
        if id(tensor) not in made:
            name = f"t{len(made)}"
            data = constant_data(tensor)
            if data is not None and id(tensor) not in inner:
                made[id(tensor)] = graph.initializers[name] = Constant(name, data)
            else:
                made[id(tensor)] = Variable(name)
        return made[id(tensor)]

    for rank, node in enumerate(nodes):
        twin = Node(node.op, "", dict(node.attrs), [copy(t) for t in node.inputs], [copy(t) for t in node.outputs], node.domain)
        twin.rank = rank
        graph.nodes.append(twin)
    infos = [onnx.ValueInfoProto(name=copy(t).name) for t in outputs]
    graph.outputs = [copy(t) for t in outputs]
    graph.output_protos = tuple(infos)
    header = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.header.opset_import)
    return Model(header, graph, (), infos, model.path), [info.name for info in infos]
