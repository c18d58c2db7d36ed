"""Sessions: what goes in, what comes out, what is said of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from graphcompress import ir
from graphcompress.errors import DataError, ModelError, RuntimeUnavailable, UsageError
from graphcompress.ir import TensorSpec
from graphcompress.runtime import machine, ort, providers, session
from graphcompress.runtime.session import open_session, shares

ModelOf = Callable[..., ir.Model]

ADD = "g (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }"


def test_outputs_come_by_name(model_of: ModelOf) -> None:
    with open_session(model_of("g (float[n] x) => (float[n] y, float[n] z) { y = Neg(x) z = Abs(x) }")) as opened:
        out = opened.run({"x": np.float32([-1, 2])})
    assert {k: v.tolist() for k, v in out.items()} == {"y": [1, -2], "z": [1, 2]}


def test_loading_and_closing_return_memory_to_the_system(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(ort, "return_memory", lambda: calls.append(None))
    with open_session(model_of(ADD)):
        loaded = len(calls)
    assert 0 < loaded < len(calls)


def test_a_session_does_not_hold_the_message_that_it_was_loaded_from(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[Any] = []
    create = ort.create
    monkeypatch.setattr(ort, "create", lambda *arguments: sessions.append(create(*arguments)) or sessions[-1])
    with open_session(model_of(ADD)) as opened:
        assert not any(isinstance(value, bytes) for value in vars(sessions[0]).values())
        assert opened.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]


def test_signature(model_of: ModelOf) -> None:
    with open_session(model_of(ADD)) as opened:
        assert opened.inputs == (TensorSpec("x", "float", ("n", 3)),)
        assert opened.outputs == (TensorSpec("y", "float", ("n", 3)),)


def test_path_and_model_give_the_same(models: Path) -> None:
    path = models / "digits_cnn" / "model.onnx"
    loaded = ir.load(path)
    feed = {s.name: np.ones([d if isinstance(d, int) else 1 for d in s.shape or ()], np.float32) for s in loaded.inputs}
    with open_session(path) as a, open_session(loaded) as b:
        for name, value in a.run(feed).items():
            np.testing.assert_array_equal(value, b.run(feed)[name])


def test_strings_go_through(model_of: ModelOf) -> None:
    with open_session(model_of("g (string[n] x) => (string[n] y) { y = Identity(x) }")) as opened:
        assert opened.run({"x": np.array(["a", "b"], object)})["y"].tolist() == ["a", "b"]
        assert opened.run({"x": np.array(["a", "b"])})["y"].tolist() == ["a", "b"]


def test_sequences_are_lists(model_of: ModelOf) -> None:
    with open_session(model_of("g (float[n] x) => (seq(float[n]) y) { y = SequenceConstruct(x, x) }")) as opened:
        assert opened.outputs[0].kind == "sequence"
        assert [v.tolist() for v in opened.run({"x": np.float32([1])})["y"]] == [[1], [1]]


def test_maps_are_dicts() -> None:
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[3, 4])
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])))
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])], [helper.make_value_info("y", kind)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1), helper.make_opsetid("", 17)], ir_version=8)
    with open_session(ir.model_from_proto(proto)) as opened:
        assert opened.run({"x": np.float32([[1, 2]])})["y"] == [{3: 1.0, 4: 2.0}]


@pytest.mark.parametrize(
    ("feed", "part"),
    [
        ({}, "x"),
        ({"z": np.ones(3, np.float32)}, "x"),
        ({"x": np.ones((2, 4), np.float32)}, "Got: 4"),
        ({"x": np.ones((2, 3))}, "double"),
        ({"x": np.ones(3, np.float32)}, "rank"),
    ],
)
def test_unfit_feed_is_one_line(model_of: ModelOf, feed: dict[str, np.ndarray], part: str) -> None:
    with open_session(model_of(ADD)) as opened, pytest.raises(DataError) as caught:
        opened.run(feed)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_failure_while_running_is_one_line(model_of: ModelOf) -> None:
    opened = open_session(model_of("g (float[n] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }"))
    with opened, pytest.raises(ModelError) as caught:
        opened.run({"x": np.ones(5, np.float32), "s": np.int64([2, 3])})
    assert "Reshape" in str(caught.value) and "\n" not in str(caught.value)
    assert ".cc" not in str(caught.value)


def test_model_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\x08\x08 no model")
    with pytest.raises(ModelError, match=r"onnxruntime cannot load .*bad.onnx"):
        open_session(bad)
    with pytest.raises(ModelError, match="is not a file"):
        open_session(tmp_path / "none.onnx")


@pytest.mark.parametrize("as_path", [False, True])
def test_free_dimensions_are_fixed(tmp_path: Path, as_path: bool) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    model = tmp_path / "m.onnx" if as_path else ir.load(tmp_path / "m.onnx")
    with open_session(model, dims={"n": 2, "x[1]": 5}) as opened:
        assert opened.inputs[0].shape == (2, 5)
        assert opened.run({"x": np.ones((2, 5), np.float32)})["y"].shape == (2, 5)
        with pytest.raises(DataError):
            opened.run({"x": np.ones((3, 5), np.float32)})


def test_large_changed_model_runs_from_a_folder_that_goes_away(tmp_path: Path, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3], np.float32([1, 2, 3]).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [weights],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    monkeypatch.setattr(session, "LARGE", 0)
    untouched, changed = ir.load(tmp_path / "m.onnx"), ir.load(tmp_path / "m.onnx").copy()
    changed.graph.nodes[0].op = "Mul"
    feed = {"x": np.float32([1, 1, 2])}
    with open_session(untouched) as opened:
        assert opened._folder is None
        assert opened.run(feed)["y"].tolist() == [2, 3, 5]
    with open_session(changed) as opened:
        folder = Path(opened._folder or "")
        assert folder.is_dir()
        assert opened.run(feed)["y"].tolist() == [1, 2, 6]
    assert not folder.exists()


def test_overridable_inputs_may_be_given(model_of: ModelOf) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xw"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1], [5.0])],
    )
    model = ir.model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    with open_session(model) as opened:
        assert [s.name for s in opened.inputs] == ["x"] and [s.name for s in opened.optional] == ["w"]
        assert opened.run({"x": np.float32([1])})["y"] == 6
        assert opened.run({"x": np.float32([1]), "w": np.float32([1])})["y"] == 2


def test_description(model_of: ModelOf) -> None:
    with open_session(model_of(ADD), threads=1) as opened:
        told = opened.describe()
    assert told["provider"] == "CPUExecutionProvider" and told["threads"] == 1
    assert told["nodes"] == {"CPUExecutionProvider": 1} and told["share"] == 1.0 and told["hint"] is None
    assert {"runtime", "version", "machine", "cpu", "flags", "cores"} <= told.keys()


@pytest.mark.parametrize("name", ["cpu", "CPU", "CPUExecutionProvider", "cpuexecutionprovider"])
def test_provider_names_short_and_whole(name: str) -> None:
    assert providers.find(name).name == "CPUExecutionProvider"


def test_unknown_provider_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="Usable here: cpu"):
        providers.find("gpuu")


@pytest.mark.parametrize(
    ("name", "package"),
    [("cuda", "onnxruntime-gpu"), ("TensorrtExecutionProvider", "onnxruntime-gpu"), ("dml", "onnxruntime-directml"), ("vitisai", "build of onnxruntime")],
)
def test_absent_provider_names_its_package(model_of: ModelOf, name: str, package: str) -> None:
    if providers.short(name) in providers.usable():
        pytest.skip(f"{name} is installed here")
    with pytest.raises(RuntimeUnavailable, match=package):
        open_session(model_of(ADD), provider=name)


def test_provider_that_is_listed_but_not_got_is_an_error(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime leaves a provider out, with a warning only, where its libraries are missing."""
    monkeypatch.setattr(providers, "find", lambda name: providers.Provider("CUDAExecutionProvider"))
    monkeypatch.setattr(providers, "chain", lambda provider, threads: [("CPUExecutionProvider", {})])
    with pytest.raises(RuntimeUnavailable, match="onnxruntime-gpu"):
        open_session(model_of(ADD), provider="cuda")


def test_hint_names_the_free_dimensions(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_session(model_of("g (float[batch, 3] x) => (float[batch, 3] y) { y = Relu(x) }")) as opened:
        opened.core.provider = providers.Provider("QNNExecutionProvider")
        told = opened.describe()
    assert told["share"] == 0
    assert "took none of the 1 nodes" in told["hint"] and "'x' axis 0 (batch)" in told["hint"]


def test_hint_beside_a_small_share() -> None:
    specs = [ir.TensorSpec("x", "float", (2,))]

    def hint(provider: str, qnn: int, cpu: int) -> str | None:
        told: str | None = shares(provider, {"QNNExecutionProvider": ["n"] * qnn, "CPUExecutionProvider": ["n"] * cpu}, specs)["hint"]
        return told

    assert "only 1 of the 3 nodes" in (hint("QNNExecutionProvider", 1, 2) or "")
    assert "seems to support few" in (hint("QNNExecutionProvider", 1, 2) or "")
    assert hint("QNNExecutionProvider", 2, 2) is None
    assert hint("CPUExecutionProvider", 2, 2) is None
    assert shares("QNNExecutionProvider", None, specs) == {"provider": "QNNExecutionProvider", "nodes": None, "share": None, "hint": None}


def test_input_that_is_an_output_outlives_the_feed(model_of: ModelOf) -> None:
    with open_session(model_of("g (float[n] x) => (float[n] y, float[n] x) { y = Neg(x) }")) as opened:
        feed = {"x": np.float32([1, 2])}
        out = opened.run(feed)
        feed["x"][:] = 9
    assert out["x"].tolist() == [1, 2]


def test_float8_codes_have_their_type(model_of: ModelOf) -> None:
    with open_session(model_of("g (float[n] x) => (float8e4m3fn[n] y) { y = Cast<to = 17>(x) }", opset=19, ir_version=9)) as opened:
        assert opened.run({"x": np.float32([1, 2])})["y"].astype(float).tolist() == [1, 2]


OPENVINO = """[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: /onnxruntime/onnxruntime/core/providers/openvino/backends/basic_backend.cc:136 onnxruntime::openvino_ep::BasicBackend::BasicBackend(std::unique_ptr<onnx::ModelProto>&, onnxruntime::openvino_ep::SessionContext&) /onnxruntime/onnxruntime/core/providers/openvino/ov_interface.cc:28 auto onnxruntime::openvino_ep::OvExceptionBoundary(Func&&, Args&& ...) [with bool typed = false; Args = {const std::__cxx11::basic_string<char>&}] [OpenVINO-EP] Exception while Loading Network for graph G_1_0: Exception from src/inference/src/cpp/core.cpp:114:
Exception from src/inference/src/dev/plugin.cpp:53:
Check '!shape.rank().is_dynamic()' failed at src/plugins/intel_cpu/src/node.cpp:106:
Unexpected: dynamic rank.

"""


def test_reasons_without_c_plus_plus() -> None:
    assert (
        ort.one_line(RuntimeError(OPENVINO))
        == "Exception during initialization: [OpenVINO-EP] Exception while Loading Network for graph G_1_0: Check '!shape.rank().is_dynamic()' failed Unexpected: dynamic rank."
    )
    assert len(ort.one_line(RuntimeError("word " * 1000))) < 410
    assert ort.one_line(KeyError()) == "KeyError"


def test_time_is_per_pass(model_of: ModelOf) -> None:
    with open_session(model_of(ADD), threads=1) as opened:
        seconds = opened.time([{"x": np.ones((1, 3), np.float32)}], 20)
        assert 0 < seconds.wall < 1 and seconds.cpu is not None and 0 < seconds.cpu < 1


def test_only_one_thread_has_a_cpu_time(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = [{"x": np.ones((1, 3), np.float32)}]
    for threads in (None, 2):
        with open_session(model_of(ADD), threads=threads) as opened:
            assert opened.time(feeds, 1).cpu is None
    with open_session(model_of(ADD), threads=1) as opened:
        monkeypatch.setattr("sys.platform", "win32")
        assert opened.time(feeds, 1).cpu is None


def test_native_prints_stay_off_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    print("before", flush=True)
    with ort.native_output_to_stderr():
        os.write(1, b"noise\n")
    print("after", flush=True)
    out, err = capfd.readouterr()
    assert out == "before\nafter\n" and "noise" in err


@pytest.mark.parametrize(
    ("ir", "domain", "version", "says"),
    [
        (99, "", 17, r"IR version 99, and onnxruntime [\d.]+ knows \d+ at most: upgrade onnxruntime"),
        (8, "", 99, r"opset 99 of ai\.onnx, and onnxruntime [\d.]+ knows \d+ at most"),
        (8, "ai.onnx.ml", 99, r"opset 99 of ai\.onnx\.ml, and onnxruntime [\d.]+ knows \d+ at most"),
    ],
)
def test_a_model_newer_than_onnxruntime(tmp_path: Path, ir: int, domain: str, version: int, says: str) -> None:
    info = [helper.make_tensor_value_info(n, 1, [1]) for n in "xy"]
    opsets = {"": 17} | {domain: version}
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid(*o) for o in opsets.items()], ir_version=ir), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=says):
        open_session(tmp_path / "m.onnx")


def test_a_device_of_a_plugin_is_taken_and_that_of_the_cpu_is_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_devices", lambda wanted: [SimpleNamespace(ep_name=f"{wanted}PluginExecutionProvider")])
    assert providers.find("special").name == "specialPluginExecutionProvider" and providers.find("special").plugin
    assert providers.find("cpu") == providers.Provider("CPUExecutionProvider")


def test_options_of_built_in_providers() -> None:
    assert providers.builtin_options("OpenVINOExecutionProvider", 3) == {"device_type": "CPU", "num_of_threads": "3"}
    assert providers.builtin_options("openvino", None) == {"device_type": "CPU"}
    assert providers.builtin_options("cpu", 3) == {}


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="this system does not list its processor's instruction sets in /proc")
def test_the_instruction_sets_that_tell_speeds_apart_are_those_of_the_system() -> None:
    words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    assert machine.cpu()[1] == tuple(f for f in machine.TELLING if f in words)


def test_timing_runs_every_feed(model_of: Callable[..., ir.Model]) -> None:
    with open_session(model_of("g (float[n, 3] x) => (float[n, 3] y) { y = Neg(x) }")) as opened, pytest.raises(DataError, match="cannot run"):
        opened.time([{"x": np.ones((1, width), np.float32)} for width in (3, 4)], 1)
