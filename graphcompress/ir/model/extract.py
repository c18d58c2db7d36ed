"""Part of a model as a model of its own: some of its nodes, or all of it without weights."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graphcompress.ir.model.edit import Edits, detached, link
from graphcompress.ir.model.element_types import array_dtype_name, dtype_code
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable
from graphcompress.ir.model.tensors import TensorData
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


def structure(model: Model, largest: int) -> Model:
    """A copy in which initializers of the main graph above `largest` bytes are inputs of their type and shape: it loads as `model` does, and holds no weights."""
    light = model.copy()
    stand_ins: dict[Tensor, Variable] = {}
    infos: list[onnx.ValueInfoProto] = []
    for name, constant in list(light.graph.initializers.items()):
        if constant.nbytes > largest:
            data = constant.data or constant.values
            dtype = data.dtype_name if isinstance(data, TensorData) else array_dtype_name(data)
            stand_ins[constant] = Variable(name)
            infos.append(onnx.helper.make_tensor_value_info(name, dtype_code(dtype), list(constant.shape)))
            del light.graph.initializers[name]
    with Edits(light) as edits:
        for constant, stand_in in stand_ins.items():
            edits.replace(constant, stand_in)
    graph = light.graph
    graph.inputs = [*graph.inputs, *stand_ins.values()]
    graph.outputs = [stand_ins.get(t, t) for t in graph.outputs]
    listed = {v.name for v in infos}
    graph.input_protos = (*(v for v in graph.input_protos if v.name not in listed), *infos)
    return Model(light.header, graph, graph.input_protos, light.output_protos, light.path, light.data)
