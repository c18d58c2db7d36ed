"""Which files a model consists of, and the hash that names it in records."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from graphcompress.ir.files import serialize
from graphcompress.ir.model.model import Model


def data_files(model: Model) -> tuple[Path, ...]:
    """The external data files of the file that the model was read from, in the order of their names."""
    return () if model.data is None else tuple(model.data.paths())


def sha256_of_file(path: str | os.PathLike[str], data: Iterable[Path] = ()) -> str:
    """Hash of the file followed by its external data files; read in chunks."""
    digest = hashlib.sha256()
    for file in (Path(path), *data):
        with open(file, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def sha256_of_model(model: Model) -> str:
    """Hash of a model in memory: of the one file that `save` would write."""
    digest = hashlib.sha256()
    for block in serialize.inline(model).blocks():
        digest.update(block)
    return digest.hexdigest()
