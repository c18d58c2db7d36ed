"""The Python functions: the same as the command line, on paths, models and feeds in memory."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pickled_workers import PickledWorkers

import graphcompress
from graphcompress.api.inputs import open_model
from graphcompress.errors import BarMissed, DataError, GraphCompressError, ModelError, RecipeError, UsageError
from graphcompress.gate import SessionJudge
from graphcompress.ir.files import serialize
from graphcompress.runtime.measure import Measurement
from graphcompress.runtime.place import LocalPlace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A Gemm with eight classes behind a Relu, and a scalar threshold that callers may leave out."""
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Identity", ["r"], ["i"], "nothing"),
        helper.make_node("Gemm", ["i", "v", "c"], ["y"], "second", transB=1),
    ]
    weights = [
        numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (32, 16)), ("b", (32,)), ("v", (8, 32)), ("c", (8,)))
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    place = tmp_path / "mlp.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), place)
    return place


def feeds(count: int = 16, rows: int = 1) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    return [{"x": generator.standard_normal((rows, 16)).astype(np.float32)} for _ in range(count)]


def test_a_path_and_a_model_give_the_same(path: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "feeds.npz", x=np.concatenate([f["x"] for f in feeds()]))
    by_path = graphcompress.compress(path, tmp_path / "feeds.npz", measure=False)
    by_model = graphcompress.compress(graphcompress.load(path), feeds(), measure=False)
    graphcompress.save(by_path.model, tmp_path / "a.onnx")
    graphcompress.save(by_model.model, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert by_path.record.model.path == str(path) and by_model.record.model.path is None
    assert by_path.record.steps[0].applied == by_model.record.steps[0].applied


def test_models_in_memory_are_taken_and_left_as_they_are(path: Path) -> None:
    content = path.read_bytes()
    proto = onnx.load(path)
    for model in (content, proto):
        assert graphcompress.simplify(model).record.before.nodes == graphcompress.simplify(path).record.before.nodes
    assert proto == onnx.load(path)
    for bad in (b"junk", 3, None, onnx.ModelProto()):
        with pytest.raises(ModelError):
            graphcompress.simplify(bad)


def test_the_given_model_is_not_touched(path: Path) -> None:
    model = graphcompress.load(path)
    graphcompress.compress(model, feeds(), measure=False)
    assert [node.op for node in model.graph.nodes] == ["Gemm", "Relu", "Identity", "Gemm"]


def test_an_original_from_a_file_runs_there_and_is_measured_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_model(path)
    written: list[Any] = []
    build = serialize._References.model
    monkeypatch.setattr(serialize._References, "model", lambda self: (written.append(self.source), build(self))[1])
    done = graphcompress.compress(source, feeds(), measure=False)
    assert written and all(model is not source.model for model in written)
    assert done.record.before.bytes == path.stat().st_size


def test_a_file_that_was_replaced_or_needs_another_does_not_stand_for_the_model(path: Path, tmp_path: Path) -> None:
    assert open_model(graphcompress.load(path)).same_file() is None
    source = open_model(path)
    assert source.same_file() == path
    onnx.save(onnx.load(path), tmp_path / "split.onnx", save_as_external_data=True, size_threshold=0)
    assert open_model(tmp_path / "split.onnx").same_file() is None
    (tmp_path / "new.onnx").write_bytes(path.read_bytes())
    (tmp_path / "new.onnx").replace(path)
    assert source.same_file() is None


def test_every_4th_feed_judges_and_few_feeds_judge_themselves(path: Path) -> None:
    many = graphcompress.compress(path, feeds(16), measure=False).record.data
    few = graphcompress.compress(path, feeds(5), measure=False).record.data
    assert many is not None and (many.calibration, many.held_out) == (12, 4)
    assert few is not None and (few.calibration, few.held_out) == (5, 5) and "too few" in few.note


def test_a_missed_bar_is_raised_with_the_result(path: Path) -> None:
    with pytest.raises(BarMissed, match="--min-speedup 1000") as caught:
        graphcompress.compress(path, feeds(), min_speedup=1000, threads=1)
    assert isinstance(caught.value.result, graphcompress.Result) and caught.value.status == 1


def float_alone(reference: Any, candidate: Any) -> float:
    """A metric that takes nothing for the same but what is."""
    return 1.0 if all(np.allclose(reference[name], candidate[name], atol=1e-5) for name in reference) else 0.5


def test_the_effort_fast_tries_the_boldest_alone_and_says_so_where_that_does_not_hold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, int]] = []
    module = importlib.import_module("graphcompress.api.compress")  # the package has the function by that name
    original = module.search

    def watched(model: Any, steps: Any, context: Any, judge: Any, bars: Any, settings: Any, **how: Any) -> Any:
        seen.append((context.measure, len(settings)))
        return original(model, steps, context, judge, bars, settings, **how)

    monkeypatch.setattr(module, "search", watched)

    def measured(judge: Any, model: Any, threads: Any, bar: float = 1.0) -> Measurement:
        """What the machine says beside other work decides nothing here."""
        return Measurement(2.0, 1.0, 2.0, (1.9, 2.1), (0.99, 1.01), 10, "faster", threads)

    monkeypatch.setattr(SessionJudge, "measure", measured)
    holds = graphcompress.compress(path, feeds(), effort="fast")
    assert holds.record.measurements and not any("--effort full" in note for note in holds.record.notes)
    assert seen == [(False, 1)]  # steps time nothing, and results are timed with one thread setting
    missed = graphcompress.compress(path, feeds(), threads=1, effort="fast", metric=float_alone)
    assert any("--effort full" in note for note in missed.record.notes)
    whole = graphcompress.compress(path, feeds(), threads=1, measure=False, metric=float_alone)
    fast, full = ([c.rungs for c in r.record.gate.candidates if r.record.gate is not None] for r in (missed, whole))
    assert fast == full[:2] == [["simplified", "weights stored in int8"], ["simplified"]] and len(full) > 2
    for wrong, says in (({"effort": "quick"}, "no effort 'quick'"), ({"effort": "fast", "goal": "macs=0.5"}, "does not search")):
        with pytest.raises(UsageError, match=says):
            graphcompress.compress(path, feeds(), **wrong)


@pytest.fixture
def lookup(tmp_path: Path) -> Path:
    """A row of a table of five by index, then a Gemm."""
    generator = np.random.default_rng(0)
    nodes = [helper.make_node("Gather", ["t", "i"], ["r"], "row"), helper.make_node("Gemm", ["r", "w"], ["y"], "head")]
    weights = [numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name) for name, shape in (("t", (5, 64)), ("w", (64, 64)))]
    i, y = helper.make_tensor_value_info("i", TensorProto.INT64, [1]), helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "lookup", [i], [y], weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx"
    )
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("index", [0, 3], ids=["calibration", "judging"])
def test_feeds_that_the_original_does_not_run_on_are_an_error(lookup: Path, index: int) -> None:
    indices = [{"i": np.int64([n % 5])} for n in range(20)]
    assert graphcompress.compress(lookup, indices, measure=False).record.gate is not None
    indices[index] = {"i": np.int64([77])}
    with pytest.raises(GraphCompressError, match="cannot run") as caught:
        graphcompress.compress(lookup, indices, measure=False)
    assert str(lookup) in str(caught.value)


def test_an_original_that_does_not_run_is_an_error_that_names_it(path: Path) -> None:
    broken = onnx.load(path)
    broken.graph.node[0].attribute.append(helper.make_attribute("transA", 1))
    onnx.save(broken, path)
    with pytest.raises(GraphCompressError, match=r"cannot run .*mlp"):
        graphcompress.compress(path, feeds(), measure=False)


def test_a_model_that_draws_noise_is_judged_by_nothing_and_that_is_said(tmp_path: Path) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [256, 256]) for name in "xy")
    w = numpy_helper.from_array(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32), "w")
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], [w]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    data = [{"x": np.random.default_rng(i).standard_normal((256, 256)).astype(np.float32)} for i in range(12)]
    record = graphcompress.compress(tmp_path / "m.onnx", data, measure=False).record
    assert record.gate is not None and "quantize" not in record.gate.kept
    assert "differs from itself" in record.gate.explanation
    with pytest.raises(BarMissed, match="could not be judged"):
        graphcompress.compress(tmp_path / "m.onnx", data, measure=False, min_agreement=0.5)


def test_simplify_and_quantize(path: Path) -> None:
    simple = graphcompress.simplify(path)
    assert simple.record.after.nodes < simple.record.before.nodes
    quantized = graphcompress.quantize(simple.model, feeds(), exclude=["^second$"], measure=False)
    assert quantized.record.comparison is not None and quantized.record.measurements == []
    with pytest.raises(UsageError, match="nothing_like_this"):
        graphcompress.quantize(simple.model, feeds(), exclude=["nothing_like_this"], measure=False)
    with pytest.raises(RecipeError, match="unknown option 'calibraton'"):
        graphcompress.quantize(simple.model, feeds(), calibraton="mse")


def test_validate_takes_models_and_feeds_in_memory(path: Path) -> None:
    report = graphcompress.validate(path, graphcompress.load(path), feeds())
    assert report.agreement == 1.0 and report.feeds == 16 and report.outputs["y"].kind == "classes"


def second_half(reference: Any, candidate: Any, labels: Any = None) -> float:
    """Agreement of classes; with labels, whether they are those of the second half."""
    return float(np.array_equal(reference["y"].argmax(-1), candidate["y"].argmax(-1))) if labels is None else float(labels["_label"] >= 35)


def test_workers_compare_as_one_process_does(path: Path) -> None:
    quantized, data = graphcompress.quantize(path, feeds(), measure=False).model, feeds(70)
    labels = [{**feed, "_label": np.array(i)} for i, feed in enumerate(data)]
    workers = PickledWorkers()
    for given in (data, labels):
        alone, shared = (graphcompress.validate(path, quantized, given, threads=1, workers=w, metric=second_half) for w in (None, workers))
        assert alone == shared and alone.agreement is not None
    assert workers.parts == 6 and shared.agreement == pytest.approx(0.5)
    with pytest.raises(UsageError, match="cannot be sent to workers"):
        graphcompress.validate(path, quantized, data, workers=workers, metric=lambda reference, candidate: 1.0)
    with pytest.raises(UsageError, match="leave out the provider"):
        graphcompress.validate(path, quantized, data, workers=workers, place=LocalPlace(config=(("session.x", "1"),)))


def test_inspect(path: Path) -> None:
    assert graphcompress.inspect(path).parameters == 32 * 16 + 32 + 8 * 32 + 8


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([], "empty"),
        ([{"z": np.zeros((1, 16), np.float32)}], "'x' is missing"),
        ([{"x": np.zeros((1, 16), np.float32), "z": np.zeros(1)}], "'z' is no input of the model"),
        ([{"x": np.zeros((1, 16), np.uint8)}], "'x' is uint8"),
        ([{"x": np.zeros((1, 15), np.float32)}], r"feed 0: axis 1 of the array 'x' has 15 elements, \[1, 15\]"),
        ([{"x": np.zeros((0, 16), np.float32)}], "feed 0: the array 'x' is empty"),
        ([{"x": np.full((1, 16), np.nan, np.float32)}], "NaN"),
        (None, "There is no data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_feeds_that_do_not_fit(path: Path, bad: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        graphcompress.compress(path, bad, measure=False)


def test_labels_are_not_fed(path: Path) -> None:
    labelled = [feed | {"_label": np.int64(3)} for feed in feeds()]
    assert graphcompress.validate(path, path, labelled).agreement == 1.0


def test_models_with_other_inputs_cannot_be_compared(path: Path, tmp_path: Path) -> None:
    other = onnx.load(path)
    other.graph.input[0].name = other.graph.node[0].input[0] = "image"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="lacks the input 'x'"):
        graphcompress.validate(path, tmp_path / "other.onnx", feeds())


def test_the_public_names_are_there_and_load_nothing_until_used() -> None:
    for name in graphcompress.__all__:
        assert getattr(graphcompress, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'comprss'"):
        _ = graphcompress.comprss
    done = subprocess.run(
        [sys.executable, "-c", "import graphcompress, sys; print('onnx' in sys.modules, 'numpy' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"


def test_the_version_is_that_of_the_package(repository: Path) -> None:
    assert tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"] == graphcompress.__version__
