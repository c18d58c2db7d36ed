"""From a file to a ModelProto, or to one sentence that says what the file is instead."""

from __future__ import annotations

import stat
from pathlib import Path

import onnx
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from graphcompress.errors import ModelError, near_path
from graphcompress.ir.files.detach import Array, detached

HEAD = 1024
MESSAGE_LIMIT = 2**31 - 1  # protobuf's own

EXPORT_HINT = "Give an exported ONNX file"
SIGNATURES = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file that it stands for: fetch that with 'git lfs pull'"),
    (0, b"PK\x03\x04", "a zip archive (Keras, PyTorch and npz files are such): export the model to ONNX, or unpack the archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x1f\x8b", "a gzip file: unpack it first"),
    (0, b"\xfd7zXZ\x00", "an xz file: unpack it first"),
    (0, b"BZh", "a bzip2 file: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file: unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras weights are such): export the model to ONNX, with tf2onnx for example"),
    (0, b"\x93NUMPY", "a numpy array"),
    (4, b"TFL3", "a TensorFlow Lite model: convert it to ONNX, with tf2onnx for example"),
    (4, b"ORTM", "a model in onnxruntime's ORT format, which cannot be turned back: give the ONNX file that it was made from"),
    (0, b"\x89PNG", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"GGUF", "a GGUF file: only ONNX files can be read"),
    (0, b"\x7fELF", "a program"),
)


def sniff(path: Path) -> None:
    """Raise ModelError where the first KiB of a file says that it is something else than an ONNX model, or where there is no file to read."""
    try:
        info = path.stat()
    except (OSError, ValueError) as error:
        raise ModelError(_unreachable(path, error)) from None
    if stat.S_ISDIR(info.st_mode):
        what = "a TensorFlow SavedModel: convert it to ONNX, with tf2onnx for example" if (path / "saved_model.pb").exists() else f"a folder. {EXPORT_HINT}"
        raise ModelError(f"{path} is {what}.")
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"{path} is not a regular file (a pipe, a socket or a device). {EXPORT_HINT}.")
    if info.st_size == 0:
        raise ModelError(f"{path} is empty: the export or the download did not finish.")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise ModelError(_unreachable(path, error)) from None
    seen = recognise(head)
    if seen:
        raise ModelError(f"{path} is not an ONNX model but {seen}.")


def recognise(head: bytes) -> str | None:
    """What the first bytes of a file are known for, None where they may be ONNX."""
    for offset, magic, what in SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return what
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"<"):
        page = start[:256].lower()
        if b"<html" in page or b"<!doctype" in page:
            return "a web page, perhaps what the server said instead of the file: download it again and look at the address"
        return "a text in XML (OpenVINO's models are such): only ONNX files can be read"
    if len(head) > 1 and head[0] == 0x80 and head[1] in range(2, 6):
        return "a Python pickle, which is never opened here: export the model to ONNX"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "a safetensors file, which holds weights only: export the model to ONNX"
    if start.startswith((b"{", b"[")) and looks_like_text(head):
        return "a JSON text: only binary ONNX files can be read"
    return None


def looks_like_text(head: bytes) -> bool:
    """True where the bytes read as text without control characters."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode()
    return bool(text) and all(c.isprintable() or c in "\r\n\t" for c in text)


def parse(source: Path | bytes, path: Path | None = None) -> onnx.ModelProto:
    """A file or its bytes as a ModelProto; `path` names the bytes in messages. Raises ModelError where they are none."""
    if isinstance(source, Path):
        path = source
        source = _content(path)
    label = str(path or "The model")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(source)
    except DecodeError as error:
        if "MaxDepth" in str(error):
            raise ModelError(f"{label}: its graphs or types are nested deeper than the 100 messages that protobuf reads.") from None
        if looks_like_text(source[:HEAD]):
            raise ModelError(f"{label} is not an ONNX model but a text: only binary ONNX files can be read.") from None
        raise ModelError(f"{label} is not a readable ONNX model: {damage(source)}. Export or download it again.") from None
    return proto


def parse_apart(path: Path) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A file as a ModelProto without the values of large plain initializers, and these by name (see `detach`). Raises as `parse` does."""
    content = _content(path)
    head, weights = detached(content)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(head)
    except DecodeError:
        return parse(content, path), {}
    return proto, weights


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MESSAGE_LIMIT:
            raise ModelError(f"{path} has {size} bytes, and one ONNX message can hold 2 GiB: save the model with external data.")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(_unreachable(path, error)) from None


def damage(data: bytes) -> str:
    """Where a message stops making sense, by walking its fields: a truncated file is named as such, with figures."""
    stack: list[tuple[int, int, Descriptor, str]] = [(0, len(data), onnx.ModelProto.DESCRIPTOR, "model")]
    while stack:
        at, end, kind, where = stack.pop()
        while at < end:
            start = at
            tag, at = _varint(data, at, end)
            number, wire = tag >> 3, tag & 7
            if at < 0:
                return f"it breaks off at byte {start} of {len(data)}, inside '{where}': the file is truncated or damaged"
            field = kind.fields_by_number.get(number)
            name = f"{where}.{field.name}" if field else f"field {number} of '{where}'"
            if number == 0 or wire in (3, 4, 6, 7):
                return f"byte {start} of {len(data)}, inside '{where}', begins no field: these are other data, or damaged"
            if wire == 0:
                size, at = 0, _varint(data, at, end)[1]
            elif wire == 2:
                size, at = _varint(data, at, end)
            else:
                size = 8 if wire == 1 else 4
            if at < 0 or at + size > end:
                missing = f"{size} bytes are announced for '{name}' at byte {start}, and {max(0, end - at) if at >= 0 else 0} are left"
                return f"{missing}: the file is truncated" if end == len(data) else f"{missing} in '{where}': the file is damaged"
            if wire == 2 and field is not None and field.message_type is not None:
                stack.append((at, at + size, field.message_type, name))
            at += size
    return f"protobuf refuses its {len(data)} bytes: they are other data, or damaged"


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number in protobuf's base 128 and the place behind it; (0, -1) where it does not end in time."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            return 0, -1
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    return 0, -1


def _unreachable(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        parent = path.parent
        return f"{path} does not exist" + (f".{near_path(path)}" if parent.is_dir() else f": there is no folder {parent}.")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"{path} cannot be read: {reason}."
