"""Places where nothing can be written, and disks that fill up on the way."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from bad_input_bench import Bench, Case, Outcome, cases, check_refusal, differences, snapshot, tensor, try_case, value

ROOM = 64 * 1024


def pipe(bench: Bench) -> None:
    bench.out.unlink()
    os.mkfifo(bench.out)


def folder(bench: Bench) -> None:
    bench.out.unlink()
    bench.out.mkdir()


TABLE = [
    Case("output is a folder", "simplify {model} -o {out}", ("out.onnx", "folder"), folder),
    Case("output is the current folder", "simplify {model} -o .", ("folder",)),
    Case("output's folder is missing", "simplify {model} -o {here}/no/such/out.onnx", ("no/such", "does not exist")),
    Case("output lies below a file", "simplify {model} -o {out}/inner.onnx", ("out.onnx",)),
    Case("output is a pipe", "simplify {model} -o {out}", ("out.onnx", "regular file"), pipe),
    Case("output is a device", "simplify {model} -o /dev/full", ("/dev/full",)),
    Case("output is the null device", "simplify {model} -o /dev/null", ("/dev/null",)),
    Case("output is where nothing can be made", "simplify {model} -o /proc/out.onnx", ("/proc/out.onnx",)),
    Case("output is where nothing can be made, compress", "compress {model} -o /proc/out.onnx --data {data}", ("/proc/out.onnx",)),
    Case("output has too long a name", "simplify {model} -o {here}/" + "o" * 300, ("ooo",)),
    Case("output is empty", "simplify {model} -o ''", ("-o",)),
    Case("record is a folder", "simplify {model} -o {out} --record {data}", ("--record", "data", "folder")),
    Case("record's folder is missing", "simplify {model} -o {out} --record {here}/no/record.json", ("--record", "does not exist")),
    Case("record is where nothing can be made", "simplify {model} -o {out} --record /proc/record.json", ("--record", "/proc/record.json")),
]


@cases(TABLE)
def test_refused(bench: Bench, case: Case) -> None:
    try_case(bench, case)


def test_devices_are_still_devices() -> None:
    """The cases above must not have replaced them."""
    assert Path("/dev/null").is_char_device() and Path("/dev/full").is_char_device()


# --- full disks -----------------------------------------------------------------------------------------------------------------------


def grow(bench: Bench) -> None:
    """Make the model larger than the small disk."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(tensor("wide.weight", (4, 10_000), 7))
        model.graph.node.add(op_type="MatMul", name="wide", input=["scores", "wide.weight"], output=["wide.scores"])
        model.graph.output[0].CopyFrom(value("wide.scores", ("N", 10_000)))

    bench.change(edit)


@pytest.fixture
def small_disk(bench: Bench) -> Path:
    """A file system of 64 KiB with an earlier output on it."""
    place = bench.root / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)], capture_output=True, check=False) if os.geteuid() == 0 else None
    if made is None or made.returncode != 0:
        pytest.skip("no file system can be mounted here")
    bench.closing.append(lambda: subprocess.run(["umount", str(place)], check=True))
    (place / "out.onnx").write_bytes(b"the previous output")
    return place


@pytest.fixture
def read_only_disk(bench: Bench, small_disk: Path) -> Path:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    return small_disk


COMMANDS = "simplify {model} -o {root}/disk/out.onnx", "quantize {model} -o {root}/disk/out.onnx --data {data} --no-measure -q"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_leaves_what_was_there(bench: Bench, small_disk: Path, command: str) -> None:
    (small_disk / "ballast").write_bytes(bytes(ROOM - 3 * 4096))
    grow(bench)
    bench.refuses(command, "out.onnx", "(?i)no space")


def test_a_full_disk_with_external_data(bench: Bench, small_disk: Path) -> None:
    """Data and model are one transaction, and a folder made for the data goes too."""
    grow(bench)
    bench.externalize("weights/all.bin")
    bench.refuses("simplify {model} -o {root}/disk/out.onnx", "out.onnx", "(?i)no space")


def test_a_full_disk_under_the_record(bench: Bench, small_disk: Path) -> None:
    (small_disk / "record.json").write_bytes(b"the previous record")
    (small_disk / "ballast").write_bytes(bytes(ROOM - 2 * 4096))
    bench.refuses("simplify {model} -o {out} --record {root}/disk/record.json", "record.json", "(?i)no space")


def test_a_read_only_disk(bench: Bench, read_only_disk: Path) -> None:
    bench.refuses("simplify {model} -o {root}/disk/out.onnx", "out.onnx", "(?i)read-only")


def limited(bench: Bench, command: str, before: Callable[[], None] | None = None, **environment: str) -> Outcome:
    """Run the command in a process of its own."""
    words = [sys.executable, "-m", "graphcompress", *bench.words(command)]
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        words, capture_output=True, text=True, preexec_fn=before, env={**os.environ, "PYTHONPATH": paths, **environment}, check=False, timeout=120
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))


def test_a_limit_on_file_sizes_leaves_what_was_there(bench: Bench) -> None:
    """The same as a full disk where nothing can be mounted: the write fails in the middle."""
    grow(bench)
    before = snapshot(bench.root)
    outcome = limited(bench, "simplify {model} -o {out}", small_files)
    check_refusal(outcome, ("out.onnx", "(?i)too large"))
    assert differences(before, snapshot(bench.root)) == []


# --- a process of its own --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("simplify {here}/gone.onnx -o {out}", "gone.onnx does not exist"),
        ("compress {model} -o {out} --data {here}/gone", "gone"),
        ("benchmark {model} --provider warp", "warp"),
        ("compress {model} -o {model} --data {data}", "overwritten"),
    ],
)
def test_in_a_process_of_its_own(bench: Bench, command: str, says: str) -> None:
    before = snapshot(bench.root)
    check_refusal(limited(bench, command), (says,))
    assert differences(before, snapshot(bench.root)) == []


def test_a_closed_terminal_is_no_traceback(bench: Bench) -> None:
    outcome = limited(bench, "inspect {model} --format json", lambda: os.close(1))
    assert "Traceback" not in outcome.stderr


def test_a_console_that_knows_ascii_only(bench: Bench) -> None:
    bench.change(lambda m: m.graph.node[1].input.__setitem__(0, "größe\u2028日本"))
    before = snapshot(bench.root)
    check_refusal(limited(bench, "simplify {model} -o {out}", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C"), ("relu",))
    assert differences(before, snapshot(bench.root)) == []
