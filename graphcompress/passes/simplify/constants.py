"""Constant nodes become initializers; a tensor whose value is known becomes one too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Graph, Model, Node, Tensor, constant_data, graphs, output_ids
from graphcompress.ir.model.edit import relink, set_input
from graphcompress.ir.model.garbage import paused

STAGE = "simplify/constant"
IR_WITHOUT_INPUT_ENTRIES = 4


@paused()
def initializers_from_nodes(model: Model) -> int:
    """Turn the Constant nodes of all graphs into initializers, without decoding; how many. Outputs of a graph keep their node: it makes the name."""
    outputs = output_ids(model)
    values: dict[int, Constant] = {}
    gone: list[Node] = []
    for graph in graphs(model):
        if not takes_initializers(model, graph):
            continue
        for node in graph.nodes:
            if not node.is_op("Constant") or len(node.outputs) != 1 or id(node.outputs[0]) in outputs:
                continue
            data = constant_data(node.outputs[0])
            if data is not None:
                values[id(node.outputs[0])] = add_initializer(graph, node.outputs[0].name, data)
                gone.append(node)
    replace(model, values, gone)
    return len(gone)


def takes_initializers(model: Model, graph: Graph) -> bool:
    """Whether a new initializer may stand in `graph`. Before IR 4 it must be an input too, which a subgraph cannot have."""
    return graph is model.graph or model.ir_version >= IR_WITHOUT_INPUT_ENTRIES


def add_initializer(graph: Graph, name: str, values: Any) -> Constant:
    """An initializer of `graph` in the place of the tensor called `name`, which its producer must give up."""
    made = Constant(name, values)
    graph.initializers[name] = made
    return made


@paused()
def make_known(model: Model, known: Mapping[int, tuple[Tensor, np.ndarray[Any, Any]]], stage: str, gone: list[Node], places: Mapping[int, Graph]) -> None:
    """Replace tensors by their values: id() -> (tensor, value); `places` says in which graph each stands, `gone` are the nodes that made them."""
    outputs = output_ids(model)
    values: dict[int, Constant] = {}
    made: list[Node] = []
    by_output = {id(t): n for n in gone for t in n.outputs}
    for key, (tensor, value) in known.items():
        graph, node = places[key], by_output[key]
        if key in outputs or not takes_initializers(model, graph):
            constant = Node("Constant", model.fresh(node.name) if node.name else "", {"value": value}, [], [])
            constant.rank = node.rank
            constant.origin = (stage, node.name or node.op)
            list.append(constant.outputs, tensor)
            graph.nodes.append(constant)
            made.append(constant)
        else:
            values[key] = add_initializer(graph, tensor.name, value)
    replace(model, values, gone)


def replace(model: Model, values: Mapping[int, Tensor], gone: list[Node]) -> None:
    """Read `values[id(t)]` wherever t is read, and take the nodes `gone` out. One pass over the model."""
    if not values and not gone:
        return
    dead = {id(n) for n in gone}
    for graph in graphs(model):
        if any(id(n) in dead for n in graph.nodes):
            graph.nodes = [n for n in graph.nodes if id(n) not in dead]
        for node in graph.nodes:
            for index, tensor in enumerate(node.inputs):
                found = values.get(id(tensor))
                if found is not None:
                    set_input(node, index, found)
    relink(model, gone)
