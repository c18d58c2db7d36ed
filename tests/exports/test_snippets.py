"""The snippets of docs/exporting.md, run as they stand where the frameworks are, and what they write: it loads, is clean of errors, and can be compressed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import onnx
import pytest
from environments import FRAMEWORKS, NoEnvironment, interpreter

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
SNIPPETS = {
    "PyTorch, new": ("torch", "PyTorch", 0, NETWORK, ["image"]),
    "PyTorch, older": ("torch", "PyTorch", 1, NETWORK, ["image"]),
    "Keras": ("keras", "Keras and TensorFlow", 0, KERAS, ["image"]),
    "scikit-learn": ("sklearn", "scikit-learn", 0, ROWS, ["rows"]),
}
"""What is there before the snippet (framework, heading, number below it, code), and the inputs of what it writes."""


@pytest.mark.parametrize("case", SNIPPETS.values(), ids=SNIPPETS)
def test_the_snippet_writes_a_model_that_can_be_compressed(
    repository: Path, export_folders: dict[str, Path | Exception], tmp_path: Path, case: tuple[str, str, int, str, list[str]]
) -> None:
    framework, heading, number, before, inputs = case
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
    assert main(["compress", str(model), "-o", str(tmp_path / "out.onnx"), "--random-data", "--no-measure", "-q"]) == 0
