"""A model as the bytes of its file, piece by piece, so that no tensor is held twice and external data never enters memory as a whole.

A message of protobuf is its fields one behind the other, each with a tag and, where it is a message or bytes, its length. Pieces that hold tensors are put
together here by hand; everything else is serialized by protobuf. Fields stand in the order of their numbers, as protobuf itself writes them. The format:
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import TensorProto

from graphcompress.ir.check.graphs import check_signature
from graphcompress.ir.files.build import frame, is_rewired, lists_constants, node_protos, stale_tensors, stored_tensors
from graphcompress.ir.model.element_types import PACKED_BITS, array_dtype_name, dtype_code
from graphcompress.ir.model.external import Span, span_of
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.messages import tensor_fields, tensor_protos
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant
from graphcompress.ir.model.tensors import to_tensor_proto

# protobuf refuses messages of 2 GiB; the rest is room for everything that is not tensor bytes.
LARGEST_MESSAGE = 2**31 - 2**20
LARGE_PIECE = 1 << 14  # from here on bytes are made when they are written, and not held
SMALLEST_OUTSIDE = 1024  # bytes of a tensor that is worth a place in the data file
LARGE_TENSOR = 1 << 20  # begins at a PAGE of the data file, so that it can be mapped; smaller ones begin at a multiple of LINE
PAGE = 4096
LINE = 64


@dataclass(frozen=True, slots=True)
class Deferred:
    """Bytes that are made when they are written."""

    length: int
    make: Callable[[], bytes]


Piece: TypeAlias = bytes | memoryview | Span | Deferred


class Pieces:
    """Bytes in pieces. `length` is their number."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces: list[Piece] = []
        for small, run in groupby(pieces, lambda piece: isinstance(piece, bytes)):
            if small:
                self._pieces.append(b"".join(run))  # type: ignore[arg-type]
            else:
                self._pieces.extend(run)
        self.length = sum(map(_length, self._pieces))

    def blocks(self) -> Iterator[bytes | memoryview]:
        """The bytes. Raises ModelError where a data file has changed since the model was read."""
        for piece in self._pieces:
            if isinstance(piece, Span):
                yield from piece.blocks()
            else:
                yield piece.make() if isinstance(piece, Deferred) else piece


def inline(model: Model) -> Pieces:
    """The message with all external data inside; of any length, 2 GiB and more too. Raises ModelError where a step changed the signature."""
    return Pieces(_Inline(model).model())


def with_references(model: Model) -> Pieces:
    """The message with external data as references to where it was read from, as `to_proto` gives it."""
    return Pieces(_References(model).model())


def with_data_file(model: Model, location: str) -> tuple[Pieces, Pieces]:
    """The message, which refers to a file called `location`, and the content of that file: every tensor of the main graph from 1 KiB on, and other external data."""
    writer = _DataFile(model, location)
    message = Pieces(writer.model())
    return message, Pieces(writer.content())


def size_on_disk(model: Model) -> int:
    """Bytes of a model's file and its external data; ranges that several tensors share count once."""
    writer = _Spans(model)
    message = Pieces(writer.model())
    return message.length + sum(length for _, _, length in {(id(s.file), s.offset, s.length) for s in writer.spans})


class _References:
    """Puts a model together; external data stays where it is."""

    def __init__(self, source: Model) -> None:
        self.source = source

    @paused()
    def model(self) -> list[Piece]:
        source = self.source
        check_signature(source)
        rest = onnx.GraphProto()
        stale = stale_tensors(source)
        rewired = is_rewired(source.graph)
        frame(source.graph, rest, stale, rewired=rewired, main=True, listed=lists_constants(source))
        name = _first_fields(rest, onnx.GraphProto.INITIALIZER_FIELD_NUMBER)
        graph: list[Piece] = []
        for node in node_protos(source.graph, stale, rewired=rewired):
            graph += _field(onnx.GraphProto.NODE_FIELD_NUMBER, self.message(node))
        graph.append(name.SerializeToString())
        for tensor in stored_tensors(source.graph):
            graph += _field(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, self.stored(tensor))
        graph += self.message(rest)
        end = onnx.ModelProto()
        end.CopyFrom(source.header)
        start = _first_fields(end, onnx.ModelProto.GRAPH_FIELD_NUMBER)
        return [start.SerializeToString(), *_field(onnx.ModelProto.GRAPH_FIELD_NUMBER, graph), *self.message(end)]

    def message(self, message: Message) -> list[Piece]:
        """A message, whatever it holds."""
        return [_serialized(message)]

    def stored(self, tensor: Constant | TensorProto) -> list[Piece]:
        """An initializer of the main graph."""
        if isinstance(tensor, TensorProto):
            return self.message(tensor)
        if tensor.data is not None:
            return self.message(to_tensor_proto(tensor.data, tensor.name))
        values = tensor.values
        content = _content(values)
        if content is None or len(content) < LARGE_PIECE:
            return [_serialized(to_tensor_proto(values, tensor.name))]
        return self.raw(TensorProto(name=tensor.name, data_type=dtype_code(array_dtype_name(values)), dims=values.shape), content)

    def raw(self, head: TensorProto, content: memoryview | Span | Deferred) -> list[Piece]:
        """A tensor whose bytes are `content`; `head` is the rest of it."""
        first = _first_fields(head, TensorProto.RAW_DATA_FIELD_NUMBER)
        return [first.SerializeToString(), *_field(TensorProto.RAW_DATA_FIELD_NUMBER, [content]), head.SerializeToString(deterministic=True)]


class _Spans(_References):
    """Notes what is referred to."""

    def __init__(self, source: Model) -> None:
        super().__init__(source)
        self.spans: list[Span] = []
        self._outside = source.data is not None and bool(source.data.paths())

    def message(self, message: Message) -> list[Piece]:
        if self._outside:
            self.spans += [span_of(t, self.source.data) for t in tensor_protos(message) if t.data_location == TensorProto.EXTERNAL]
        return super().message(message)


class _Inline(_References):
    """External data goes inside."""

    def __init__(self, source: Model) -> None:
        super().__init__(source)
        self._outside = source.data is None or bool(source.data.paths())

    def message(self, message: Message) -> list[Piece]:
        if not self._outside or not _refers_outside(message):
            return [_serialized(message)]
        if isinstance(message, TensorProto):
            return self.external(message)
        rest = type(message)()
        rest.CopyFrom(message)
        pieces: list[Piece] = []
        for number, children in tensor_fields(message):
            rest.ClearField(rest.DESCRIPTOR.fields_by_number[number].name)
            for child in children:
                pieces += _field(number, self.message(child))
        return [_serialized(rest), *pieces]

    def external(self, tensor: TensorProto) -> list[Piece]:
        """A tensor whose bytes are in a data file."""
        head = TensorProto()
        head.CopyFrom(tensor)
        head.ClearField("external_data")
        head.data_location = TensorProto.DEFAULT
        return self.raw(head, span_of(tensor, self.source.data))


class _DataFile(_Inline):
    """Tensors that are worth it go to one file beside the model."""

    def __init__(self, source: Model, location: str) -> None:
        super().__init__(source)
        self.location = location
        self._content: list[Piece] = []
        self._end = 0
        self._places: dict[tuple[int, int, int] | None, int] = {}

    def content(self) -> list[Piece]:
        """The pieces of the data file, once the model was put together."""
        return self._content

    def stored(self, tensor: Constant | TensorProto) -> list[Piece]:
        if isinstance(tensor, Constant):
            content = None if tensor.data is not None else _content(tensor.values)
            if content is not None:
                return self.raw(TensorProto(name=tensor.name, data_type=dtype_code(array_dtype_name(tensor.values)), dims=tensor.values.shape), content)
            proto = to_tensor_proto(tensor.values if tensor.data is None else tensor.data, tensor.name)
        else:
            proto = tensor
        if len(proto.raw_data) < SMALLEST_OUTSIDE:
            return self.message(proto)
        head = TensorProto()
        head.CopyFrom(proto)
        head.ClearField("raw_data")
        return self.raw(head, Deferred(len(proto.raw_data), lambda: proto.raw_data))

    def raw(self, head: TensorProto, content: memoryview | Span | Deferred) -> list[Piece]:
        length = _length(content)
        if length < SMALLEST_OUTSIDE:
            return super().raw(head, content)
        head.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", str(self._place(content, length))), ("length", str(length))):
            head.external_data.add(key=key, value=value)
        return [head.SerializeToString(deterministic=True)]

    def _place(self, content: memoryview | Span | Deferred, length: int) -> int:
        """Offset of `content` in the data file."""
        # What several tensors share in a data file is stored once.
        key = (id(content.file), content.offset, length) if isinstance(content, Span) else None
        if key in self._places:
            return self._places[key]
        gap = -self._end % (PAGE if length >= LARGE_TENSOR else LINE)
        self._content += [bytes(gap), content]
        place = self._end + gap
        self._end = place + length
        if key is not None:
            self._places[key] = place
        return place


def _first_fields(message: Any, limit: int) -> Any:
    """Take the fields below number `limit` out of `message`; a new message of them."""
    first = type(message)()
    first.CopyFrom(message)
    first.DiscardUnknownFields()
    for field, _ in message.ListFields():
        (message if field.number < limit else first).ClearField(field.name)
    return first


def _refers_outside(message: Message) -> bool:
    """Whether an external tensor is in `message`, at any depth."""
    return any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensor_protos(message))


def _serialized(message: Message) -> Piece:
    content = message.SerializeToString(deterministic=True)
    return content if len(content) < LARGE_PIECE else Deferred(len(content), lambda: message.SerializeToString(deterministic=True))


def _content(values: np.ndarray[Any, Any]) -> memoryview | None:
    """The bytes of an array as ONNX stores them, None where they are not those in memory: texts, packed types, the other byte order."""
    name = array_dtype_name(values)
    if name == "string" or name in PACKED_BITS or not values.dtype.isnative or sys.byteorder != "little":
        return None
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _field(number: int, pieces: Iterable[Piece]) -> list[Piece]:
    """A field of messages or bytes: its tag and length before its content."""
    content = list(pieces)
    return [_varint(number << 3 | 2) + _varint(sum(map(_length, content))), *content]


def _varint(value: int) -> bytes:
    """A number in protobuf's base 128, low digits first."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _length(piece: Piece) -> int:
    return piece.length if isinstance(piece, Span | Deferred) else len(piece)
