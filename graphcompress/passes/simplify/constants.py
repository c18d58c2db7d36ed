"""Constant nodes become initializers; a tensor whose value is known becomes one too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, constant_data, graphs, output_ids
from graphcompress.ir.inline import defined_names
from graphcompress.ir.model.edit import Edits, takes_initializers

STAGE = "simplify/constant"


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


def make_known(model: Model, known: Mapping[int, tuple[Tensor, np.ndarray[Any, Any]]], stage: str, nodes: Iterable[Node], places: Mapping[int, Graph]) -> None:
    """Replace tensors by their values: id() -> (tensor, value); `places` says in which graph each is made, `nodes` are the nodes that make them.

    A constant whose name other scopes define as well gets another one; `keeps_its_maker` must be false for all nodes.
    """
    outputs, names = output_ids(model), defined_names(model)
    makers = {t: n for n in nodes for t in n.outputs}
    with Edits(model) as edits:
        for key, (tensor, value) in known.items():
            maker = makers[tensor]
            if key not in outputs and names[tensor.name] > 1:
                tensor.name = model.fresh(tensor.name)
            edits.make_constant(tensor, value, places[key], (stage, maker.name or maker.op), output=key in outputs)
        edits.remove(nodes)


def keeps_its_maker(node: Node, outputs: set[int], names: Counter[str]) -> bool:
    """Whether `node` makes an output of a graph whose name another scope defines as well (`names` counts them).

    onnxruntime knows constants before it looks at subgraphs, and then refuses an inner tensor whose name was free while a node made the outer one later.
    """
    return any(id(t) in outputs and names[t.name] > 1 for t in node.outputs)
