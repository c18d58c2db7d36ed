"""Tensors that stay where they are until somebody asks for their values."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphcompress.ir.model.element_types import PACKED_BITS, array_dtype_name, byte_size, dtype_name, numpy_dtype
from graphcompress.ir.model.external import DataFolder, span_of

Array = np.ndarray[Any, Any]


class TensorData(LazyValues):  # type: ignore[misc]
    """The values of a tensor as the file holds them. Nothing is decoded before `load`.

    `data` holds external data. `shape` and `dtype` cost nothing.
    """

    def __init__(self, proto: TensorProto, data: DataFolder | None = None) -> None:
        # graphsurgeon's constructor asks numpy about every type and knows not all of them.
        self.tensor = proto
        self.data = data
        self.dtype_name = dtype_name(proto.data_type)
        self.shape = tuple(proto.dims)
        self.dtype = _element_type(proto.data_type)

    @property
    def proto(self) -> TensorProto:
        proto: TensorProto = self.tensor
        return proto

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements as ONNX stores them."""
        if self.dtype_name == "string":
            return sum(len(s) for s in self.proto.string_data)
        return byte_size(self.dtype_name, self.size)

    @property
    def external(self) -> bool:
        return self.proto.data_location == TensorProto.EXTERNAL

    def raw(self) -> bytes | memoryview:
        """The element bytes: a view of a memory map where the data is external and large.

        Raises ModelError where the external file has changed since the model was read.
        """
        if self.external:
            return span_of(self.proto, self.data).view()
        if self.proto.HasField("raw_data"):
            return bytes(self.proto.raw_data)
        return numpy_helper.from_array(self.load()).raw_data

    def load(self) -> Array:
        """The array, read-only; a view where the layout allows. Strings come as str, or bytes where they are not UTF-8."""
        if self.dtype_name == "string":
            return np.array([text(s) for s in self.proto.string_data], object).reshape(self.shape)
        if (self.external or self.proto.HasField("raw_data")) and self.dtype_name not in PACKED_BITS:
            return np.frombuffer(self.raw(), numpy_dtype(self.dtype_name)).reshape(self.shape)
        proto = self.proto
        if self.external:
            proto = TensorProto(data_type=proto.data_type, dims=proto.dims, raw_data=bytes(self.raw()))
        array: Array = numpy_helper.to_array(proto)
        array.flags.writeable = False
        return array

    def __repr__(self) -> str:
        return f"TensorData({self.dtype_name}{list(self.shape)})"


@functools.cache
def _element_type(code: int) -> Any:
    """numpy's type for a TensorProto's, or the number itself where there is none."""
    return helper.tensor_dtype_to_np_dtype(code) if code in helper.get_all_tensor_dtypes() else code


def to_tensor_proto(values: Array | TensorData, name: str) -> TensorProto:
    """A TensorProto of `values` called `name`; sub-byte types are packed."""
    if isinstance(values, TensorData):
        if values.proto.name == name:
            return values.proto
        renamed = TensorProto()
        renamed.CopyFrom(values.proto)
        renamed.name = name
        return renamed
    if array_dtype_name(values) == "string":
        strings = TensorProto(data_type=TensorProto.STRING, dims=values.shape, name=name)
        strings.string_data.extend(s if isinstance(s, bytes) else str(s).encode() for s in values.ravel())
        return strings
    return onnx.numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)


def text(value: bytes) -> str | bytes:
    """An ONNX string: str, or bytes where it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
