"""A model over the same graph with another signature: for graphs that are made for one purpose and never leave it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphcompress.ir.model.dimensions import Dim
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.element_types import dtype_code
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Shape, Tensor, Variable


def with_signature(
    model: Model, inputs: Iterable[tuple[Tensor, str, Shape]], outputs: Sequence[Tensor], shapes: Mapping[str, Sequence[Dim]] | None = None
) -> Model:
    """`model` with further `inputs` (tensor, element type by ONNX's name, shape) and just these `outputs`; the graph itself is taken over, not copied. `shapes` replaces those of
    inputs that are there already.

    A constant among `inputs` loses its value: the caller feeds it. The types of outputs are left to whoever reads the model.
    """
    graph = model.graph
    added: list[onnx.ValueInfoProto] = []
    with Edits(model) as edits:
        for tensor, dtype, shape in inputs:
            added.append(helper.make_tensor_value_info(tensor.name, dtype_code(dtype), [d if isinstance(d, int | str) else None for d in shape]))
            if isinstance(tensor, Constant):
                variable = Variable(tensor.name)
                del graph.initializers[tensor.name]
                edits.replace(tensor, variable)
                tensor = variable
            graph.inputs.append(tensor)
    names = {info.name for info in added}
    old = [_reshaped(info, (shapes or {}).get(info.name)) for info in graph.input_protos if info.name not in names]
    graph.input_protos = (*old, *added)
    graph.outputs = list(outputs)
    graph.output_protos = tuple(onnx.ValueInfoProto(name=t.name) for t in outputs)
    return Model(model.header, graph, graph.input_protos, graph.output_protos, model.path, model.data)


def with_values(model: Model, values: Mapping[str, np.ndarray[Any, Any]]) -> Model:
    """`model` with constants in the place of the inputs named in `values`; the graph itself is taken over, not copied."""
    graph = model.graph
    with Edits(model) as edits:
        for tensor in [t for t in graph.inputs if t.name in values]:
            constant = Constant(tensor.name, np.asarray(values[tensor.name]))
            graph.initializers[constant.name] = constant
            graph.inputs.remove(tensor)
            edits.replace(tensor, constant)
    graph.input_protos = tuple(info for info in graph.input_protos if info.name not in values)
    return Model(model.header, graph, graph.input_protos, graph.output_protos, model.path, model.data)


def _reshaped(info: onnx.ValueInfoProto, shape: Sequence[Dim] | None) -> onnx.ValueInfoProto:
    if shape is None:
        return info
    return helper.make_tensor_value_info(info.name, info.type.tensor_type.elem_type, [d if isinstance(d, int | str) else None for d in shape])
