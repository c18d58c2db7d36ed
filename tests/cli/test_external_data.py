"""Models with external data: results own their data, and say where it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from graphcompress import api


def externalized(name: str, data: str, *, smallest: int = 0, constants: bool = False) -> None:
    """Write model.onnx as `name` with its tensors in `data`; with `constants` they are values of Constant nodes."""
    model = onnx.load("model.onnx")
    if constants:
        for tensor in list(model.graph.initializer)[::-1]:
            model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
        del model.graph.initializer[:]
    onnx.save(model, name, save_as_external_data=True, location=data, size_threshold=smallest, convert_attribute=constants)


def outputs(path: str) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values: np.ndarray[Any, Any] = session.run(None, {"x": np.load("feeds.npz")["x"][:4]})[0]
    return values


@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize("command", ["simplify", "quantize", "compress"])
def test_results_need_no_file_of_their_source(place: Path, run: Any, command: str, constants: bool) -> None:
    """Small tensors and large ones, initializers and values of nodes: all lie outside."""
    externalized("big.onnx", "big.onnx.data", constants=constants)
    expected = outputs("model.onnx")
    data = [] if command == "simplify" else ["--data", "feeds.npz", "--no-measure"]
    done = run(command, "big.onnx", "-o", "big.small.onnx", *data)
    assert done.status == 0, done.err
    for name in ("big.onnx", "big.onnx.data"):
        os.unlink(name)
    assert not Path("big.small.onnx.data").exists()
    assert np.abs(outputs("big.small.onnx") - expected).max() < 0.2 * np.abs(expected).max()


def test_a_data_file_is_named(place: Path, run: Any) -> None:
    done = run("simplify", "model.onnx", "-o", "out.onnx", "--external-data", "--record", "r.json")
    assert "Written to out.onnx and " in done.out and "out.onnx.data" in done.out
    record = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert record["output"] == "out.onnx" and Path(record["output_data"]).samefile("out.onnx.data")
    assert record["after"]["bytes"] <= Path("out.onnx").stat().st_size + Path("out.onnx.data").stat().st_size
    np.testing.assert_allclose(outputs("out.onnx"), outputs("model.onnx"), rtol=1e-4, atol=1e-5)
    again = run("simplify", "model.onnx", "-o", "out.onnx", "--external-data", "--record", "r.json")
    assert again.status == 0, again.err


def test_one_file_is_named_alone(place: Path, run: Any) -> None:
    done = run("simplify", "model.onnx", "-o", "out.onnx", "--record", "r.json")
    assert done.out.endswith("Written to out.onnx.\n")
    assert json.loads(Path("r.json").read_text(encoding="utf-8"))["output_data"] is None


def test_a_foreign_data_file_is_seen_before_the_work(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "simplify", lambda *_, **__: pytest.fail("the work has begun"))
    Path("out.onnx.data").write_bytes(b"a thesis")
    done = run("simplify", "model.onnx", "-o", "out.onnx", "--external-data")
    assert done.status == 2 and "out.onnx.data exists and does not belong to out.onnx" in done.err and "Remove it, or give another path." in done.err
    assert Path("out.onnx.data").read_bytes() == b"a thesis"


def test_a_foreign_data_file_is_left_alone_where_none_is_needed(place: Path, run: Any) -> None:
    Path("out.onnx.data").write_bytes(b"a thesis")
    assert run("simplify", "model.onnx", "-o", "out.onnx").status == 0
    assert Path("out.onnx.data").read_bytes() == b"a thesis"


def test_models_of_2_gib_are_checked_as_if_it_were_asked_for(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphcompress.ir.files.serialize.LARGEST_MESSAGE", 1000)
    done = run("simplify", "model.onnx", "-o", "out.onnx")
    assert done.status == 0 and "out.onnx.data" in done.out
    Path("other.onnx.data").write_bytes(b"a thesis")
    assert "does not belong" in run("simplify", "model.onnx", "-o", "other.onnx").err


@pytest.mark.parametrize(("output", "record"), [("model", None), ("out.onnx", "out.onnx.data")])
def test_the_data_file_is_no_other_file_of_the_command(place: Path, run: Any, output: str, record: str | None) -> None:
    externalized("big.onnx", "model.data")
    done = run("simplify", "big.onnx", "-o", output, "--external-data", *(["--record", record] if record else []))
    assert done.status == 2 and ("external data of big.onnx" in done.err or "--record out.onnx.data is where the external data" in done.err)


@pytest.mark.parametrize("failing", ["out.onnx", "out.onnx.data", "r.json"])
def test_all_files_or_none(place: Path, run: Any, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("simplify", "model.onnx", "-o", "out.onnx", "--external-data", "--record", "r.json").status == 0
    before = {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()}
    replace = os.replace

    def sometimes(source: Any, target: Any) -> None:
        if Path(target).name == failing and str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", sometimes)
    done = run("quantize", "model.onnx", "-o", "out.onnx", "--external-data", "--record", "r.json", "--data", "feeds.npz", "--no-measure")
    assert done.status == 2 and failing in done.err and "No space left" in done.err
    assert {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()} == before
