"""The whole way on every task of the zoo: compress, load, run, compare. Speed is not measured here: tests run beside others."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import graphcompress

# The bar that the main task is held to; every other one is judged by the built-in floor, which `compress` itself keeps.
STATED = {"cifar10_resnet": 0.99}


@pytest.mark.slow
def test_task(task: Any, zoo: ModuleType, tmp_path: Path) -> None:
    result = graphcompress.compress(task.model, task.calib, measure=False)
    path = tmp_path / "model.onnx"
    graphcompress.save(result.model, path)

    original = graphcompress.load(task.model)
    written = graphcompress.load(path)
    assert written.inputs == original.inputs
    assert written.outputs == original.outputs
    session = zoo.session(path)
    assert session.run(None, zoo.feeds(task)[0])
    assert not list(tmp_path.glob("*.tmp"))
    if task.name in STATED:
        float_outputs, outputs = zoo.outputs(task, zoo.session(task.model)), zoo.outputs(task, session)
        assert zoo.fidelity(task, float_outputs, outputs) >= STATED[task.name]
        assert path.stat().st_size < task.model.stat().st_size / 3
