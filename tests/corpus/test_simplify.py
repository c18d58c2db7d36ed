"""Simplification is right on every trap of the corpus and on every model of the zoo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import graphcompress

# A rewrite that is not made, or a dimension that is made known, is no fault.
MILD = {"missed", "filled"}
FEEDS = 4


@pytest.mark.slow
def test_no_probe_is_broken(shared: Path) -> None:
    """The corpus's own judge: values on two feeds, signature, validity, and each probe's own conditions."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "check_graphs.py", "--call", "simplify_file:simplify", "--json"]
    done = subprocess.run(
        command, cwd=shared / "probes", env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["probes"] >= 380
    faults = [f"{f['probe']}: {f['kind']}: {f['detail']}" for f in report["failures"] if f["kind"] not in MILD]
    assert faults == []


@pytest.mark.slow
def test_zoo_gives_equal_outputs(task: Any, zoo: ModuleType, tmp_path: Path) -> None:
    """Equal to float32 rounding: folding BatchNormalization and constants changes the order of sums, nothing more."""
    result = graphcompress.simplify(task.model)
    graphcompress.save(result.model, tmp_path / "model.onnx")
    assert result.model.inputs == graphcompress.load(task.model).inputs
    assert result.model.outputs == graphcompress.load(task.model).outputs
    before, after = zoo.session(task.model), zoo.session(tmp_path / "model.onnx")
    for feed in zoo.feeds(task)[:FEEDS]:
        for name, a, b in zip((o.name for o in before.get_outputs()), before.run(None, feed), after.run(None, feed), strict=True):
            assert a.shape == b.shape, name
            assert a.dtype == b.dtype, name
            if a.dtype.kind != "f":
                assert np.array_equal(a, b), name
            else:
                assert np.abs(a - b).max() <= 1e-4 * max(1e-30, float(np.abs(a).max())), name
