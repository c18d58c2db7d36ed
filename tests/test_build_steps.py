"""The examples of docs/build-steps.md, as far as they run without a forge: a bar that holds makes a file, one that does not stops the build and leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
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


def project(repository: Path, models: Path, place: Path, agreement: str, more: str = "") -> None:
    """The CMake example of the page, with the bar that is asked for, and `more` lines."""
    page = (repository / "docs" / "build-steps.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```cmake\n(.*?)```", page, re.DOTALL)
    place.mkdir()
    (place / "graphcompress").symlink_to(repository)
    (place / "CMakeLists.txt").write_text(example.replace("MIN_AGREEMENT 0.99", f"MIN_AGREEMENT {agreement}") + more)
    shutil.copy(models / "digits_mlp" / "model.onnx", place / "model.onnx")
    shutil.copy(models / "digits_mlp" / "calib.npz", place / "feeds.npz")


def stub(tools: dict[str, str]) -> dict[str, str]:
    """A graphcompress that writes its words, one a line, to OUT: what a build hands it, and when."""
    command = Path(tools["PATH"].partition(os.pathsep)[0]) / "graphcompress"
    command.write_text('#!/bin/sh\nfor word; do [ "$last" = -o ] && out=$word; last=$word; done\nprintf "%s\\n" "$@" > "$out"\n')
    return tools


def cmake(place: Path, tools: dict[str, str], *, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Configure and build."""
    done = subprocess.run(["cmake", "-S", place, "-B", place / "build"], env=tools, check=False, capture_output=True, text=True)
    if done.returncode == 0:
        done = subprocess.run(["cmake", "--build", place / "build"], env=tools, check=False, capture_output=True, text=True)
    assert expect is None or done.returncode == expect, done.stderr
    return done


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("make") is None, reason="no cmake here")
def test_cmake(repository: Path, models: Path, tmp_path: Path, tools: dict[str, str]) -> None:
    project(repository, models, tmp_path / "holds", "0.9")
    cmake(tmp_path / "holds", tools)
    result = tmp_path / "holds" / "build" / "model.small.onnx"
    assert result.exists() and result.with_name("model.small.onnx.record.json").exists()
    project(repository, models, tmp_path / "missed", "2")
    stopped = cmake(tmp_path / "missed", tools, expect=None)
    assert stopped.returncode != 0 and "--min-agreement" in stopped.stderr and not (tmp_path / "missed" / "build" / "model.small.onnx").exists()


def age(hours: int, *places: Path) -> None:
    """Set their times to so many hours ago."""
    for place in places:
        os.utime(place, (time.time() - 3600 * hours,) * 2)


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("make") is None, reason="no cmake here")
def test_what_cmake_hands_over_and_when(repository: Path, models: Path, tmp_path: Path, tools: dict[str, str]) -> None:
    """Paths with spaces, a bar of 0, names with dots; again when model, external data or a file of a folder changed, came or went, and not otherwise."""
    tools, place = stub(tools), tmp_path / "a project"
    project(repository, models, place, "0", 'graphcompress_model(second MODEL net.v2.onnx DATA "my data" OUTPUT "sub dir/v2.onnx" OPTIONS --seed 3)\n')
    inside = place / "my data" / "day 1" / "a b.jpg"
    inside.parent.mkdir(parents=True)
    for file in (inside, place / "net.v2.onnx"):
        file.touch()
    cmake(place, tools)
    words = (place / "build" / "model.small.onnx").read_text().splitlines()
    assert words[:5] == ["compress", f"{place}/model.onnx", "-o", f"{place}/build/model.small.onnx", "--data"]
    assert words[words.index("--min-agreement") + 1] == "0" and "--no-measure" in words
    second = place / "build" / "sub dir" / "v2.onnx"
    assert "my data" in second.read_text() and second.read_text().splitlines()[-3:] == ["--seed", "3", "-q"] and "--no-measure" not in second.read_text()

    def runs_again() -> bool:
        age(1, second)
        before = second.stat().st_mtime_ns
        cmake(place, tools)
        return second.stat().st_mtime_ns != before

    age(2, place / "net.v2.onnx", inside, inside.parent, inside.parent.parent)
    assert not runs_again()
    for touch in (place / "net.v2.onnx", place / "net.v2.onnx.data", inside, place / "my data" / "new.jpg"):
        touch.touch()
        assert runs_again(), touch
        age(2, touch, touch.parent)
    (place / "my data" / "new.jpg").unlink()
    assert runs_again()


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake here")
@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("MODEL m.onnx", "give MODEL and DATA"),
        ("MODEL m.onnx DATA", "without a value: 'DATA'|give MODEL and DATA"),
        ("MODEL a DATA b BARS 1", "not understood: 'BARS;1'"),
    ],
)
def test_what_cmake_refuses(repository: Path, models: Path, tmp_path: Path, tools: dict[str, str], words: str, part: str) -> None:
    project(repository, models, tmp_path / "p", "0.9", f"graphcompress_model(wrong {words})\n")
    done = cmake(tmp_path / "p", stub(tools), expect=None)
    assert done.returncode != 0 and re.search(part, " ".join(done.stderr.split()))


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_what_make_hands_over_and_when(repository: Path, tmp_path: Path, tools: dict[str, str]) -> None:
    """Data with spaces in their names; again when model, external data, preparation or a file of a folder changed, came or went, and not otherwise."""
    tools = stub(tools)
    model, data, ways = tmp_path / "net.v2.onnx", tmp_path / "my data", tmp_path / "ways.toml"
    inside = data / "day 1" / "a b.jpg"
    inside.parent.mkdir(parents=True)
    for file in (model, inside, ways):
        file.touch()
    result = tmp_path / "build" / "net.v2.small.onnx"
    call = ["make", "-f", repository / "docs" / "examples" / "Makefile", f"MODEL={model}", f"DATA={data}", f"PREPROCESS={ways}", "OPTIONS=--seed 3"]

    def runs_again() -> bool:
        age(1, *(place for place in (result,) if place.exists()))
        before = result.stat().st_mtime_ns if result.exists() else None
        done = subprocess.run(call, env=tools, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return result.stat().st_mtime_ns != before

    sources = (model, ways, inside, inside.parent, data)
    assert runs_again()
    words = result.read_text().splitlines()
    assert words[words.index("--data") + 1] == str(data) and words[words.index("--preprocess") + 1] == str(ways) and words[-3:] == ["--seed", "3", "-q"]
    age(2, *sources)
    assert not runs_again()
    for touch in (model, model.with_name("net.v2.onnx.data"), ways, inside, data / "new.jpg"):
        touch.touch()
        assert runs_again(), touch
        age(2, touch, data)
    (data / "new.jpg").unlink()
    assert runs_again()
    model.unlink()
    gone = subprocess.run(call, env=tools, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert gone.returncode == 2 and "net.v2.onnx" in gone.stderr


def test_the_words_of_the_actions_options(repository: Path, tmp_path: Path, tools: dict[str, str]) -> None:
    """On several lines, quoted, none; what cannot be split, and a path that would add lines to the step's outputs, end with 2."""
    script = ["bash", str(repository / "docs" / "examples" / "action.sh")]
    output = tmp_path / "my result.onnx"
    inputs = {"MODEL": "a model.onnx", "DATA": "my data", "OUTPUT": str(output), "PREPROCESS": "ways.toml"}

    def call(**more: str) -> subprocess.CompletedProcess[str]:
        output.unlink(missing_ok=True)
        return subprocess.run(script, env={**stub(tools), **inputs, **more}, check=False, capture_output=True, text=True)

    for options, words in {
        "--no-measure\n--exclude 'a b' \n": ["--no-measure", "--exclude", "a b"],
        "": [],
        "\n": [],
        "--exclude 'a\\.b'": ["--exclude", "a\\.b"],
    }.items():
        done = call(OPTIONS=options)
        assert done.returncode == 0, done.stderr
        assert output.read_text().splitlines()[-2 - len(words) :] == [*words, "--preprocess", "ways.toml"]
    assert call(OPTIONS="--exclude 'a").returncode == 2 and not output.exists()
    assert call(OUTPUT=f"{output}\nrecord=x").returncode == 2


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


def test_the_hook_of_lint_takes_what_pre_commit_gives(repository: Path, models: Path) -> None:
    """All changed files that match, in one call."""
    hooks = (repository / ".pre-commit-hooks.yaml").read_text()
    (entry,) = re.findall(r"entry: graphcompress (lint.*)", hooks)
    changed = [str(models / name / "model.onnx") for name in ("digits_mlp", "digits_cnn")]
    done = subprocess.run([sys.executable, "-m", "graphcompress", *entry.split(), *changed], cwd=repository, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and all(name in done.stdout for name in changed), done.stderr
    (files,) = re.findall(r"id: graphcompress-validate.*?files: (\S+)", hooks, re.DOTALL)
    assert all(re.search(files, name) for name in ("a.onnx", "a.onnx.data", "feeds/1.npz", "rows.csv", "p/b.jpeg")) and not re.search(files, "a.py")
