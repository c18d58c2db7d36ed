"""Constant nodes become initializers; a tensor whose value is known becomes one too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, constant_data, graphs, output_ids
from graphcompress.ir.inline import defined_names
from graphcompress.ir.model.edit import Edits, takes_initializers
from graphcompress.ir.model.garbage import paused

STAGE = "simplify/constant"


@paused()
def initializers_from_nodes(model: Model) -> int:
    """Turn the Constant nodes of all graphs into initializers, without decoding; how many. Outputs of a graph keep their node: it gives them their name."""
    outputs = output_ids(model)
    replaced: list[Node] = []
    with Edits(model) as edits:
        for graph in graphs(model):
            if not takes_initializers(model, graph):
                continue
            for node in graph.nodes:
                if not node.is_op("Constant") or len(node.outputs) != 1 or id(node.outputs[0]) in outputs:
                    continue
                data = constant_data(node.outputs[0])
                if data is not None:
                    edits.make_constant(node.outputs[0], data, graph, output=False)
                    replaced.append(node)
        edits.remove(replaced)
    return len(replaced)


@paused()
def make_known(model: Model, known: Mapping[int, tuple[Tensor, np.ndarray[Any, Any]]], stage: str, nodes: Iterable[Node], places: Mapping[int, Graph]) -> int:
    """Replace tensors by their values: id() -> (tensor, value); `places` says in which graph each is made, `nodes` are the nodes that make them. How many nodes.

    onnxruntime knows the results of Constant nodes before it looks at subgraphs. Where one of those has a tensor of the same name, which was free while a node
    made the outer one later, an output keeps its maker.
    """
    outputs = output_ids(model)
    names = defined_names(model)
    removed = [n for n in nodes if not any(id(t) in outputs and names[t.name] > 1 for t in n.outputs)]
    makers = {t: n for n in removed for t in n.outputs}
    with Edits(model) as edits:
        for key, (tensor, value) in known.items():
            maker = makers.get(tensor)
            if maker is not None:
                edits.make_constant(tensor, value, places[key], (stage, maker.name or maker.op), output=key in outputs)
        edits.remove(removed)
    return len(removed)
