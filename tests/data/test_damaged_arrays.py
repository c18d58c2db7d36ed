"""Files of arrays with damaged bytes: they are read, or refused with one clear error, whatever numpy's and zipfile's readers trip over."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from graphcompress.data import open_data
from graphcompress.errors import DataError
from graphcompress.ir.model.objects import TensorSpec

INPUTS = [TensorSpec("x", "float", ("n", 3))]
ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)
ROUNDS = 400


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, ARRAY)
    return stream.getvalue()


def npz(write: Callable[..., None]) -> bytes:
    stream = io.BytesIO()
    write(stream, x=ARRAY)
    return stream.getvalue()


def alone(place: Path, name: str, content: bytes) -> Path:
    (place / name).write_bytes(content)
    return place / name


def in_a_shard(place: Path, name: str, content: bytes) -> Path:
    with tarfile.open(place / "s.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return place / "s.tar"


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes are others, or the end is missing."""
    changed = bytearray(content)
    for place in rng.integers(0, len(changed), rng.integers(1, 4)):
        changed[place] = rng.choice([0, 0x28, 0x5B, 0x7B, 0xFF, int(rng.integers(256))])
    return bytes(changed[: rng.integers(len(changed))] if rng.random() < 0.2 else changed)


@pytest.mark.parametrize("put", [alone, in_a_shard])
@pytest.mark.parametrize(("name", "content"), [("x.npy", npy()), ("a.npz", npz(np.savez)), ("b.npz", npz(np.savez_compressed))])
def test_damaged_arrays_are_read_or_refused(put: Callable[[Path, str, bytes], Path], name: str, content: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(ROUNDS):
        data = None
        with suppress(DataError):
            data = open_data(put(tmp_path, name, damaged(content, rng)), INPUTS)
            list(data)
        refused += data is None
    assert ROUNDS / 10 < refused < ROUNDS


@pytest.mark.parametrize("put", [alone, in_a_shard])
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", npz(np.savez), "cannot be read .*the magic string is not correct"),
        ("x.npy", b"\x93NUMPY\x01\x00\x10\x00{garbage(((((((((", "its header is damaged"),
        ("x.npy", npy()[:-3], "its header says 48 bytes of data, and there are 45"),
        ("x.npy", npy() + npy(), "its header says 48 bytes of data"),  # of two arrays in one file numpy reads the first
        ("a.npz", npz(np.savez)[:-30], "truncated or damaged"),
        ("a.npz", npy(), "a single array"),
    ],
)
def test_what_is_wrong_with_an_array(put: Callable[[Path, str, bytes], Path], name: str, content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        open_data(put(tmp_path, name, content), INPUTS)
