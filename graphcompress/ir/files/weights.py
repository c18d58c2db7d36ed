"""A model without the bytes of its weights: what a session needs that is given the arrays beside the message, so that no weight is copied into one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto

from graphcompress.ir.model.element_types import array_dtype_name, dtype_code
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.tensors import TensorData

SMALLEST = 4096  # bytes; what is smaller may decide what a runtime fuses, and costs nothing to copy
# Element types that onnxruntime takes as numpy arrays.
PLAIN = frozenset(["float", "double", "float16", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))])


@contextlib.contextmanager
def detached_weights(model: Model) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Inside, the large initializers of the main graph are references to nowhere; their arrays are handed out by name. Afterwards the model is what it was."""
    originals = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, constant in model.graph.initializers.items():
        data = constant.data
        kind = data.dtype_name if data is not None else array_dtype_name(constant.values)
        if constant.nbytes >= SMALLEST and kind in PLAIN:
            arrays[name] = constant.values
            originals[name] = data if data is not None else arrays[name]
            proto = TensorProto(name=name, data_type=dtype_code(kind), dims=arrays[name].shape, data_location=TensorProto.EXTERNAL)
            proto.external_data.add(key="location", value="memory")
            constant.values = TensorData(proto)
    try:
        yield arrays
    finally:
        for name, values in originals.items():
            model.graph.initializers[name].values = values
