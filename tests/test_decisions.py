"""`compress` repeats what an earlier run decided, to the same bytes, without searching or timing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress import api
from graphcompress.api import cost_goals
from graphcompress.cli.app import run
from graphcompress.errors import BarMissed, UsageError
from graphcompress.gate import SessionJudge
from graphcompress.ir import to_bytes
from graphcompress.passes.prune.goals import Goals
from graphcompress.passes.prune.options import Options as PruneOptions
from graphcompress.passes.prune.run import LESS_BOLD
from graphcompress.passes.prune.sparsity import LESS_SPARSE, sparsify
from graphcompress.passes.quantize import latency
from graphcompress.record import Record
from graphcompress.runtime.place import LocalPlace
from graphcompress.step import Context
from tests.support.weights import with_weights

R = np.random.default_rng(5)
F32 = np.float32
FEEDS = [{"x": R.standard_normal((1, 16, 24, 24)).astype(F32)} for _ in range(12)]


def conv(*shape: int) -> np.ndarray[Any, Any]:
    return (R.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(F32)


MODEL = to_bytes(
    with_weights(
        """(float[1,16,24,24] x) => (float[1,8,24,24] y) {
            a = Conv <pads = [1,1,1,1]> (x, u)  b = Relu (a)  c = Tanh (b)  d = Conv <pads = [1,1,1,1]> (c, v)  e = Relu (d)  f = Elu (e)  y = ConvTranspose (f, w)
        }""",
        {"u": conv(64, 16, 3, 3), "v": conv(64, 64, 3, 3), "w": conv(64, 8, 1, 1)},
    )
)


@pytest.fixture(scope="module")
def earlier() -> api.Result:
    return api.compress(MODEL, FEEDS, measure=False)


def integers(record: Record) -> list[str]:
    return next(list(s.decisions["int8"]) for s in record.steps if s.use == "quantize")


def test_the_bytes_are_the_same_and_nothing_is_timed(earlier: api.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionJudge, "measure", None)
    monkeypatch.setattr(latency, "measured_costs", None)
    path = tmp_path / "record.json"
    path.write_text(earlier.record.model_dump_json())
    assert len(integers(earlier.record)) == 2
    again = api.compress(MODEL, FEEDS, decisions=path)
    assert to_bytes(again.model) == to_bytes(earlier.model)
    assert [(s.use, s.decisions) for s in again.record.steps] == [(s.use, s.decisions) for s in earlier.record.steps if s.in_result]
    assert again.record.measurements == []


def test_what_was_decided_counts_and_not_what_would_be_now(earlier: api.Result) -> None:
    document = json.loads(earlier.record.model_dump_json())
    one = integers(earlier.record)[0]
    next(s for s in document["steps"] if s["use"] == "quantize")["decisions"]["int8"] = [one]
    next(s for s in document["steps"] if s["use"] == "store")["decisions"]["weights"] = {"w": "float16"}
    again = api.compress(MODEL, FEEDS, decisions=Record.model_validate(document))
    assert integers(again.record) == [one]
    assert next(s.decisions["weights"] for s in again.record.steps if s.use == "store") == {"w": "float16"}


def recipe(path: Path, *steps: str) -> str:
    path.write_text("".join(f"[[step]]\n{step}\n" for step in steps))
    return str(path)


def sure(work: Callable[[], api.Result]) -> api.Result:
    """The result, also where a bar was missed."""
    try:
        return work()
    except BarMissed as missed:
        done: api.Result = missed.result
        return done


@pytest.mark.parametrize("options", ["macs = 0.3\nbest_effort = true", "sparsity = 0.9"])
def test_of_a_step_with_several_rungs_the_one_of_the_result_is_repeated(options: str, tmp_path: Path) -> None:
    plan = recipe(tmp_path / "prune.toml", f'use = "prune"\n{options}')
    boldest = api.compress(MODEL, FEEDS, measure=False, recipe=plan, goal="speed", min_agreement=0.0).record.comparison
    assert boldest is not None and boldest.agreement is not None
    earlier = api.compress(MODEL, FEEDS, measure=False, recipe=plan, goal="speed", min_agreement=boldest.agreement + 1e-4)
    (pruned,) = earlier.record.steps
    assert earlier.record.gate is not None and pruned.in_result
    assert pruned.rung != earlier.record.gate.candidates[0].rungs[0], "the boldest rung is not the one"
    again = api.compress(MODEL, FEEDS, decisions=earlier.record)
    assert to_bytes(again.model) == to_bytes(earlier.model)
    assert again.record.steps[0].rung == pruned.rung
    unknown = earlier.record.model_copy(update={"steps": [pruned.model_copy(update={"rung": "another"})]})
    with pytest.raises(UsageError, match="'prune' had 'another', and here it offers"):
        api.compress(MODEL, FEEDS, decisions=unknown)


def test_rungs_are_told_apart_by_their_labels() -> None:
    for part in (0.3, 0.99, 0.9999):
        goals = Goals({"macs": part})
        labels = {goals.label, *(goals.towards_whole(way).label for way in LESS_BOLD)}
        assert len(labels) == 1 + len(LESS_BOLD)
    ladder = sparsify(api.open_model(MODEL).model, Context(), PruneOptions(sparsity=0.01))
    assert len({rung.label for rung in ladder.rungs}) == len(LESS_SPARSE)


def test_each_of_two_steps_of_one_kind_repeats_its_own_decisions(tmp_path: Path) -> None:
    plan = recipe(tmp_path / "twice.toml", 'use = "quantize"\nexclude = ["a"]', 'use = "quantize"')
    earlier = sure(lambda: api.compress(MODEL, FEEDS, measure=False, recipe=plan, min_agreement=0.01))
    assert [s.in_result for s in earlier.record.steps] == [True, True]
    assert earlier.record.steps[0].decisions != earlier.record.steps[1].decisions
    again = api.compress(MODEL, FEEDS, decisions=earlier.record)
    assert to_bytes(again.model) == to_bytes(earlier.model)


def test_widths_follow_the_processor_of_the_earlier_run(tmp_path: Path) -> None:
    """Where widths are multiples of 16 channels, another processor would make them multiples of 8."""

    class Other(LocalPlace):
        flags: tuple[str, ...] = ()

        def describe(self) -> dict[str, Any]:
            return {**super().describe(), "flags": list(self.flags)}

    class Wide(Other):
        flags = ("avx512f",)

    plan = recipe(tmp_path / "prune.toml", 'use = "prune"\nmacs = 0.7\nbest_effort = true\nrepair = false\nround_to = "auto"')
    results = {place: api.compress(MODEL, FEEDS, measure=False, recipe=plan, min_agreement=0.0, place=place()) for place in (Other, Wide)}
    assert to_bytes(results[Other].model) != to_bytes(results[Wide].model), "the processor decides here"
    again = api.compress(MODEL, FEEDS, decisions=results[Wide].record, place=Other())
    assert to_bytes(again.model) == to_bytes(results[Wide].model)


def edited(earlier: api.Result, use: str, **decisions: Any) -> Record:
    steps = [s.model_copy(update={"decisions": {**s.decisions, **decisions}}) if s.use == use else s for s in earlier.record.steps]
    return earlier.record.model_copy(update={"steps": steps})


@pytest.mark.parametrize(
    ("use", "decisions", "says"),
    [
        ("quantize", {"int8": ["nonsense"]}, "'nonsense' in INT8"),
        ("quantize", {"products": ["nonsense"]}, "'nonsense' in INT8"),
        ("store", {"weights": {"nonsense": "int8"}}, "'nonsense' as int8"),
        ("store", {"weights": {"w": "int4"}}, "'w' as int4"),
        ("store", {"weights": {"w": "float16", "u": "float16"}}, "'u' as float16"),
        ("simplify", {}, ""),
    ],
)
def test_what_does_not_fit_is_named_and_not_left_out(earlier: api.Result, use: str, decisions: dict[str, Any], says: str) -> None:
    record = edited(earlier, use, **decisions)
    if use == "simplify":
        record = record.model_copy(update={"steps": [s.model_copy(update={"in_result": True}) for s in record.steps if s.use == use]})
        says = "'simplify' changed the model in the earlier run"
    with pytest.raises(UsageError, match=says):
        api.compress(MODEL, FEEDS, decisions=record)


def test_a_weight_in_few_bits_that_does_not_fit_is_named(tmp_path: Path) -> None:
    plan = recipe(tmp_path / "store.toml", 'use = "store"\nweights = "int4"')
    earlier = api.compress(MODEL, FEEDS, measure=False, recipe=plan, min_agreement=0.0)
    forms = earlier.record.steps[0].decisions["weights"]
    assert "int4" in forms.values() and to_bytes(api.compress(MODEL, FEEDS, decisions=earlier.record).model) == to_bytes(earlier.model)
    with pytest.raises(UsageError, match="'nonsense' as int4"):
        api.compress(MODEL, FEEDS, decisions=edited(earlier, "store", weights={**forms, "nonsense": "int4"}))


def test_target_and_seed_are_those_of_the_record(earlier: api.Result, tmp_path: Path) -> None:
    other = api.compress(MODEL, FEEDS, measure=False, target="cpu-vnni")
    again = api.compress(MODEL, FEEDS, decisions=other.record)
    assert again.record.target == "cpu-vnni" and to_bytes(again.model) == to_bytes(other.model)
    assert to_bytes(again.model) != to_bytes(earlier.model)
    with pytest.raises(UsageError, match="for the target 'cpu-vnni', and --target says 'cpu'"):
        api.compress(MODEL, FEEDS, decisions=other.record, target="cpu")
    plan = recipe(tmp_path / "prune.toml", 'use = "prune"\nmacs = 0.8\nbest_effort = true')
    seeded = [api.compress(MODEL, FEEDS, measure=False, recipe=plan, min_agreement=0.01, seed=seed) for seed in (7, 0)]
    assert to_bytes(seeded[0].model) != to_bytes(seeded[1].model), "the seed decides here"
    again = api.compress(MODEL, FEEDS, decisions=seeded[0].record)
    assert again.record.seed == 7 and to_bytes(again.model) == to_bytes(seeded[0].model)
    with pytest.raises(UsageError, match="the seed 7, and 3"):
        api.compress(MODEL, FEEDS, decisions=seeded[0].record, seed=3)


def test_the_command_line_takes_the_target_of_the_record(earlier: api.Result, tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("m.onnx", "f.npz", "r.json", "o.onnx", "again.json")}
    paths["m.onnx"].write_bytes(MODEL)
    np.savez(paths["f.npz"], x=np.concatenate([feed["x"] for feed in FEEDS]))
    other = api.compress(MODEL, FEEDS, measure=False, target="cpu-vnni").record
    paths["r.json"].write_text(other.model_copy(update={"model": api.open_model(paths["m.onnx"]).file}).model_dump_json())
    words = ["compress", str(paths["m.onnx"]), "-o", str(paths["o.onnx"]), "--data", str(paths["f.npz"]), "--decisions", str(paths["r.json"]), "-q"]
    assert run([*words, "--record", str(paths["again.json"])]) == 0
    assert Record.model_validate_json(paths["again.json"].read_bytes()).target == "cpu-vnni"


def test_a_bar_that_is_missed_leaves_the_result_as_it_was_decided(earlier: api.Result) -> None:
    reached = earlier.record.comparison
    assert reached is not None and reached.agreement is not None and reached.agreement < 1
    with pytest.raises(BarMissed) as missed:
        api.compress(MODEL, FEEDS, decisions=earlier.record, min_agreement=1.0)
    assert to_bytes(missed.value.result.model) == to_bytes(earlier.model)


def test_other_data_is_told(earlier: api.Result) -> None:
    again = api.compress(MODEL, FEEDS[:11], decisions=earlier.record)
    assert any("not that of the earlier run" in note for note in again.record.notes) and integers(again.record) == integers(earlier.record)
    assert not any("earlier run: ranges" in note for note in api.compress(MODEL, FEEDS, decisions=earlier.record).record.notes)


def test_a_repetition_claims_no_bar_that_was_not_looked_at(tmp_path: Path) -> None:
    plan = recipe(tmp_path / "prune.toml", 'use = "prune"\nmacs = 0.3\nbest_effort = true')
    poor = api.compress(MODEL, FEEDS, measure=False, recipe=plan, min_agreement=0.0)
    again = api.compress(MODEL, FEEDS, decisions=poor.record)
    assert again.record.comparison is not None and (again.record.comparison.agreement or 0.0) < 0.99
    assert again.record.gate is None and any("no bar but a stated one" in note for note in again.record.notes)


def test_decisions_that_do_not_fit_are_refused(earlier: api.Result, tmp_path: Path) -> None:
    other = api.open_model(with_weights("(float[1,16,24,24] x) => (float[1,16,24,24] y) { y = Relu (x) }", {}))
    with pytest.raises(UsageError, match="another model"):
        api.compress(other, FEEDS, decisions=earlier.record)
    with pytest.raises(UsageError, match="give no recipe"):
        api.compress(MODEL, FEEDS, decisions=earlier.record, recipe="default")
    others: list[dict[str, Any]] = [
        {"goal": "size"},
        {"goal": "macs=0.5"},
        {"costs": tmp_path / "c.toml"},
        {"strip": True},
        {"exclude": ["a"]},
        {"min_speedup": 1.0},
    ]
    for words in others:
        with pytest.raises(UsageError, match="give no recipe, goal, costs"):
            api.compress(MODEL, FEEDS, decisions=earlier.record, **words)
    with pytest.raises(UsageError, match="cannot be read"):
        api.compress(MODEL, FEEDS, decisions=tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="no record"):
        api.compress(MODEL, FEEDS, decisions=tmp_path / "other.json")
    with pytest.raises(UsageError, match="record of 'compress'"):
        api.compress(MODEL, FEEDS, decisions=earlier.record.model_copy(update={"command": "quantize"}))
    nothing = [s.model_copy(update={"in_result": False}) for s in earlier.record.steps]
    with pytest.raises(UsageError, match="nothing to repeat"):
        api.compress(MODEL, FEEDS, decisions=earlier.record.model_copy(update={"steps": nothing}))


def test_what_a_goal_cut_and_taught_is_made_again_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_goals, "TEACHING", {"steps": 20, "minutes": 3.0})
    feeds = [{"x": R.standard_normal((1, 16, 24, 24)).astype(F32)} for _ in range(24)]
    first = api.compress(MODEL, feeds, goal="macs=0.6", min_agreement=0.0, measure=False, threads=1)
    assert [step.use for step in first.record.steps if step.in_result] == ["prune", "distill", "quantize", "store"]
    taught = next(step for step in first.record.steps if step.use == "distill")
    assert taught.decisions["steps"] <= 20 and taught.decisions["loss"]["after"] < taught.decisions["loss"]["before"]
    again = api.compress(MODEL, feeds, decisions=first.record)
    assert to_bytes(again.model) == to_bytes(first.model)
