"""graphcompress matrix: what is right here and wrong there, and the layer that is at fault."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from graphcompress.cli.app import run
from graphcompress.cli.place_tables import cell_text

# A worker that computes Tanh wrong: what another runtime, or another processor, may do to one kind of layer.
FAULTY = """
import sys
from graphcompress.runtime import ort_session
from graphcompress.runtime.elsewhere import worker
import onnx
genuine = ort_session.OrtSession.__init__
def replaced(self, content, **settings):
    model = onnx.load_from_string(content)
    for node in model.graph.node:
        if node.op_type == "Tanh":
            node.op_type = "Atan"
    genuine(self, model.SerializeToString(), **settings)
ort_session.OrtSession.__init__ = replaced
worker.main()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    python = Path(sys.executable).as_posix()
    (tmp_path / "faulty.py").write_text(FAULTY, encoding="utf-8")
    (tmp_path / "places.toml").write_text(
        f'[there]\ncommand = ["{python}"]\n[gone]\ncommand = ["/no/such/python"]\n'
        f'[faulty]\ncommand = ["{python}", "faulty.py"]\nworker = "own"\nfolder = "."\nenv = {{ PYTHONPATH = "{repository.as_posix()}" }}\n',
        encoding="utf-8",
    )
    np.savez(tmp_path / "feeds.npz", x=np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32))
    save(network("Relu"), tmp_path / "relu.onnx")
    save(network("Tanh"), tmp_path / "tanh.onnx")
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    yield tmp_path
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= before


def network(op: str) -> object:
    """Three layers, the second one with `op`, which does little to the result unless it is wrong."""
    random = np.random.default_rng(1)
    weights = [numpy_helper.from_array(random.normal(size=(8, 8)).astype(np.float32), f"w{i}") for i in range(3)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Sigmoid", ["a"], ["b"], name="gate"),
        helper.make_node("MatMul", ["b", "w1"], ["c"], name="second"),
        helper.make_node(op, ["c"], ["d"], name="bend"),
        helper.make_node("MatMul", ["d", "w2"], ["y"], name="third"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def matrix(*words: str) -> int:
    return run(["matrix", *words, "--data", "feeds.npz", "--no-measure", "--kind", "y=values", "--format", "json"])


def test_right_here_and_wrong_there_names_the_first_layer_that_differs(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert matrix("tanh.onnx", "--on", "there,faulty,gone", "--svg", "m.svg") == 0
    report = json.loads(capsys.readouterr().out)
    cells = {cell["place"]: cell for cell in report["cells"]}
    assert report["places"] == ["here", "there", "faulty", "gone"]
    assert cells["here"]["agreement"] == cells["there"]["agreement"] == 1.0 and cells["there"]["faithful"]
    assert cells["faulty"]["agreement"] < 0.99 and not cells["faulty"]["faithful"] and cells["faulty"]["right_at"] in ("here", "there")
    assert [(layer["node"], layer["op"]) for layer in cells["faulty"]["layers"]] == [("bend", "Tanh")], "and no layer behind it, which only hands the error on"
    assert cells["faulty"]["layers"][0]["noise"] > 0.05
    assert "cannot be started" in cells["gone"]["problem"] and cells["gone"]["agreement"] is None
    picture = ET.parse(folder / "m.svg").getroot()
    text = " ".join(picture.itertext())
    assert "faulty" in text and "tanh.onnx" in text and "does not run" in text and "bend" in text


def test_the_first_model_is_the_reference_and_the_table_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["matrix", "relu.onnx", "tanh.onnx", "--data", "feeds.npz", "--on", "there", "--no-measure", "--kind", "y=values"]) == 0
    out = capsys.readouterr().out
    assert out.count("wrong") == 2, "the second model is another one, wherever it runs"
    assert "differs" not in out, "where it is right nowhere there is nothing to compare its layers with"


def test_a_bar_is_held_against_every_cell_in_which_the_first_model_runs(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert matrix("tanh.onnx", "--on", "there,gone", "--min-agreement", "0.99") == 0
    capsys.readouterr()
    assert matrix("tanh.onnx", "--on", "faulty", "--min-agreement", "0.99", "--svg", "m.svg") == 1
    assert json.loads(capsys.readouterr().out)["bars"][0]["held"] is False and (folder / "m.svg").exists()


@pytest.mark.slow
def test_times_are_beside_the_first_model_at_the_same_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["matrix", "tanh.onnx", "--data", "feeds.npz", "--on", "there", "--format", "json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert all(0.2 < cell["timing"]["speedup"] < 5 and cell["timing"]["threads"] == 1 for cell in cells)


@pytest.mark.parametrize(("on", "says"), [("there,there", "'there' is named twice"), ("here", "'here' is named twice"), ("nowhere", "neither a place")])
def test_places_that_are_none(on: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix("tanh.onnx", "--on", on) == 2
    printed = capsys.readouterr()
    assert says in printed.err and printed.out == ""


def test_a_cell_in_words() -> None:
    from graphcompress.record import MatrixCell

    assert cell_text(MatrixCell(model="m", place="p", problem="x")) == "does not run"
    assert cell_text(MatrixCell(model="m", place="p", agreement=0.5, faithful=False, share=0.25)) == "0.5000 wrong, 25% of nodes"
