"""A folder with a small model, data and a few broken files, and the command line run in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

REPOSITORY = Path(__file__).resolve().parents[2]


def small_network(width: int = 32) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Conv, Relu, GlobalAveragePool, Gemm: four classes, a free batch dimension."""
    generator = np.random.default_rng(0)

    def weights(name: str, *shape: int, scale: float = 0.3) -> TensorProto:
        return numpy_helper.from_array((generator.standard_normal(shape) * scale).astype(np.float32), name)

    initializers = [
        weights("w", width, 3, 3, 3),
        weights("b", width),
        numpy_helper.from_array(np.ones(width, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(width, np.float32), "shift"),
        numpy_helper.from_array(np.zeros(width, np.float32), "mean"),
        numpy_helper.from_array(np.ones(width, np.float32), "var"),
        weights("w1", width, width, 3, 3, scale=0.1),
        weights("w2", 4, width, scale=3.0),
        weights("b2", 4),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w1"], ["d"], "deep", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["d"], ["s"], "relu2"),
        helper.make_node("GlobalAveragePool", ["s"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass
class Done:
    """What a command line left: status, stdout, stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: model.onnx, feeds.npz (24 feeds), other.onnx (another input), recipes, broken files."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    onnx.save(small_network(), "model.onnx")
    generator = np.random.default_rng(1)
    colours = 3 * generator.standard_normal((24, 3, 1, 1))  # without them all feeds are of one class, which is said
    data = (colours + generator.standard_normal((24, 3, 16, 16))).astype(np.float32)
    np.savez("feeds.npz", x=data)
    np.savez("wrong.npz", z=data)
    other = small_network()
    other.graph.input[0].name = other.graph.node[0].input[0] = "image"
    onnx.save(other, "other.onnx")
    strange = small_network()
    strange.graph.node[2].domain = "acme"
    strange.opset_import.add(domain="acme", version=1)
    onnx.save(strange, "strange.onnx")
    Path("simple.toml").write_text('[[step]]\nuse = "simplify"\n')
    Path("faulty.toml").write_text('[[step]]\nuse = "quantise"\n\n[[step]]\nuse = "quantize"\ncalibraton = "mse"\n')
    Path("page.onnx").write_text("<!DOCTYPE html><html></html>")
    Path("folder").mkdir()
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""
    from graphcompress.cli import main

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        status = main(arguments)
        captured = capfd.readouterr()
        return Done(status, captured.out, captured.err)

    return run
