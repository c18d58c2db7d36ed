"""Model -> file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from graphcompress.errors import ModelError, WriteError
from graphcompress.ir.files import serialize
from graphcompress.ir.files.serialize import Pieces
from graphcompress.ir.files.snapshot import snapshot_of
from graphcompress.ir.model.external import external_info
from graphcompress.ir.model.messages import tensor_protos
from graphcompress.ir.model.model import Model
from graphcompress.transaction import Transaction, check_place


def save(model: Model, path: str | os.PathLike[str], *, external_data: bool = False) -> None:
    """Write the model to `path`, as one file that needs no other; from 2 GiB on, or with `external_data`, its large tensors go to `path`.data beside it.

    Either all files are written or none is changed. Raises WriteError where the folder is missing, not writable or full, or where `path`.data is needed and
    there is already a file of this name that does not belong to the model at `path`.
    """
    check_place(path, os.fspath(path))
    with Transaction() as files:
        plan(model, path, external_data=external_data).stage(files)


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What the files of a model will be. `data_path` is the file beside it, None where the model is one file."""

    path: Path
    message: Pieces
    data_path: Path | None = None
    data: Pieces | None = None

    def stage(self, files: Transaction) -> None:
        """Write the files as part of `files`, the model last."""
        if self.data_path is not None and self.data is not None:
            _stage(files, self.data_path, self.data)
        _stage(files, self.path, self.message)


def plan(model: Model, path: str | os.PathLike[str], *, external_data: bool = False) -> FilePlan:
    """Decide how `model` is written to `path`. Raises WriteError as `save` does, ModelError where a step changed the signature."""
    target = Path(path)
    if not external_data:
        message = snapshot_of(model).message
        if message.length <= serialize.LARGEST_MESSAGE:
            return FilePlan(target, message)
    place = data_path(target)
    message, data = serialize.with_data_file(model, _location(place))
    if not data.length:
        return FilePlan(target, message)
    check_data_place(target)
    return FilePlan(target, message, place, data)


def data_path(path: Path) -> Path:
    """Where the external data of a model written to `path` goes: beside the file itself where `path` is a link."""
    file = Path(os.path.realpath(path)) if path.is_symlink() else path
    return file.with_name(file.name + ".data")


def check_data_place(path: Path) -> None:
    """Raise WriteError where a file stands at `path`.data that the model at `path` does not use: it belongs to something else."""
    place = data_path(path)
    if os.path.lexists(place) and _location(place) not in _locations(path):
        raise WriteError(
            f"{place} exists and does not belong to {path}; it would be overwritten by the external data of the result. Remove it, or give another path."
        )


def to_bytes(model: Model) -> bytes:
    """The model as one message with all external data inside. Raises ModelError from 2 GiB on."""
    message = snapshot_of(model).message
    if message.length > serialize.LARGEST_MESSAGE:
        raise ModelError(
            f"{model.path or 'The model'} holds {message.length / 2**30:.1f} GiB, and one message can hold 2 GiB: save it to a file, with external data."
        )
    return b"".join(message.blocks())


def is_its_file(model: Model) -> bool:
    """Whether the files that the model was read from still hold exactly this model, byte by byte."""
    if model.path is None or not model.path.is_file() or (model.data is not None and not model.data.in_place()):
        return False
    message = serialize.with_references(model)
    if model.path.stat().st_size != message.length:
        return False
    with model.path.open("rb") as file:
        return all(file.read(len(block)) == block for block in message.blocks())


def _stage(files: Transaction, target: Path, content: Pieces) -> None:
    with files.open(target) as stream:
        for block in content.blocks():
            stream.write(block)


def _location(place: Path) -> str:
    """The name of a data file as a model says it: in UTF-8, whatever the locale. Raises WriteError where it has none."""
    try:
        return os.fsencode(place.name).decode()
    except UnicodeDecodeError:
        raise WriteError(f"{place}: the name is not UTF-8, and a model can name its data file in UTF-8 only. Give another path.") from None


def _locations(path: Path) -> set[str]:
    """The data files that the model at `path` uses now."""
    if not path.is_file():
        return set()
    try:
        old = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError:  # not a model, so nothing belongs to it
        return set()
    return {external_info(t).get("location", "") for t in tensor_protos(old) if t.data_location == onnx.TensorProto.EXTERNAL}
