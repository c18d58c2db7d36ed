"""Each command end to end on a small model: what is written, what is printed where, and the exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphcompress
from graphcompress.errors import ModelError
from graphcompress.ir.files import serialize
from graphcompress.record import BenchmarkReport, InspectReport, Record, ValidateReport
from graphcompress.targets import load_target
from tests.support.weights import with_weights

QUICK = ("--no-measure", "-q")


def compressed(run: Any, *more: str) -> Any:
    return run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", *QUICK, *more)


def test_compress_writes_a_model_with_the_same_inputs_and_outputs_and_its_record(place: Path, run: Any) -> None:
    done = compressed(run, "--record", "record.json", "--format", "json")
    assert (done.status, done.err) == (0, "")
    assert json.loads((place / "record.json").read_text()) == done.json
    record = Record.model_validate(done.json)
    before, after = graphcompress.load("model.onnx"), graphcompress.load("out.onnx")
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert [step.use for step in record.steps] == ["simplify", "prune", "layout", "quantize", "store"]
    assert record.data is not None and (record.data.feeds, record.data.calibration, record.data.held_out) == (24, 18, 6)
    assert record.output == "out.onnx" and record.after.bytes == (place / "out.onnx").stat().st_size
    assert record.before.bytes == (place / "model.onnx").stat().st_size
    assert record.gate is not None and record.comparison is not None and record.comparison.feeds == 6
    assert sorted(p.name for p in place.iterdir() if p.name.startswith(".")) == []


def test_the_result_of_compress_is_put_together_once(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its session, its size and its file; the step before it and the loading of both are judged too. The original runs from its file."""
    built: list[int] = []
    inline = serialize.inline
    monkeypatch.setattr(serialize, "inline", lambda model: (built.append(len(model.graph.nodes)), inline(model))[1])
    done = compressed(run, "--format", "json")
    assert Record.model_validate(done.json).gate.kept == ["simplify", "quantize", "store"]  # type: ignore[union-attr]
    assert built == [len(graphcompress.load("out.onnx").graph.nodes)]


def test_compress_says_in_a_table_what_came_of_it(place: Path, run: Any) -> None:
    done = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure")
    assert done.status == 0 and done.err == ""
    for said in ("before", "after", "size", "nodes", "parameters", "agreement", "Written to out.onnx.", "Speed was not measured"):
        assert said in done.out
    assert "\x1b" not in done.out


@pytest.mark.slow
def test_compress_measures_one_thread_and_all(place: Path, run: Any) -> None:
    done = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--format", "json")
    record = Record.model_validate(done.json)
    assert done.status == 0 and record.gate is not None
    if record.gate.kept:
        assert record.measurements[0].threads == 1
        assert all(m.verdict != "slower" for m in record.measurements)
    else:
        assert record.speedup == 1.0 and (place / "out.onnx").exists()


def test_a_missed_bar_is_status_1_and_nothing_is_written(place: Path, run: Any) -> None:
    done = run(
        "compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--record", "r.json", "--threads", "1", "--min-speedup", "1000", "--format", "json"
    )
    assert done.status == 1
    assert "--min-speedup 1000 was not met" in done.err and "Nothing was written; --keep writes it anyway." in done.err
    assert not (place / "out.onnx").exists() and not (place / "r.json").exists()
    record = Record.model_validate(done.json)
    assert record.output is None and [(b.option, b.held) for b in record.bars] == [("--min-speedup", False)]


def test_keep_writes_what_missed_the_bar(place: Path, run: Any) -> None:
    done = run(
        "compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--record", "r.json", "--threads", "1", "--min-speedup", "1000", "--keep", "-q"
    )
    assert done.status == 1 and (place / "out.onnx").exists()
    assert json.loads((place / "r.json").read_text())["output"] == "out.onnx"


def test_a_bar_that_holds_is_status_0(place: Path, run: Any) -> None:
    assert compressed(run, "--min-agreement", "0.5").status == 0


def test_a_stated_bar_of_agreement_steers_what_is_rolled_back(place: Path, run: Any) -> None:
    exact = compressed(run, "--recipe", "simple.toml", "--min-agreement", "1", "--format", "json")
    assert exact.status == 0 and [(b["required"], b["reached"], b["held"]) for b in exact.json["bars"]] == [(1.0, 1.0, True)]
    assert exact.json["gate"]["agreement"] == 1.0


def test_a_step_that_refuses_the_model_is_rolled_back_and_told(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(model: Any, context: Any, options: Any) -> Any:
        raise ModelError("INT8 needs an opset that the model does not reach.")

    monkeypatch.setattr("graphcompress.passes.quantize.quantize", refusing, raising=False)
    Path("int8.toml").write_text('[[step]]\nuse = "quantize"\n')
    done = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "--recipe", "int8.toml")
    assert done.status == 0 and "Quantization was rolled back because it could not be done: INT8 needs an opset that the model does not reach." in done.out
    assert "quantize/conv" not in done.out and "stayed float" not in done.out
    assert (place / "out.onnx").read_bytes() == (place / "model.onnx").read_bytes()
    record = compressed(run, "--recipe", "int8.toml", "--format", "json").json
    assert record["gate"]["rolled_back"] == ["quantize"] and record["gate"]["candidates"][0]["reason"] == "gate/does-not-build"


def test_a_provider_that_is_not_the_targets_is_said(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = load_target("cpu")
    monkeypatch.setattr(sys.modules["graphcompress.api.compress"], "load_target", lambda name: table.model_copy(update={"name": "device", "provider": "qnn"}))
    done = run("compress", "model.onnx", "-o", "out.onnx", "--recipe", "simple.toml", "--data", "feeds.npz", "--no-measure", "--provider", "cpu")
    assert done.status == 0 and "judged on the provider 'cpu'" in done.err and "'device', which is for the provider 'qnn'" in done.err


def test_random_data_is_used_only_when_asked_for_and_the_record_says_so(place: Path, run: Any) -> None:
    done = run("compress", "model.onnx", "-o", "out.onnx", "--random-data", "--format", "json", *QUICK)
    assert done.status == 0
    assert done.json["data"]["random"] is True and done.json["data"]["feeds"] == 64


def test_a_recipe_that_learns_nothing_needs_no_data(place: Path, run: Any) -> None:
    done = run("compress", "model.onnx", "-o", "out.onnx", "--recipe", "simple.toml", "--format", "json")
    assert done.status == 0 and done.json["comparison"] is None
    assert "neither compared with the original nor measured" in done.err


def test_the_same_inputs_give_the_same_bytes_and_the_same_record(place: Path, run: Any) -> None:
    first = Record.model_validate(compressed(run, "--format", "json").json)
    bytes_before = (place / "out.onnx").read_bytes()
    second = Record.model_validate(compressed(run, "--format", "json").json)
    assert (place / "out.onnx").read_bytes() == bytes_before
    assert first.stable() == second.stable()
    assert first.steps[0].seconds != second.steps[0].seconds


def test_simplify(place: Path, run: Any) -> None:
    done = run("simplify", "model.onnx", "-o", "out.onnx", "--record", "r.json", "--format", "json", "-q")
    assert (done.status, done.err) == (0, "")
    record = Record.model_validate(done.json)
    assert record.command == "simplify" and record.gate is None and record.target is None
    assert record.after.nodes < record.before.nodes
    assert "BatchNormalization" not in {n.op_type for n in onnx.load("out.onnx").graph.node}


def test_simplify_lets_unknown_domains_through(place: Path, run: Any) -> None:
    assert run("simplify", "strange.onnx", "-o", "out.onnx", "-q").status == 0
    assert "acme" in {n.domain for n in onnx.load("out.onnx").graph.node}


def test_quantize(place: Path, run: Any) -> None:
    assert run("simplify", "model.onnx", "-o", "simple.onnx", "-q").status == 0
    done = run("quantize", "simple.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--calibration", "mse", "--exclude", "^head$", "--format", "json", *QUICK)
    assert done.status == 0, done.err
    record = Record.model_validate(done.json)
    assert record.steps[0].options["calibration"] == "mse" and record.steps[0].options["exclude"] == ["^head$"]
    assert record.gate is None and record.comparison is not None
    assert "QuantizeLinear" in {n.op_type for n in onnx.load("out.onnx").graph.node}


@pytest.mark.parametrize(("mode", "least"), [("weights-int8", 3.0), ("weights-fp16", 1.7)])
@pytest.mark.parametrize("data", [(), ("--data", "rows.npz")])
def test_quantize_weights_alone(place: Path, run: Any, mode: str, least: float, data: tuple[str, ...]) -> None:
    weights = {"w": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)}
    graphcompress.save(with_weights("(float[N,64] x) => (float[N,64] y) { y = MatMul (x, w) }", weights), "weights.onnx")
    np.savez("rows.npz", x=np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32))
    done = run("quantize", "weights.onnx", "-o", "out.onnx", "--mode", mode, *data, "--no-measure", "--format", "json")
    assert done.status == 0, done.err
    record = Record.model_validate(done.json)
    assert record.steps[0].use == "store" and record.smaller > least
    assert (record.comparison is None) == (not data) and (record.provider is None) == (not data)


@pytest.mark.parametrize("mode", ["weights-int8", "weights-fp16", "auto"])
def test_options_of_static_quantization_are_refused_in_other_modes(place: Path, run: Any, mode: str) -> None:
    done = run("quantize", "model.onnx", "-o", "out.onnx", "--mode", mode, "--calibration", "mse")
    assert done.status == 2 and f"'calibration' is no option of mode '{mode}'" in done.err


def test_each_layer_in_the_mode_that_suits_it(place: Path, run: Any) -> None:
    """A Conv is INT8 with ranges that were seen, the table of an embedding is stored small, and without data products are quantized at each run."""
    rng = np.random.default_rng(0)
    text = """(float[N,8,16,16] x, int64[N] i) => (float[N,64] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, k) r = Relu (c) d = Conv <pads = [1, 1, 1, 1]> (r, l) m = GlobalAveragePool (d) f = Flatten (m) e = Gather (t, i) p = MatMul (f, w) y = Add (p, e)
    }"""
    shapes = {"k": (64, 8, 3, 3), "l": (64, 64, 3, 3), "t": (500, 64), "w": (64, 64)}
    graphcompress.save(with_weights(text, {name: (rng.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes.items()}), "mixed.onnx")
    np.savez("rows.npz", x=rng.standard_normal((16, 8, 16, 16)).astype(np.float32), i=rng.integers(0, 500, 16))
    for data, first in (((), "products"), (("--data", "rows.npz"), "quantize")):
        done = run("quantize", "mixed.onnx", "-o", "out.onnx", "--mode", "auto", *data, "--no-measure", "--format", "json")
        assert done.status == 0, done.err
        record = Record.model_validate(done.json)
        assert [(step.use, step.changed) for step in record.steps] == [(first, True), ("store", True)] and record.smaller > 3.3
        ops = {n.op_type for n in onnx.load("out.onnx").graph.node}
        assert ("QuantizeLinear" in ops, "DynamicQuantizeLinear" in ops) == (bool(data), not data)


def test_validate_equal_models(place: Path, run: Any) -> None:
    done = run("validate", "model.onnx", "model.onnx", "--data", "feeds.npz", "--format", "json")
    assert (done.status, done.err) == (0, "")
    report = ValidateReport.model_validate(done.json)
    assert report.agreement == 1.0
    assert {k: done.json["outputs"]["y"][k] for k in ("equal", "agreement", "sqnr_db", "max_abs")} == {
        "equal": True,
        "agreement": 1.0,
        "sqnr_db": None,
        "max_abs": 0.0,
    }


def test_validate_another_model_misses_a_bar(place: Path, run: Any) -> None:
    bad = onnx.load("model.onnx")
    weights = next(t for t in bad.graph.initializer if t.name == "w2")
    weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), "w2"))
    onnx.save(bad, "bad.onnx")
    done = run("validate", "model.onnx", "bad.onnx", "--data", "feeds.npz", "--min-agreement", "0.99", "--format", "json")
    assert done.status == 1 and "--min-agreement 0.99 was not met" in done.err
    assert done.json["agreement"] < 0.99 and done.json["bars"][0]["held"] is False
    table = run("validate", "model.onnx", "bad.onnx", "--data", "feeds.npz")
    assert table.status == 0 and "0.99" in table.out


@pytest.mark.slow
def test_workers_give_the_same_file_and_the_same_report(place: Path, run: Any) -> None:
    common = ("model.onnx", "--data", "feeds.npz", "--threads", "1", "--no-measure", "-q")
    files = {}
    for name, options in {"alone": (), "two": ("--workers", "2"), "cluster": ("--workers", "1", "--cluster", "local")}.items():
        assert run("quantize", *common, "-o", f"{name}.onnx", *options).status == 0
        files[name] = Path(f"{name}.onnx").read_bytes()
    assert files["alone"] == files["two"] == files["cluster"]
    reports = [
        run("validate", "model.onnx", "two.onnx", "--data", "feeds.npz", "--threads", "1", "--format", "json", *options).json
        for options in ((), ("--workers", "2"))
    ]
    assert reports[0] == reports[1] and reports[0]["feeds"] > 1
    refused = run("validate", "model.onnx", "two.onnx", "--data", "feeds.npz", "--workers", "2", "--cluster", "tcp://127.0.0.1:1")
    assert refused.status == 2 and "has its own" in refused.err


METRIC = """
def labelled(reference, candidate, labels):
    return float(labels["_label"].sum() >= 0 and "y" in candidate) / 2

def fine(reference, candidate):
    return 1.0
"""


@pytest.fixture
def metric(place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with metrics in the working folder; the feeds have labels."""
    Path("own_metrics_of_a_test.py").write_text(METRIC)
    monkeypatch.setattr("sys.path", [*sys.path])
    arrays = dict(np.load("feeds.npz"))
    np.savez("feeds.npz", **arrays, _label=np.arange(len(next(iter(arrays.values())))))
    return "own_metrics_of_a_test"


def test_a_metric_takes_the_place_of_agreement_and_is_given_labels(metric: str, run: Any) -> None:
    done = run("validate", "model.onnx", "model.onnx", "--data", "feeds.npz", "--metric", f"{metric}:labelled", "--min-agreement", "0.6", "--format", "json")
    assert done.status == 1 and done.json["agreement"] == 0.5 and done.json["worst"] is None and done.json["metric"]["value"] == 0.5
    assert done.json["outputs"]["y"]["agreement"] == 1.0


def test_a_metric_steers_compress_and_joins_where_that_is_asked(metric: str, run: Any) -> None:
    words = ("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--no-measure", "--format", "json")
    lost = run(*words, "--metric", f"{metric}:labelled")
    assert lost.status == 0 and lost.json["gate"]["kept"] == [] and "by the metric" in lost.json["gate"]["explanation"]
    joined = run(*words, "--metric", f"{metric}:fine", "--metric-joins")
    assert joined.json["comparison"]["metric"]["value"] == 1.0 and joined.json["comparison"]["worst"] == "y"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--metric", "nowhere_at_all:f"), "cannot be loaded"),
        (("--metric", "os"), "is not MODULE:FUNCTION"),
        (("--metric", "os:name"), "is no function"),
        (("--metric-joins",), "no metric that could join"),
        (("--kind", "y=class"), "Did you mean 'classes'"),
        (("--kind", "y"), "is not OUTPUT=KIND"),
        (("--kind", "z=values"), "no output 'z'"),
    ],
)
def test_metrics_and_kinds_that_are_none(words: tuple[str, ...], told: str, place: Path, run: Any) -> None:
    done = run("validate", "model.onnx", "model.onnx", "--data", "feeds.npz", *words)
    assert done.status == 2 and told in done.err and not done.out


def test_a_kind_that_is_stated_is_the_one_that_judges(place: Path, run: Any) -> None:
    for command in (
        ("validate", "model.onnx", "model.onnx"),
        ("quantize", "model.onnx", "-o", "q.onnx", "--no-measure"),
        ("compress", "model.onnx", "-o", "c.onnx", "--no-measure"),
    ):
        done = run(*command, "--data", "feeds.npz", "--kind", "y=embedding", "--format", "json")
        outputs = done.json["outputs"] if command[0] == "validate" else done.json["comparison"]["outputs"]
        assert outputs["y"]["kind"] == "embedding" and [m["name"] for m in outputs["y"]["measures"]] == ["embedding"]


@pytest.mark.slow
def test_benchmark_has_the_reference_first(place: Path, run: Any) -> None:
    assert run("simplify", "model.onnx", "-o", "simple.onnx", "-q").status == 0
    done = run("benchmark", "model.onnx", "simple.onnx", "--threads", "1", "--format", "json")
    assert done.status == 0
    report = BenchmarkReport.model_validate(done.json)
    reference, candidate = report.models
    assert (reference.path, reference.verdict, reference.speedup) == ("model.onnx", "reference", 1.0)
    assert candidate.path == "simple.onnx" and candidate.provider == "cpu" and candidate.median_ms > 0
    assert candidate.speedup_ci is not None and candidate.speedup_ci[0] <= candidate.speedup <= candidate.speedup_ci[1]
    assert report.data.random and "random numbers" in done.err


@pytest.mark.slow
def test_benchmark_alone_and_a_bar(place: Path, run: Any) -> None:
    alone = run("benchmark", "model.onnx", "--threads", "1", "--data", "feeds.npz", "--format", "json")
    assert alone.status == 0 and len(alone.json["models"]) == 1
    done = run("benchmark", "model.onnx", "model.onnx", "--threads", "1", "--min-speedup", "100", "--format", "json", "-q")
    assert done.status == 1 and done.json["bars"][0]["held"] is False


def test_an_unknown_provider_is_an_error(place: Path, run: Any) -> None:
    for command in (("validate", "model.onnx", "model.onnx", "--data", "feeds.npz"), ("benchmark", "model.onnx")):
        done = run(*command, "--provider", "no-such-provider")
        assert done.status == 2 and "no-such-provider" in done.err and done.out == ""


def test_inspect(place: Path, run: Any) -> None:
    done = run("inspect", "model.onnx", "--format", "json")
    report = InspectReport.model_validate(done.json)
    assert (done.status, done.err) == (0, "")
    assert report.opsets == {"ai.onnx": 17} and report.nodes == 8
    assert report.operators["Conv"] == 2 and report.bytes == (place / "model.onnx").stat().st_size
    assert report.parameters == 27 * 32 + 32 + 4 * 32 + 9 * 32 * 32 + 4 * 32 + 4
    assert report.inputs[0].shape == ["batch", 3, 16, 16]
    table = run("inspect", "model.onnx")
    assert table.status == 0 and "x: float [batch, 3, 16, 16]" in table.out


def test_version(run: Any) -> None:
    assert run("--version").out == f"graphcompress {graphcompress.__version__}\n"


def test_a_folder_of_feeds_gives_the_same_as_one_stacked_file(place: Path, run: Any) -> None:
    (place / "many").mkdir()
    with np.load("feeds.npz") as data:
        for index, row in enumerate(data["x"]):
            np.savez(place / "many" / f"{index:03}.npz", x=row[None])
    compressed(run)
    stacked = (place / "out.onnx").read_bytes()
    assert run("compress", "model.onnx", "-o", "out.onnx", "--data", "many", *QUICK).status == 0
    assert (place / "out.onnx").read_bytes() == stacked
