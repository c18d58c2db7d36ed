"""The blocks of errors.md, run; and what becomes of bugs and interrupts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from graphcompress import api

DOCUMENT = Path(__file__).with_name("errors.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n\$ graphcompress ?(.*)\n((?:.*\n)*?)```", DOCUMENT, re.M)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file in the folder and what it holds."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("command", "expected"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_document(command: str, expected: str, place: Path, run: Any) -> None:
    before = snapshot(place)
    done = run(*shlex.split(command))
    assert done.err == expected
    assert done.out == ""
    assert done.status == 2
    assert snapshot(place) == before


def test_a_link_to_the_model_is_the_model(place: Path, run: Any) -> None:
    (place / "link.onnx").symlink_to("model.onnx")
    (place / "hard.onnx").hardlink_to("model.onnx")
    for name in ("link.onnx", "hard.onnx"):
        done = run("simplify", "model.onnx", "-o", name)
        assert done.status == 2 and "would be overwritten" in done.err


def test_a_missing_folder_is_found_before_the_work(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "open_model", lambda *_: pytest.fail("the work has begun"))
    for option in (["-o", "absent/out.onnx"], ["-o", "out.onnx", "--record", "absent/record.json"]):
        done = run("compress", "model.onnx", "--data", "feeds.npz", *option)
        assert done.status == 2 and "does not exist. Create it" in done.err


def test_a_file_in_the_place_of_the_folder_of_costs_is_found_before_the_work(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "calibrate", lambda *_, **__: pytest.fail("the work has begun"))
    Path("costs").touch()
    done = run("calibrate")
    assert done.status == 2 and "costs/here.json: the folder" in done.err and "bug" not in done.err


@pytest.mark.parametrize("spot", ["-o", "--record"])
def test_the_models_external_data_is_not_overwritten(place: Path, run: Any, spot: str) -> None:
    import onnx

    onnx.save(onnx.load("model.onnx"), "big.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    arguments = {"-o": ["-o", "big.bin"], "--record": ["-o", "out.onnx", "--record", "big.bin"]}[spot]
    before = snapshot(place)
    done = run("simplify", "big.onnx", *arguments)
    assert done.status == 2 and "big.bin holds the external data of big.onnx" in done.err
    assert snapshot(place) == before


def test_a_bug_is_a_report_and_shows_its_traceback_only_when_asked(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(api, "simplify", broken)
    done = run("simplify", "model.onnx", "-o", "out.onnx")
    assert done.status == 2 and done.out == ""
    assert done.err.startswith("graphcompress: This is a bug in graphcompress: ZeroDivisionError: division by zero.") and "Traceback" not in done.err
    assert "Traceback" in run("simplify", "model.onnx", "-o", "out.onnx", "--debug").err


def test_an_interrupt_ends_with_130_and_leaves_nothing(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    before = snapshot(place)
    monkeypatch.setattr("graphcompress.transaction.Staged.finish", interrupted)
    done = run("simplify", "model.onnx", "-o", "out.onnx", "--record", "record.json")
    assert done.status == 130 and "Interrupted" in done.err
    assert snapshot(place) == before


def test_where_the_model_cannot_be_written_there_is_no_record_either(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (place / "record.json").write_text("the old one")
    before = snapshot(place)
    monkeypatch.setattr("graphcompress.ir.files.write.FilePlan.stage", full)
    assert run("simplify", "model.onnx", "-o", "out.onnx", "--record", "record.json").status == 2
    assert snapshot(place) == before


def test_names_out_of_files_cannot_drive_a_terminal(place: Path, run: Any) -> None:
    done = run("simplify", "model.onnx", "-o", "absent\x1b[31m/out.onnx")
    assert done.status == 2 and "\x1b" not in done.err


@pytest.mark.parametrize("command", ["compress", "quantize"])
def test_a_provider_that_is_not_there_is_found_before_the_work(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr("graphcompress.step.PlannedStep.run", lambda *_: pytest.fail("the work has begun"))
    done = run(command, "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--provider", "warp")
    assert done.status == 2 and "'warp'" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("report", "FILE", "-o", "r.html"),
        ("explain", "model.onnx", "--record", "FILE"),
        ("diff", "model.onnx", "model.onnx", "--record", "FILE"),
        ("compress", "model.onnx", "-o", "o.onnx", "--data", "feeds.npz", "--decisions", "FILE"),
        ("compress", "model.onnx", "-o", "o.onnx", "--data", "feeds.npz", "--recipe", "./FILE"),
        ("compress", "model.onnx", "-o", "o.onnx", "--data", "feeds.npz", "--costs", "FILE"),
        ("compress", "model.onnx", "-o", "o.onnx", "--data", "feeds.npz", "--preprocess", "FILE"),
        ("compress", "model.onnx", "-o", "o.onnx", "--data", "FILE"),
    ],
)
@pytest.mark.parametrize("content", [b"\x08\t\x12\x9f\xff", b"{ not: this", b"{}"])
def test_a_file_that_is_something_else_is_named_without_pythons_words(words: tuple[str, ...], content: bytes, place: Path, run: Any) -> None:
    (place / "other.bin").write_bytes(content)
    done = run(*(word.replace("FILE", "other.bin") for word in words))
    assert done.status == 2 and "other.bin" in done.err and "codec" not in done.err and "pydantic" not in done.err and "type=" not in done.err
