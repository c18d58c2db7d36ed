"""`graphcompress explain`: every kernel is some node's, precisions and reasons are those of the graph that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from planted import Planted

from graphcompress.api.explain import overall_advice, recorded_steps
from graphcompress.errors import UsageError


def by_node(document: Any) -> dict[str, Any]:
    return {row["node"]: row for row in document["nodes"]}


def test_a_float_model(place: Path, run: Any) -> None:
    document = run("explain", "model.onnx", "--data", "feeds.npz", "--format", "json").json
    rows = by_node(document)
    assert {"conv", "deep", "head"} <= set(rows) and all(rows[name]["precision"] == "float" for name in ("conv", "deep", "head"))
    assert sum(row["share"] for row in document["nodes"]) == pytest.approx(1) and sum(document["precisions"].values()) == pytest.approx(1)
    assert [row["microseconds"] for row in document["nodes"]] == sorted((row["microseconds"] for row in document["nodes"]), reverse=True)
    assert rows["deep"]["reason"] == "the model is not quantized" and document["precisions"]["int8"] == 0
    table = run("explain", "model.onnx")
    assert "Nothing is quantized" in table.out and "random numbers" in table.err and len(table.out.splitlines()) <= 40


def test_products_by_the_ranges_of_each_run_are_quantized(place: Path, run: Any) -> None:
    p = Planted()
    onnx.save(p.model(p.node("MatMul", p.input("x", 4, 64), p.constant(p.floats(64, 64)), name="product")), "plain.onnx")
    assert run("quantize", "plain.onnx", "-o", "dynamic.onnx", "--mode", "dynamic", "--no-measure", "-q").status == 0
    report = run("explain", "dynamic.onnx", "--format", "json", "-q").json
    assert report["precisions"]["int8"] > 0 and not any("Nothing is quantized" in line for line in report["advice"])


def test_a_quantized_model_and_its_record(place: Path, run: Any) -> None:
    assert (
        run("quantize", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "--exclude", "^conv$", "--record", "record.json", "-q").status
        == 0
    )
    rows = by_node(run("explain", "out.onnx", "--record", "record.json", "--format", "json", "-q").json)
    assert rows["conv"]["precision"] == "float" and rows["conv"]["reason"] == "it was excluded"
    assert rows["deep"]["precision"] == "int8" and rows["deep"]["reason"] == "" and rows["deep"]["kernels"] == ["QLinearConv"]


def test_reasons_are_found_without_a_record(place: Path, run: Any) -> None:
    p = Planted()
    y = p.node("Conv", p.pair(p.input("x", 1, 8, 6, 6)), p.codes(8, 8, 3, 3), name="conv")
    onnx.save(p.model(p.node("Sigmoid", y)), "half.onnx")
    rows = by_node(run("explain", "half.onnx", "--format", "json", "-q").json)
    assert rows["conv"]["precision"] == "float" and "qdq/no-quantize" in rows["conv"]["reason"]


@pytest.mark.parametrize(("quantized", "part"), [(False, "graphcompress simplify may remove some of it"), (True, "islands of INT8 are too small")])
def test_what_only_moves_data_has_its_cause(quantized: bool, part: str) -> None:
    """A model without INT8 has no islands of it."""
    precisions: dict[Any, float] = {"int8": 0.1 * quantized, "float": 0.5, "moves data": 0.4}
    (said,) = [advice for advice in overall_advice(precisions, quantized) if advice.startswith("40% of the time")]
    assert part in said and said.count("islands") == quantized


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    for name, text in {"a.json": "{", "b.json": "[]", "c.json": json.dumps({"models": []})}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=f"--record .*{name}.*Give the file that --record of"):
            recorded_steps(tmp_path / name)
    with pytest.raises(UsageError, match="No such file"):
        recorded_steps(tmp_path / "absent.json")


def test_layers_that_cost_accuracy_are_named_by_the_record(place: Path, run: Any) -> None:
    """The worst first, where noise was measured; no word where it was not, or where the step is not in the result."""
    step = {"use": "quantize", "in_result": True, "decisions": {"noise": {"deep": 0.61, "conv": 0.3, "head": 0.004}}, "certificate": None}
    for in_result, decisions, told in ((True, step["decisions"], True), (False, step["decisions"], False), (True, {}, False)):
        Path("record.json").write_text(json.dumps({"steps": [{**step, "in_result": in_result, "decisions": decisions}]}))
        out = " ".join(run("explain", "model.onnx", "--record", "record.json").out.split())
        assert ("by the record: deep 61%, conv 30%. --exclude REGEX" in out) == told and ("would make at the outputs" in out) == told
