"""Values of large initializers are taken out of the message before it is parsed, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import graphcompress
from graphcompress.errors import ModelError
from graphcompress.ir import model_from_proto, to_proto
from graphcompress.ir.files.detach import SMALLEST, detached

Edit = Callable[[ModelProto], None]

PEAK = """
import sys, graphcompress

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))

graphcompress.load(sys.argv[1])  # what the first use of a module costs
before = status("VmRSS")
model = graphcompress.load(sys.argv[2])
arrays = [constant.values for constant in model.graph.initializers.values()]
print(status("VmRSS") - before)
"""


def weights(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)


def model(*arrays: np.ndarray) -> ModelProto:
    """x + w0 + w1 ..., a small constant among them."""
    names = [f"w{i}" for i in range(len(arrays))]
    tensors = [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
    nodes = [helper.make_node("Add", [f"s{i - 1}" if i else "x", name], [f"s{i}"]) for i, name in enumerate(names)]
    nodes.append(helper.make_node("Add", [f"s{len(names) - 1}", "small"], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in "xy"]
    tensors.insert(1, numpy_helper.from_array(np.float32([1.5]), "small"))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_plain_weights_are_taken_out(tmp_path: Path) -> None:
    content = model(weights(64, 64), weights(64, 64) + 1).SerializeToString()
    head, values = detached(content)
    assert {name: array.tolist() for name, array in values.items()} == {"w0": weights(64, 64).tolist(), "w1": (weights(64, 64) + 1).tolist()}
    assert len(head) < 1000 and [len(t.raw_data) for t in onnx.load_from_string(head).graph.initializer] == [0, 4, 0]
    assert all(not array.flags.writeable and array.flags.aligned for array in values.values())
    assert content == model(weights(64, 64), weights(64, 64) + 1).SerializeToString()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8, np.uint64, np.bool_])
def test_each_type_comes_back(dtype: type, tmp_path: Path) -> None:
    before = model(weights(64, 128, dtype=dtype))
    (tmp_path / "m.onnx").write_bytes(before.SerializeToString())
    loaded = graphcompress.load(tmp_path / "m.onnx")
    assert loaded.graph.initializers["w0"].values.dtype == dtype
    assert to_proto(loaded).SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)
    graphcompress.save(loaded, tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


def documented(proto: ModelProto) -> None:
    proto.graph.initializer[0].doc_string = "trained on a Tuesday"


def in_floats(proto: ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    values = numpy_helper.to_array(tensor).ravel().tolist()
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values)


def brain_floats(proto: ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.data_type, tensor.raw_data = TensorProto.BFLOAT16, tensor.raw_data[: len(tensor.raw_data) // 2]


def unknown_field(proto: ModelProto) -> None:
    proto.graph.initializer[0].MergeFromString(b"\xfa\x3e\x03abc")


def overridable(proto: ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, [64, 64]))


def listed_of_old(proto: ModelProto) -> None:
    overridable(proto)
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("small", TensorProto.FLOAT, [1]))


def in_a_branch(proto: ModelProto) -> None:
    """An initializer of a branch has the name of one of the main graph."""
    tensor = numpy_helper.from_array(weights(64, 64) - 7, "inner")
    output = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["inner"], ["b"])], "branch", [], [output], [tensor])
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))


@pytest.mark.parametrize("edit", [documented, in_floats, brain_floats, unknown_field, overridable, listed_of_old, in_a_branch])
def test_what_an_array_does_not_say_is_kept(edit: Edit, tmp_path: Path) -> None:
    before = model(weights(64, 64))
    edit(before)
    (tmp_path / "m.onnx").write_bytes(before.SerializeToString())
    loaded = graphcompress.load(tmp_path / "m.onnx")
    after = to_proto(loaded)
    if edit is listed_of_old:  # which constants are listed is kept, their order among the inputs too
        assert [i.name for i in after.graph.input] == ["x", "w0", "small"]
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


def short(proto: ModelProto) -> None:
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]


def negative(proto: ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [-64, -64]


def twice(proto: ModelProto) -> None:
    proto.graph.initializer.append(proto.graph.initializer[0])


@pytest.mark.parametrize(("edit", "says"), [(short, "16380 bytes of raw data"), (negative, "negative dimension"), (twice, "two initializers are called 'w0'")])
def test_what_is_wrong_is_said_as_before(edit: Edit, says: str, tmp_path: Path) -> None:
    proto = model(weights(64, 64))
    edit(proto)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=says):
        graphcompress.load(tmp_path / "m.onnx")


def test_no_bytes_are_read_beyond_the_end() -> None:
    content = model(weights(64, 64)).SerializeToString()
    for end in {*range(1, 400), *range(400, len(content), 997), len(content) - 1}:
        head, values = detached(content[:end])
        assert (head, values) == (content[:end], {})


def test_a_message_in_two_parts_is_left_alone() -> None:
    """Protobuf puts together a graph that comes twice."""
    content = model(weights(64, 64)).SerializeToString()
    assert detached(content + content)[1] == {}


def test_a_model_in_memory_says_which_file_it_lacks() -> None:
    for entries, named in (({}, "''"), ({"location": "w.bin"}, "'w.bin'")):
        proto = model(weights(64, 64))
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        with pytest.raises(ModelError, match=rf"'w0'.*external file \({named}\)"):
            print(model_from_proto(proto).graph.initializers["w0"].values)


def test_small_ones_stay() -> None:
    at_least = model(weights(SMALLEST // 4), weights(SMALLEST // 4 - 1))
    assert list(detached(at_least.SerializeToString())[1]) == ["w0"]


def test_weights_are_held_once(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not say what a process has in memory")
    for name, rows in (("small", 1), ("large", 4096)):
        (tmp_path / name).write_bytes(model(*(weights(rows, 1024) for _ in range(4))).SerializeToString())
    script = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "large")]
    growth = int(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    assert growth < 1.3 * 4 * 4096 * 4
