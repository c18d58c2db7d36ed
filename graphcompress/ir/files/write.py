"""Model -> file. What was not edited is written from its own message; files appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper

from graphcompress.errors import ModelError, WriteError
from graphcompress.ir.files.read import FIRST_IR_WITH_OVERRIDABLE, tensor_protos
from graphcompress.ir.model.element_types import array_dtype_name, dtype_code
from graphcompress.ir.model.external import external_info, resolve
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.lint import check_signature
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable
from graphcompress.ir.model.tensors import TensorData, to_tensor_proto
from graphcompress.ir.model.walk import downstream, subgraphs, toposort

# protobuf refuses messages of 2 GiB; the rest is room for everything that is not tensor bytes.
LARGEST_MESSAGE = 2**31 - 2**20
ORIGIN_KEY = "graphcompress.origin"
CHUNK = 1 << 20
NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@paused()
def to_proto(model: Model) -> onnx.ModelProto:
    """The model as a new ModelProto; external data stays a reference to where it was read from. Raises ModelError where a step changed the signature."""
    check_signature(model)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.header)
    listed = model.ir_version < FIRST_IR_WITH_OVERRIDABLE
    stale = downstream(model, model.changes.reshaped) if model.changes.reshaped else set()
    _write_graph(model.graph, proto.graph, stale, constants_are_inputs=listed, main=True)
    return proto


def to_bytes(model: Model) -> bytes:
    """The model as one message with all external data inside. Raises ModelError from 2 GiB on."""
    proto = to_proto(model)
    base = model.path.parent if model.path else None
    total = proto.ByteSize()
    external = [t for t in tensor_protos(proto) if t.data_location == TensorProto.EXTERNAL]
    total += sum(TensorData(t, base).nbytes for t in external)
    if total > LARGEST_MESSAGE:
        raise ModelError(f"{model.path or 'The model'} holds {total / 2**30:.1f} GiB, and one message can hold 2 GiB: save it with external data.")
    for tensor in external:
        raw = bytes(TensorData(tensor, base).raw())
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = raw
    message: bytes = proto.SerializeToString(deterministic=True)
    return message


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write the model to `path`, and its external data beside it under the names that the model gives.

    All files appear together or not at all, and what stood there before stays until then. Raises WriteError where the folder is missing, not writable or full.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise WriteError(f"Cannot write {path}: the folder {target.parent} does not exist. Create it, or give another path.")
    if target.is_dir() or (target.exists() and not target.is_file()):
        raise WriteError(f"Cannot write {path}: it is {'a folder' if target.is_dir() else 'no regular file'}. Give the path of a file.")
    proto = to_proto(model)
    with _Transaction(path) as files:
        _place_external(proto, model.path.parent if model.path else None, target, files)
        files.add(target, proto.SerializeToString(deterministic=True))


# --- graphs -------------------------------------------------------------------------------------------------------------------------


def _write_graph(graph: Graph, proto: onnx.GraphProto, stale: set[Tensor], *, constants_are_inputs: bool, main: bool) -> None:
    touched = _touched(graph)
    proto.CopyFrom(graph.shell)
    proto.node.extend(_node_proto(n, stale) for n in (toposort(graph) if touched else graph.nodes))
    kept = set(graph.initializers)
    defaults = {t.name: t.default for t in graph.inputs if isinstance(t, Variable) and isinstance(t.default, TensorProto)}
    place = {name: i for i, name in enumerate(graph.file_order)}
    for name in sorted([*graph.initializers, *defaults], key=lambda n: place.get(n, len(place))):
        if name in defaults:
            proto.initializer.append(defaults[name])
        else:
            constant = graph.initializers[name]
            proto.initializer.append(to_tensor_proto(constant.data or constant.values, constant.name))
    inputs = {t.name for t in graph.inputs}
    proto.input.extend(v for v in graph.input_protos if v.name in inputs or (v.name in kept and (constants_are_inputs or not main)))
    if main and constants_are_inputs:
        known = {v.name for v in graph.input_protos}
        proto.input.extend(_constant_info(c) for c in graph.initializers.values() if c.name not in known)
    for info, tensor in zip(graph.output_protos, graph.outputs, strict=True):
        entry = proto.output.add()
        entry.CopyFrom(info)
        if entry.name != tensor.name:
            entry.name = tensor.name
    if stale:
        _correct_shapes(graph, proto, stale, main=main)
    if touched or stale:
        _drop_stale(graph, proto, stale)


def _correct_shapes(graph: Graph, proto: onnx.GraphProto, stale: set[Tensor], *, main: bool) -> None:
    """State the new shape of initializers that are listed as inputs, and none for stale inputs and outputs of subgraphs; those of the model are its signature."""
    names = {t.name for t in (*graph.inputs, *graph.outputs) if t in stale and not main}
    for entry in (*proto.input, *proto.output):
        if graph.initializers.get(entry.name) in stale:
            entry.CopyFrom(_constant_info(graph.initializers[entry.name]))
        elif entry.name in names and entry.type.HasField("tensor_type"):
            entry.type.tensor_type.ClearField("shape")


def _drop_stale(graph: Graph, proto: onnx.GraphProto, stale: set[Tensor]) -> None:
    """Leave out value_info and annotations of tensors that were removed, that another node makes now, or whose shape an edit changed (`stale`): a runtime would believe them."""
    tensors = (*(t for n in graph.nodes if n.proto is not None for t in n.outputs), *graph.initializers.values(), *graph.inputs)
    same = {t.name for t in tensors if t not in stale}
    infos = [v for v in proto.value_info if v.name in same or v.name not in graph.read_names]
    if len(infos) != len(proto.value_info):
        del proto.value_info[:]
        proto.value_info.extend(infos)
    notes = [a for a in proto.quantization_annotation if a.tensor_name in same or a.tensor_name not in graph.read_names]
    if len(notes) != len(proto.quantization_annotation):
        del proto.quantization_annotation[:]
        proto.quantization_annotation.extend(notes)


def _touched(graph: Graph) -> bool:
    """Whether nodes were added, removed, moved or rewired since the graph was read."""
    return (
        len(graph.nodes) != len(graph.order)
        or any(a is not b for a, b in zip(graph.nodes, graph.order, strict=True))
        or any(not _wired_as_read(n) for n in graph.nodes)
    )


def _wired_as_read(node: Node) -> bool:
    proto = node.proto
    return proto is not None and [t.name for t in node.inputs] == list(proto.input) and [t.name for t in node.outputs] == list(proto.output)


def _constant_info(constant: Constant) -> onnx.ValueInfoProto:
    name = constant.data.dtype_name if constant.data else array_dtype_name(constant.values)
    return helper.make_tensor_value_info(constant.name, dtype_code(name), list(constant.shape))


def _node_proto(node: Node, stale: set[Tensor]) -> onnx.NodeProto:
    old = node.proto
    same_attrs = node.attrs.keys() == node.read_attrs.keys() and all(_same(node.attrs[k], node.read_attrs[k]) for k in node.attrs) and not subgraphs(node)
    if old is not None and same_attrs and _wired_as_read(node) and (old.op_type, old.name, old.domain) == (node.op, node.name, node.domain or ""):
        return old
    made = onnx.NodeProto()
    if old is not None:  # doc string, metadata, overload, device configurations, fields that this onnx does not know
        made.CopyFrom(old)
        for field in ("input", "output", "attribute"):
            made.ClearField(field)
    made.op_type = node.op
    if made.name != node.name:
        made.name = node.name
    if made.domain != (node.domain or ""):
        made.domain = node.domain or ""
    made.input.extend(t.name for t in node.inputs)
    made.output.extend(t.name for t in node.outputs)
    read = {a.name: a for a in old.attribute} if old is not None else {}
    for name, value in node.attrs.items():
        if name in read and name in node.read_attrs and _same(value, node.read_attrs[name]) and not _holds_graph(value):
            made.attribute.append(read[name])
        else:
            made.attribute.append(_attribute_proto(name, value, read.get(name), stale))
    if node.origin:
        entry = next((e for e in made.metadata_props if e.key == ORIGIN_KEY), None) or made.metadata_props.add(key=ORIGIN_KEY)
        entry.value = " ".join(node.origin)
    return made


def _holds_graph(value: Any) -> bool:
    return isinstance(value, Graph) or (isinstance(value, list) and bool(value) and isinstance(value[0], Graph))


def _same(a: Any, b: Any) -> bool:
    """Equal and of one kind. Arrays and protos are compared by identity: an edited one is another object."""
    if a is b:
        return True
    return type(a) is type(b) and isinstance(a, int | float | str | bytes | list) and not _holds_graph(a) and (a == b or (a != a and b != b))


def _attribute_proto(name: str, value: Any, old: AttributeProto | None, stale: set[Tensor]) -> AttributeProto:
    made = AttributeProto()
    if old is not None and _holds_graph(value):
        for field in ("doc_string", "type"):
            if old.HasField(field):
                setattr(made, field, getattr(old, field))
    made.name = name
    match value:
        case AttributeProto():
            made.CopyFrom(value)
            made.name = name
        case Graph():
            made.type = AttributeProto.GRAPH
            _write_graph(value, made.g, stale, constants_are_inputs=False, main=False)
        case [Graph(), *_]:
            made.type = AttributeProto.GRAPHS
            for graph in value:
                _write_graph(graph, made.graphs.add(), stale, constants_are_inputs=False, main=False)
        case TensorData():
            made.type = AttributeProto.TENSOR
            made.t.CopyFrom(value.proto)
        case np.ndarray():
            made.type = AttributeProto.TENSOR
            made.t.CopyFrom(to_tensor_proto(value, ""))
        case _:
            made = helper.make_attribute(name, value)
    return made


# --- files --------------------------------------------------------------------------------------------------------------------------


class _Transaction:
    """Files that appear together: each is written under a temporary name in its folder, and renamed at the end."""

    def __init__(self, asked: str | os.PathLike[str]) -> None:
        self.asked = os.fspath(asked)
        self.staged: list[tuple[Path, Path]] = []
        self.folders: list[Path] = []

    def __enter__(self) -> _Transaction:
        return self

    def add(self, target: Path, content: bytes) -> None:
        """Stage `content` for `target`."""
        with self.open(target) as fd:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view[: 64 * CHUNK]) :]
        with open(self.staged[-1][0], "rb") as back:
            if hashlib.file_digest(back, "sha256").digest() != hashlib.sha256(content).digest():
                raise OSError(f"what was read back from {target.name} is not what was written")

    def folder(self, path: Path) -> None:
        """Make a folder, and those above it; they go again where the rest fails."""
        for missing in [p for p in (path, *path.parents) if not p.exists()][::-1]:
            missing.mkdir()
            self.folders.append(missing)

    @contextlib.contextmanager
    def open(self, target: Path) -> Iterator[int]:
        """A file descriptor of a staged file for `target`, flushed to the disk when left."""
        fd, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".tmp", dir=target.parent)
        self.staged.append((Path(name), target))
        try:
            mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
            os.fchmod(fd, mode)
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)

    def __exit__(self, _kind: type[BaseException] | None, problem: BaseException | None, _trace: object) -> None:
        if problem is None:
            try:
                self._publish()
                return
            except OSError as error:
                problem = error
        for staged, _ in self.staged:
            staged.unlink(missing_ok=True)
        for made in self.folders[::-1]:
            with contextlib.suppress(OSError):
                made.rmdir()
        if isinstance(problem, OSError):
            reason = problem.strerror or str(problem)
            raise WriteError(f"Cannot write {self.asked}: {reason}. What stood there before is unchanged; free some room or give another path.") from problem

    def _publish(self) -> None:
        """Rename everything, the model last; where one rename fails, put the old files back and take the new ones away."""
        backups: dict[Path, Path] = {}
        published: list[Path] = []
        try:
            for staged, target in self.staged:
                if target.exists() and len(self.staged) > 1:
                    backup = staged.with_suffix(".bak")
                    os.link(target, backup)
                    backups[target] = backup
                os.replace(staged, target)
                published.append(target)
        except OSError:
            for target in published:
                if target in backups:
                    os.replace(backups[target], target)
                else:
                    target.unlink()
            raise
        finally:
            for backup in backups.values():
                backup.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _place_external(proto: onnx.ModelProto, base: Path | None, target: Path, files: _Transaction) -> None:
    """Stage the external data that `proto` refers to beside `target`, and let `proto` point there. Bytes go from file to file inside the kernel.

    A data file whose every range is still in use is copied as it is, under its own name, so that nothing in the model changes. Where that name belongs to
    somebody else, or ranges have gone, the data goes to TARGET.data.
    """
    groups: dict[str, list[TensorProto]] = {}
    for tensor in tensor_protos(proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            groups.setdefault(external_info(tensor)["location"], []).append(tensor)
    moved: list[tuple[TensorProto, Path, int, int]] = []
    own = _locations(target)
    for location, tensors in sorted(groups.items()):
        ranges = [(t, *resolve(base, t, model_path=None)) for t in tensors]
        source = ranges[0][1]
        place = target.parent / location
        if place.exists() and place.samefile(source) and base is not None and _covered(ranges, source):
            continue  # the same folder: the data is where it should be
        if _covered(ranges, source) and (not place.exists() or location in own) and _inside(place, target.parent):
            files.folder(place.parent)
            with files.open(place) as fd:
                _copy_range(source, 0, source.stat().st_size, fd)
        else:
            moved += ranges
    large = [t for t in tensor_protos(proto) if len(t.raw_data) >= CHUNK] if proto.ByteSize() > LARGEST_MESSAGE else []
    if moved or large:
        _gather(moved, large, target.with_name(target.name + ".data"), files)


def _gather(moved: Sequence[tuple[TensorProto, Path, int, int]], large: Sequence[TensorProto], place: Path, files: _Transaction) -> None:
    """Write ranges of other files and bytes from memory one behind the other into `place`, aligned to pages so that they can be mapped."""
    with files.open(place) as fd:
        for tensor, source, offset, length in [*moved, *((t, None, 0, len(t.raw_data)) for t in large)]:
            at = (os.lseek(fd, 0, os.SEEK_END) + 4095) // 4096 * 4096
            os.lseek(fd, at, os.SEEK_SET)
            if source is None:
                view = memoryview(tensor.raw_data)
                while view:
                    view = view[os.write(fd, view[: 64 * CHUNK]) :]
            else:
                _copy_range(source, offset, length, fd)
            tensor.ClearField("raw_data")
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", place.name), ("offset", str(at)), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)


def _covered(ranges: Sequence[tuple[TensorProto, Path, int, int]], source: Path) -> bool:
    """Whether the ranges use the whole file but for the gaps that alignment leaves."""
    end = 0
    for _, _, offset, length in sorted(ranges, key=lambda r: r[2]):
        if offset - end >= 65536:
            return False
        end = max(end, offset + length)
    return source.stat().st_size - end < 65536


def _locations(target: Path) -> set[str]:
    """The data files that the model at `target` uses now: they are replaced with it."""
    if not target.exists():
        return set()
    try:
        old = onnx.ModelProto.FromString(target.read_bytes())
    except DecodeError:  # whatever stands there is no model, so it owns no data
        return set()
    return {external_info(t).get("location", "") for t in tensor_protos(old) if t.data_location == TensorProto.EXTERNAL}


def _inside(place: Path, folder: Path) -> bool:
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder))


def _copy_range(source: Path, offset: int, length: int, fd: int) -> None:
    """Copy bytes into `fd` at its position, in the kernel where the file system can."""
    with open(source, "rb") as src:
        while length:
            try:
                done = os.copy_file_range(src.fileno(), fd, min(length, 1 << 30), offset)
            except OSError as problem:
                if problem.errno not in NO_KERNEL_COPY:
                    raise
                done = os.write(fd, os.pread(src.fileno(), min(length, CHUNK), offset))
            if done == 0:
                raise OSError(f"{source.name} ended before its time")
            offset += done
            length -= done
