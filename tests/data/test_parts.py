"""Runs of feeds that go to other processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from feed_forms import X, floats, folder, stacked

from graphcompress.data import Dataset, memory_data, open_data


def through_pickle(data: Dataset, size: int) -> list[list[np.ndarray]]:
    parts = [pickle.loads(pickle.dumps(part)) for part in data.parts(size)]
    once = [[feed["x"] for feed in part] for part in parts]
    assert [[feed["x"].tolist() for feed in part] for part in parts] == [[x.tolist() for x in part] for part in once]  # again, from the start
    return once


@pytest.mark.parametrize("form", ["folder", "stack", "memory"])
def test_parts_are_the_feeds_in_order(tmp_path: Path, form: str) -> None:
    rows = [floats(1, 3) + i for i in range(7)]
    match form:
        case "folder":
            data = open_data(folder(tmp_path, *({"x": row} for row in rows)), [X])
        case "stack":
            data = open_data(stacked(tmp_path, x=np.concatenate(rows)), [X])
        case _:
            data = memory_data([{"x": row} for row in rows], [X])
    data = data.part(lambda position: position != 2)
    rest = [row for i, row in enumerate(rows) if i != 2]
    parts = through_pickle(data, 4)
    assert [len(part) for part in parts] == [4, 2]
    np.testing.assert_array_equal(np.concatenate([x for part in parts for x in part]), np.concatenate(rest))


def test_files_are_read_where_the_run_is_gone_through(tmp_path: Path) -> None:
    data = open_data(folder(tmp_path, *({"x": floats(1, 3)} for _ in range(40))), [X])
    (part,) = data.parts(40)
    (few,) = data.take(1).parts(40)
    assert len(pickle.dumps(few)) < len(pickle.dumps(part)) < 40 * 400  # paths, and of the run alone
    for file in tmp_path.glob("**/*.npz"):
        np.savez(file, x=floats(1, 3) + 1)
    assert next(feed["x"].tolist() for feed in part) == (floats(1, 3) + 1).tolist()
