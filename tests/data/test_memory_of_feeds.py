"""What a process holds does not grow with the number of feeds, but for a few bytes of each."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from graphcompress.data import Dataset, open_data, split
from graphcompress.ir.model.objects import TensorSpec

X = TensorSpec("x", "float", ("n", 64))
BYTES_A_FEED = 90

GROWTH = """
import sys
from graphcompress.data import open_data
from graphcompress.ir.model.objects import TensorSpec

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

inputs = [TensorSpec("x", "float", ("n", 64 * 1024))]
open_data(sys.argv[1], inputs)  # what the first use of a module costs
before = peak()
for feed in open_data(sys.argv[2], inputs):
    assert feed["x"].shape == (1, 64 * 1024)
print(peak() - before)
"""


def numbers(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 64)).astype(np.float32)


def test_what_is_known_of_feeds_is_a_few_bytes_of_each(tmp_path: Path) -> None:
    counts = 1_000, 9_000
    held = []
    for count in counts:
        np.save(tmp_path / "x.npy", numbers(count))
        tracemalloc.start()
        data = open_data(tmp_path / "x.npy", [X])
        parts = split(data)
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(parts[0]) + len(parts[1]) == count
    assert held[1] - held[0] < BYTES_A_FEED * (counts[1] - counts[0])


def test_a_large_array_does_not_stay_in_memory(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not say what a process had in memory at most")
    rows = np.random.default_rng(0).standard_normal((256, 64 * 1024)).astype(np.float32)
    for order in ("C", "F"):
        np.save(tmp_path / f"{order}.npy", np.asarray(rows[: 256 if order == "C" else 2], order=order))
    script = [sys.executable, "-c", GROWTH, str(tmp_path / "F.npy"), str(tmp_path / "C.npy")]
    growth = int(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    assert growth < rows.nbytes / 1024 / 4


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_a_file_are_those_of_the_array(order: Literal["C", "F"], tmp_path: Path) -> None:
    array = np.asarray(numbers(12).reshape(12, 8, 8), order=order)
    np.save(tmp_path / "x.npy", array)
    data = open_data(tmp_path / "x.npy", [TensorSpec("x", "float", (3, 8, 8))])
    assert [feed["x"].tolist() for feed in data] == [array[i : i + 3].tolist() for i in range(0, 12, 3)]
    (tmp_path / "one").mkdir()
    np.save(tmp_path / "one" / "a.npy", array)
    np.save(tmp_path / "one" / "b.npy", -array)
    feeds = list(open_data(tmp_path / "one", [TensorSpec("x", "float", (12, 8, 8))]))
    assert [feed["x"].tolist() for feed in feeds] == [array.tolist(), (-array).tolist()]


def test_each_repeated_feed_is_known_by_the_first_like_it(tmp_path: Path) -> None:
    rows = numbers(40)
    rows[[7, 30, 31]], rows[39] = rows[3], rows[12]
    np.save(tmp_path / "x.npy", rows)
    data = open_data(tmp_path / "x.npy", [X])
    assert dict(data.repeats) == {7: 3, 30: 3, 31: 3, 39: 12}
    calibration, judging, _ = split(data)
    seen: list[Dataset] = [calibration, judging]
    firsts = [{data.repeats.get(i, i) for i in part.indices} for part in seen]
    assert not firsts[0] & firsts[1] and len(firsts[0] | firsts[1]) == 36
