"""Layers that become two of a low rank: the same numbers at full rank, the best ones below, chosen only where they cost less."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from topologies import TOPOLOGIES

from graphcompress.errors import UsageError
from graphcompress.ir import Model, lint, output_ids
from graphcompress.ir.analysis.statistics import statistics
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.distill.match import Correspondence, pairs
from graphcompress.passes.prune import Options, prune
from graphcompress.passes.prune import run as step
from graphcompress.passes.prune import sensitivity as probing
from graphcompress.passes.prune.actions import LowRank, PrunePlan
from graphcompress.passes.prune.attempt import PruneAttempt, attempt_of
from graphcompress.passes.prune.groups import find_groups
from graphcompress.passes.prune.lowrank import dearest, factor, factorable, full_rank, rank_errors, spectra, with_ranks
from graphcompress.passes.prune.oracle import TOLERANCE, largest_difference
from graphcompress.reconstruction.gram import Gram
from graphcompress.reconstruction.repair import repair
from graphcompress.reconstruction.rows import layer_of
from graphcompress.reconstruction.solve import bias_of, refit, squared_error
from graphcompress.step import Context, StepResult
from tests.support.weights import with_weights

SIZES = {"n": 2, "t": 5}


def pruned(model: Model, tools: Any, count: int = 24, **options: Any) -> StepResult:
    data = tools.feeds(model, count, sizes=SIZES)
    return prune(model, Context(data=data, threads=1), Options(**({"round_to": 1, "actions": ("channels", "rank")} | options))).boldest


def forms(s: Any, rank: int | None = None) -> Model:
    """Every operator that can be two, in all the ways that it can be written; with a `rank` all weights have it."""

    def weight(n: int, o: int) -> np.ndarray:
        r = min(n, o) if rank is None else rank
        return np.asarray(s.random.normal(0, 1 / np.sqrt(n), (n, r)) @ s.random.normal(0, 1 / np.sqrt(r), (r, o)), np.float32)

    x = s.input("x", "n", 3, 8, 8)
    stem = s.conv(x, 3, 12, name="stem")
    conv = s.constant(weight(12 * 9, 20).T.reshape(20, 12, 3, 3).copy())
    a = s.node("Relu", s.node("Conv", stem, conv, s.weight(20), name="conv", strides=[2, 2], pads=[0, 1, 2, 1], dilations=[1, 2]))
    point = s.node("Relu", s.node("Conv", a, s.constant(weight(20, 24).T.reshape(24, 20, 1, 1).copy()), name="point"))
    left = s.node("MatMul", s.constant(weight(24, 18).T.copy()), s.node("Reshape", point, s.constant(np.array([0, 24, -1]))), name="left")
    tokens = s.node("Transpose", s.node("Tanh", left), perm=[0, 2, 1])
    right = s.node("Add", s.node("MatMul", tokens, s.constant(weight(18, 22)), name="right"), s.weight(22))
    mean = s.node("ReduceMean", s.node("Tanh", right), axes=[1], keepdims=0)
    gemm = s.node("Gemm", mean, s.constant(weight(22, 16).T.copy()), s.weight(16), name="gemm", transB=1, alpha=0.5, beta=2.0)
    model: Model = s.model(s.node("Gemm", s.node("Tanh", gemm), s.constant(weight(16, 14)), name="last"))
    return model


NAMES = ["conv", "point", "left", "right", "gemm", "last"]


@pytest.mark.parametrize("name", NAMES)
def test_two_layers_of_full_rank_are_the_one(name: str, tools: Any) -> None:
    model = forms(tools.Small())
    layer = next(a for n in model.graph.nodes if n.name == name and (a := layer_of(n, output_ids(model))) is not None)
    other, twins = model.clone()
    twin = layer_of(twins.node(layer.node), output_ids(other))
    assert twin is not None
    factor(other, twin, full_rank(layer))
    assert not lint(other) and len(other.graph.nodes) == len(model.graph.nodes) + 1
    assert largest_difference(model, other, list(tools.feeds(model, 2, sizes=SIZES))) < 1e-5


@pytest.mark.parametrize("round_to", [1, 4])
def test_what_has_a_low_rank_loses_nothing(round_to: int, tools: Any) -> None:
    """All weights have rank 4: two layers of that rank are found, and answer as the one did."""
    model = forms(tools.Small(), rank=4)
    result = pruned(model, tools, 48, macs=0.7, actions=("rank",), round_to=round_to)
    assert result.decisions["reached"]["macs"] <= 0.7 and result.applied["prune/rank"] == len(result.decisions["ranks"]) > 0
    assert all(entry["rank"] >= 4 for entry in result.decisions["ranks"])
    assert largest_difference(model, result.model, list(tools.feeds(model, 3, 7, sizes=SIZES))) < 1e-3


@pytest.mark.parametrize("how", [{"actions": ("rank",)}, {"actions": ("channels", "rank")}, {"repair": False, "actions": ("rank",)}])
def test_what_the_search_counts_is_what_the_model_costs(how: dict[str, Any], tools: Any) -> None:
    """Cuts and ranks of the same layers are not counted twice."""
    model = forms(tools.Small())
    result = pruned(model, tools, 40, macs=0.5, params=0.5, **how)
    shapes = {"x": (1, 3, 8, 8)}
    after, before = statistics(result.model, shapes), statistics(model, shapes)
    assert not lint(result.model) and (result.decisions["ranks"] or "channels" in how["actions"])
    assert after.macs is not None and before.macs is not None
    assert after.macs / before.macs == pytest.approx(result.decisions["reached"]["macs"], abs=1e-6)
    assert result.decisions["reached"]["macs"] <= 0.5 >= result.decisions["reached"]["params"]
    unread = {name for name, constant in result.model.graph.initializers.items() if not constant.outputs and constant.dtype == np.float32}
    assert not unread
    assert after.parameters / before.parameters == pytest.approx(result.decisions["reached"]["params"], abs=0.05)
    names = {node.name for node in result.model.graph.nodes}
    assert all(entry["node"] in names for entry in result.decisions["ranks"])


def test_the_cost_of_two_layers_is_that_of_the_graph(tools: Any) -> None:
    """At any widths and ranks, beside what the statistics count."""
    groups = find_groups(forms(tools.Small()), {"x": (1, 3, 8, 8)})
    layers = factorable(groups)
    assert [layer.node.name for layer in layers] == ["stem", *NAMES]
    feeds = list(tools.feeds(groups.algebra.model, 6, sizes=SIZES))
    moments = spectra(groups.algebra.model, layers, feeds, seed=0)
    cost = with_ranks(groups.macs, groups, layers)
    random = np.random.default_rng(3)
    for _ in range(6):
        keep = np.ones(len(groups.group_of), bool)
        for group in groups.groups:
            keep[random.permutation(group.units)[: random.integers(0, group.size // 2)]] = False
        plan = PrunePlan(keep)
        sizes = np.concatenate([groups.widths_of(keep), [full_rank(layer) for layer in layers]])
        for index, layer in enumerate(layers):
            if random.random() < 0.6:
                sizes[len(groups.groups) + index] = rank = int(random.integers(1, 4))
                plan.ranks[layer] = rank, moments[index]
        attempt = attempt_of(groups.algebra, plan)
        model, factored, refusals = attempt.finish(feeds[:1])
        assert not refusals and len(factored) == len(plan.ranks)
        assert statistics(model, {"x": (1, 3, 8, 8)}).macs == pytest.approx(cost.at(sizes), rel=1e-6)


def test_a_rank_is_left_where_one_layer_became_cheaper(tools: Any) -> None:
    groups = find_groups(forms(tools.Small()), {"x": (1, 3, 8, 8)})
    layers = factorable(groups)
    cost = with_ranks(groups.macs, groups, layers)
    sizes = np.concatenate([groups.widths, [full_rank(layer) for layer in layers]])
    narrow = sizes.copy()
    narrow[: len(groups.groups)] = 2
    place = len(groups.groups) + 1
    _, n, o = layers[1].form.shape
    assert cost.saving(sizes, place, dearest(n, o)) > 0 >= cost.saving(sizes, place, full_rank(layers[1]))
    assert cost.saving(narrow, place, dearest(n, o)) == 0


@pytest.mark.parametrize(("n", "o"), [(7, 5), (144, 16), (16, 16), (3, 100), (2, 2), (1, 9)])
def test_the_dearest_rank_still_saves(n: int, o: int) -> None:
    rank = dearest(n, o)
    assert rank * (n + o) < n * o <= (rank + 1) * (n + o)


def test_reduced_rank_regression_is_the_best_of_its_rank() -> None:
    """Beside its own starting points moved a little, factors fitted by turns from elsewhere, and the plain truncation of the weights."""
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (300, 9)) @ random.normal(0, 1, (9, 9))
    y = np.tanh(x @ random.normal(0, 0.3, (9, 7))) + 0.1 * random.normal(0, 1, (300, 7)) + 5
    gram = Gram()
    gram.update(x[None], y[None])
    moments = gram.finish()
    old = random.normal(0, 1, (1, 9, 7))

    def error(weight: np.ndarray) -> float:
        return squared_error(moments, weight, bias_of(moments, weight))

    whole = refit([moments], old, 1e-9)
    errors = [error(refit([moments], old, 1e-9, rank)) for rank in range(1, 8)]
    assert all(a > b for a, b in pairwise(errors)) and errors[-1] == pytest.approx(error(whole))
    for rank in (1, 3):
        best = refit([moments], old, 1e-9, rank)
        assert np.linalg.matrix_rank(best[0], tol=1e-8) == rank
        u, s, v = np.linalg.svd(whole[0], full_matrices=False)
        assert error(best) < error(((u[:, :rank] * s[:rank]) @ v[:rank])[None])
        a, b = random.normal(0, 1, (9, rank)), random.normal(0, 1, (rank, 7))
        for _ in range(300):  # alternating least squares
            b = np.linalg.solve(a.T @ moments.xx[0] @ a, a.T @ moments.xy[0])
            a = np.linalg.lstsq(moments.xx[0], moments.xy[0] @ np.linalg.pinv(b), rcond=None)[0]
        assert error(best) <= error((a @ b)[None]) * (1 + 1e-9)


def test_the_expected_error_is_that_of_the_projection(tools: Any) -> None:
    model = forms(tools.Small())
    groups = find_groups(model, {"x": (1, 3, 8, 8)})
    layer = next(a for a in factorable(groups) if a.node.name == "right")
    feeds = list(tools.feeds(model, 8, sizes=SIZES))
    (moments,) = spectra(groups.algebra.model, [layer], feeds, seed=0)
    errors = rank_errors(moments)
    assert errors[0] == 1 and errors[-1] == 0 and (np.diff(errors) <= 0).all()
    values, vectors = np.linalg.eigh(moments.xx)
    lost = np.eye(len(values)) - vectors[:, -5:] @ vectors[:, -5:].T
    assert errors[5] == pytest.approx(np.trace(lost @ moments.xx @ lost) / values.sum())


def test_repair_beats_the_projection(tools: Any) -> None:
    model = forms(tools.Small())
    feeds = list(tools.feeds(model, 40, 2, sizes=SIZES))

    def error(result: StepResult) -> float:
        return float(sum(np.square(tools.run(model, f)[0] - tools.run(result.model, f)[0]).sum() for f in feeds))

    left, right = (pruned(model, tools, 64, macs=0.5, actions=("rank",), repair=repair) for repair in (True, False))
    assert error(left) < 0.9 * error(right)


def test_channels_where_ranks_hurt(tools: Any) -> None:
    """Half of the channels are copies, the outputs have full rank: nothing becomes two. Without copies and with a low rank: nothing is cut."""
    s = tools.Small()
    half = s.random.normal(0, 1, (8, 3, 3, 3)).astype(np.float32)
    x = s.node("Conv", s.input("x", 1, 3, 8, 8), s.constant(np.concatenate([half, half])), name="twice")
    square = np.linalg.qr(s.random.normal(0, 1, (16, 16)))[0].astype(np.float32).reshape(16, 16, 1, 1)
    model = s.model(s.node("Conv", s.node("Relu", x), s.constant(square), name="last"))
    assert not pruned(model, tools, macs=0.6).decisions["ranks"]
    assert pruned(model, tools, macs=0.6).decisions["groups"][0]["kept"] < 16
    s = tools.Small()
    low = s.random.normal(0, 1, (32, 3)) @ s.random.normal(0, 1, (3, 24 * 9))
    x = s.node("Relu", s.conv(s.input("x", 1, 24, 6, 6), 24, 24, kernel=1, name="first"))
    model = s.model(s.node("Conv", x, s.constant(low.reshape(32, 24, 3, 3).astype(np.float32)), name="low"))
    result = pruned(model, tools, 40, macs=0.4)
    assert [entry["node"] for entry in result.decisions["ranks"]] == ["low"]
    assert all(group["kept"] == group["size"] for group in result.decisions["groups"])


def test_two_layers_that_answer_otherwise_are_left_one(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = forms(tools.Small())
    from graphcompress.passes.prune import attempt as module

    right = module.factor

    def wrong(model: Model, layer: Any, rank: int) -> None:
        name = layer.node.name
        right(model, layer, rank - 1 if name == "conv" and rank > 1 else rank)

    monkeypatch.setattr(module, "factor", wrong)
    result = pruned(model, tools, 40, macs=0.5, actions=("rank",))
    assert [r.node for r in result.refusals if r.id == "prune/oracle"] == ["conv"]
    assert "conv" not in {entry["node"] for entry in result.decisions["ranks"]} and result.decisions["ranks"]
    after, before = (statistics(m, {"x": (1, 3, 8, 8)}).macs for m in (result.model, model))
    assert after is not None and before is not None
    assert after / before == pytest.approx(result.decisions["reached"]["macs"], abs=1e-6)


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_ranks_and_cuts_of_any_network(name: str, tools: Any) -> None:
    """Both at once, at random: valid, the same interface, the same numbers as with each layer as one."""
    model = TOPOLOGIES[name][0](tools.Small())
    feeds = list(tools.feeds(model, 4, sizes=SIZES))
    groups = find_groups(model, {k: v.shape for k, v in feeds[0].items()})
    layers = factorable(groups)
    random = np.random.default_rng(2)
    moments = spectra(groups.algebra.model, layers, feeds, seed=0)
    keep = np.ones(len(groups.group_of), bool)
    for group in groups.groups:
        count = random.integers(0, max(1, group.size // group.step - 1))
        keep[group.units[[u for block in group.partition for u in random.permutation(block)[:count]]]] = False
    ranks = {layer: (int(random.integers(1, 3)), m) for layer, m in zip(layers, moments, strict=True)}
    attempt: PruneAttempt = attempt_of(groups.algebra, PrunePlan(keep, ranks))
    repair(groups.algebra.model, attempt.model, attempt.repair_layers(), feeds, seed=0)
    result, factored, refusals = attempt.finish(feeds[:1])
    assert not refusals and not lint(result) and (result.inputs, result.outputs) == (model.inputs, model.outputs)
    assert not layers or factored
    assert largest_difference(attempt.model, result, list(tools.feeds(model, 2, 5, sizes={"n": 3, "t": 4}))) <= TOLERANCE


def test_ranks_need_data_and_the_error_after_refitting(tools: Any) -> None:
    model = forms(tools.Small())
    with pytest.raises(ValueError, match="needs a goal"):
        Options(macs=0.6, actions=("rank",), score="magnitude")
    for options in (Options(macs=0.6, actions=("rank",)), Options(macs=0.6, actions=("channels", "rank"))):
        with pytest.raises(UsageError, match="needs some"):
            prune(model, Context(threads=1), options)


def test_ignored_layers_stay_one(tools: Any) -> None:
    model = forms(tools.Small())
    assert "conv" in {entry["node"] for entry in pruned(model, tools, 40, macs=0.6, actions=("rank",)).decisions["ranks"]}
    result = pruned(model, tools, 40, macs=0.6, actions=("rank",), ignore=("^conv$",))
    assert "conv" not in {entry["node"] for entry in result.decisions["ranks"]}


def test_a_goal_of_time_counts_two_layers_by_their_times(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two layers take longer than one, no layer becomes two."""
    model = forms(tools.Small())
    monkeypatch.setattr(step, "measured_time", lambda groups, *_: groups.macs)
    monkeypatch.setattr(step, "time_share", lambda original, candidate, *_: statistics(candidate).macs / statistics(original).macs)
    for slow, chosen in ((1.0, True), (50.0, False)):
        monkeypatch.setattr(step, "slowness_of_two", lambda cost, groups, model, ranks, *_, slow=slow: {layer.node: slow for layer in ranks})
        result = pruned(model, tools, 40, latency=0.6, actions=("rank",), best_effort=True)
        assert bool(result.changed and result.decisions["ranks"]) == chosen


def test_the_ranks_that_a_layer_may_have(tools: Any) -> None:
    model = forms(tools.Small())
    layer, moments = _first(model, tools)
    action = LowRank(layer, moments, rank_errors(moments))
    assert action.allowed(1)[0] == action.size and action.allowed(4)[1:] == [r for r in range(action.most, 0, -1) if r % 4 == 0]
    assert action.error(action.size) == 0 and action.error(1) > action.error(2)


def _first(model: Model, tools: Any) -> tuple[Any, Any]:
    groups = find_groups(model, {"x": (1, 3, 8, 8)})
    layer = next(a for a in factorable(groups) if a.node.name == "conv")
    (moments,) = spectra(groups.algebra.model, [layer], list(tools.feeds(model, 4, sizes=SIZES)), seed=0)
    return layer, moments


def test_of_many_layers_some_are_tried_and_gradients_know_of_the_others(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not tried have what gradients say, within what trials gave; a model for which each run is dear has fewer probes, and no fewer groups."""
    s = tools.Small()
    x = s.input("x", "n", 20, 4)
    for index in range(12):
        x = s.node("Tanh", s.node("MatMul", x, s.weight(4 if not index else 12, 12), name=f"m{index}"))
    model = s.model(x)
    probed: list[str] = []
    original = probing.repair_from

    def watched(teacher: Any, student: Model, layers: Any, **how: Any) -> Any:
        probed.extend(entry.student.name for entry in layers if entry.rank is not None)
        return original(teacher, student, layers, **how)

    monkeypatch.setattr(probing, "repair_from", watched)
    pruned(model, tools, 30, macs=0.5, actions=("rank",))
    assert len(probed) == 12
    probed.clear()
    monkeypatch.setattr(probing, "PROBE_MACS", 20 * SIZES["n"] * 7 * probing.PROBE_PASSES * statistics(model, {"x": (1, 20, 4)}).macs)
    entries = {e["node"]: e["sensitivity"] for e in pruned(model, tools, 30, macs=0.5, actions=("rank",)).decisions["ranks"]}
    tried = [entries[name.partition(".")[0]] for name in probed if name.partition(".")[0] in entries]
    assert len(probed) == probing.FEW_PROBES and len(entries) > len(tried) > 1
    assert all(min(tried) <= value <= max(tried) for value in entries.values())


def test_a_student_of_low_rank_is_compared_where_its_teacher_is(tools: Any) -> None:
    """Layers that became two leave as many activations to compare as one, by name, and nothing in between."""
    model = forms(tools.Small())
    result = pruned(model, tools, 40, macs=0.5, actions=("rank",))
    assert len(result.decisions["ranks"]) > 1
    names = []
    for student in (model, result.model):
        shapes = {"x": (1, 3, 8, 8)}
        compared = pairs(student, model, (infer(student, shapes), infer(model, shapes)), Correspondence(), features=True)
        assert all(pair.view is None and pair.name == pair.teacher for pair in compared)
        names.append({pair.name for pair in compared})
    assert names[0] == names[1] and len(names[0]) > 4
    assert not result.decisions["channels"]


@pytest.mark.parametrize(
    ("options", "data", "possible"),
    [
        ({"macs": 0.6}, True, ("channels", "rank")),
        ({"macs": 0.6}, False, ("channels",)),
        ({"macs": 0.6, "score": "magnitude"}, True, ("channels",)),
        ({"ratios": {"a": 0.5}}, True, ("channels",)),
        ({"macs": 0.6, "actions": ("rank",)}, True, ("rank",)),
    ],
)
def test_what_is_not_stated_is_all_that_can_be_done(options: dict[str, Any], data: bool, possible: tuple[str, ...]) -> None:
    assert Options(**options).possible_actions(data=data) == possible


@pytest.mark.parametrize("opset", [7, 10, 11])
@pytest.mark.parametrize("flips", [0, 1])
def test_two_layers_of_a_gemm_whose_bias_must_be_there(opset: int, flips: int) -> None:
    shape = "6,4" if flips else "4,6"
    text = f"(float[N,4] x) => (float[N,6] y) {{ y = Gemm <transB = {flips}> (x, w, b) }}"
    rng = np.random.default_rng(1)
    model = with_weights(text, {"w": rng.standard_normal([int(d) for d in shape.split(",")]).astype(np.float32), "b": np.ones(6, np.float32)}, opset=opset)
    other, _ = model.clone()
    layer = layer_of(other.graph.nodes[0], output_ids(other))
    assert layer is not None
    factor(other, layer, 4)
    assert not lint(other)
    assert largest_difference(model, other, [{"x": rng.standard_normal((3, 4)).astype(np.float32)}]) < 1e-5
