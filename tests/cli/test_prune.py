"""prune and inspect --groups, end to end on a small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import graphcompress
from graphcompress.errors import BarMissed
from graphcompress.record import InspectReport, Record

QUICK = ("--no-measure", "-q")
GOALS = "graphcompress.api.cost_goals.TEACHING"
HALF = ("prune", "model.onnx", "-o", "out.onnx", "--macs", "0.5", "--round-to", "1", *QUICK)


def test_half_of_the_work_goes(place: Path, run: Any) -> None:
    done = run(*HALF, "--data", "feeds.npz", "--format", "json", "--record", "record.json")
    assert (done.status, done.err) == (0, "")
    record = Record.model_validate(json.loads((place / "record.json").read_text()))
    before, after = graphcompress.load("model.onnx"), graphcompress.load("out.onnx")
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert record.before.macs is not None and record.after.macs is not None and record.after.macs <= 0.5 * record.before.macs
    assert [step.use for step in record.steps] == ["simplify", "prune"]
    assert record.comparison is not None and record.comparison.feeds == 6
    assert [(bar.option, bar.held) for bar in record.bars] == [("--macs", True)]
    assert {layer["node"] for layer in record.steps[1].decisions["repair"]} >= {"head"}


def test_the_table_names_the_groups(place: Path, run: Any) -> None:
    done = run("prune", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--macs", "0.5", "--no-measure")
    assert done.status == 0
    for text in ("Groups of channels", "deep", "--macs 0.5: held", "agreement", "Written to out.onnx."):
        assert text in done.out


def test_without_data_it_says_so(place: Path, run: Any) -> None:
    done = run("prune", "model.onnx", "-o", "out.onnx", "--macs", "0.5", "--no-measure", "--format", "json")
    assert done.status == 0
    record = Record.model_validate(done.json)
    assert record.comparison is None and any("nothing was refitted" in note for note in record.notes)


def test_a_goal_out_of_reach_is_status_1_and_best_effort_is_not(place: Path, run: Any) -> None:
    done = run("prune", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--macs", "0.001", *QUICK)
    assert done.status == 1 and "--macs 0.001 was not met" in done.err and "Nothing was written" in done.err
    assert not Path("out.onnx").exists()
    assert run("prune", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--macs", "0.001", "--best-effort", *QUICK).status == 0
    assert Path("out.onnx").exists()


def test_a_drop_that_is_too_large_is_status_1(place: Path, run: Any) -> None:
    done = run(*HALF, "--data", "feeds.npz", "--no-repair", "--score", "magnitude", "--max-drop", "0.0", "--macs", "0.05", "--best-effort")
    assert done.status == 1 and "--max-drop 0 was not met" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--macs 0.5"),
        (("--macs", "1.5"), "at most 1"),
        (("--params", "0"), "above 0"),
        (("--latency", "2"), "at most 1"),
        (("--size", "0"), "above 0"),
        (("--ratio", "deep"), "stem=0.5"),
        (("--ratio", "deep=2"), "at most 1"),
        (("--ratio", "nothing=0.5"), "matches no group"),
        (("--ratio", "(=0.5"), "--ratio"),
        (("--macs", "0.5", "--round-to", "x"), "--round-to x"),
        (("--macs", "0.5", "--actions", "channels,heads"), "--actions channels,heads"),
        (("--macs", "0.5", "--actions", ""), "--actions"),
        (("--macs", "0.5", "--actions", "rank", "--score", "magnitude"), "--score"),
        (("--ratio", "^conv$=0.5", "--actions", "rank"), "--ratio"),
        (("--sparsity", "0.5", "--actions", "rank"), "--actions"),
        (("--macs", "0.5", "--ignore", "("), "--ignore"),
        (("--macs", "0.5", "--ignore", "nothing"), "matches no group"),
        (("--macs", "0.5", "--sparsity", "0.5"), "or else"),
        (("--pattern", "2:4", "--sparsity", "0.5"), "or else"),
        (("--sparsity", "1"), "below 1"),
        (("--pattern", "4:2"), "like 2:4"),
        (("--pattern", "half"), "like 2:4"),
        (("--sparsity", "0.5", "--score", "magnitude"), "--score"),
        (("--pattern", "2:4", "--round-to", "8"), "--round-to"),
        (("--sparsity", "0.5", "--ignore", "nothing"), "matches no convolution"),
    ],
)
def test_bad_usage(place: Path, run: Any, arguments: tuple[str, ...], message: str) -> None:
    done = run("prune", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", *QUICK, *arguments)
    assert done.status == 2 and message in done.err and not Path("out.onnx").exists()


@pytest.mark.parametrize(("option", "value", "bars"), [("--sparsity", "0.75", [("--sparsity", True)]), ("--pattern", "1:4", [])])
def test_zeros_in_shapes_that_stay(place: Path, run: Any, option: str, value: str, bars: list[tuple[str, bool]]) -> None:
    done = run("prune", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", option, value, "--format", "json", *QUICK)
    assert (done.status, done.err) == (0, "")
    record = Record.model_validate(done.json)
    assert [(bar.option, bar.held) for bar in record.bars] == bars
    assert record.after.macs == record.before.macs
    assert record.comparison is not None and record.comparison.feeds == 6
    after = graphcompress.load("out.onnx")
    layers = record.steps[1].decisions["layers"]
    assert {layer["node"] for layer in layers} == {"conv", "deep", "head"} and all(layer["zeros"] > 0.6 for layer in layers)
    weights = {n.name: n.inputs[1].values for n in after.graph.nodes if len(n.inputs) > 1}
    assert {layer["node"]: (weights[layer["node"]] == 0).mean() for layer in layers} == {layer["node"]: layer["zeros"] for layer in layers}
    assert any("after gzip" in note and "no faster" in note for note in record.notes)


def test_zeros_without_data(place: Path, run: Any) -> None:
    done = run("prune", "model.onnx", "-o", "out.onnx", "--sparsity", "0.5", "--no-measure")
    assert done.status == 0 and "--sparsity 0.5: held" in done.out
    words = " ".join(done.err.split())
    assert "the smallest weights became zero" in words and "no faster" in words


def test_zeros_that_could_not_be_had_are_status_1(place: Path, run: Any) -> None:
    """Nothing is left to look at."""
    arguments = ("prune", "model.onnx", "-o", "out.onnx", "--sparsity", "0.5", "--ignore", "conv|deep|head", *QUICK)
    done = run(*arguments)
    assert done.status == 1 and "--sparsity 0.5 was not met" in done.err
    assert run(*arguments, "--best-effort").status == 0


def test_groups_are_listed(place: Path, run: Any) -> None:
    done = run("inspect", "model.onnx", "--groups", "--format", "json")
    report = InspectReport.model_validate(done.json)
    assert report.groups is not None and {g.channels for g in report.groups} == {32}
    assert report.fixed is not None and any(r.id == "prune/output" for r in report.fixed)
    table = run("inspect", "model.onnx", "--groups")
    assert "Groups of channels" in table.out
    assert InspectReport.model_validate(run("inspect", "model.onnx", "--format", "json").json).groups is None


def test_from_python(place: Path) -> None:
    result = graphcompress.prune("model.onnx", "feeds.npz", macs=0.6, round_to=1, measure=False)
    assert result.record.command == "prune"
    with pytest.raises(BarMissed) as missed:
        graphcompress.prune("model.onnx", "feeds.npz", macs=0.001, measure=False)
    assert missed.value.result.model is not None


def test_a_recipe_prunes_then_quantizes(place: Path, run: Any) -> None:
    done = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--recipe", "half", "--min-agreement", "0.5", "--format", "json", *QUICK)
    record = Record.model_validate(done.json)
    assert done.status == 0 and [step.use for step in record.steps] == ["simplify", "prune", "quantize", "store"]
    assert next(step for step in record.steps if step.use == "prune").in_result


def test_a_part_of_the_bytes_is_a_goal(place: Path, run: Any) -> None:
    done = run("prune", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--size", "0.6", "--round-to", "1", "--format", "json", *QUICK)
    record = Record.model_validate(done.json)
    assert done.status == 0 and [(bar.option, bar.held) for bar in record.bars] == [("--size", True)]
    assert 0.5 < Path("out.onnx").stat().st_size / Path("model.onnx").stat().st_size < 0.65


def test_ratios_by_name(place: Path, run: Any) -> None:
    done = run("prune", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--ratio", "^conv$=0.25", "--round-to", "1", "--format", "json", *QUICK)
    assert done.status == 0
    kept = {g["name"]: (g["size"], g["kept"]) for g in Record.model_validate(done.json).steps[1].decisions["groups"]}
    assert kept.pop("conv") == (32, 8) and all(size == left for size, left in kept.values())


@pytest.mark.parametrize(("goal", "pruned"), [("macs=0.6", True), ("size=0.9", False), ("size=0.2", True)])
def test_compress_prunes_as_far_as_its_goal_needs(place: Path, run: Any, goal: str, pruned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """INT8 and small weights come first; what was cut is taught."""
    monkeypatch.setattr(GOALS, {"steps": 60})
    done = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--goal", goal, "--min-agreement", "0", "--format", "json", *QUICK)
    record = Record.model_validate(done.json)
    cost, _, part = goal.partition("=")
    assert done.status == 0 and [(bar.option, bar.held) for bar in record.bars if bar.option != "--min-agreement"] == [(f"--goal {cost}", True)]
    assert ("prune" in [step.use for step in record.steps if step.in_result]) is pruned
    assert ("distill" in [step.use for step in record.steps]) is pruned
    share = record.after.bytes / record.before.bytes if cost == "size" else (record.after.macs or 0) / (record.before.macs or 1)
    assert share <= float(part)


def test_a_goal_that_the_floor_does_not_allow_is_status_1(place: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GOALS, {"steps": 20})
    done = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", "--goal", "macs=0.05", "--min-agreement", "1", *QUICK)
    assert done.status == 1 and "--goal macs 0.05 was not met" in done.err and not Path("out.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--goal", "macs"), "There is no goal 'macs'"),
        (("--goal", "macs=2"), "at most 1"),
        (("--goal", "size=0.5", "--recipe", "half"), "steps of its own"),
        (("--goal", "latency=0.5"), "--no-measure"),
    ],
)
def test_goals_that_make_no_sense(place: Path, run: Any, arguments: tuple[str, ...], message: str) -> None:
    done = run("compress", "model.onnx", "-o", "out.onnx", "--data", "feeds.npz", *QUICK, *arguments)
    assert done.status == 2 and message in done.err and not Path("out.onnx").exists()


def test_as_much_goes_as_a_drop_allows(place: Path, run: Any) -> None:
    shares = []
    for drop in ("0.02", "0.5"):
        done = run("prune", "model.onnx", "-o", f"out-{drop}.onnx", "--data", "feeds.npz", "--max-drop", drop, "--round-to", "1", "--format", "json", *QUICK)
        assert done.status == 0
        record = Record.model_validate(done.json)
        assert [(bar.option, bar.held) for bar in record.bars] == [("--max-drop", True)]
        shares.append((record.after.macs or 0) / (record.before.macs or 1))
    assert shares[1] < shares[0] <= 1
    done = run("prune", "model.onnx", "-o", "out.onnx", "--max-drop", "0.1", *QUICK)
    assert done.status == 2 and "needs data" in done.err
