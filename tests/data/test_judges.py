"""Feeds that make poor judges, what is held out, and random feeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feed_forms import FIXED, X, floats, folder, stacked, values

from graphcompress.data import Dataset, memory_data, open_data, random_data, split
from graphcompress.errors import DataError
from graphcompress.ir import TensorSpec

# --- poor judges ----------------------------------------------------------------------------------------------------------------------


def ids(data: Dataset) -> list[str]:
    return [finding.id for finding in data.findings()]


@pytest.mark.parametrize("form", ["folder", "stacked", "list"])
def test_poor_feeds_are_told(tmp_path: Path, form: str) -> None:
    def found(name: str, array: np.ndarray[Any, Any]) -> list[str]:
        place = tmp_path / name
        place.mkdir()
        feeds = [{"x": array[i : i + 1]} for i in range(len(array))]
        match form:
            case "folder":
                return ids(open_data(folder(place, *feeds), [X]))
            case "stacked":
                return ids(open_data(stacked(place, x=array), [X]))
        return ids(memory_data(feeds, [X]))

    different = floats(16, 3)
    assert found("different", different) == []
    assert found("zeros", np.zeros((16, 3), np.float32)) == ["data/constant", "data/identical"]
    assert found("flat", np.repeat(np.arange(16, dtype=np.float32)[:, None], 3, axis=1)) == ["data/constant"]
    assert found("alike", np.repeat(different[:1], 16, axis=0)) == ["data/identical"]
    assert found("repeated", np.concatenate([different[:8], different[:8]])) == ["data/repeated"]
    assert found("one", different[:1]) == []


def test_an_input_that_never_varies_is_named() -> None:
    state = TensorSpec("h", "float", ("n", 2))
    rate = TensorSpec("sr", "int64", ("n",))
    feeds = [{"x": floats(1, 3) + i, "h": np.full((1, 2), 0.5, np.float32), "sr": np.array([16000])} for i in range(4)]
    data = memory_data(feeds, [X, state, rate])
    assert [f.text for f in data.findings()] == ["Input 'h' is 0.5 in all 4 feeds: what depends on it was not judged."]
    zero = memory_data([{**feed, "h": np.zeros((1, 2), np.float32)} for feed in feeds], [X, state, rate])
    assert zero.findings()[0].text.startswith("Input 'h' is zero in all 4 feeds")
    feeds[2]["h"] = np.full((1, 2), 0.25, np.float32)
    assert ids(memory_data(feeds, [X, state, rate])) == []


def test_random_feeds_are_no_judges() -> None:
    data = random_data([X], 16, seed=0)
    assert ids(data) == ["data/random"] and data.findings()[0].voids_bound
    assert ids(split(data)[1]) == ["data/random"]


@pytest.mark.parametrize("total", [1, 2, 7])
def test_nothing_held_out_is_a_finding(total: int) -> None:
    calibration, judging, note = split(memory_data(floats(total, 3), [X]))
    assert ids(calibration) == [] and ids(judging) == ["data/not-held-out"] and judging.findings()[0].voids_bound
    assert judging.findings()[0].text == note and note.startswith("Nothing was held out")


def test_a_feed_that_equals_a_held_out_one_does_not_calibrate() -> None:
    rows = floats(10, 3)
    calibration, judging, note = split(memory_data(np.concatenate([rows, rows[3:4], rows[0:1]]), [X]))
    assert [int(f["x"][0, 0]) // 3 for f in judging] == [3, 7] and ids(judging) == []
    assert [int(f["x"][0, 0]) // 3 for f in calibration] == [0, 1, 2, 4, 5, 6, 8, 9, 0]
    assert "Judged on 2 of 12 feeds" in note


def test_few_different_feeds_are_few_feeds() -> None:
    rows = floats(7, 3)
    calibration, judging, note = split(memory_data(np.concatenate([rows] * 5), [X]))
    assert len(calibration) == len(judging) == 35 and "of which 7 differ" in note
    assert ids(judging) == ["data/not-held-out", "data/repeated"]


def test_stacked_files_in_a_folder_are_told(tmp_path: Path) -> None:
    data = open_data(folder(tmp_path, {"x": floats(64, 3)}, {"x": floats(32, 3)}), [X])
    assert ids(data) == ["data/perhaps-stacked"] and "one feed of 32 to 64 rows" in data.findings()[0].text
    state = TensorSpec("h", "float", ("n", 2))
    assert ids(open_data(folder(tmp_path / "a", {"x": floats(64, 3), "h": floats(2, 2)}), [X, state])) == []
    assert ids(open_data(folder(tmp_path / "b", *({"x": floats(2, 3) + i} for i in range(8))), [X])) == []
    with pytest.raises(DataError, match=r"axis 0 of the array 'x' has 64 elements.*Expected 2.*give the file itself instead of its folder"):
        open_data(folder(tmp_path / "c", {"x": floats(64, 3)}, {"x": floats(2, 3)}), [FIXED])


# --- random feeds -----------------------------------------------------------------------------------------------------------------------


def test_random_feeds_are_the_same_every_time() -> None:
    specs = [X, TensorSpec("i", "int64", (4,)), TensorSpec("b", "uint8", (1000,)), TensorSpec("s", "string", (2,)), TensorSpec("m", "bool", ())]
    data = random_data(specs, 3, seed=5)
    again = values(random_data(specs, 3, seed=5).part(lambda i: i == 2))[0]
    assert data.random and len(data) == 3
    for name, value in values(data)[2].items():
        np.testing.assert_array_equal(value, again[name])
    assert again["x"].shape == (1, 3) and again["x"].dtype == np.float32
    assert set(again["i"]) <= {0, 1} and again["b"].max() > 200
    assert random_data(specs, 3, seed=6).sha256 != data.sha256


def test_no_random_feed_for_what_is_no_tensor() -> None:
    with pytest.raises(DataError, match="'q'"):
        random_data([TensorSpec("q", None, None, "sequence")], 1, 0)


def test_free_dimensions_of_random_feeds() -> None:
    specs = [
        TensorSpec("image", "float", ("batch", 3, "height", None)),
        TensorSpec("mask", "int64", ("batch", "past + time")),
        TensorSpec("cache", "float", ("batch", 2, "past", 4)),
        TensorSpec("tokens", "int64", ("batch", "time")),
        TensorSpec("samples", "float", ("n",)),
        TensorSpec("odd", "float", (None, "3 * time", "unknown - 1", "past - past")),
    ]
    shapes = {name: value.shape for name, value in values(random_data(specs, 1, 0, free=8))[0].items()}
    assert shapes == {"image": (1, 3, 8, 8), "mask": (1, 16), "cache": (1, 2, 8, 4), "tokens": (1, 8), "samples": (8,), "odd": (1, 24, 8, 8)}
    assert random_data(specs, 1, 0, free=8).sha256 != random_data(specs, 1, 0).sha256
