"""The step as a whole, on networks that were given something to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from topologies import TOPOLOGIES

from graphcompress.data import watched
from graphcompress.errors import DataError, UsageError
from graphcompress.ir import Model, to_bytes
from graphcompress.ir.analysis.statistics import statistics
from graphcompress.passes.prune import Options, prune
from graphcompress.passes.prune import run as step
from graphcompress.passes.prune import sensitivity as probing
from graphcompress.reconstruction.targets import TeacherRows
from graphcompress.step import Context, StepResult

SIZES = {"n": 2, "t": 5}


def pruned(model: Model, tools: Any, count: int = 24, **options: Any) -> StepResult:
    data = tools.feeds(model, count, sizes=SIZES) if count else None
    return prune(model, Context(data=data, threads=1), Options(round_to=1, **options)).boldest


def share(model: Model, result: StepResult, what: str = "macs") -> float:
    after, before = (getattr(statistics(m, {"x": (1, 5, 16)}), what) for m in (result.model, model))
    return float(after / before)


@pytest.mark.parametrize("name", ["residual", "dense", "inception", "shuffle_split", "excite", "unet", "flat", "packed_attention"])
def test_the_goal_is_reached_and_the_model_runs(name: str, tools: Any) -> None:
    model = TOPOLOGIES[name][0](tools.Small())
    result = pruned(model, tools, macs=0.6)
    assert 0.4 < share(model, result) <= 0.6
    assert (result.model.inputs, result.model.outputs) == (model.inputs, model.outputs)
    feed = next(iter(tools.feeds(model, 1, sizes={"n": 3, "t": 4})))
    for a, b in zip(tools.run(model, feed), tools.run(result.model, feed), strict=True):
        assert a.shape == b.shape and np.isfinite(b).all()


def test_parameters_are_a_goal_too(tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    result = pruned(model, tools, params=0.5)
    assert share(model, result, "parameters") <= 0.5
    assert result.decisions["reached"]["params"] <= 0.5


def test_repair_brings_the_outputs_nearer(tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    feeds = list(tools.feeds(model, 40, 2))

    def error(result: StepResult) -> float:
        return float(sum(np.square(tools.run(model, f)[0] - tools.run(result.model, f)[0]).sum() for f in feeds))

    assert error(pruned(model, tools, 64, macs=0.5)) < 0.5 * error(pruned(model, tools, 64, macs=0.5, repair=False))


def test_channels_that_repeat_go_first_and_cost_nothing(tools: Any) -> None:
    """Half of the hidden channels are copies of the others."""
    s = tools.Small()
    half, other = s.random.normal(0, 1, (6, 3, 3, 3)).astype(np.float32), s.weight(5, 12, 1, 1)
    x = s.node("Conv", s.input("x", 1, 3, 8, 8), s.constant(np.concatenate([half, half])), name="twice")
    model = s.model(s.node("Conv", s.node("Relu", x), other, name="last"))
    result = pruned(model, tools, macs=0.5)
    feed = next(iter(tools.feeds(model, 1, 9)))
    a, b = tools.run(model, feed)[0], tools.run(result.model, feed)[0]
    assert np.abs(a - b).max() < 1e-2 * np.abs(a).max()


def test_the_goal_that_groups_do_not_allow(tools: Any) -> None:
    """As far as it goes; what was reached is told."""
    model = TOPOLOGIES["flat"][0](tools.Small())
    result = pruned(model, tools, macs=0.01)
    assert result.decisions["reached"]["macs"] > 0.01
    assert all(g["kept"] == 2 for g in result.decisions["groups"])


def test_a_model_without_groups_is_returned_as_it_is(tools: Any) -> None:
    s = tools.Small()
    model = s.model(s.node("Gemm", s.input("x", 1, 4), s.weight(4, 3)))
    result = pruned(model, tools, macs=0.5)
    assert result.model is model and not result.changed
    assert {r.id for r in result.refusals} == {"prune/input", "prune/output"} & {r.id for r in result.refusals} != set()


def test_ignored_groups_stay(tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    result = pruned(model, tools, macs=0.5, ignore=("stem",))
    kept = {g["name"]: g["kept"] for g in result.decisions["groups"]}
    assert kept["stem"] == 8 and kept["a"] < 10
    with pytest.raises(UsageError, match="matches no group"):
        pruned(model, tools, macs=0.5, ignore=("nothing",))


def test_without_data_norms_decide(tools: Any) -> None:
    """The channel with the smallest weights goes, and nothing is refitted."""
    s = tools.Small()
    weight = s.random.normal(0, 1, (6, 3, 1, 1)).astype(np.float32)
    weight[[1, 4]] *= 1e-3
    x = s.node("Conv", s.input("x", 1, 3, 4, 4), s.constant(weight, "w"), name="a")
    model = s.model(s.node("Conv", x, s.weight(5, 6, 1, 1), name="b"))
    result = pruned(model, tools, 0, macs=0.7)
    np.testing.assert_array_equal(result.model.graph.initializers["w"].values, weight[[0, 2, 3, 5]])


def test_the_same_seed_gives_the_same_bytes(tools: Any) -> None:
    model = TOPOLOGIES["excite"][0](tools.Small())
    assert to_bytes(pruned(model, tools, macs=0.6).model) == to_bytes(pruned(model, tools, macs=0.6).model)


@pytest.mark.parametrize(
    ("each", "usual", "fewer"),
    [(1, (40, 4), (20, 25)), (2, (40, 4), (10, 25)), (30, (8, 2), None)],  # 30 in each: as few feeds as tell different ones apart
)
def test_probes_have_a_bound(each: int, usual: tuple[int, int], fewer: tuple[int, int] | None, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model is large, fewer inputs are run, with more positions each, and in the end none. What counts are inputs, however many are in a feed."""
    asked: list[tuple[int, int]] = []

    class WatchedRows(TeacherRows):
        def __init__(self, model: Any, feeds: Any, *, positions: int, **how: Any) -> None:
            super().__init__(model, feeds, positions=positions, **how)
            self.size = len(feeds), positions

    def watched_repair(rows: Any, *args: Any, **how: Any) -> Any:
        asked.append(rows.size)
        return original(rows, *args, **how)

    def sensitivities() -> set[float]:
        asked.clear()
        context = Context(data=tools.feeds(model, 60, sizes={"n": each}), threads=1)
        groups = prune(model, context, Options(macs=0.6, round_to=1, actions=("channels",))).boldest.decisions["groups"]
        return {group["sensitivity"] for group in groups}

    original = probing.repair_from
    monkeypatch.setattr(probing, "TeacherRows", WatchedRows)
    monkeypatch.setattr(probing, "repair_from", watched_repair)
    model = TOPOLOGIES["flat"][0](tools.Small())
    groups = len(sensitivities())
    assert asked[0] == usual and groups == len(asked) > 1
    one = probing.PROBE_PASSES * groups * statistics(model, {"x": (1, 3, 4, 4)}).macs
    monkeypatch.setattr(probing, "PROBE_MACS", 30.5 * one)
    sensitivities()
    assert asked[:1] == ([fewer] if fewer else [])
    monkeypatch.setattr(probing, "PROBE_MACS", 11 * one)
    assert (sensitivities() == {1.0}) is (each == 30) and not asked  # else gradients know, at what one pass costs
    monkeypatch.setattr(probing, "PROBE_MACS", 0.1 * one / groups)
    assert sensitivities() == {1.0} and not asked


def test_a_trial_that_fails_says_nothing(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients stand in for it, scaled by the trials that tell something: a number out of the air would be taken for a measured one."""

    def sensitivities() -> list[float]:
        context = Context(data=tools.feeds(model, 60), threads=1)
        groups = prune(model, context, Options(macs=0.6, round_to=1, actions=("channels",))).boldest.decisions["groups"]
        return [group["sensitivity"] for group in groups]

    def failing(*args: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise DataError("no row is finite")
        return original(*args, **how)

    original, calls = probing.repair_from, list[int]()
    model = TOPOLOGIES["flat"][0](tools.Small())
    whole = sensitivities()
    monkeypatch.setattr(probing, "repair_from", failing)
    first, *others = sensitivities()
    assert others == whole[1:] and len(others) > 0
    assert first != 1.0 and min(others) <= first <= max(others)


def test_feeds_are_sampled_from_all_over_the_data(tools: Any) -> None:
    model = TOPOLOGIES["flat"][0](tools.Small())
    data = tools.feeds(model, 30)
    numbers = {f["x"].tobytes(): i for i, f in enumerate(data)}
    assert [numbers[f["x"].tobytes()] for f in probing.sampled(data, 20)] == [i * 30 // 20 for i in range(20)]
    assert len(probing.sampled(data, 40)) == 30


def test_rungs_lead_back_to_the_model(tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    ladder = prune(model, Context(data=tools.feeds(model, 16), threads=1), Options(macs=0.4, round_to=1))
    shares = [share(model, rung.result) for rung in ladder.rungs]
    assert shares == sorted(shares) and shares[0] <= 0.4 and shares[-1] > 0.7
    assert ladder.rungs[0].label == "40% of the MACs"


def test_a_cut_that_the_oracle_refuses_is_left_out(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature that is wrong costs its group, not the result."""
    model = TOPOLOGIES["residual"][0](tools.Small())
    true = step.difference

    def suspicious(cut: Any, feeds: Any) -> float:
        stem = next(t for t in cut.algebra.axes if t.name == "c0")  # the weight of the stem
        return 1.0 if cut.indices(stem, 0) is not None else true(cut, feeds)

    monkeypatch.setattr(step, "difference", suspicious)
    result = pruned(model, tools, macs=0.3)
    kept = {g["name"]: g["kept"] for g in result.decisions["groups"]}
    assert kept["stem"] == 8 and kept["a"] < 10
    assert [r.node for r in result.refusals if r.id == "prune/oracle"] == ["stem"]


NO_ACTIONS = (
    {"macs": 0.5, "actions": ()},
    {"macs": 0.5, "actions": ("heads",)},
    {"sparsity": 0.5, "actions": ("channels",)},
    {"ratios": {"a": 0.5}, "actions": ("rank",)},
    {"macs": 0.5, "score": "magnitude", "actions": ("rank",)},
)


@pytest.mark.parametrize("options", [{}, {"macs": 0}, {"macs": 1.5}, {"macs": 0.5, "round_to": 0}, {"macs": 0.5, "ignore": ("(",)}, *NO_ACTIONS])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(**options)


def test_half_precision_is_cut_and_repaired(tools: Any) -> None:
    """Rounding to 16 bits is no fault of the cut."""
    s = tools.Small()
    x = s.node("Cast", s.input("x", 1, 3, 8, 8), to=10)
    weights = [s.constant(s.random.normal(0, 0.3, shape).astype(np.float16)) for shape in ((12, 3, 3, 3), (5, 12, 1, 1))]
    y = s.node("Relu", s.node("Conv", x, weights[0], name="a"))
    model = s.model(s.node("Cast", s.node("Conv", y, weights[1], name="b"), to=1))
    result = pruned(model, tools, macs=0.6)
    assert result.changed and share(model, result) <= 0.6
    assert not [r for r in result.refusals if r.id == "prune/oracle"]


def test_depthwise_widths_between_blocks_are_told(tools: Any) -> None:
    model = TOPOLOGIES["excite"][0](tools.Small())
    result = pruned(model, tools, macs=0.7, ignore=("squeeze", "last"))
    assert [(r.node, r.count) for r in result.refusals if r.id == "prune/odd-width"] == [("deep", 1)]
    assert not [r for r in pruned(model, tools, macs=0.7, ignore=("stem",)).refusals if r.id == "prune/odd-width"]


def test_without_data_sizes_are_tried_with_which_the_model_runs(tools: Any) -> None:
    """A kernel of 12 needs more than the 8 that are tried first."""
    s = tools.Small()
    x = s.node("Conv", s.input("x", 1, 3, "t"), s.weight(8, 3, 12), name="a")
    model = s.model(s.node("Conv", s.node("Relu", x), s.weight(4, 8, 1), name="b"))
    result = pruned(model, tools, 0, macs=0.5)
    assert result.changed and not [r for r in result.refusals if r.id == "prune/oracle"]


def test_groups_that_only_together_are_at_fault_are_all_named(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    monkeypatch.setattr(
        step, "difference", lambda cut, feeds: 1.0 if all(cut.indices(t, 0) is not None for t in cut.algebra.axes if t.name in ("c0", "c5")) else 0.0
    )
    result = pruned(model, tools, macs=0.3, actions=("channels",))
    assert not result.changed
    assert {r.node for r in result.refusals if r.id == "prune/oracle"} == {"stem", "a"}


def test_the_decisions_say_which_channels_of_which_tensor_are_left(tools: Any) -> None:
    """Whoever compares a cut model with the original needs that."""
    model = TOPOLOGIES["residual"][0](tools.Small())
    result = pruned(model, tools, macs=0.5, actions=("channels",))
    made = {node.name: node.outputs[0].name for node in model.graph.nodes}
    entries = {name: entry for entry in result.decisions["channels"] for name in entry["tensors"]}
    assert entries[made["stem"]] == entries[made["b"]]
    for name in ("stem", "a"):
        entry = entries[made[name]]
        group = next(g for g in result.decisions["groups"] if g["name"] == name)
        assert (entry["axis"], entry["length"], len(entry["kept"])) == (1, group["size"], group["kept"])
    assert made["head"] not in entries

    unfitted = pruned(model, tools, macs=0.5, repair=False, actions=("channels",))
    weight = next(node for node in model.graph.nodes if node.name == "a").inputs[1]
    rows, columns = ({n: e["kept"] for e in unfitted.decisions["channels"] for n in e["tensors"]}[made[name]] for name in ("a", "stem"))
    np.testing.assert_array_equal(unfitted.model.graph.initializers[weight.name].values, weight.values[rows][:, columns])


def test_groups_of_a_convolution_lose_different_channels_but_as_many(tools: Any) -> None:
    """Channels 0 and 1 of the first group and 2 and 3 of the second are next to nothing; which go is decided in each group by itself."""
    s = tools.Small()
    weight = s.random.normal(0, 1, (8, 3, 3, 3)).astype(np.float32)
    weight[[0, 1, 6, 7]] *= 1e-3
    x = s.node("Relu", s.node("Conv", s.input("x", 1, 3, 8, 8), s.constant(weight, "first"), name="a"))
    x = s.node("Relu", s.node("Conv", x, s.constant(s.random.normal(0, 1, (12, 4, 3, 3)).astype(np.float32), "grouped"), group=2, name="b"))
    model = s.model(s.conv(x, 12, 5, kernel=1, name="last"))
    result = pruned(model, tools, ratios={"^a$": 0.5})
    weights = result.model.graph.initializers
    assert weights["first"].shape[0] == 4 and weights["grouped"].shape == (12, 2, 3, 3)
    made = next(node for node in model.graph.nodes if node.name == "a").outputs[0].name
    assert [e["kept"] for e in result.decisions["channels"] if made in e["tensors"]] == [[2, 3, 4, 5]]
    for feed in tools.feeds(model, 3, 7):
        a, b = tools.run(model, feed)[0], tools.run(result.model, feed)[0]
        assert np.abs(a - b).max() < 0.02 * np.abs(a).max()


def test_what_a_student_is_watched_on_is_not_refitted_on(monkeypatch: pytest.MonkeyPatch, tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    data = tools.feeds(model, 80, sizes={"n": 1, "t": 5})
    taken: list[int] = []

    class Spy(TeacherRows):
        def __init__(self, teacher: Model, feeds: Any, **options: Any) -> None:
            super().__init__(teacher, feeds, **options)
            taken.append(len(list(feeds)))

    monkeypatch.setattr(step, "TeacherRows", Spy)
    prune(model, Context(data=data, threads=1), Options(macs=0.6, best_effort=True)).boldest  # noqa: B018
    assert taken == [sum(not mark for mark in watched(data))] and taken[0] < 80
    assert watched(data.take(40)) == [False] * 40
