"""What the runtime made of a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphcompress import ir
from graphcompress.errors import ModelError
from graphcompress.runtime import profile
from graphcompress.runtime.profile import node_times, nodes_by_provider, optimized_model, optimized_nodes
from graphcompress.runtime.session import LocalSession

ModelOf = Callable[..., ir.Model]
MATMUL = "g (float[n, 64] x, float[64, 64] w) => (float[n, 64] z) { y = MatMul(x, w) z = Relu(y) }"
FEED = {"x": np.ones((8, 64), np.float32), "w": np.ones((64, 64), np.float32)}
NESTED = """g (bool c, float[n] x) => (float[n] y) {
    y = If(c) <then_branch = t () => (float[n] a) { a = Neg(x) }, else_branch = e () => (float[n] b) { b = Abs(x) }>
}"""


def test_fused_nodes_are_seen(models: Path) -> None:
    nodes = optimized_nodes(models / "digits_cnn" / "model.onnx")
    assert any(n.domain.startswith("com.microsoft") for n in nodes)
    assert not any(n.op == "BatchNormalization" for n in nodes)


def test_basic_level_fuses_no_kernels(models: Path) -> None:
    loaded = ir.load(models / "digits_cnn" / "model.onnx")
    assert not any((n.domain or "").startswith("com.microsoft") for n in optimized_model(loaded, optimize="basic").graph.nodes)


def test_wiring_and_attributes(model_of: ModelOf) -> None:
    (node,) = optimized_nodes(model_of("g (float[n, 4] x) => (float[4, n] y) { y = Transpose<perm = [1, 0]>(x) }"))
    assert (node.op, node.domain, node.inputs, node.outputs) == ("Transpose", "", ("x",), ("y",))
    assert node.attrs["perm"] == [1, 0]


def test_subgraphs_are_included(model_of: ModelOf) -> None:
    assert {n.op for n in optimized_nodes(model_of(NESTED))} == {"If", "Neg", "Abs"}


def test_optimized_model_runs_and_leaves_no_file(model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = optimized_model(model_of(MATMUL))
    node_times(model_of(MATMUL), [FEED], repeats=1)
    assert list(tmp_path.iterdir()) == []
    with LocalSession(made) as session:
        assert (session.run(FEED)["z"] == 64).all()


def test_times_are_one_entry_per_node_in_order(model_of: ModelOf) -> None:
    times = node_times(model_of(MATMUL), [FEED, FEED], repeats=5)
    assert [t.op for t in times] == ["MatMul", "Relu"]
    assert all(t.provider == "CPUExecutionProvider" and t.microseconds >= 0 for t in times)
    assert times[0].input_shapes == ({"float": [8, 64]}, {"float": [64, 64]}) and times[0].output_shapes == ({"float": [8, 64]},)


def test_nodes_by_provider(model_of: ModelOf) -> None:
    assert nodes_by_provider(model_of(MATMUL)) == {"CPUExecutionProvider": 2}


def test_older_runtimes_count_in_a_run(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalSession, "_nodes", lambda self: None)
    assert nodes_by_provider(model_of(MATMUL), feed=FEED) == {"CPUExecutionProvider": 2}
    with pytest.raises(ModelError, match="no feed"):
        nodes_by_provider(model_of(MATMUL))


def test_unfinished_profile_is_read(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('[\n{"cat": "Node", "name": "a"},\n')
    assert profile._events(tmp_path / "p.json") == [{"cat": "Node", "name": "a"}]
