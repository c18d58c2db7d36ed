"""Part of a model as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graphcompress.ir.model.edit import detached, link
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable
from graphcompress.ir.model.walk import constant_data


def extract(model: Model, nodes: Sequence[Node], outputs: Sequence[Tensor]) -> tuple[Model, list[str]]:
    """A model of its own that computes `outputs` with copies of `nodes`, and the names of its outputs in that order.

    Whatever the nodes read beside one another must be constants. Names are made new, because nodes of different scopes may share them. The bytes of constants
    are shared; `model` is not touched. `nodes` must stand in an order that runs, and hold no subgraphs.
    """
    graph = Graph("part")
    copies: dict[Tensor, Tensor] = {}
    inner = {t for n in nodes for t in n.outputs}

    def copy(tensor: Tensor) -> Tensor:
        if not tensor.name:
            return Variable("")
        if tensor not in copies:
            name = f"t{len(copies)}"
            data = None if tensor in inner else constant_data(tensor)
            copies[tensor] = Variable(name) if data is None else Constant(name, data)
            if data is not None:
                graph.initializers[name] = copies[tensor]
        return copies[tensor]

    for rank, node in enumerate(nodes):
        twin = detached(node.op, "", node.attrs, map(copy, node.inputs), map(copy, node.outputs), node.domain)
        link(twin)
        twin.rank = rank
        graph.nodes.append(twin)
    graph.outputs = [copy(t) for t in outputs]
    infos = [onnx.ValueInfoProto(name=t.name) for t in graph.outputs]
    graph.output_protos = tuple(infos)
    header = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.header.opset_import)
    return Model(header, graph, (), infos, model.path, model.data), [info.name for info in infos]
