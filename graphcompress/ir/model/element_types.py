"""The table of element types: ONNX's names, numpy's types, sizes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from onnx import TensorProto, helper

Array = np.ndarray[Any, Any]

# Bits of an element where numpy's item size does not say it: ONNX packs these, first element in the low bits.
PACKED_BITS = {"int4": 4, "uint4": 4, "float4e2m1": 4, "int2": 2, "uint2": 2, "float6e2m3": 6, "float6e3m2": 6}

# What numpy itself knows, and onnxruntime takes as arrays.
PLAIN = frozenset(["float", "double", "float16", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))])


@functools.cache
def dtype_name(code: int) -> str:
    """ONNX's name of an element type in lower case: 1 -> "float". A code that the installed onnx does not know is "type N"."""
    try:
        return str(TensorProto.DataType.Name(code)).lower()
    except ValueError:
        return f"type {code}"


@functools.cache
def dtype_code(name: str) -> int:
    """The enum of an element type: "float" -> 1. Raises ValueError for an unknown name."""
    return int(TensorProto.DataType.Value(name.upper()))


@functools.cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) type of an element type; strings are object arrays. Raises ValueError for an unknown name."""
    if name == "string":
        return np.dtype(object)
    return np.dtype(helper.tensor_dtype_to_np_dtype(dtype_code(name)))


def integer_limits(name: str) -> tuple[int, int] | None:
    """The least and the greatest number of an integer type; None for types of other kinds."""
    if not name.removeprefix("u").startswith("int"):
        return None
    bits, unsigned = int(name.removeprefix("u").removeprefix("int")), name.startswith("u")
    return (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def array_dtype_name(array: Array) -> str:
    """ONNX's name for the element type of an array; object and text arrays are strings."""
    if array.dtype.kind in "OUS":
        return "string"
    return dtype_name(helper.np_dtype_to_tensor_dtype(array.dtype))


def byte_size(name: str, count: int) -> int:
    """Bytes that ONNX needs for `count` elements; 0 for strings, which have no fixed size."""
    if name == "string":
        return 0
    bits = PACKED_BITS.get(name) or numpy_dtype(name).itemsize * 8
    return (count * bits + 7) // 8
