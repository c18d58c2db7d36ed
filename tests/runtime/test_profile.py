"""What the runtime made of a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphcompress import ir
from graphcompress.errors import DataError
from graphcompress.runtime.profile import _events, optimized_model

ModelOf = Callable[..., ir.Model]
NESTED = """g (bool c, float[n] x) => (float[n] y) {
    y = If(c) <then_branch = t () => (float[n] a) { a = Neg(x) }, else_branch = e () => (float[n] b) { b = Abs(x) }>
}"""


def test_fused_nodes_are_seen(models: Path) -> None:
    nodes = list(ir.nodes(optimized_model(ir.load(models / "digits_cnn" / "model.onnx"))))
    assert any((n.domain or "").startswith("com.microsoft") for n in nodes)
    assert not any(n.op == "BatchNormalization" for n in nodes)


def test_wiring_and_attributes(model_of: ModelOf) -> None:
    (node,) = optimized_model(model_of("g (float[n, 4] x) => (float[4, n] y) { y = Transpose<perm = [1, 0]>(x) }")).graph.nodes
    assert (node.op, [t.name for t in node.inputs], [t.name for t in node.outputs]) == ("Transpose", ["x"], ["y"])
    assert node.attrs["perm"] == [1, 0]


def test_subgraphs_are_included(model_of: ModelOf) -> None:
    assert {n.op for n in ir.nodes(optimized_model(model_of(NESTED)))} == {"If", "Neg", "Abs"}


def test_no_file_remains_and_the_model_is_as_it_was(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ir.load(models / "digits_cnn" / "model.onnx")
    before = ir.to_bytes(model)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    optimized_model(model)
    assert list(tmp_path.iterdir()) == []
    assert ir.to_bytes(model) == before


def test_large_weights_are_references(models: Path) -> None:
    constants = optimized_model(ir.load(models / "digits_cnn" / "model.onnx")).graph.initializers.values()
    large = [c.data for c in constants if c.nbytes > 1024]
    assert large and all(data is not None and data.external for data in large)


def test_a_feed_is_run(model_of: ModelOf) -> None:
    model = model_of("g (float[n, 4] x) => (float[4, n] y) { y = Transpose<perm = [1, 0]>(x) }")
    optimized_model(model, feed={"x": np.zeros((2, 4), np.float32)})
    with pytest.raises(DataError):
        optimized_model(model, feed={"x": np.zeros((2, 5), np.float32)})


def test_the_events_of_a_trace_are_read_however_they_lie_on_lines(tmp_path: Path) -> None:
    """On a line each, over several lines, or all on one."""
    trace = tmp_path / "trace.json"
    trace.write_text('[\n{"name" :"a","args" : {"x" : [1]}},\n{"name" :"b",\n "dur" :2}\n', encoding="utf-8")
    assert list(_events(trace)) == [{"name": "a", "args": {"x": [1]}}, {"name": "b", "dur": 2}]
    trace.write_text('[{"name" :"a"}, {"name" :"b"}]', encoding="utf-8")
    assert [event["name"] for event in _events(trace)] == ["a", "b"]
