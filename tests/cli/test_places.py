"""--on PLACE and places check, on a second Python of this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from graphcompress.cli.app import run

PLACES = f"""
[there]
command = ["{Path(sys.executable).as_posix()}"]

[emulated]
command = ["{Path(sys.executable).as_posix()}"]
timing = false

[gone]
command = ["/no/such/python"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with places and feeds; every test ends without a worker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    (tmp_path / "places.toml").write_text(PLACES, encoding="utf-8")
    np.savez(tmp_path / "feeds.npz", X=np.random.default_rng(0).random((12, 64), np.float32) * 16)
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    yield tmp_path
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= before


@pytest.fixture
def model(models: Path) -> str:
    return str(models / "digits_mlp" / "model.onnx")


def test_validate_runs_the_candidate_there(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", model, model, "--data", "feeds.npz", "--on", "there", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["place"], report["provider"], report["agreement"]) == ("there", "cpu", 1.0)
    assert run(["validate", model, model, "--data", "feeds.npz", "--on", "there"]) == 0
    assert "cpu at there" in capsys.readouterr().out


def test_compress_judges_there_and_measures_nothing_where_times_mean_nothing(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compress", model, "-o", "out.onnx", "--data", "feeds.npz", "--on", "emulated", "--format", "json"]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert record["place"] == "emulated" and record["measurements"] == [] and record["comparison"]["agreement"] >= 0.99
    assert "Times at the place 'emulated' mean nothing" in printed.err and Path("out.onnx").exists()
    assert run(["compress", model, "-o", "other.onnx", "--data", "feeds.npz", "--on", "emulated", "--min-speedup", "1.1"]) == 2
    assert "timing = false" in capsys.readouterr().err and not Path("other.onnx").exists()


@pytest.mark.slow
def test_benchmark_times_there(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", model, "--data", "feeds.npz", "--on", "there", "--provider", "cpu", "--threads", "1", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert [row["place"] for row in rows] == [None, "there"] and all(row["peak_memory_bytes"] > 10**7 for row in rows)


def test_times_of_an_emulator_are_no_benchmark(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", model, "--data", "feeds.npz", "--on", "emulated"]) == 2
    assert "'emulated' mean nothing" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["validate", "compress", "benchmark"])
def test_a_place_that_is_gone_is_one_paragraph_and_nothing_is_written(command: str, model: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    files = sorted(p.name for p in folder.iterdir())
    arguments = {"validate": [model, model], "compress": [model, "-o", "out.onnx"], "benchmark": [model]}[command]
    assert run([command, *arguments, "--data", "feeds.npz", "--on", "gone"]) == 2
    printed = capsys.readouterr()
    assert (
        printed.out == ""
        and printed.err.startswith("graphcompress: The place 'gone' cannot be started: /no/such/python")
        and len(printed.err.splitlines()) == 1
    )
    assert sorted(p.name for p in folder.iterdir()) == files


def test_a_name_that_is_none(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", model, model, "--data", "feeds.npz", "--on", "thee"]) == 2
    assert "Did you mean 'there'?" in capsys.readouterr().err


def test_check_tells_what_each_place_has_though_one_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["places", "check", "--format", "json"]) == 2
    places = {place["name"]: place for place in json.loads(capsys.readouterr().out)["places"]}
    there = places["there"]
    assert (
        there["runtime"].startswith("onnxruntime")
        and there["cores"] >= 1
        and there["memory"] > 2**20
        and there["clock_noise"] >= 0
        and "cpu" in there["providers"]
    )
    assert places["emulated"]["clock_noise"] is None
    assert "cannot be started" in places["gone"]["problem"] and places["gone"]["runtime"] is None
    assert run(["places", "check", "there"]) == 0
    assert "there" in capsys.readouterr().out


def test_check_without_any_place_says_where_they_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "places.toml").unlink()
    assert run(["places", "check"]) == 2
    assert "places.toml" in capsys.readouterr().err
