"""What is written stands alone, appears whole or not at all, and outlives the file that it was read from."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from graphcompress import ir
from graphcompress.errors import ModelError, WriteError
from graphcompress.ir.files import serialize
from graphcompress.ir.files.build import to_proto
from graphcompress.ir.files.hashes import sha256_of_file, sha256_of_model
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.files.write import is_its_file
from graphcompress.ir.model import external
from graphcompress.ir.model.messages import TENSOR_HOLDERS, tensor_protos


def tiny(seed: int = 0) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"), helper.make_node("Add", ["m", "b"], ["y"], name="add")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [
            numpy_helper.from_array(np.random.default_rng(seed + i).standard_normal(shape).astype(np.float32), name)
            for i, (name, shape) in enumerate((("w", (64, 64)), ("b", (64,))))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def nested() -> onnx.ModelProto:
    """Tensors in every place that a message has for them: initializers, sparse ones, attributes, subgraphs, functions, training information."""

    def tensor(name: str) -> TensorProto:
        return numpy_helper.from_array(np.random.default_rng(len(name)).standard_normal(400).astype(np.float32), name)

    def sparse(name: str) -> onnx.SparseTensorProto:
        return onnx.SparseTensorProto(values=tensor(name), indices=numpy_helper.from_array(np.arange(400), f"{name}.indices"), dims=[1000])

    model = tiny()
    branch = helper.make_graph([helper.make_node("Constant", [], ["o"], value=tensor("c1"))], "branch", [], [], [tensor("unused")])
    branch.output.add(name="o")
    model.graph.node.add(op_type="If", input=["flag"], output=["i"]).attribute.extend(
        [helper.make_attribute("then_branch", branch), helper.make_attribute("else_branch", branch)]
    )
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    custom = model.graph.node.add(op_type="Any", domain="local", output=["any"])
    custom.attribute.add(name="ts", type=AttributeProto.TENSORS, tensors=[tensor("t1"), tensor("t22")])
    custom.attribute.add(name="gs", type=AttributeProto.GRAPHS, graphs=[branch, branch])
    custom.attribute.add(name="ss", type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse("s1")])
    custom.attribute.add(name="s", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse("s22"))
    model.graph.sparse_initializer.append(sparse("s333"))
    model.opset_import.add(domain="local", version=1)
    model.functions.append(
        helper.make_function("local", "Any", [], ["any"], [helper.make_node("Constant", [], ["any"], value=tensor("f1"))], model.opset_import)
    )
    model.training_info.add(initialization=branch, algorithm=branch)
    return model


def put_outside(model: onnx.ModelProto, path: Path, location: str = "weights.bin") -> Path:
    """Write `model` with every tensor in one data file; onnx's own function does not reach all of them."""
    content = b""
    for tensor in tensor_protos(model):
        for key, value in (("location", location), ("offset", str(len(content))), ("length", str(len(tensor.raw_data)))):
            tensor.external_data.add(key=key, value=value)
        content += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    (path.parent / location).write_bytes(content)
    path.write_bytes(model.SerializeToString())
    return path


def weight(path: Path) -> bytes:
    """The bytes of the first initializer of the model at `path`, wherever they are."""
    values: bytes = numpy_helper.to_array(onnx.load(path).graph.initializer[0]).tobytes()
    return values


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model with external data, in a folder of its own."""
    (tmp_path / "source").mkdir()
    return put_outside(tiny(), tmp_path / "source" / "m.onnx")


# --- one file --------------------------------------------------------------------------------------------------------------------


def test_a_result_is_one_file(source: Path, tmp_path: Path) -> None:
    ir.save(ir.load(source), tmp_path / "o.onnx")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["o.onnx"]
    assert onnx.load(tmp_path / "o.onnx", load_external_data=False) == onnx.load(source)


def test_beside_its_source_too(source: Path) -> None:
    ir.save(ir.load(source), source.with_name("twin.onnx"))
    (source.parent / "weights.bin").unlink()
    assert weight(source.with_name("twin.onnx")) == tiny().graph.initializer[0].raw_data


def test_tensors_in_every_place_go_inside(tmp_path: Path) -> None:
    ir.save(ir.load(put_outside(nested(), tmp_path / "m.onnx")), tmp_path / "o.onnx")
    written = onnx.load(tmp_path / "o.onnx", load_external_data=False)
    expected = nested()
    for tensor in tensor_protos(expected):
        tensor.data_location = TensorProto.DEFAULT
    assert written == expected


def test_every_message_that_holds_tensors_is_known() -> None:
    """A kind of message that onnx adds would otherwise keep its references in the result."""
    holders = {"onnx.TensorProto"}
    messages = list(onnx.onnx_ml_pb2.DESCRIPTOR.message_types_by_name.values())
    while more := {d.full_name for d in messages for f in d.fields if f.message_type is not None and f.message_type.full_name in holders} - holders:
        holders |= more
    assert holders == TENSOR_HOLDERS


@pytest.mark.parametrize("external_data", [False, True])
def test_edited_values(source: Path, tmp_path: Path, external_data: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "LARGE_PIECE", 4096)
    model = ir.load(source)
    constant = model.graph.initializers["w"]
    constant.values = (constant.values * np.float32(2)).T  # not contiguous
    ir.save(model, tmp_path / "o.onnx", external_data=external_data)
    expected = (numpy_helper.to_array(tiny().graph.initializer[0]) * np.float32(2)).T
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(tmp_path / "o.onnx").graph.initializer[0]), expected)


def test_a_location_does_not_go_up_even_where_it_comes_back(source: Path) -> None:
    (source.parent / "sub").mkdir()
    proto = onnx.load(source, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "sub/../weights.bin"
    source.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        ir.load(source)


def test_unused_data_is_left_behind(tmp_path: Path) -> None:
    proto = tiny()
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(1 << 16, np.float32), "unused"))
    model = ir.load(put_outside(proto, tmp_path / "m.onnx"))
    del model.graph.initializers["unused"]
    ir.save(model, tmp_path / "o.onnx", external_data=True)
    assert (tmp_path / "o.onnx.data").stat().st_size < 32 * 1024


def test_pieces_and_the_whole_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large tensors are put together by hand."""
    monkeypatch.setattr(serialize, "LARGE_PIECE", 1024)
    model = ir.model_from_proto(tiny())
    model.constant("added", np.arange(1000, dtype=np.int64))
    assert ir.to_bytes(model) == ir.to_proto(model).SerializeToString(deterministic=True)


def test_a_model_in_memory_is_named_by_the_file_that_it_would_be(source: Path, tmp_path: Path) -> None:
    ir.save(ir.load(source), tmp_path / "o.onnx")
    assert sha256_of_model(ir.load(source)) == sha256_of_file(tmp_path / "o.onnx")


def test_its_own_file(source: Path) -> None:
    model = ir.load(source)
    assert is_its_file(model) and is_its_file(model.copy())
    edited = model.copy()
    edited.graph.nodes[0].name = "renamed"
    assert not is_its_file(edited)
    os.utime(source.parent / "weights.bin", ns=(1, 1))
    assert not is_its_file(model)


# --- a data file -----------------------------------------------------------------------------------------------------------------


def test_a_data_file_where_it_is_asked_for(source: Path, tmp_path: Path) -> None:
    ir.save(ir.load(source), tmp_path / "o.onnx", external_data=True)
    written = onnx.load(tmp_path / "o.onnx", load_external_data=False)
    assert [t.data_location for t in written.graph.initializer] == [TensorProto.EXTERNAL, TensorProto.DEFAULT]  # 256 bytes are not worth it
    assert weight(tmp_path / "o.onnx") == tiny().graph.initializer[0].raw_data
    assert is_its_file(ir.load(tmp_path / "o.onnx"))


def test_a_data_file_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "LARGEST_MESSAGE", 1000)
    ir.save(ir.model_from_proto(tiny()), tmp_path / "o.onnx")
    assert sorted(os.listdir(tmp_path)) == ["o.onnx", "o.onnx.data"]
    assert weight(tmp_path / "o.onnx") == tiny().graph.initializer[0].raw_data


def test_no_data_file_without_large_tensors(tmp_path: Path) -> None:
    proto = tiny()
    del proto.graph.initializer[0], proto.graph.node[0]
    proto.graph.node[0].input[0] = "x"
    ir.save(ir.model_from_proto(proto), tmp_path / "o.onnx", external_data=True)
    assert os.listdir(tmp_path) == ["o.onnx"]


def test_shared_ranges_are_stored_once(source: Path, tmp_path: Path) -> None:
    proto = onnx.load(source, load_external_data=False)
    twin = proto.graph.initializer.add()
    twin.CopyFrom(proto.graph.initializer[0])
    twin.name = "tied"
    source.write_bytes(proto.SerializeToString())
    model = ir.load(source)
    ir.save(model, tmp_path / "o.onnx", external_data=True)
    assert (tmp_path / "o.onnx.data").stat().st_size == 64 * 64 * 4
    assert serialize.size_on_disk(model) < 64 * 64 * 4 + 2000


def test_the_size_of_a_model_with_external_data_needs_one_message(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ir.load(source)
    written: list[ir.Model] = []
    build = serialize._References.model
    monkeypatch.setattr(serialize._References, "model", lambda self: (written.append(self.source), build(self))[1])
    assert serialize.size_on_disk(model) > 64 * 64 * 4
    assert written == [model]


def test_large_tensors_begin_at_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "LARGE_TENSOR", 8192)
    model = ir.model_from_proto(tiny())
    model.constant("small", np.zeros(300, np.float32))
    model.constant("large", np.ones(5000, np.float32))
    ir.save(model, tmp_path / "o.onnx", external_data=True)
    places = {t.name: int(external.external_info(t).get("offset", 0)) for t in onnx.load(tmp_path / "o.onnx", load_external_data=False).graph.initializer}
    assert places["small"] % 64 == 0 and places["large"] % 4096 == 0 and places["large"] > 0
    assert numpy_helper.to_array(onnx.load(tmp_path / "o.onnx").graph.initializer[3]).min() == 1


def test_a_data_file_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "o.onnx.data").write_bytes(b"a thesis")
    with pytest.raises(WriteError, match=r"o\.onnx\.data exists and does not belong to .*o\.onnx"):
        ir.save(ir.load(source), tmp_path / "o.onnx", external_data=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["o.onnx.data"]
    ir.save(ir.load(source), tmp_path / "o.onnx")  # not needed, not touched
    assert (tmp_path / "o.onnx.data").read_bytes() == b"a thesis"


def test_the_data_file_of_the_previous_result_is_replaced(source: Path, tmp_path: Path) -> None:
    ir.save(ir.load(source), tmp_path / "o.onnx", external_data=True)
    ir.save(ir.load(put_outside(tiny(5), tmp_path / "other.onnx")), tmp_path / "o.onnx", external_data=True)
    assert weight(tmp_path / "o.onnx") == tiny(5).graph.initializer[0].raw_data


def test_message_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "LARGEST_MESSAGE", 1000)
    with pytest.raises(ModelError, match="external data"):
        ir.to_bytes(ir.model_from_proto(tiny()))


# --- the source changes under a model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("external_data", [False, True])
def test_saved_over_its_own_file(tmp_path: Path, external_data: bool) -> None:
    path = put_outside(tiny(), tmp_path / "m.onnx", "m.onnx.data")
    model = ir.load(path)
    edited = model.copy()
    edited.graph.initializers["w"].values = np.zeros((64, 64), np.float32)
    ir.save(edited, path, external_data=external_data)
    assert not any(weight(path))
    ir.save(model, tmp_path / "again.onnx")
    assert weight(tmp_path / "again.onnx") == tiny().graph.initializer[0].raw_data


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_another_file_in_its_place(source: Path, tmp_path: Path, how: str) -> None:
    """Models derived from it look in the same files."""
    model = ir.load(source)
    place = source.parent / "weights.bin"
    if how == "replaced":
        (tmp_path / "other").write_bytes(bytes(place.stat().st_size))
        os.replace(tmp_path / "other", place)
    else:
        place.unlink()
    derived = ir.model_from_proto(ir.to_proto(model), source=model)
    for each in (model, model.copy(), derived):
        ir.save(each, tmp_path / "o.onnx")
        assert weight(tmp_path / "o.onnx") == tiny().graph.initializer[0].raw_data


def overwritten(place: Path) -> None:
    place.write_bytes(bytes(place.stat().st_size))
    os.utime(place, ns=(5, 5))


def shortened(place: Path) -> None:
    os.truncate(place, 100)


@pytest.mark.parametrize("change", [overwritten, shortened, Path.unlink])
@pytest.mark.parametrize("kept_open", [True, False])
def test_a_file_that_changes_is_refused(source: Path, tmp_path: Path, change: Callable[[Path], None], kept_open: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes are never taken for the model's."""
    if change is Path.unlink and kept_open:
        pytest.skip("an open file outlives its name")
    if not kept_open:
        monkeypatch.setattr(external, "MAX_OPEN_FILES", 0)
    model = ir.load(source)
    change(source.parent / "weights.bin")
    for use in (lambda: model.graph.initializers["w"].values, lambda: ir.save(model, tmp_path / "o.onnx"), lambda: ir.to_bytes(model)):
        with pytest.raises(ModelError, match=r"m\.onnx: its external data .*weights\.bin was changed or removed"):
            use()
    assert not (tmp_path / "o.onnx").exists()


def test_values_are_a_view_of_the_map(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "MAPPED", 1024)
    values = ir.load(source).graph.initializers["w"].values
    assert not values.flags.owndata
    assert not values.flags.writeable
    assert values.tobytes() == tiny().graph.initializer[0].raw_data


def test_many_data_files_do_not_keep_many_files_open(tmp_path: Path) -> None:
    fds = Path("/proc/self/fd")
    if not fds.exists():
        pytest.skip("the system does not tell how many files are open")
    proto = tiny()
    for index in range(200):
        values = np.full(4, index, np.float32)
        tensor = TensorProto(name=f"t{index}", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"t{index}.bin")
        (tmp_path / f"t{index}.bin").write_bytes(values.tobytes())
        proto.graph.initializer.append(tensor)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    gc.collect()
    before = len(list(fds.iterdir()))
    model = ir.load(tmp_path / "m.onnx")
    assert len(list(fds.iterdir())) - before <= external.MAX_OPEN_FILES
    assert [model.graph.initializers[f"t{i}"].values[0] for i in range(200)] == list(range(200))
    del model
    gc.collect()
    assert len(list(fds.iterdir())) == before


# --- places ------------------------------------------------------------------------------------------------------------------------


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


def test_an_empty_list_that_was_calculated_is_one_of_integers() -> None:
    """As the order of the axes of a tensor without any."""
    model = parse_model("(float x) => (float y) { y = Transpose (x) }", {"": 17})
    model.graph.nodes[0].attrs["perm"] = []
    (attribute,) = to_proto(model).graph.node[0].attribute
    assert attribute.type == AttributeProto.INTS and not attribute.ints
