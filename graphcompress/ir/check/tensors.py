"""Whether a tensor's data fit its type and dimensions, without decoding them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import TensorProto

from graphcompress.errors import quoted
from graphcompress.ir.model.element_types import PACKED_BITS, byte_size, dtype_name

MAX_ELEMENTS = 2**48  # more than any machine addresses: such dimensions are damage, or an attack

# Which typed field holds the elements, and how many entries one element takes (packed types: one entry holds a byte, or one element of 6 bits).
_FIELDS = {
    "float": ("float_data", 1),
    "complex64": ("float_data", 2),
    "double": ("double_data", 1),
    "complex128": ("double_data", 2),
    "int64": ("int64_data", 1),
    "uint32": ("uint64_data", 1),
    "uint64": ("uint64_data", 1),
}


def tensor_fault(tensor: TensorProto) -> str | None:
    """What is wrong with a tensor: an unknown element type, a negative or absurd dimension, or another number of values than the dims say."""
    name = dtype_name(tensor.data_type)
    if tensor.data_type == TensorProto.UNDEFINED or name.startswith("type "):
        return f"has an unknown element type ({tensor.data_type})"
    problem = dims_fault(tensor.dims)
    if problem is not None or tensor.data_location == TensorProto.EXTERNAL:
        return problem
    count = math.prod(tensor.dims)
    shape = f"{name}{list(tensor.dims)}"
    if tensor.HasField("raw_data") and name != "string":
        have, need = len(tensor.raw_data), byte_size(name, count)
        return None if have == need else f"has {have} bytes of raw data, and {shape} needs {need}"
    if name == "string":
        field, need = "string_data", count
    else:
        field, each = _FIELDS.get(name, ("int32_data", 1))
        need = byte_size(name, count) if PACKED_BITS.get(name, 6) < 6 else count * each
    have = len(getattr(tensor, field))
    return None if have == need else f"has {have} values in {field}, and {shape} needs {need}"


def dims_fault(dims: Sequence[int]) -> str | None:
    """What is wrong with dimensions: a negative one, or more elements than any machine can hold."""
    if any(d < 0 for d in dims):
        return f"has a negative dimension: {list(dims)}"
    count = math.prod(dims)
    if count > MAX_ELEMENTS:
        return f"would have {count} elements ({list(dims)}), which no machine can hold"
    return None


def type_fault(kind: onnx.TypeProto) -> str | None:
    """What is wrong with a type: an unknown element type, or fixed dimensions that no machine can hold. Negative ones mean "unknown", as onnxruntime reads them."""
    while True:
        which = kind.WhichOneof("value")
        if which in ("tensor_type", "sparse_tensor_type"):
            break
        if which == "map_type":
            kind = kind.map_type.value_type
        elif which in ("sequence_type", "optional_type"):
            kind = getattr(kind, which).elem_type
        else:
            return None
    tensor = getattr(kind, which)
    if tensor.elem_type == TensorProto.UNDEFINED or tensor.elem_type not in TensorProto.DataType.values():
        return f"has an unknown element type ({tensor.elem_type})"
    for dim in tensor.shape.dim:
        if not isinstance(dim.dim_param, str):
            return f"has a dimension whose name is not UTF-8: {quoted(dim.dim_param)}"
    return dims_fault([d.dim_value for d in tensor.shape.dim if d.dim_value > 0])
