"""Files appear whole or not at all, and external data goes with them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphcompress import ir
from graphcompress.errors import ModelError, WriteError


def tiny() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"), helper.make_node("Add", ["m", "b"], ["y"], name="add")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [
            numpy_helper.from_array(np.random.default_rng(i).standard_normal(shape).astype(np.float32), name)
            for i, (name, shape) in enumerate((("w", (64, 64)), ("b", (64,))))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "m.onnx"
    path.parent.mkdir()
    onnx.save(tiny(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_goes_along_unchanged(external: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.onnx"
    out.parent.mkdir()
    ir.save(ir.load(external), out)
    assert onnx.load(out, load_external_data=False) == onnx.load(external, load_external_data=False)
    assert (out.parent / "weights.bin").read_bytes() == (external.parent / "weights.bin").read_bytes()
    assert sorted(os.listdir(out.parent)) == ["m.onnx", "weights.bin"]


def test_external_data_in_the_same_folder_is_shared(external: Path) -> None:
    before = (external.parent / "weights.bin").stat().st_mtime_ns
    ir.save(ir.load(external), external.with_name("twin.onnx"))
    assert (external.parent / "weights.bin").stat().st_mtime_ns == before
    assert onnx.load(external.with_name("twin.onnx")).graph.initializer[0].raw_data == tiny().graph.initializer[0].raw_data


def test_somebody_elses_data_file_is_left_alone(external: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.onnx"
    out.parent.mkdir()
    (out.parent / "weights.bin").write_bytes(b"not ours")
    ir.save(ir.load(external), out)
    assert (out.parent / "weights.bin").read_bytes() == b"not ours"
    assert numpy_helper.to_array(onnx.load(out).graph.initializer[0]).tobytes() == tiny().graph.initializer[0].raw_data
    ir.save(ir.load(external), out)  # the data that the old output used is replaced, not multiplied
    assert sorted(os.listdir(out.parent)) == ["m.onnx", "m.onnx.data", "weights.bin"]


def test_unused_ranges_are_left_behind(external: Path, tmp_path: Path) -> None:
    path = external.with_name("large.onnx")
    proto = tiny()
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(1 << 16, np.float32), "unused"))
    onnx.save(proto, path, save_as_external_data=True, location="large.bin", size_threshold=0)
    model = ir.load(path)
    del model.graph.initializers["unused"]
    out = tmp_path / "o.onnx"
    ir.save(model, out)
    assert (tmp_path / "o.onnx.data").stat().st_size < 64 * 1024
    assert numpy_helper.to_array(onnx.load(out).graph.initializer[0]).tobytes() == tiny().graph.initializer[0].raw_data


def test_edited_tensor_of_an_external_model(external: Path, tmp_path: Path) -> None:
    model = ir.load(external)
    weight = model.graph.initializers["w"]
    weight.values = weight.values * np.float32(2)
    ir.save(model, tmp_path / "o.onnx")
    expected = numpy_helper.to_array(tiny().graph.initializer[0]) * np.float32(2)
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(tmp_path / "o.onnx").graph.initializer[0]), expected)


def test_values_are_a_view_of_the_map(external: Path) -> None:
    values = ir.load(external).graph.initializers["w"].values
    assert not values.flags.owndata
    assert not values.flags.writeable


def test_all_data_inside_for_a_session(external: Path) -> None:
    assert onnx.load_from_string(ir.to_bytes(ir.load(external))).graph.initializer[0].raw_data == tiny().graph.initializer[0].raw_data


def test_failed_write_leaves_everything_as_it_was(external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out" / "m.onnx"
    out.parent.mkdir()
    ir.save(ir.load(external), out)
    before = {f.name: f.read_bytes() for f in out.parent.iterdir()}
    changed = ir.load(external)
    changed.header.producer_name = "changed"
    real = os.replace
    calls = iter([True, False, True, True, True])

    def replace(source: Path, target: Path) -> None:
        if not next(calls):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(WriteError, match="No space left"):
        ir.save(changed, out)
    assert {f.name: f.read_bytes() for f in out.parent.iterdir()} == before


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="nowhere"):
        ir.save(ir.model_from_proto(tiny()), tmp_path / "nowhere" / "o.onnx")


def test_output_through_a_link_replaces_the_file_behind_it(tmp_path: Path) -> None:
    real = tmp_path / "real.onnx"
    real.write_bytes(b"old")
    (tmp_path / "link.onnx").symlink_to(real)
    ir.save(ir.model_from_proto(tiny()), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert onnx.load(real).graph.name == "g"


def test_message_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphcompress.ir.files.write.LARGEST_MESSAGE", 1000)
    with pytest.raises(ModelError, match="external data"):
        ir.to_bytes(ir.model_from_proto(tiny()))


def test_new_weights_over_the_limit_go_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphcompress.ir.files.write.LARGEST_MESSAGE", 1000)
    monkeypatch.setattr("graphcompress.ir.files.write.CHUNK", 1024)
    ir.save(ir.model_from_proto(tiny()), tmp_path / "o.onnx")
    assert sorted(os.listdir(tmp_path)) == ["o.onnx", "o.onnx.data"]
    assert numpy_helper.to_array(onnx.load(tmp_path / "o.onnx").graph.initializer[0]).tobytes() == tiny().graph.initializer[0].raw_data
