"""The snippets of docs/exporting.md, run as they stand where the frameworks are, and what they write: it loads, is clean of errors, can be compressed, and stripped of all that tells of the
machine."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from environments import FRAMEWORKS, NoEnvironment, interpreter
from google.protobuf.message import Message

from graphcompress.cli import main

pytestmark = pytest.mark.slow

NETWORK = """
import torch
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
example = torch.zeros(2, 3, 32, 32)
"""
KERAS = """
import keras
from keras import layers as L
model = keras.Sequential([L.Input((224, 224, 3)), L.Conv2D(8, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(10, "softmax")])
"""
ROWS = """
import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
X = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
pipeline = make_pipeline(StandardScaler(), MLPClassifier((32,), max_iter=400)).fit(X, X[:, 0] > 0)
"""
TELLS = ("PyTorch, new",)
"""Exporters that write the paths of sources into the file."""
SNIPPETS = {
    "PyTorch, new": ("torch", "PyTorch", 0, NETWORK, ["image"]),
    "PyTorch, older": ("torch", "PyTorch", 1, NETWORK, ["image"]),
    "Keras": ("keras", "Keras and TensorFlow", 0, KERAS, ["image"]),
    "scikit-learn": ("sklearn", "scikit-learn", 0, ROWS, ["rows"]),
}
"""What is there before the snippet (framework, heading, number below it, code), and the inputs of what it writes."""


@pytest.mark.parametrize("exporter", SNIPPETS)
def test_the_snippet_writes_a_model_that_can_be_compressed(
    repository: Path, export_folders: dict[str, Path | Exception], tmp_path: Path, exporter: str
) -> None:
    framework, heading, number, before, inputs = SNIPPETS[exporter]
    folder = export_folders[framework]
    if isinstance(folder, NoEnvironment) and not (FRAMEWORKS[framework].required and os.environ.get("CI")):
        pytest.skip(f"no environment for {framework}: {folder}")
    assert isinstance(folder, Path), folder
    page = (repository / "docs" / "exporting.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    snippet = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[number]
    (tmp_path / "script.py").write_text(before + snippet, encoding="utf-8")
    command = [str(interpreter(folder.parent, framework)), "script.py"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    model = tmp_path / "model.onnx"
    exported = onnx.load(model)
    assert [value.name for value in exported.graph.input] == inputs and not exported.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    assert not [file for file in tmp_path.iterdir() if file.name not in ("script.py", "model.onnx")]
    assert main(["lint", str(model)]) == 0
    for words in (["out.onnx"], ["bare.onnx", "--strip"]):
        assert main(["compress", str(model), "-o", str(tmp_path / words[0]), *words[1:], "--random-data", "--no-measure", "-q"]) == 0
    assert (b"site-packages" in model.read_bytes()) == (exporter in TELLS)
    told = (str(tmp_path), "script.py", "site-packages", str(Path.home()), f"/{getpass.getuser()}/", exported.producer_name)
    left = (tmp_path / "bare.onnx").read_bytes()
    assert [text for text in told if text.encode() in left] == []
    assert list(notes(onnx.load(tmp_path / "bare.onnx"))) == []
    plain, bare = (onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]) for name in ("out.onnx", "bare.onnx"))
    described = [[(i.name, i.shape, i.type) for i in (*session.get_inputs(), *session.get_outputs())] for session in (plain, bare)]
    assert described[0] == described[1]
    shape = [size if isinstance(size, int) else 2 for size in plain.get_inputs()[0].shape]
    feed = {inputs[0]: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    for one, other in zip(plain.run(None, feed), bare.run(None, feed), strict=True):
        np.testing.assert_array_equal(one, other)


def notes(message: Message) -> Iterator[str]:
    """Every doc string and entry of metadata in a message and in those inside it."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            yield f"{field.full_name}: {value}"
        elif field.message_type is not None:
            for inner in value if hasattr(value, "add") else (value,):
                yield from notes(inner)
