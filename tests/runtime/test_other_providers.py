"""OpenVINO and Qualcomm's plugin, in environments that have them; elsewhere these tests are skipped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress import ir
from graphcompress.errors import ModelError
from graphcompress.runtime import measure, profile, providers
from graphcompress.runtime.compare import compare
from graphcompress.runtime.place import LocalPlace, fixed_dims, open_for
from graphcompress.runtime.session import open_session

openvino = pytest.mark.skipif("openvino" not in providers.usable(), reason="onnxruntime-openvino is not installed here")
qnn = pytest.mark.skipif("qnn" not in providers.usable(), reason="onnxruntime-qnn is not installed here")


@pytest.fixture
def digits(models: Path) -> tuple[ir.Model, list[dict[str, np.ndarray[Any, Any]]]]:
    model = ir.load(models / "digits_cnn" / "model.onnx")
    spec = model.inputs[0]
    generator = np.random.default_rng(0)
    return model, [{spec.name: generator.random([d if isinstance(d, int) else 1 for d in spec.shape or ()], np.float32)} for _ in range(4)]


@openvino
@pytest.mark.parametrize("name", ["openvino", "OpenVINOExecutionProvider"])
def test_openvino_takes_all_nodes(digits: Any, name: str) -> None:
    model, feeds = digits
    with open_session(model) as cpu, open_session(model, provider=name, threads=1) as made:
        told = made.describe()
        assert told["provider"] == "OpenVINOExecutionProvider" and told["share"] == 1.0 and told["hint"] is None
        found = compare(cpu, made, feeds, {})
    assert found.agreement == 1.0


@openvino
def test_openvino_is_measured(digits: Any) -> None:
    model, feeds = digits
    with (
        open_session(model, provider="openvino", threads=1) as ref,
        open_session(model, provider="openvino", threads=1) as again,
        open_session(model, provider="openvino", threads=1) as cand,
    ):
        found = measure.measure(ref, again, cand, feeds, threads=1, budget_s=0.5)
    assert found.median_ms > 0 and found.clock == "wall"
    assert measure.footprint(model.path, feeds[0], provider="openvino").load_seconds > 0


@openvino
def test_compiled_graphs_cannot_be_read_back(digits: Any) -> None:
    with pytest.raises(ModelError, match="OpenVINOExecutionProvider"):
        profile.optimized_model(digits[0], "openvino")


@openvino
def test_model_that_openvino_cannot_load_is_an_error(model_of: Callable[..., ir.Model]) -> None:
    """What it does not take goes to the CPU; what it takes and cannot compile is one line."""
    model = model_of("g (string[n] x) => (string[n] y) { y = Identity(x) }")
    with open_session(model, provider="openvino") as made:
        assert made.describe()["share"] == 0 and "took none" in made.describe()["hint"]


@qnn
def test_qnn_names_the_free_dimensions_and_takes_all_nodes_once_they_are_fixed(digits: Any) -> None:
    model, feeds = digits
    with open_session(model, provider="qnn") as made:
        told = made.describe()
        assert told["share"] == 0 and f"'{model.inputs[0].name}' axis 0" in told["hint"]
        dims = fixed_dims(made.inputs, feeds[0])
    with open_session(model) as cpu, open_session(model, provider="qnn", dims=dims) as made:
        told = made.describe()
        assert told["share"] > 0.8 and told["hint"] is None and told["nodes"]["QNNExecutionProvider"] > 5
        found = compare(cpu, made, feeds, {})
        assert found.agreement == 1.0 and not next(iter(found.outputs.values())).equal, "really ran elsewhere"


@qnn
def test_unnamed_dimensions_are_fixed_for_qnn() -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 8])],
        [helper.make_tensor("w", TensorProto.FLOAT, [16, 8], np.ones(128, np.float32))],
    )
    model = ir.model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    with open_session(model, provider="qnn", dims={"x[0]": 2}) as made:
        assert made.describe()["share"] == 1.0
        np.testing.assert_allclose(made.run({"x": np.ones((2, 16), np.float32)})["y"], 16, rtol=1e-2)


@qnn
def test_dimensions_are_fixed_by_equal_feeds_only(digits: Any) -> None:
    model, feeds = digits
    session, notes = open_for(LocalPlace("qnn"), model, feeds)
    with closing(session):
        assert session.describe()["share"] > 0.8 and "they were fixed" in notes[0]
    ragged = [*feeds, {k: np.concatenate([v, v]) for k, v in feeds[0].items()}]
    session, notes = open_for(LocalPlace("qnn"), model, ragged)
    with closing(session):
        assert session.describe()["share"] == 0 and "took none" in notes[0]


@qnn
def test_what_the_emulator_prints_stays_off_standard_output(models: Path) -> None:
    code = f"from graphcompress.runtime.session import open_session; open_session({str(models / 'digits_cnn' / 'model.onnx')!r}, provider='qnn').close(); print('{{}}')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{}\n"
