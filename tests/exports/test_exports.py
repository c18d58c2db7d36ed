"""Every command on models as people export them: it ends well, and what it writes is right at a second shape of the inputs too.

The weights are random and the models small. Original and simplified result are run as they are written, without onnxruntime's optimizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from environments import FRAMEWORKS

from graphcompress.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.parametrize(("framework", "name"), [(f, n) for f, table in FRAMEWORKS.items() for n in table.exports])]

Array = np.ndarray[Any, Any]

# Rounding: rules may change the order of sums. In relation to the largest value of the output.
TOLERANCE = 1e-5
HALF = 5e-3

SHAPES = ("feeds", "second")


def test_inspect(export: Path) -> None:
    assert run("inspect", export) == 0


def test_simplify(export: Path, tmp_path: Path) -> None:
    """Equal at both shapes, and `validate` says so."""
    result = tmp_path / "simple.onnx"
    assert run("simplify", export, "-o", result) == 0
    for shape in SHAPES:
        assert largest_difference(outputs(export, export, shape), outputs(result, export, shape)) <= (HALF if "half" in export.stem else TOLERANCE)
        assert run("validate", export, result, "--data", export.with_suffix(f".{shape}"), "--min-agreement", "1") == 0


@pytest.mark.parametrize("data", ["random", "feeds"])
@pytest.mark.parametrize("command", ["quantize", "compress"])
def test_int8(export: Path, command: str, data: str, tmp_path: Path) -> None:
    """The result runs at both shapes, with outputs of the original's types and shapes that are finite where the original's are."""
    result = tmp_path / "int8.onnx"
    data_options = ["--random-data"] if data == "random" else ["--data", export.with_suffix(".feeds")]
    assert run(command, export, "-o", result, "--no-measure", *data_options) == 0
    for shape in SHAPES:
        for original, quantized in zip(outputs(export, export, shape), outputs(result, export, shape, optimized=True), strict=True):
            assert (original.dtype, original.shape) == (quantized.dtype, quantized.shape)
            if original.dtype.kind == "f":
                assert np.isfinite(quantized[np.isfinite(original)]).all()


def test_prune(export: Path, tmp_path: Path) -> None:
    """Every cut passes the oracle; the result runs at both shapes, with outputs of the original's types and shapes."""
    result, record = tmp_path / "pruned.onnx", tmp_path / "record.json"
    data = export.with_suffix(".feeds")
    assert run("prune", export, "-o", result, "--data", data, "--macs", "0.6", "--best-effort", "--no-measure", "--record", record) == 0
    (step,) = (s for s in json.loads(record.read_text("utf-8"))["steps"] if s["use"] == "prune")
    assert not [r for r in step["refusals"] if r["id"] == "prune/oracle"]
    for shape in SHAPES:
        for original, pruned in zip(outputs(export, export, shape), outputs(result, export, shape, optimized=True), strict=True):
            assert (original.dtype, original.shape) == (pruned.dtype, pruned.shape)


# --- running ------------------------------------------------------------------------------------------------------------------------------


def run(*words: str | Path) -> int:
    """Run a command line in this process."""
    return main([*map(str, words), "--quiet"])


def outputs(model: Path, export: Path, shape: str, *, optimized: bool = False) -> list[Array]:
    """All outputs of all feeds of `export` at that shape."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    files = sorted(export.with_suffix(f".{shape}").glob("*.npz"))
    assert files
    return [array for file in files for value in session.run(None, feed_of(file)) for array in arrays(value)]


def feed_of(file: Path) -> dict[str, Array]:
    with np.load(file) as archive:
        return {name: archive[name].astype(object) if archive[name].dtype.kind == "U" else archive[name] for name in archive.files}


def arrays(value: Any) -> Iterator[Array]:
    """The arrays of an output; a sequence of maps is what classifiers return as probabilities."""
    if isinstance(value, list):
        for entry in value:
            yield np.array(list(entry))
            yield np.array(list(entry.values()))
    else:
        yield value


def largest_difference(expected: list[Array], actual: list[Array]) -> float:
    """In relation to the largest value of the same output; infinite where types, shapes or anything but numbers differ."""
    worst = 0.0
    for one, other in zip(expected, actual, strict=True):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return np.inf
        if one.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(one, other) else np.inf)
        elif one.size:
            scale = np.abs(one[np.isfinite(one)], dtype=np.float64).max(initial=1e-30)
            equal = (one == other) | (np.isnan(one) & np.isnan(other))
            with np.errstate(invalid="ignore"):
                apart = np.where(equal, 0.0, np.abs(one.astype(np.float64) - other.astype(np.float64)) / scale)
            worst = max(worst, float(np.nan_to_num(apart, nan=np.inf).max()))
    return worst
