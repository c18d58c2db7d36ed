"""Load and save of whatever the corpus holds: every field comes back."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

import graphcompress

FEWEST_PROBES = 380


def same(source: Path, result: Path) -> bool:
    """The result holds everything by itself, and is equal to the source with its external data loaded in every field; bytes, because a NaN is not equal to itself."""
    a, b = onnx.load(source), onnx.load(result, load_external_data=False)
    return a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


def test_probe(probe: Any, probes: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "from" / "model.onnx", tmp_path / "to" / "model.onnx"
    for path in (source, target):
        path.parent.mkdir()
    probes.save(probe, str(source))

    graphcompress.save(graphcompress.load(source), target)

    assert same(source, target)
    assert [p.name for p in target.parent.iterdir()] == ["model.onnx"]


def test_model_of_the_zoo(task: Any, tmp_path: Path) -> None:
    graphcompress.save(graphcompress.load(task.model), tmp_path / "model.onnx")
    assert same(task.model, tmp_path / "model.onnx")


def test_the_corpus_is_whole(shared: Path, probes: ModuleType, zoo: ModuleType) -> None:
    assert len(probes.PROBES) >= FEWEST_PROBES
    for name in zoo.tasks(shared / "zoo"):
        task = zoo.load(name, shared / "zoo")
        assert task.model.is_file()
        assert zoo.feeds(task, "calib")
        assert zoo.feeds(task, "test")
