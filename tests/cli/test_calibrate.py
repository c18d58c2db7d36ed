"""graphcompress calibrate, and the costs that it writes."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress.api.calibrate import LONG, TimedLayer, candidates, eager, entry, layers_of
from graphcompress.cli.app import run
from graphcompress.data import memory_data
from graphcompress.errors import TargetError
from graphcompress.passes.quantize import quantize
from graphcompress.runtime.session import open_session
from graphcompress.step import Context
from graphcompress.targets import load_target, read_costs

module = importlib.import_module("graphcompress.api.calibrate")
TABLE = load_target("cpu")
COST = {"op": "Conv", "row": 0, "price": 0, "float_ns": 7.0, "ratio": 0.5, "spread": 0.1, "measured": "a layer"}
COSTS = {"target": "cpu", "place": "there", "provider": "cpu", "runtime": "onnxruntime 1", "machine": "x", "threads": 1, "seconds": 1.0, "costs": [COST]}


def test_each_price_is_stood_for_by_a_layer_that_it_decides_about() -> None:
    for row in (row for row in TABLE.operator if row.op in ("Conv", "Gemm", "MatMul") and "weight" in row.slots):
        layers = dict(layers_of(row))
        assert list(layers) == list(range(len(row.price)))
        assert all(entry(row, layer) == index for index, layer in layers.items() if layer is not None)
        assert layers[len(row.price) - 1] is not None
    assert sum(layer is not None for layer in dict(layers_of(TABLE.rows("Conv")[0])).values()) >= 12


@pytest.mark.parametrize(
    "layer",
    [TimedLayer("Conv", 8, kernel=3), TimedLayer("Conv", 1, groups=16, kernel=3), TimedLayer("Gemm", 64, rows=4), TimedLayer("MatMul", 64, rows=4)],
    ids=str,
)
def test_a_chain_is_written_in_int8_layer_by_layer(layer: TimedLayer) -> None:
    model = layer.chain(LONG, np.random.default_rng(0))
    feed = {"x": np.random.default_rng(1).normal(size=model.inputs[0].shape).astype(np.float32)}
    with open_session(model) as session:
        assert session.run(feed)["y"].shape == feed["x"].shape
    result = quantize(model, Context(target=eager(TABLE), data=memory_data([feed] * 2, model.inputs, model.overridable))).boldest
    assert result.certificate is not None and result.certificate.integer == LONG


def test_the_work_of_a_layer() -> None:
    assert TimedLayer("Conv", 2, groups=3, kernel=3).macs == 6 * 18 * 28 * 28
    assert TimedLayer("Gemm", 5, rows=4).macs == 4 * 25
    assert all(layer.channels <= 1024 for layer in list(candidates("Conv"))[:40])


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(COSTS | changes), encoding="utf-8")
    return path


def test_costs_take_the_place_of_the_tables_own(tmp_path: Path) -> None:
    table = read_costs(write(tmp_path), TABLE)
    assert (table.operator[0].price[0].float_ns, table.operator[0].price[0].ratio) == (7.0, 0.5)
    assert table.operator[0].price[0].below == TABLE.operator[0].price[0].below
    assert table.operator[0].price[1:] == TABLE.operator[0].price[1:] and table.operator[1:] == TABLE.operator[1:] and table.name == "cpu"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target": "web"}, "has costs for the table 'web'"),
        ({"costs": [COST | {"row": 99}]}, "it has changed since"),
        ({"costs": [COST | {"op": "Gemm"}]}, "it has changed since"),
        ({"costs": [COST | {"price": 99}]}, "it has changed since"),
        ({"costs": [COST | {"ratio": 0}]}, "is no file of costs"),
        ({"more": 1}, "is no file of costs"),
        ({"format": 2}, "is no file of costs"),
    ],
)
def test_costs_that_cannot_be_used(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=says) as caught:
        read_costs(write(tmp_path, **changes), TABLE)
    assert "\n" not in str(caught.value)
    with pytest.raises(TargetError, match="cannot be read: No such file"):
        read_costs(tmp_path / "none.json", TABLE)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two layers are enough, however noisy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(module, "WIDEST", 1e9)
    monkeypatch.setattr(module, "layers_of", lambda row: [(entry(row, layer), layer) for layer in [next(candidates(row.op))]] if row.op != "MatMul" else [])
    (tmp_path / "places.toml").write_text(
        f'[there]\ncommand = ["{Path(sys.executable).as_posix()}"]\n[emulated]\ncommand = "python3"\ntiming = false\n', encoding="utf-8"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_calibrate_there_and_compress_by_it(models: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["calibrate", "--on", "there", "--seconds", "2", "--format", "json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert [cost["op"] for cost in costs["costs"]] == ["Conv", "Gemm"] and costs["place"] == "there"
    assert all(0.0001 < cost["float_ns"] < 10 and 0.02 < cost["ratio"] < 50 for cost in costs["costs"])
    assert json.loads((tmp_path / "costs" / "there.json").read_text()) == costs
    np.savez(tmp_path / "feeds.npz", X=np.random.default_rng(0).random((12, 64), np.float32) * 16)
    model = str(models / "digits_mlp" / "model.onnx")
    assert run(["compress", model, "-o", "out.onnx", "--data", "feeds.npz", "--costs", "costs/there.json", "--no-measure", "-q"]) == 0


@pytest.mark.usefixtures("quick")
def test_an_emulators_times_are_no_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "places.toml").write_text(f'[emulated]\ncommand = ["{Path(sys.executable).as_posix()}"]\ntiming = false\n', encoding="utf-8")
    assert run(["calibrate", "--on", "emulated"]) == 2
    assert "mean nothing" in capsys.readouterr().err and not (tmp_path / "costs").exists()
