"""What is taken as feeds and what is refused, in every form alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feed_forms import FORMS, Arrays, X, floats, opened, stacked

from graphcompress.data import Dataset, memory_data, open_data, split
from graphcompress.errors import DataError
from graphcompress.ir import TensorSpec

NAN = floats(4, 3)
NAN[2, 1] = np.nan


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("spec", "arrays", "part"),
    [
        (X, {"y": floats(4, 3)}, r"'x' is missing; the model needs it as float \[n, 3\].*'y' \(float32 \[4, 3\]\)"),
        (X, {"_x": floats(4, 3)}, "'x' is missing.*no arrays to feed"),
        (X, {"X": floats(4, 3)}, "'x' is missing.*holds 'X' .*Did you mean 'X'?"),
        (X, {"x": floats(4, 3), "label": floats(4)}, "'label' is no input of the model.*begin with '_'"),
        (X, {"x": floats(4, 3, 1)}, r"'x' has 3 axes, \[4, 3, 1\]. Expected 2: float \[n, 3\]"),
        (X, {"x": floats(4, 5)}, r"axis 1 of the array 'x' has 5 elements.*Expected 3"),
        (X, {"x": floats(4, 3).astype(np.uint8)}, r"'x' is uint8. Expected float \[n, 3\].*astype\('float32'\)"),
        (TensorSpec("x", "int32", ("n", 3)), {"x": floats(4, 3).astype(np.int64)}, r"'x' is int64. Expected int32.*astype\('int32'\)"),
        (TensorSpec("x", "float16", ("n", 3)), {"x": floats(4, 3)}, r"'x' is float32. Expected float16"),
        (TensorSpec("x", "string", ("n", 3)), {"x": floats(4, 3)}, "'x' is float32. Expected string"),
        (X, {"x": np.array([["a", "b", "c"]])}, "'x' is .* Expected float"),
        (X, {"x": NAN}, "'x' has NaN.*row 2"),
        (X, {"x": np.array([[1, 2, None]], object)}, "'x' holds Python objects"),
        (TensorSpec("x", "string", ("n",)), {"x": np.array([b"\xff"])}, "'x' has bytes that are no UTF-8"),
        (X, {"x": np.zeros(3, [("a", "f4"), ("b", "f4")])}, "'x' has a structured type"),
        (X, {"x": floats(0, 3)}, r"'x' is empty, \[0, 3\]"),
        (TensorSpec("x", "float", ("n", "m")), {"x": floats(4, 0)}, r"'x' is empty, \[4, 0\]"),
        (TensorSpec("x", None, None, "sequence"), {"x": floats(4, 3)}, "'x' is a sequence"),
    ],
)
def test_unfit_arrays_are_named(tmp_path: Path, form: str, spec: TensorSpec, arrays: Arrays, part: str) -> None:
    with pytest.raises(DataError, match=part) as caught:
        opened(form, tmp_path, arrays, [spec])
    assert {"folder": "000.npz: ", "stacked": "data.npz: ", "dict": "the data: "}.get(form, "feed 0: ") in str(caught.value) or spec.kind == "sequence"
    assert "\n" not in str(caught.value)


# --- what is taken, from files and from memory alike --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_an_input_may_begin_with_an_underscore(tmp_path: Path, form: str) -> None:
    arrays = {"_x": floats(1, 3), "_label": floats(7)}
    assert [sorted(feed) for feed in opened(form, tmp_path, arrays, [TensorSpec("_x", "float", ("n", 3))])] == [["_x"]]


@pytest.mark.parametrize("form", FORMS)
def test_some_inputs_may_be_empty(tmp_path: Path, form: str) -> None:
    """A cache at its first step."""
    past = TensorSpec("past", "float", ("n", "p", 4))
    (feed,) = opened(form, tmp_path, {"x": floats(1, 3), "past": floats(1, 0, 4)}, [X, past])
    assert feed["past"].shape == (1, 0, 4)
    with pytest.raises(DataError, match=r"axis 1 of the array 'past' has 0 elements"):
        opened(form, tmp_path / form, {"x": floats(1, 3), "past": floats(1, 0, 4)}, [X, TensorSpec("past", "float", ("n", 2, 4))])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", [{}, {"w": floats(1, 3)}])
def test_initializers_that_may_be_overridden_and_optional_inputs_may_be_left_out(tmp_path: Path, form: str, given: Arrays) -> None:
    maybe = TensorSpec("o", None, None, "optional")
    (feed,) = opened(form, tmp_path, {"x": floats(1, 3), **given}, [X, maybe], (TensorSpec("w", "float", (1, 3)),))
    assert sorted(feed) == sorted(["x", *given])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [">f4", "<f4"])
def test_arrays_are_handed_on_as_onnxruntime_takes_them(tmp_path: Path, form: str, dtype: str) -> None:
    array = np.asfortranarray(np.array([[1, 2, 3]], dtype))
    (feed,) = opened(form, tmp_path, {"x": array}, [X])
    assert feed["x"].dtype == np.dtype("=f4") and feed["x"].dtype.isnative and feed["x"].flags.c_contiguous and feed["x"].tolist() == [[1, 2, 3]]


def test_the_hash_does_not_depend_on_the_form(tmp_path: Path) -> None:
    hashes = {opened(form, tmp_path, {"x": floats(1, 3)}, [X]).sha256 for form in FORMS if form != "dataset"}
    assert len(hashes) == 1


class Reader:
    def __init__(self, feeds: list[Arrays]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Arrays | None:
        return next(self.feeds, None)


def in_one_buffer() -> Any:
    """A generator that fills the same array again and again."""
    buffer = np.zeros((1, 3), np.float32)
    for i in range(4):
        buffer[:] = i
        yield {"x": buffer}


ROWS = np.repeat(np.arange(4, dtype=np.float32)[:, None], 3, axis=1)
FEEDS = [{"x": ROWS[i : i + 1]} for i in range(4)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: FEEDS,
        lambda: tuple(FEEDS),
        lambda: {"x": ROWS, "_label": [1, "two"]},
        lambda: ROWS,
        lambda: [ROWS[i : i + 1] for i in range(4)],
        lambda: (feed for feed in FEEDS),
        lambda: dict(enumerate(FEEDS)).values(),
        in_one_buffer,
        lambda: Reader(FEEDS),
        lambda: Dataset("of a caller", "0" * 64, range(4), lambda indices: (FEEDS[i] for i in indices)),
    ],
    ids=["list", "tuple", "dict", "array", "list of arrays", "generator", "view", "one buffer", "reader", "dataset"],
)
def test_forms_in_memory(make: Any) -> None:
    data = memory_data(make(), [X])
    for _ in range(2):
        assert [feed["x"].tolist() for feed in data] == [[[i] * 3] for i in range(4)]
    assert len(data) == 4 and data.part(lambda i: i == 2).__iter__().__next__()["x"][0, 0] == 2


def test_arrays_of_an_npz_file_in_memory(tmp_path: Path) -> None:
    with np.load(stacked(tmp_path, x=ROWS)) as file:
        assert len(memory_data(file, [X])) == 4
    np.savez(tmp_path / "objects.npz", x=np.array([[None]]))
    with np.load(tmp_path / "objects.npz") as file, pytest.raises(DataError, match=r"'x' is no array .*allow_pickle"):
        memory_data(file, [X])


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (None, "An object of type NoneType is no data. Data is a path"),
        (7, "An object of type int is no data"),
        (b"bytes", "An object of type bytes is no data"),
        ([], "The data is empty"),
        (iter([]), "The data is empty"),
        ([None], "feed 0: the array 'x' holds Python objects"),
        ([{0: ROWS}], "feed 0: the array 'x' is missing.*holds 0 "),
        ([{"x": [[1, 2], [3]]}], "feed 0: 'x' is no array"),
        ([{"x": ROWS}, {}], "feed 1: the array 'x' is missing"),
        (Dataset("short", "", range(3), lambda _: iter(FEEDS[:2])), "short: 3 feeds were announced and 2 could be read"),
    ],
)
def test_what_is_no_data_is_refused_in_a_sentence(data: Any, part: str) -> None:
    with pytest.raises(DataError, match=part):
        memory_data(data, [X])


@pytest.mark.parametrize("data", [ROWS, [ROWS]])
def test_an_array_without_a_name_needs_a_model_with_one_input(data: Any) -> None:
    with pytest.raises(DataError, match="without a name, and the model's inputs are 'x', 'k'"):
        memory_data(data, [X, TensorSpec("k", "float", ("n", 3))])


def test_a_dataset_is_checked_once_for_a_model(tmp_path: Path) -> None:
    data = open_data(stacked(tmp_path, x=ROWS), [X])
    assert memory_data(data, [X]) is data
    with pytest.raises(DataError, match="Expected 5"):
        memory_data(data, [TensorSpec("x", "float", ("n", 5))])
    held = split(memory_data(data, [TensorSpec("x", "float", (1, 3))]))[1]
    assert held.sha256 == data.sha256 and len(held) == 4


def test_labels_in_memory_are_handed_out_and_may_be_anything() -> None:
    x = floats(4, 3)
    stack = memory_data({"x": x, "_label": np.arange(4), "_note": "nothing to cut"}, [X])
    assert [int(t["_label"][0]) for t in stack.labels() or ()] == [0, 1, 2, 3] and all(t.keys() == {"_label"} for t in stack.labels() or ())
    listed = memory_data([{"x": x[i : i + 1], "_label": i} for i in range(4)], [X])
    assert [int(t["_label"]) for t in listed.labels() or ()] == [0, 1, 2, 3]
    assert memory_data([{"x": x[:1], "_note": ["a"]}], [X]).labels() is None
