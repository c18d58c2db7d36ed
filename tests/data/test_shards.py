"""Tar files of samples."""

from __future__ import annotations

import io
import pickle
import tarfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from feed_forms import X, floats

from graphcompress.data import open_data
from graphcompress.errors import DataError
from graphcompress.ir.model.objects import TensorSpec

K = TensorSpec("k", "float", ("n", 3))
PICTURE = TensorSpec("p", "uint8", ("n", 2, 4, 3))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def picture(value: int) -> bytes:
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.fromarray(np.full((2, 4, 3), value, np.uint8)).save(stream, "png")
    return stream.getvalue()


def shard(path: Path, members: Iterable[tuple[str, bytes]], mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def rows(data: Iterable[dict[str, np.ndarray]], name: str = "x") -> list[object]:
    return [feed[name].tolist() for feed in data]


def test_each_sample_is_a_feed_in_the_order_of_the_files(tmp_path: Path) -> None:
    for number in (1, 0):
        samples = [(f"{number}{i}.npz", npz(x=floats(1, 3) + 10 * number + i, k=floats(1, 3))) for i in range(3)]
        shard(tmp_path / f"part-{number}.tar", samples)
    data = open_data(tmp_path, [X, K])
    assert rows(data) == [(floats(1, 3) + n).tolist() for n in (0, 1, 2, 10, 11, 12)]
    assert rows(open_data(tmp_path / "part-1.tar", [X, K])) == [(floats(1, 3) + n).tolist() for n in (10, 11, 12)]
    assert data.sha256 != open_data(tmp_path / "part-1.tar", [X, K]).sha256


def test_files_of_one_key_are_one_feed(tmp_path: Path) -> None:
    """Folders are part of a key, long names have a header of their own, and what is no array is said not to be fed."""
    long = "a" * 150
    members = [
        (f"{long}/{i}.{ending}", content)
        for i in range(9)
        for ending, content in (("x.npy", npy(floats(1, 3) + i)), ("cls", b"3"), ("k.npy", npy(floats(1, 3) - i)))
    ]
    members.insert(0, (f"{long}/0._label.npy", npy(np.int64([4]))))
    members += [("other/8.x.npy", npy(floats(1, 3))), ("other/8.k.npy", npy(floats(1, 3)))]
    data = open_data(shard(tmp_path / "s.tar", members), [X, K])
    assert rows(data) == [*((floats(1, 3) + i).tolist() for i in range(9)), floats(1, 3).tolist()]
    assert rows(data, "k")[3] == (floats(1, 3) - 3).tolist()
    assert [f.text for f in data.findings() if f.id == "data/not-fed"] == ["Of each sample only arrays are fed, not '.cls'."]
    labels = data.labels()
    assert labels is not None and next(labels)["_label"].tolist() == [4]


def test_an_array_without_a_name_is_the_only_input(tmp_path: Path) -> None:
    place = shard(tmp_path / "s.tar", [("a.npy", npy(floats(3))), ("b.npy", npy(floats(1, 3))), ("c.npz", npz(arr_0=floats(1, 3)))])
    assert rows(open_data(place, [X])) == [floats(1, 3).tolist()] * 3
    with pytest.raises(DataError, match=r"without a name, and the model's inputs are 'x', 'k'.*KEY.INPUT.npy"):
        open_data(place, [X, K])


def test_pictures_are_prepared_as_those_of_a_folder(tmp_path: Path) -> None:
    members = [(f"{i}.{ending}", content) for i in range(3) for ending, content in (("png", picture(10 * i)), ("json", b"{}"))]
    data = open_data(shard(tmp_path / "s.tar", members), [PICTURE])
    (tmp_path / "folder").mkdir()
    for i in range(3):
        (tmp_path / "folder" / f"{i}.png").write_bytes(picture(10 * i))
    assert rows(data, "p") == rows(open_data(tmp_path / "folder", [PICTURE]), "p")
    with pytest.raises(DataError, match=r"3 pictures, and the model takes 'f' as float .*cannot be guessed"):
        open_data(tmp_path / "s.tar", [TensorSpec("f", "float", ("n", 3, 2, 4))])


def test_workers_read_samples_from_where_they_lie(tmp_path: Path) -> None:
    place = shard(tmp_path / "s.tar", [(f"{i:03}.npz", npz(x=floats(1, 300) + i)) for i in range(40)])
    data = open_data(place, [TensorSpec("x", "float", ("n", 300))]).part(lambda position: position % 4 != 3)
    parts = [pickle.dumps(part) for part in data.parts(8)]
    assert max(map(len, parts)) < 4000  # not the 9600 bytes of the numbers
    assert [feed["x"].tolist() for part in parts for feed in pickle.loads(part)] == rows(data)


def test_what_is_known_of_samples_is_a_few_bytes_of_each(tmp_path: Path) -> None:
    held = []
    for count in (200, 2200):
        place = shard(tmp_path / f"{count}.tar", [(f"{i:06}.x.npy", npy(floats(1, 3) + i)) for i in range(count)])
        tracemalloc.start()
        data = open_data(place, [X])
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(data) == count
    assert held[1] - held[0] < 150 * 2000


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([], "there are no samples in it"),
        ([("a.txt", b"hello")], r"s.tar at byte 0: this sample has '\.txt', and no arrays.*KEY.npz"),
        ([("a.npz", npz(x=floats(1, 3))), ("b.npz", npz(y=floats(1, 3)))], r"s.tar at byte 1024: .*'x'"),
        ([("a.npz", b"nonsense")], r"s.tar at byte 0: this is not a .npz file"),
        ([("a.npy", npy(np.array([None])))], "holds Python objects, which would have to be unpickled"),
    ],
)
def test_what_is_wrong_with_a_sample(members: list[tuple[str, bytes]], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        open_data(shard(tmp_path / "s.tar", members), [X])


def test_files_that_cannot_be_read_in_parts(tmp_path: Path) -> None:
    members = [("a.npz", npz(x=floats(1, 3))), ("b.npz", npz(x=floats(1, 3)))]
    with pytest.raises(DataError, match=r"no tar file that can be read in parts.*uncompressed"):
        open_data(shard(tmp_path / "packed.tar", members, "w:gz"), [X])
    (tmp_path / "text.tar").write_text("no tar file at all")
    with pytest.raises(DataError, match="no tar file that can be read in parts"):
        open_data(tmp_path / "text.tar", [X])
    whole = shard(tmp_path / "whole.tar", members).read_bytes()
    for end in (600, 1400, 1700):  # in the first array, in the second header, in the second array
        (tmp_path / "cut.tar").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cut.tar: this is no tar file that can be read in parts"):
            open_data(tmp_path / "cut.tar", [X])
