"""External data: the files that hold a model's tensors, as they were when the model was read.

A data file lies inside the model's folder, is a regular file, and stays open as long as the model lives: a file of the same name that is put in its place
later does not change the model. One that is written in place does, and is refused: bytes that are not those of the model are never handed out.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from onnx import TensorProto

from graphcompress.errors import ModelError, quoted
from graphcompress.ir.model.element_types import byte_size, dtype_name

MAX_DIGITS = 19
BLOCK = 1 << 20
MAPPED = 1 << 20  # tensors from this size on are mapped, smaller ones are read: each map costs a descriptor

# Files of one model that are kept open; further ones are opened by their path when they are needed. None on Windows, which does not replace open files:
# there `save` over the model's own data file succeeds, and the model that was read from it says that its data has changed.
MAX_OPEN_FILES = 0 if os.name == "nt" else 64


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a file from a later one of the same name, or from itself after a change."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, info: os.stat_result) -> Stamp:
        return cls(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Stamp | None:
        """That of the file at `path`, None where there is none."""
        try:
            return cls.of(os.stat(path))
        except (OSError, ValueError):
            return None


class DataFile:
    """One data file. `size` in bytes."""

    def __init__(self, path: Path, label: str, *, keep_open: bool) -> None:
        self.path = path
        self._label = label
        self._lock = threading.Lock()
        file = open(path, "rb")  # noqa: SIM115 (kept open, or closed below)
        self._stamp = Stamp.of(os.fstat(file.fileno()))
        self._file: BinaryIO | None = file
        if not keep_open:
            file.close()
            self._file = None
        self.size = self._stamp.size

    def in_place(self) -> bool:
        """Whether the file is still at its path, and unchanged."""
        try:
            return Stamp.of(self.path.stat()) == self._stamp
        except OSError:
            return False

    def view(self, offset: int, length: int) -> memoryview | bytes:
        """Bytes of the file: a map where they are many, a copy where they are few. Raises ModelError where the file has changed."""
        if length < MAPPED:
            return b"".join(self.blocks(offset, length))
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        with self._lock:
            file = self._unchanged()
            try:
                mapped = mmap.mmap(file.fileno(), offset - start + length, access=mmap.ACCESS_READ, offset=start)
            finally:
                self._done(file)
        return memoryview(mapped)[offset - start :]

    def blocks(self, offset: int, length: int) -> Iterator[bytes]:
        """Bytes of the file in blocks of at most 1 MiB. Raises ModelError where the file has changed."""
        while length:
            with self._lock:
                file = self._unchanged()
                try:
                    file.seek(offset)
                    block = file.read(min(length, BLOCK))
                finally:
                    self._done(file)
            if not block:
                raise self._changed()
            yield block
            offset += len(block)
            length -= len(block)

    def _unchanged(self) -> BinaryIO:
        try:
            file = self._file or open(self.path, "rb")  # noqa: SIM115 (closed by _done)
        except OSError:
            raise self._changed() from None
        if Stamp.of(os.fstat(file.fileno())) != self._stamp:
            self._done(file)
            raise self._changed()
        return file

    def _done(self, file: BinaryIO) -> None:
        if file is not self._file:
            file.close()

    def _changed(self) -> ModelError:
        return ModelError(f"{self._label}: its external data {self.path} was changed or removed after the model was read. Read the model again.")

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a data file."""

    file: DataFile
    offset: int
    length: int

    def view(self) -> memoryview | bytes:
        """See `DataFile.view`."""
        return self.file.view(self.offset, self.length) if self.length else b""

    def blocks(self) -> Iterator[bytes]:
        """See `DataFile.blocks`."""
        return self.file.blocks(self.offset, self.length)


class DataFolder:
    """The folder of a model, and those of its files that hold tensors. Copies of a model share it."""

    def __init__(self, folder: Path, label: str = "The model") -> None:
        """`label` names the model in messages."""
        self.folder = folder
        self.label = label
        self._files: dict[str, DataFile] = {}
        self._refused: set[str] = set()

    def paths(self) -> list[Path]:
        """The data files that were looked at, as they are named in the model, in the order of their names."""
        return [self.folder / os.fsdecode(location.encode()) for location in sorted(self._files)]

    def in_place(self) -> bool:
        """Whether all these files are still at their paths, and unchanged."""
        return all(file.in_place() for file in self._files.values())

    def span(self, tensor: TensorProto) -> Span:
        """Where the bytes of an external tensor are. Raises ModelError as `fault` says."""
        try:
            return self._span(tensor)
        except _Unusable as error:
            raise ModelError(f"{self.label}: {error}.") from None

    def fault(self, tensor: TensorProto) -> str | None:
        """What is wrong with the external data of a tensor, None where it can be read, or where the same was said of its file before.

        The location must not be absolute, leave the folder by `..` or by a link; it must be a regular file; offset and length must be numbers within it, and
        the length what the dims and the type need. An absent length (or 0) is what the tensor needs, as in onnxruntime. Hard links are fine.
        """
        location = external_info(tensor).get("location", "")
        if location in self._refused:
            return None
        try:
            self._span(tensor)
        except _Unusable as error:
            if location not in self._files:
                self._refused.add(location)
            return f"{error}."
        return None

    def _span(self, tensor: TensorProto) -> Span:
        unusable = _Reason(tensor)
        info = external_info(tensor)
        location = info.get("location", "")
        file = self._files.get(location) if isinstance(location, str) else None
        if file is None:
            file = self._open(location, unusable)
        needed = _needed(tensor, unusable)
        offset = _number(info, "offset", unusable)
        length = _number(info, "length", unusable) or needed
        if length != needed:
            raise unusable(f"its length in {quoted(location)} is {length} bytes, and {dtype_name(tensor.data_type)}{list(tensor.dims)} needs {needed}")
        if offset + length > file.size:
            raise unusable(
                f"it is at bytes {offset} to {offset + length} of {quoted(location)}, and the file ends at {file.size}: "
                "it is truncated, or belongs to another model"
            )
        return Span(file, offset, length)

    def _open(self, location: str, unusable: _Reason) -> DataFile:
        path = _contained(self.folder, location, unusable)
        try:
            file = DataFile(path, self.label, keep_open=len(self._files) < MAX_OPEN_FILES)
        except OSError as error:
            raise unusable(f"its external data {quoted(location)} cannot be read: {error.strerror}") from None
        self._files[location] = file
        return file


def external_info(tensor: TensorProto) -> dict[str, str]:
    """The external_data entries of a tensor."""
    return {entry.key: entry.value for entry in tensor.external_data}


def span_of(tensor: TensorProto, data: DataFolder | None) -> Span:
    """As `DataFolder.span`; ModelError also for a model that was not read from a file (`data` is None)."""
    if data is None:
        location = quoted(external_info(tensor).get("location", ""))
        what = f"its values are in an external file ({location}), and a model that was not read from a file has no folder to look in"
        raise ModelError(f"The model: {_Reason(tensor)(what)}.")
    return data.span(tensor)


class _Unusable(Exception):
    """The external data of a tensor cannot be read; the message names the tensor."""


class _Reason:
    """Makes the exception from what is wrong with a tensor."""

    def __init__(self, tensor: TensorProto) -> None:
        self.tensor = tensor

    def __call__(self, what: str) -> _Unusable:
        return _Unusable(f"tensor {quoted(self.tensor.name)}: {what}")


def _contained(folder: Path, location: str, unusable: _Reason) -> Path:
    """The real path of the file, once it is known to lie in `folder`."""
    if not isinstance(location, str) or "\0" in location:  # protobuf hands out bytes where a text is not UTF-8
        raise unusable(f"external data at {quoted(location)}: no file has this name")
    if not location:
        raise unusable("it says that its values are in an external file, and not in which (no 'location')")
    parts = re.split(r"[/\\]", location)
    if location.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", location):
        raise unusable(f"external data at {quoted(location)}: an absolute path is refused, the file must lie in the model's folder")
    if ".." in parts:
        raise unusable(f"external data at {quoted(location)} is outside the model's folder, which is refused")
    try:
        # Names in a model are UTF-8; a locale of another encoding has its own text for the same bytes.
        file = Path(os.path.realpath(folder / os.fsdecode(location.encode()), strict=True))
        info = file.stat()
    except FileNotFoundError:
        raise unusable(f"its external data {quoted(location)} is missing in {folder}: copy that file beside the model") from None
    except OSError as error:
        raise unusable(f"its external data {quoted(location)} cannot be read: {error.strerror}") from None
    if not file.is_relative_to(os.path.realpath(folder)):
        raise unusable(f"external data at {quoted(location)} is a link that leads outside the model's folder, which is refused: copy the file there")
    if not stat.S_ISREG(info.st_mode):
        raise unusable(f"external data at {quoted(location)} is not a regular file but a folder, a pipe or a device")
    if not os.access(file, os.R_OK):
        raise unusable(f"its external data {quoted(location)} cannot be read: permission denied")
    return file


def _needed(tensor: TensorProto, unusable: _Reason) -> int:
    name = dtype_name(tensor.data_type)
    if name == "string":
        raise unusable("strings cannot be stored as external data")
    count = 1
    for dim in tensor.dims:
        if dim < 0:
            raise unusable(f"it has a negative dimension: {list(tensor.dims)}")
        count *= dim
    try:
        return byte_size(name, count)
    except (ValueError, KeyError, TypeError):
        raise unusable(f"its element type ({name}) is unknown to the installed onnx") from None


def _number(info: dict[str, str], key: str, unusable: _Reason) -> int:
    text = info.get(key, "0")
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise unusable(f"the {key} of its external data is {quoted(text)}, and must be a number of bytes")
    return int(text)
