"""Where the bytes of an external tensor lie: inside the model's folder, in a regular file, as many as the tensor needs."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from onnx import TensorProto

from graphcompress.errors import ModelError, quoted
from graphcompress.ir.model.element_types import byte_size, dtype_name

MAX_DIGITS = 19


def external_info(tensor: TensorProto) -> dict[str, str]:
    """The external_data entries of a tensor."""
    return {entry.key: entry.value for entry in tensor.external_data}


def resolve(base: Path | None, tensor: TensorProto, *, model_path: Path | None = None) -> tuple[Path, int, int]:
    """(file, offset, length in bytes) of an external tensor; `base` is the model's folder, `model_path` only names the model in messages.

    Raises ModelError where the location is absolute, leaves the folder by `..` or by a link, is no regular file or is missing; where offset or
    length is no number or reaches past the end of the file; where the length is not what the dims and the type need. An absent length (or 0) is
    what the tensor needs, as in onnxruntime. Hard links are fine.
    """
    fault = _Fault(tensor, model_path)
    info = external_info(tensor)
    location = info.get("location", "")
    if base is None:
        raise fault(f"its values are in an external file ({quoted(location)}), and a model that was not read from a file has no folder to look in")
    file = _contained(base, location, fault)
    needed = _needed(tensor, fault)
    offset = _number(info, "offset", fault)
    length = _number(info, "length", fault) or needed
    if length != needed:
        raise fault(f"its length in {quoted(location)} is {length} bytes, and {dtype_name(tensor.data_type)}{list(tensor.dims)} needs {needed}")
    size = file.stat().st_size
    if offset + length > size:
        raise fault(
            f"bytes {offset} to {offset + length} of {quoted(location)} are wanted, and the file ends at {size}: it is truncated, or belongs to another model"
        )
    return file, offset, length


class _Fault:
    """Makes the error: which model, which tensor, what is wrong."""

    def __init__(self, tensor: TensorProto, model_path: Path | None) -> None:
        self.head = f"{model_path or 'The model'}: tensor {quoted(tensor.name)}"

    def __call__(self, what: str) -> ModelError:
        return ModelError(f"{self.head}: {what}.")


def _contained(base: Path, location: str, fault: _Fault) -> Path:
    """The real path of the file, once it is known to lie in `base`."""
    if not isinstance(location, str) or "\0" in location:  # protobuf hands out bytes where a text is not UTF-8
        raise fault(f"external data at {quoted(location)}: no file has this name")
    if not location:
        raise fault("it says that its values are in an external file, and not in which (no 'location')")
    parts = re.split(r"[/\\]", location)
    if location.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", location):
        raise fault(f"external data at {quoted(location)}: an absolute path is refused, the file must lie in the model's folder")
    if ".." in parts:
        raise fault(f"external data at {quoted(location)} is outside the model's folder, which is refused")
    try:
        file = Path(os.path.realpath(base / location, strict=True))
        info = file.stat()
    except FileNotFoundError:
        raise fault(f"its external data {quoted(location)} is missing in {base}: copy that file beside the model") from None
    except OSError as error:
        raise fault(f"its external data {quoted(location)} cannot be read: {error.strerror}") from None
    if not file.is_relative_to(os.path.realpath(base)):
        raise fault(f"external data at {quoted(location)} is a link that leads outside the model's folder, which is refused: copy the file there")
    if not stat.S_ISREG(info.st_mode):
        raise fault(f"external data at {quoted(location)} is no regular file but a folder, a pipe or a device")
    if not os.access(file, os.R_OK):
        raise fault(f"its external data {quoted(location)} cannot be read: permission denied")
    return file


def _needed(tensor: TensorProto, fault: _Fault) -> int:
    name = dtype_name(tensor.data_type)
    if name == "string":
        raise fault("strings cannot be stored as external data")
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            raise fault(f"it has a negative dimension: {list(tensor.dims)}")
        count *= dim
    try:
        return byte_size(name, count)
    except (ValueError, KeyError, TypeError):
        raise fault(f"its element type ({name}) is unknown to the installed onnx") from None


def _number(info: dict[str, str], key: str, fault: _Fault) -> int:
    text = info.get(key, "0")
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise fault(f"the {key} of its external data is {quoted(text)}, and must be a number of bytes")
    return int(text)
