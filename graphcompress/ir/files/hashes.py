"""Which files a model consists of, and the hash that names it in records."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from graphcompress.ir.files.write import to_proto
from graphcompress.ir.model.external import external_info
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.tensors import TensorData
from graphcompress.ir.model.walk import graphs


def data_files(model: Model) -> tuple[Path, ...]:
    """The external data files that the model's initializers and tensor attributes live in, in the order of their names."""
    if model.path is None:
        return ()
    locations: set[str] = set()
    for graph in graphs(model):
        tensors = [c.data for c in graph.initializers.values()]
        tensors += [value for node in graph.nodes for value in node.attrs.values() if isinstance(value, TensorData)]
        locations.update(external_info(t.proto).get("location", "") for t in tensors if t is not None and t.external)
    return tuple(model.path.parent / location for location in sorted(locations))


def sha256_of_file(path: str | os.PathLike[str], data: Iterable[Path] = ()) -> str:
    """Hash of the file followed by its external data files; read in chunks."""
    digest = hashlib.sha256()
    for file in (Path(path), *data):
        with open(file, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def sha256_of_model(model: Model) -> str:
    """Hash of a model in memory: what `save` would write, followed by its external data files."""
    digest = hashlib.sha256(to_proto(model).SerializeToString(deterministic=True))
    for file in data_files(model):
        with open(file, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
