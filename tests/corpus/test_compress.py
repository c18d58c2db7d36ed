"""The whole way on every task of the zoo: compress, load, run, compare by the task's own measure. Speed is not measured here: tests run beside others."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import graphcompress

# Stated for this task beside the zoo's own bars: fidelity, and how many times smaller.
STATED = {"cifar10_resnet": (0.99, 3.0)}


@pytest.mark.slow
def test_task(task: Any, zoo: ModuleType, tmp_path: Path) -> None:
    result = graphcompress.compress(task.model, task.calib, measure=False)
    path = tmp_path / "model.onnx"
    graphcompress.save(result.model, path)

    original, written = graphcompress.load(task.model), graphcompress.load(path)
    assert written.inputs == original.inputs
    assert written.outputs == original.outputs
    assert path.stat().st_size <= task.model.stat().st_size
    before, after = zoo.outputs(task, zoo.session(task.model)), zoo.outputs(task, zoo.session(path))
    assert zoo.faithful(task, before, after)
    fidelity, smaller = STATED.get(task.name, (0.0, 1.0))
    assert zoo.fidelity(task, before, after) >= fidelity
    assert task.model.stat().st_size / path.stat().st_size >= smaller
