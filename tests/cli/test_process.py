"""What only a process of its own shows: light errors, closed pipes, terminals, the module, the Make example."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("onnx", "onnxruntime", "numpy")
PROBE = """
import sys
from graphcompress.cli import main
status = main()
loaded = sorted(set({heavy}) & set(sys.modules))
print(status, loaded)
"""


def command(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "graphcompress", *arguments], capture_output=True, text=True, check=False, timeout=120, **more)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--recipe", "faulty.toml"],
        ["compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--recipe", "nothing"],
        ["compress", "model.onnx", "-o", "model.onnx", "--data", "feeds.npz"],
        ["simplify", "model.onnx", "-o", "absent/out.onnx"],
        ["quantize", "model.onnx", "-o", "out.onnx", "--exclude", "["],
        ["simplify", "model.onnx", "-o", "out.onnx", "--target", "nothing"],
    ],
    ids=" ".join,
)
def test_an_error_in_the_call_loads_nothing_heavy(place: Path, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "2 []\n", done.stderr


def test_a_reader_that_goes_away_is_no_error(place: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "graphcompress", "inspect", "model.onnx"], stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes there")
def test_names_of_files_are_bytes_in_any_locale(place: Path) -> None:
    """An ASCII locale, in which Python reads other names with escapes that no library takes."""
    shutil.copy("model.onnx", "\u30e2\u30c7\u30eb.onnx")
    shutil.copy("feeds.npz", "donn\u00e9es.npz")
    ascii = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = command(
        "compress",
        "\u30e2\u30c7\u30eb.onnx",
        "-o",
        "r\u00e9sultat.onnx",
        "--data",
        "donn\u00e9es.npz",
        "--no-measure",
        "-q",
        "--report",
        "\u00e9.html",
        env=ascii,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and Path("r\u00e9sultat.onnx").exists() and Path("\u00e9.html").exists()


def test_json_is_one_document_on_a_terminal_too(place: Path) -> None:
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "graphcompress", "validate", "model.onnx", "model.onnx", "--data", "feeds.npz", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert json.loads(done.stdout)["agreement"] == 1.0
    assert "compare" in shown  # the bar


def test_no_bars_without_a_terminal_and_none_when_quiet(place: Path) -> None:
    done = command("validate", "model.onnx", "model.onnx", "--data", "feeds.npz")
    assert done.returncode == 0 and done.stderr == "" and "\x1b" not in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_make_example_builds_and_stops_at_a_bar(place: Path, repository: Path) -> None:
    tool = f"{sys.executable} -m graphcompress"
    digits = repository / "models" / "digits_cnn"  # trained, so that its answers do not hang on rounding
    files = [f"MODEL={digits / 'model.onnx'}", f"DATA={digits / 'calib.npz'}"]
    call = ["make", "-f", str(repository / "docs" / "examples" / "Makefile"), *files, f"GRAPHCOMPRESS={tool}"]
    done = subprocess.run([*call, "all", "check"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (place / "build" / "model.small.onnx").exists() and json.loads((place / "build" / "model.record.json").read_text())["command"] == "compress"
    again = subprocess.run([*call, "-q"], capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 0  # up to date: make -q builds nothing
    stopped = subprocess.run([*call, "SPEEDUP=1000", "BUILD=stopped"], capture_output=True, text=True, check=False, timeout=300)
    assert stopped.returncode != 0 and "--min-speedup 1000 was not met" in stopped.stderr
    assert list((place / "stopped").iterdir()) == []


def test_the_page_on_build_steps_shows_the_make_example_as_it_is(repository: Path) -> None:
    page = (repository / "docs" / "build-steps.md").read_text(encoding="utf-8")
    shown = page.split("```make\n")[1].split("```")[0]
    assert shown in (repository / "docs" / "examples" / "Makefile").read_text(encoding="utf-8")
