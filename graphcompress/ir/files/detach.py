"""The values of large initializers taken out of a message before it is parsed: protobuf would hold them as long as the model lives, and copy them for each reader.

Only what an array says as well is taken out: a tensor of the main graph that has a name, a type that numpy knows, dimensions and raw bytes, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from graphcompress.ir.check.tensors import dims_fault
from graphcompress.ir.model.element_types import PLAIN, byte_size, dtype_name, numpy_dtype

Array: TypeAlias = np.ndarray[Any, Any]
Field: TypeAlias = tuple[int, int, int, int]
"""Number of the field, the byte where it begins, that where its content begins, and that behind it."""

SMALLEST = 4096  # bytes of a field that is worth it
GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER
LENGTH, VARINT = 2, 0  # wire types
FIXED = {1: 8, 5: 4}  # wire type -> bytes


def detached(content: bytes) -> tuple[bytes, dict[str, Array]]:
    """(the message without the values of large plain initializers, these by name, read-only); (`content`, nothing) where it is not what a writer of models makes."""
    try:
        graphs = [f for f in fields(content, 0, len(content)) if f[0] == GRAPH]
        if len(graphs) != 1:
            return content, {}
        _, begin, start, end = graphs[0]
        weights: dict[str, Array] = {}
        pieces: list[bytes] = []
        at = start
        for number, tag, inside, behind in fields(content, start, end):
            if number != INITIALIZER or behind - inside < SMALLEST:
                continue
            taken = _plain(content, inside, behind)
            if taken is None:
                continue
            head, name, values = taken
            if name in weights:
                return content, {}
            weights[name] = values
            pieces += [content[at:tag], _field(INITIALIZER, head)]
            at = behind
    except (_Unreadable, DecodeError):
        return content, {}
    if not weights:
        return content, {}
    return content[:begin] + _field(GRAPH, b"".join([*pieces, content[at:end]])) + content[end:], weights


class _Unreadable(Exception):
    """These bytes are no fields."""


def fields(content: bytes, at: int, end: int) -> Iterator[Field]:
    """The fields of a message."""
    while at < end:
        begin = at
        tag, at = _varint(content, at, end)
        wire = tag & 7
        if wire == VARINT:
            start, behind = at, _varint(content, at, end)[1]
        elif wire == LENGTH:
            size, start = _varint(content, at, end)
            behind = start + size
        elif wire in FIXED:
            start, behind = at, at + FIXED[wire]
        else:
            raise _Unreadable
        if behind > end:
            raise _Unreadable
        yield tag >> 3, begin, start, behind
        at = behind


def _plain(content: bytes, start: int, end: int) -> tuple[bytes, str, Array] | None:
    """A tensor's message without its bytes, its name and its values; None where an array would say less than the message."""
    known = list(fields(content, start, end))
    raw = [f for f in known if f[0] == RAW_DATA]
    if len(raw) != 1 or raw[0][3] - raw[0][2] < SMALLEST:
        return None
    _, begin, inside, behind = raw[0]
    head = content[start:begin] + content[behind:end]
    tensor = TensorProto.FromString(head)
    kind = dtype_name(tensor.data_type)
    plain = TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name)
    if (
        not isinstance(tensor.name, str)
        or not tensor.name
        or kind not in PLAIN
        or dims_fault(tensor.dims) is not None
        or tensor.SerializeToString() != plain.SerializeToString()
    ):
        return None
    if byte_size(kind, math.prod(tensor.dims)) != behind - inside:
        return None
    values = np.frombuffer(content, np.uint8, behind - inside, inside).copy().view(numpy_dtype(kind)).reshape(tuple(tensor.dims))
    values.flags.writeable = False
    return head, tensor.name, values


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    digits, value = bytearray(), len(content)
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([number << 3 | LENGTH]) + bytes(digits) + bytes([value]) + content


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A number in protobuf's base 128, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _Unreadable
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Unreadable
