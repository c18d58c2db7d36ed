"""The message of a model that nobody edits is put together once, and large tensors are not held in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import parser

from graphcompress import ir
from graphcompress.ir.files import serialize
from graphcompress.ir.files.serialize import size_on_disk
from graphcompress.ir.files.snapshot import Snapshot, snapshot_of
from graphcompress.runtime.session import open_session

ADD = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 3] x) => (float[n, 3] y) { z = Add(x, x) y = Neg(z) }'


def model() -> ir.Model:
    return ir.model_from_proto(parser.parse_model(ADD))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[ir.Model]:
    """The models of which messages were put together."""
    models: list[ir.Model] = []
    build = serialize._References.model
    monkeypatch.setattr(serialize._References, "model", lambda self: (models.append(self.source), build(self))[1])
    return models


def test_sessions_size_and_file_share_one_message(built: list[ir.Model], tmp_path: Path) -> None:
    snapshot = Snapshot(model())
    for _ in range(2):
        with open_session(snapshot) as session:
            assert session.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[-2, -2, -2]]
    ir.save(snapshot, tmp_path / "o.onnx")
    assert snapshot.size == (tmp_path / "o.onnx").stat().st_size
    assert (tmp_path / "o.onnx").read_bytes() == ir.to_bytes(snapshot)
    assert built == [snapshot]


def test_a_snapshot_is_the_model_and_edits_since_the_last_one_are_in_the_next() -> None:
    source = model()
    first = Snapshot(source)
    assert first.source is source and first.graph is source.graph and first.changes is source.changes
    before = ir.to_bytes(first)
    assert before == ir.to_bytes(source)
    source.graph.nodes[0].name = "renamed"
    assert ir.to_bytes(first) == before
    assert ir.to_bytes(Snapshot(source)) == ir.to_bytes(source) != before


def test_a_snapshot_of_a_snapshot_is_itself() -> None:
    snapshot = Snapshot(model())
    assert snapshot_of(snapshot) is snapshot and type(snapshot.copy()) is ir.Model


def test_large_tensors_are_not_held_once_more() -> None:
    source = model()
    values = np.zeros(serialize.LARGE_PIECE, np.int8)
    source.constant("edited", values)
    read = ir.model_from_proto(ir.to_proto(source))
    for holder in (source, read):
        message = Snapshot(holder).message
        assert message.length > values.nbytes
        assert sum(len(piece) for piece in message._pieces if isinstance(piece, bytes)) < 1000
    edited = [piece for piece in Snapshot(source).message._pieces if isinstance(piece, memoryview)]
    assert len(edited) == 1 and np.shares_memory(np.frombuffer(edited[0], np.int8), values)


def test_the_size_counts_external_data_as_it_is_shared(tmp_path: Path) -> None:
    source = model()
    source.constant("w", np.zeros(5000, np.float32))
    ir.save(source, tmp_path / "m.onnx", external_data=True)
    loaded = ir.load(tmp_path / "m.onnx")
    assert Snapshot(loaded).size == size_on_disk(loaded) == (tmp_path / "m.onnx").stat().st_size + (tmp_path / "m.onnx.data").stat().st_size
