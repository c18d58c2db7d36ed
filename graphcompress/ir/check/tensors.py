"""Whether a tensor's data fit its type and dimensions, without decoding them."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto

from graphcompress.errors import ModelError, quoted
from graphcompress.ir.model.element_types import PACKED_BITS, byte_size, dtype_name

MAX_ELEMENTS = 2**48  # more than any machine addresses: such dimensions are damage, or an attack

# Which typed field holds the elements, and how many entries one element takes (packed types: one entry holds a byte).
_FIELDS = {
    "float": ("float_data", 1),
    "complex64": ("float_data", 2),
    "double": ("double_data", 1),
    "complex128": ("double_data", 2),
    "int64": ("int64_data", 1),
    "uint32": ("uint64_data", 1),
    "uint64": ("uint64_data", 1),
}


def check_tensor(tensor: TensorProto, what: str) -> None:
    """Raise ModelError where the element type is unknown, a dimension is negative or absurd, or the values are not as many as the dims say. `what` names it."""
    name = dtype_name(tensor.data_type)
    if tensor.data_type == TensorProto.UNDEFINED or name.startswith("type "):
        raise ModelError(f"{what} has an unknown element type ({tensor.data_type}).")
    count = element_count(list(tensor.dims), what)
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    shape = f"{name}{list(tensor.dims)}"
    if tensor.HasField("raw_data") and name != "string":
        have, need = len(tensor.raw_data), byte_size(name, count)
        if have != need:
            raise ModelError(f"{what} has {have} bytes of raw data, and {shape} needs {need}.")
        return
    if name == "string":
        field, need = "string_data", count
    else:
        field, each = _FIELDS.get(name, ("int32_data", 1))
        need = byte_size(name, count) if name in PACKED_BITS else count * each
    have = len(getattr(tensor, field))
    if have != need:
        raise ModelError(f"{what} has {have} values in {field}, and {shape} needs {need}.")


def element_count(dims: list[int], what: str) -> int:
    """Product of the dimensions. Raises ModelError where one is negative or the product is absurd."""
    if any(d < 0 for d in dims):
        raise ModelError(f"{what} has a negative dimension: {dims}.")
    count = math.prod(dims)
    if count > MAX_ELEMENTS:
        raise ModelError(f"{what} would have {count} elements ({dims}), which no machine can hold.")
    return count


def check_type(kind: onnx.TypeProto, what: str) -> None:
    """Raise ModelError where a type holds an unknown element type, or fixed dimensions that no machine can hold. Negative ones mean "unknown", as onnxruntime reads them."""
    while True:
        which = kind.WhichOneof("value")
        if which in ("tensor_type", "sparse_tensor_type"):
            break
        if which == "map_type":
            kind = kind.map_type.value_type
        elif which in ("sequence_type", "optional_type"):
            kind = getattr(kind, which).elem_type
        else:
            return
    tensor = getattr(kind, which)
    if tensor.elem_type == TensorProto.UNDEFINED or tensor.elem_type not in TensorProto.DataType.values():
        raise ModelError(f"{what} has an unknown element type ({tensor.elem_type}).")
    for dim in tensor.shape.dim:
        if not isinstance(dim.dim_param, str):
            raise ModelError(f"{what} has a dimension whose name is not UTF-8: {quoted(dim.dim_param)}.")
    element_count([d.dim_value for d in tensor.shape.dim if d.dim_value > 0], what)
