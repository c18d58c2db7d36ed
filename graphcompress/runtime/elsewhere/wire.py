"""Messages between this process and a worker. Both sides use this module: it needs the standard library and numpy only.

A message is a frame: MAGIC, which holds the version of the protocol; the lengths of head and body (4 and 8 bytes, little endian); the head in JSON; the body; the
CRC-32 of head and body (4 bytes). Arrays lie in the body one behind the other, C order, little endian; "arrays" in the head has [dtype, shape] of each.
Values that are no arrays (strings, sequences, maps) are trees in the head; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TypeAlias

import numpy as np

PROTOCOL = 1
MAGIC = b"gcw%d" % PROTOCOL
LENGTHS = struct.Struct("<IQ")
CHECKSUM = struct.Struct("<I")
BLOCK = 2**20
LONGEST_HEAD = 2**28

Head: TypeAlias = dict[str, Any]
Array: TypeAlias = "np.ndarray[Any, Any]"
Body: TypeAlias = Iterable[bytes | memoryview]


class WireError(Exception):
    """What arrived is no message of this protocol."""


def write_message(stream: BinaryIO, head: Head, body: Body = (), length: int = 0, written: Callable[[], None] = lambda: None) -> None:
    """`length` is that of `body` in bytes; `written` is called behind each part."""
    text = json.dumps(head).encode()
    stream.write(MAGIC + LENGTHS.pack(len(text), length) + text)
    checksum = zlib.crc32(text)
    for part in body:
        for begin in range(0, len(part), BLOCK):
            block = part[begin : begin + BLOCK]
            stream.write(block)
            checksum = zlib.crc32(block, checksum)
            written()
    stream.write(CHECKSUM.pack(checksum))
    stream.flush()
    written()


class Message:
    """A message whose body has yet to be read: by `blocks`, or `read` at once."""

    def __init__(self, stream: BinaryIO, head: Head, length: int, checksum: int) -> None:
        self.head = head
        self.length = length
        self._stream = stream
        self._checksum = checksum
        self._rest = length
        self._ended = False

    def blocks(self) -> Iterator[bytes]:
        """The body in parts, as far as it has not been read. At its end raises WireError where it is not what was sent."""
        while self._rest:
            block = _exactly(self._stream, min(self._rest, BLOCK))
            self._checksum = zlib.crc32(block, self._checksum)
            self._rest -= len(block)
            yield block
        if not self._ended:
            self._ended = True
            if CHECKSUM.unpack(_exactly(self._stream, CHECKSUM.size))[0] != self._checksum:
                raise WireError("a message was damaged on its way")

    def drain(self) -> None:
        """Read what is left of the body, so that the next message can be read."""
        for _ in self.blocks():
            pass

    def read(self, arrived: Callable[[], None] = lambda: None) -> bytearray:
        """The whole body; `arrived` is called behind each part."""
        body = bytearray()
        for block in self.blocks():
            body += block
            arrived()
        return body


def read_message(stream: BinaryIO) -> Message | None:
    """The next message, None at the end of the stream. Raises WireError for anything else than a message of this version."""
    start = stream.read(len(MAGIC))
    if not start:
        return None
    if start != MAGIC:
        if start[:3] == MAGIC[:3]:
            raise WireError(f"it speaks version {start[3:].decode('ascii', 'replace')} of the protocol, and this is version {PROTOCOL}")
        raise WireError(f"it wrote {_readable(start, stream)!r} where a message was expected")
    length, body = LENGTHS.unpack(_exactly(stream, LENGTHS.size))
    if length > LONGEST_HEAD:
        raise WireError(f"it announced a head of {length:,} bytes")
    text = _exactly(stream, length)
    try:
        head = json.loads(text)
    except ValueError:
        raise WireError("the head of a message is not JSON") from None
    return Message(stream, head, body, zlib.crc32(text))


def _readable(start: bytes, stream: BinaryIO) -> str:
    """The first line of what is no message, as far as it is there."""
    peek = getattr(stream, "peek", None)
    rest = peek(120)[:120] if peek is not None and b"\n" not in start else b""
    return (start + rest).split(b"\n")[0].decode("utf-8", "replace").strip()


def _exactly(stream: BinaryIO, count: int) -> bytes:
    parts = []
    while count:
        part = stream.read(count)
        if not part:
            raise WireError("it ended in the middle of a message")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


# --- values -----------------------------------------------------------------------------------------------------------------------------


def pack(value: Any, arrays: list[Array]) -> Any:
    """A value as a tree of JSON data; its numeric arrays are appended to `arrays`, which the tree names by their indices."""
    match value:
        case None:
            return None
        case np.ndarray() if value.dtype == object or value.dtype.kind in "SU":
            return {"strings": [x.decode() if isinstance(x, bytes) else str(x) for x in value.ravel().tolist()], "shape": list(value.shape)}
        case np.ndarray() if value.dtype.kind in "biufc":
            arrays.append(np.ascontiguousarray(value).reshape(value.shape))
            return {"array": len(arrays) - 1}
        case np.generic():
            return pack(value.item(), arrays)
        case bool() | int() | float() | str():
            return {"plain": value}
        case list() | tuple():
            return {"list": [pack(item, arrays) for item in value]}
        case dict():
            return {"map": [[pack(key, arrays), pack(item, arrays)] for key, item in value.items()]}
    raise WireError(f"a value of type {getattr(value, 'dtype', type(value).__name__)} cannot be sent")


def unpack(tree: Any, arrays: Sequence[Array]) -> Any:
    """The value of a tree. Raises WireError for anything that `pack` does not make."""
    match tree:
        case None:
            return None
        case {"strings": list(items), "shape": list(shape)}:
            return np.array(items, object).reshape(shape)
        case {"array": int(index)} if 0 <= index < len(arrays):
            return arrays[index]
        case {"plain": value}:
            return value
        case {"list": list(items)}:
            return [unpack(item, arrays) for item in items]
        case {"map": list(pairs)}:
            return {unpack(key, arrays): unpack(item, arrays) for key, item in pairs}
    raise WireError("a value of a message is none that this protocol knows")


def array_body(arrays: Sequence[Array]) -> tuple[list[Any], Body, int]:
    """What the head says of `arrays`, the body that holds them, and its length."""
    little = [a.astype(a.dtype.newbyteorder("<"), copy=False) for a in arrays]
    return [[a.dtype.str, list(a.shape)] for a in little], [bytes_of(a) for a in little if a.size], sum(a.nbytes for a in little)


def bytes_of(value: Array) -> memoryview:
    """The elements of a contiguous array, not copied."""
    return value.reshape(-1).view(np.uint8).data


def arrays_of(head: Head, body: bytearray) -> list[Array]:
    """The arrays of a message, each with memory of its own. Raises WireError where head and body do not fit."""
    arrays: list[Array] = []
    begin = 0
    try:
        for code, shape in head.get("arrays", ()):
            dtype = np.dtype(code)
            if dtype.kind not in "biufc" or any(not isinstance(d, int) or d < 0 for d in shape):
                raise WireError("a message announces arrays of a type that is not sent")
            count = int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(body, dtype, count, begin).reshape(shape).copy())
            begin += count * dtype.itemsize
    except (TypeError, ValueError) as problem:
        raise WireError("a message does not hold the arrays that it announces") from problem
    if begin != len(body):
        raise WireError("a message is longer than the arrays that it announces")
    return arrays


def digest(value: Array) -> str:
    """What an array of a feed is kept by: a hash of its type, shape and elements."""
    known = hashlib.blake2b(f"{value.dtype.str} {value.shape}".encode(), digest_size=16)
    if value.dtype == object or value.dtype.kind in "SU":
        known.update(json.dumps(pack(value, [])).encode())
    else:
        known.update(bytes_of(np.ascontiguousarray(value)))
    return known.hexdigest()
