"""Feeds from files: streamed, checked, hashed; files that are none."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from feed_forms import FIXED, X, floats, folder, stacked, values
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.data import open_data, split
from graphcompress.errors import DataError
from graphcompress.ir import TensorSpec

# --- reading --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_stacked_is_cut_one_by_one(tmp_path: Path, compressed: bool) -> None:
    data = open_data(stacked(tmp_path, compressed, x=floats(4, 3), _label=np.arange(4)), [X])
    assert len(data) == 4
    for _ in range(2):  # again, from the start
        np.testing.assert_array_equal(np.concatenate([f["x"] for f in data]), floats(4, 3))
    assert [list(f) for f in data] == [["x"]] * 4 and next(iter(data))["x"].shape == (1, 3)


def labels(data: Any) -> list[dict[str, Any]]:
    return [{name: np.asarray(value).tolist() for name, value in truth.items()} for truth in data.labels()]


@pytest.mark.parametrize("compressed", [False, True])
def test_labels_are_cut_as_the_feeds_are_and_go_with_them(tmp_path: Path, compressed: bool) -> None:
    data = open_data(stacked(tmp_path, compressed, x=floats(8, 3), _label=np.arange(8), _box=np.arange(16).reshape(8, 2)), [X])
    assert labels(data)[2] == {"_label": [2], "_box": [[4, 5]]} and len(labels(data)) == 8
    assert [truth["_label"] for truth in labels(data.part(lambda i: i % 4 == 3))] == [[3], [7]]
    by_two = open_data(stacked(tmp_path, compressed, x=floats(8, 3), _label=np.arange(8)), [FIXED])
    assert [truth["_label"] for truth in labels(by_two)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_labels_of_a_folder_are_those_of_each_file(tmp_path: Path) -> None:
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", x=floats(1, 3), _text=np.array(f"line {i}"))
    assert labels(open_data(tmp_path, [X])) == [{"_text": f"line {i}"} for i in range(3)]


def test_without_labels_there_are_none(tmp_path: Path) -> None:
    assert open_data(stacked(tmp_path, x=floats(4, 3), _about=np.arange(5)), [X]).labels() is None
    assert open_data(stacked(tmp_path, x=floats(4, 3)), [X]).labels() is None


def test_stacked_is_cut_by_the_fixed_dimension(tmp_path: Path) -> None:
    data = open_data(stacked(tmp_path, x=floats(6, 3)), [FIXED])
    assert [f["x"].shape for f in data] == [(2, 3)] * 3


def test_remainder_names_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.npz.*'x' has 7 rows.*exactly 2 at a time.*Remove 1 rows or add 1"):
        open_data(stacked(tmp_path, x=floats(7, 3)), [FIXED])


def test_inputs_with_different_first_dimensions(tmp_path: Path) -> None:
    state = TensorSpec("h", "float", (2, "n", 4))
    rate = TensorSpec("sr", "int64", ())
    path = stacked(tmp_path, x=floats(5, 3), h=floats(10, 1, 4), sr=np.arange(5))
    found = values(open_data(path, [X, state, rate]))
    assert [(f["x"].shape, f["h"].shape, f["sr"].shape, int(f["sr"])) for f in found] == [((1, 3), (2, 1, 4), (), i) for i in range(5)]


def test_one_scalar_for_all_feeds(tmp_path: Path) -> None:
    found = values(open_data(stacked(tmp_path, x=floats(3, 3), sr=np.array(16000)), [X, TensorSpec("sr", "int64", ())]))
    assert [int(f["sr"]) for f in found] == [16000] * 3


def test_different_numbers_of_feeds_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'x' is enough for 4 feeds and 'k' for 5"):
        open_data(stacked(tmp_path, x=floats(4, 3), k=floats(5, 3)), [X, TensorSpec("k", "float", ("n", 3))])


def test_folder_in_name_order_with_ragged_shapes(tmp_path: Path) -> None:
    place = folder(tmp_path, {"x": floats(1, 3)}, {"x": floats(5, 3)}, {"x": floats(2, 3), "_label": floats(1)})
    (place / "note.txt").write_text("not a feed")
    assert [f["x"].shape for f in open_data(place, [X])] == [(1, 3), (5, 3), (2, 3)]


def test_optional_inputs_may_be_left_out(tmp_path: Path) -> None:
    default = TensorSpec("w", "float", (3,))
    place = folder(tmp_path, {"x": floats(1, 3)}, {"x": floats(1, 3), "w": floats(3)})
    assert [sorted(f) for f in open_data(place, [X], [default])] == [["x"], ["w", "x"]]


def test_parts(tmp_path: Path) -> None:
    data = open_data(stacked(tmp_path, x=floats(9, 3)), [X])
    odd = data.part(lambda i: i % 2 == 1)
    assert len(odd) == 4 and [f["x"][0, 0] for f in odd] == [3, 9, 15, 21]
    assert [f["x"][0, 0] for f in odd.part(lambda i: i > 1)] == [15, 21]
    assert [f["x"][0, 0] for f in odd.take(1)] == [3]
    assert odd.sha256 == data.sha256


@pytest.mark.parametrize("total", [1, 7, 8, 30])
def test_every_fourth_is_held_out_from_eight_on(tmp_path: Path, total: int) -> None:
    data = open_data(stacked(tmp_path, x=floats(total, 3)), [X])
    calibration, held, note = split(data)
    if total < 8:
        assert len(calibration) == len(held) == total and "too few" in note
    else:
        assert len(held) == total // 4 and len(calibration) + len(held) == total
        assert [int(f["x"][0, 0]) // 3 for f in held] == list(range(3, total, 4))


@pytest.mark.parametrize("dtype", [">f4", "<f4"])
def test_byte_order_is_made_native(tmp_path: Path, dtype: str) -> None:
    (feed,) = open_data(stacked(tmp_path, x=np.array([[1, 2, 3]], dtype)), [X])
    assert feed["x"].dtype == np.float32 and feed["x"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("as_folder", [False, True])
def test_fortran_order(tmp_path: Path, as_folder: bool) -> None:
    array = np.asfortranarray(floats(4, 3))
    data = open_data(folder(tmp_path, {"x": array}) if as_folder else stacked(tmp_path, x=array), [X])
    np.testing.assert_array_equal(np.concatenate([f["x"] for f in data]), floats(4, 3))
    assert all(f["x"].flags.c_contiguous for f in data)


@pytest.mark.parametrize("array", [np.array(["a", "Ü"]), np.array([b"a", "Ü".encode()])])
def test_texts_become_objects(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    found = values(open_data(stacked(tmp_path, t=array), [TensorSpec("t", "string", ("n",))]))
    assert [f["t"].tolist() for f in found] == [["a"], ["Ü"]] and found[0]["t"].dtype == object


def test_types_that_numpy_saves_as_bytes(tmp_path: Path) -> None:
    array = floats(2, 3).astype(ml_dtypes.bfloat16)
    found = values(open_data(stacked(tmp_path, x=array), [TensorSpec("x", "bfloat16", ("n", 3))]))
    assert found[1]["x"].dtype == ml_dtypes.bfloat16 and found[1]["x"].astype(float).tolist() == [[3, 4, 5]]


@given(rows=st.integers(1, 40), keep=st.integers(1, 5), compressed=st.booleans())
def test_any_part_is_the_same_rows(tmp_path_factory: pytest.TempPathFactory, rows: int, keep: int, compressed: bool) -> None:
    path = stacked(tmp_path_factory.mktemp("d"), compressed, x=floats(rows, 3))
    part = open_data(path, [X]).part(lambda i: i % keep == 0)
    np.testing.assert_array_equal(np.concatenate([f["x"] for f in part]), floats(rows, 3)[::keep])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("fortran", [False, True])
def test_memory_does_not_grow_with_the_number_of_feeds(tmp_path: Path, compressed: bool, fortran: bool) -> None:
    """64 MiB in 64 feeds pass through in a few MiB."""
    spec = TensorSpec("x", "float", ("n", 1024, 256))
    path = stacked(tmp_path, compressed, x=np.zeros((64, 1024, 256), np.float32, order="F" if fortran else "C"))
    tracemalloc.start()
    assert sum(f["x"].shape[0] for f in open_data(path, [spec])) == 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


# --- the hash -------------------------------------------------------------------------------------------------------------------------


def test_hash_depends_on_fed_content_only(tmp_path: Path) -> None:
    def digest(name: str, compressed: bool = False, **arrays: np.ndarray[Any, Any]) -> str:
        (tmp_path / name).mkdir()
        return open_data(stacked(tmp_path / name, compressed, **arrays), [X]).sha256

    first = digest("a", x=floats(4, 3))
    assert first == digest("b", compressed=True, x=floats(4, 3), _label=floats(4))
    changed = floats(4, 3)
    changed[3, 2] += 1
    assert first != digest("c", x=changed)


# --- refusals -------------------------------------------------------------------------------------------------------------------------

NAN = floats(4, 3)
NAN[2, 1] = np.nan


def test_the_file_of_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"001\.npz: the array 'x' has NaN"):
        open_data(folder(tmp_path, {"x": floats(4, 3)}, {"x": NAN}), [X])


def test_single_number_is_no_stack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'x' is a single number"):
        open_data(stacked(tmp_path, x=np.float32(1)), [X])


def npy_bytes() -> bytes:
    stream = io.BytesIO()
    np.save(stream, floats(4, 3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "the file is empty"),
        (b"<html>", "not a .npz file"),
        (npy_bytes(), r"single array \(.npy\)"),
        (b"\x80\x04K\x01.", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=part):
        open_data(path, [X])


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_archive(tmp_path: Path, compressed: bool) -> None:
    path = stacked(tmp_path, compressed, x=floats(400, 3))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match="truncated or damaged"):
        open_data(path, [X])


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_array(tmp_path: Path, compressed: bool) -> None:
    path = stacked(tmp_path, compressed, x=floats(4000, 3))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"'x'.*damaged"):
        open_data(path, [X])


def test_header_that_promises_more(tmp_path: Path) -> None:
    content = npy_bytes()
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", content[:-4])
    with pytest.raises(DataError, match=r"the header of 'x' says float32 \[4, 3\], which is 48 bytes, and the file holds 44"):
        open_data(tmp_path / "data.npz", [X])


def test_entry_that_is_no_array(tmp_path: Path) -> None:
    path = stacked(tmp_path, x=floats(4, 3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"'readme.txt' is not an array file"):
        open_data(path, [X])


def test_wrong_ending(tmp_path: Path) -> None:
    path = stacked(tmp_path, x=floats(4, 3)).rename(tmp_path / "data.zip")
    with pytest.raises(DataError, match=r"'\.zip'"):
        open_data(path, [X])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_data(tmp_path / "none", [X])
    with pytest.raises(DataError, match="cannot be read"):
        open_data("a\0b", [X])
    with pytest.raises(DataError, match="pipe, a socket or a device"):
        open_data("/dev/null", [X])
    with pytest.raises(DataError, match=r"no .npz files.*empty"):
        open_data(tmp_path, [X])
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(DataError, match=r"no .npz files.*x\.bin"):
        open_data(tmp_path, [X])
