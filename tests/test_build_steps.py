"""The examples of docs/build-steps.md, as far as they run without a forge: a bar that holds makes a file, one that does not stops the build and leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="shell scripts")]


@pytest.fixture
def tools(repository: Path, tmp_path: Path) -> dict[str, str]:
    """An environment with the graphcompress of this repository on the path."""
    command = tmp_path / "bin" / "graphcompress"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{repository}" exec "{sys.executable}" -m graphcompress "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}


def project(repository: Path, models: Path, place: Path, agreement: str) -> None:
    """The CMake example of the page, with the bar that is asked for."""
    page = (repository / "docs" / "build-steps.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```cmake\n(.*?)```", page, re.DOTALL)
    place.mkdir()
    (place / "graphcompress").symlink_to(repository)
    (place / "CMakeLists.txt").write_text(example.replace("MIN_AGREEMENT 0.99", f"MIN_AGREEMENT {agreement}"))
    shutil.copy(models / "digits_mlp" / "model.onnx", place / "model.onnx")
    shutil.copy(models / "digits_mlp" / "calib.npz", place / "feeds.npz")


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("make") is None, reason="no cmake here")
def test_cmake(repository: Path, models: Path, tmp_path: Path, tools: dict[str, str]) -> None:
    def build(place: Path) -> subprocess.CompletedProcess[str]:
        subprocess.run(["cmake", "-S", place, "-B", place / "build"], env=tools, check=True, capture_output=True)
        return subprocess.run(["cmake", "--build", place / "build"], env=tools, check=False, capture_output=True, text=True)

    project(repository, models, tmp_path / "holds", "0.9")
    done = build(tmp_path / "holds")
    result = tmp_path / "holds" / "build" / "model.small.onnx"
    assert done.returncode == 0 and result.exists() and result.with_name("model.small.onnx.record.json").exists(), done.stderr
    made = result.stat().st_mtime_ns
    assert build(tmp_path / "holds").returncode == 0 and result.stat().st_mtime_ns == made
    project(repository, models, tmp_path / "missed", "2")
    stopped = build(tmp_path / "missed")
    assert stopped.returncode != 0 and "--min-agreement" in stopped.stderr and not (tmp_path / "missed" / "build" / "model.small.onnx").exists()


def test_the_actions_script(repository: Path, models: Path, tmp_path: Path, tools: dict[str, str]) -> None:
    place = models / "digits_mlp"
    inputs = {"MODEL": str(place / "model.onnx"), "DATA": str(place / "calib.npz"), "OUTPUT": str(tmp_path / "o.onnx"), "OPTIONS": "--no-measure -q"}
    outputs = tmp_path / "outputs"
    script = ["bash", str(repository / "docs" / "examples" / "action.sh")]
    done = subprocess.run(script, env={**tools, **inputs, "GITHUB_OUTPUT": str(outputs)}, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [Path(line.partition("=")[2]).exists() for line in outputs.read_text().splitlines()] == [True, True] and (tmp_path / "o.onnx").exists()
    (tmp_path / "o.onnx").unlink()
    odd = subprocess.run(script, env={**tools, **inputs, "MIN_AGREEMENT": "$(touch x)"}, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert odd.returncode == 2 and not (tmp_path / "x").exists() and not (tmp_path / "o.onnx").exists()


def test_the_hooks_entries_are_commands_and_options(repository: Path) -> None:
    entries = re.findall(r"entry: graphcompress (.+)", (repository / ".pre-commit-hooks.yaml").read_text())
    assert len(entries) == 2
    for entry in entries:
        command, *options = entry.split()
        page = subprocess.run([sys.executable, "-m", "graphcompress", command, "--help"], cwd=repository, capture_output=True, text=True, check=True).stdout
        assert all(option in page for option in options if option.startswith("-"))
