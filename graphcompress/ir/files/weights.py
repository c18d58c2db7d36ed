"""A model without the bytes of its weights: what a session needs that is given the arrays beside the message, so that no weight is copied into one."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from graphcompress.ir.files.build import to_proto
from graphcompress.ir.model.element_types import PLAIN, array_dtype_name, dtype_code
from graphcompress.ir.model.external import span_of
from graphcompress.ir.model.messages import tensor_protos
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.tensors import TensorData

Array: TypeAlias = np.ndarray[Any, Any]

SMALLEST = 4096  # bytes; what is smaller may decide what a runtime fuses, and costs nothing to copy


def message_and_weights(model: Model) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A message that needs no files, and by name the arrays of the large initializers of the main graph, which are references to nowhere in it."""
    with _detached_weights(model) as originals:
        message = to_proto(model)
    weights = {name: values.load() if isinstance(values, TensorData) else values for name, values in originals.items()}
    detached = [t for t in message.graph.initializer if t.name in weights]
    identities = set(map(id, detached))
    for tensor in tensor_protos(message):
        if tensor.data_location == TensorProto.EXTERNAL and id(tensor) not in identities:
            content = bytes(span_of(tensor, model.data).view())
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = content
    return message, weights


def message_with_inputs(model: Model) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """As `message_and_weights`, with inputs in the place of the large initializers: an array that is fed is not copied, while a session keeps a copy of an
    initializer that it is given. For a few runs without optimization; a kernel may ask for a constant."""
    message, weights = message_and_weights(model)
    _turn_into_inputs(message.graph, weights)
    return message, weights


@contextlib.contextmanager
def _detached_weights(model: Model) -> Iterator[dict[str, TensorData | Array]]:
    """Inside, the large initializers of the main graph are references to nowhere; what they hold is handed out by name, not decoded. Afterwards the model is
    what it was."""
    originals: dict[str, TensorData | Array] = {}
    for name, constant in model.graph.initializers.items():
        data = constant.data
        kind = data.dtype_name if data is not None else array_dtype_name(constant.values)
        # A runtime drops what no node reads before it looks for the arrays.
        if constant.outputs and constant.nbytes >= SMALLEST and kind in PLAIN:
            originals[name] = data if data is not None else constant.values
            proto = TensorProto(name=name, data_type=dtype_code(kind), dims=constant.shape, data_location=TensorProto.EXTERNAL)
            proto.external_data.add(key="location", value="memory")
            constant.values = TensorData(proto)
    try:
        yield originals
    finally:
        for name, values in originals.items():
            model.graph.initializers[name].values = values


def structure(model: Model) -> onnx.ModelProto:
    """The model with inputs of their type and shape in the place of its large initializers: it loads as the model does, and holds no weights."""
    with _detached_weights(model) as originals:
        proto = to_proto(model)
    _turn_into_inputs(proto.graph, originals)
    return proto


def message_with_input(model: Model, name: str) -> bytes:
    """The model's message with an input in the place of the initializer `name` of its main graph."""
    message = to_proto(model)
    _turn_into_inputs(message.graph, {name})
    content: bytes = message.SerializeToString()
    return content


def _turn_into_inputs(graph: onnx.GraphProto, names: Container[str]) -> None:
    """Replace the initializers of these names by inputs."""
    listed = {i.name for i in graph.input}
    for tensor in [t for t in graph.initializer if t.name in names]:
        if tensor.name not in listed:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    small = [t for t in graph.initializer if t.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(small)
