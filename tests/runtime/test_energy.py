"""Counters of energy, read from a folder like Linux's, and the estimate."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graphcompress.runtime import energy


def package(root: Path, number: int, microjoules: int, limit: int = 1_000_000) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    for name, text in {"name": f"package-{number}", "energy_uj": str(microjoules), "max_energy_range_uj": str(limit)}.items():
        (folder / name).write_text(text + "\n")
    return folder / "energy_uj"


def test_all_packages_are_read_and_nothing_else(tmp_path: Path) -> None:
    package(tmp_path, 0, 5)
    package(tmp_path, 1, 7)
    core = package(tmp_path, 2, 1)
    (core.parent / "name").write_text("core\n")
    broken = package(tmp_path, 3, 1)
    broken.write_text("no number")
    assert [counter.read() for counter in energy.counters(tmp_path)] == [5, 7]
    assert energy.counters(tmp_path / "absent") == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_counter_that_is_kept_from_this_user_is_none(tmp_path: Path) -> None:
    package(tmp_path, 0, 5).chmod(0)
    assert energy.counters(tmp_path) == []


def test_joules_of_a_run_over_the_end_of_a_counter(tmp_path: Path) -> None:
    files = package(tmp_path, 0, 900_000), package(tmp_path, 1, 100_000)

    def run() -> None:  # 150 mJ and 50 mJ each time
        for file, more in zip(files, (150_000, 50_000), strict=True):
            file.write_text(str((int(file.read_text()) + more) % 1_000_000))

    assert energy.joules_per_run(energy.counters(tmp_path), run, seconds=0.0) == pytest.approx(0.2)
    assert energy.joules_per_run([], run) is None


def test_the_estimate_counts_macs_by_type_and_bytes() -> None:
    assert energy.estimate(1_000_000, 0, 0) == pytest.approx(4.6e-6)
    assert energy.estimate(0, 1_000_000, 1000) == pytest.approx(0.3e-6 + 0.16e-6)
