"""Part of a model as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from graphcompress.ir.model.edit import detached, link
from graphcompress.ir.model.element_types import dtype_code
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable
from graphcompress.ir.model.walk import constant_data

NO_INPUTS: Mapping[Tensor, str] = {}


def extract(model: Model, nodes: Sequence[Node], outputs: Sequence[Tensor], inputs: Mapping[Tensor, str] = NO_INPUTS) -> tuple[Model, list[str]]:
    """A model of its own that computes `outputs` with copies of `nodes` from `inputs` (their element types by ONNX's names), and the names of its outputs in
    that order; its inputs are in the order of `inputs`.

    Whatever the nodes read beside these and one another must be constants. Names are made new, because nodes of different scopes may share them. The bytes of constants
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
            data = None if tensor in inner or tensor in inputs else constant_data(tensor)
            copies[tensor] = Variable(name) if data is None else Constant(name, data)
            if data is not None:
                graph.initializers[name] = copies[tensor]
        return copies[tensor]

    for rank, node in enumerate(nodes):
        twin = detached(node.op, "", node.attrs, map(copy, node.inputs), map(copy, node.outputs), node.domain)
        link(twin)
        twin.rank = rank
        graph.nodes.append(twin)
    graph.inputs = [copy(t) for t in inputs]
    graph.input_protos = tuple(
        onnx.ValueInfoProto(name=t.name, type=onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=dtype_code(kind))))
        for t, kind in zip(graph.inputs, inputs.values(), strict=True)
    )
    graph.outputs = [copy(t) for t in outputs]
    graph.output_protos = tuple(onnx.ValueInfoProto(name=t.name) for t in graph.outputs)
    header = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.header.opset_import)
    part = Model(header, graph, graph.input_protos, graph.output_protos, model.path, model.data)
    return part, [info.name for info in graph.output_protos]
