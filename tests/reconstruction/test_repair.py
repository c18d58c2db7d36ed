"""Refitting what is left: laws that hold for any layer, and what is left alone."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from graphcompress.errors import DataError
from graphcompress.ir import Model, Node, lint
from graphcompress.ir.model.edit import Edits
from graphcompress.reconstruction import layer_moments, targets
from graphcompress.reconstruction import repair as module
from graphcompress.reconstruction.gram import Gram
from graphcompress.reconstruction.repair import POSITIONS, RepairLayer, RepairReport, repair, repair_from
from graphcompress.reconstruction.solve import refit
from graphcompress.reconstruction.targets import TeacherRows
from graphcompress.runtime.evaluate import run_once

Tools = Any
Feeds = list[dict[str, np.ndarray]]


def images(*shape: int, count: int = 48, seed: int = 0) -> Feeds:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(0.3, 1, shape).astype(np.float32)} for _ in range(count)]


def node(model: Model, name: str) -> Node:
    return next(n for n in model.graph.nodes if n.name == name)


def cut(teacher: Model, weights: dict[str, Any]) -> tuple[Model, Any]:
    """A copy with some initializers replaced by what is left of them."""
    student, twins = teacher.clone()
    with Edits(student) as edits:
        for name, values in weights.items():
            edits.set_value(student.graph.initializers[name], np.ascontiguousarray(values))
    return student, twins


def pairs(teacher: Model, twins: Any, left: dict[str, np.ndarray] | None = None) -> list[RepairLayer]:
    return [RepairLayer(n, twins.node(n), (left or {}).get(n.name)) for n in teacher.graph.nodes]


def error(teacher: Model, student: Model, feeds: Feeds) -> float:
    """Relative squared error of the outputs."""
    name = teacher.outputs[0].name
    whole = {"x": np.concatenate([f["x"] for f in feeds])}
    true, other = run_once(teacher, whole)[name], run_once(student, whole)[name]
    return float(np.square(true - other).sum() / np.square(true - true.mean(axis=0)).sum())


def two_convolutions(tools: Tools, *, bias: bool = True, duplicates: bool = False) -> Model:
    small = tools.Small()
    x = small.input("x", "n", 3, 8, 8)
    first, offset = small.random.normal(0, 0.3, (12, 3, 3, 3)), small.random.normal(0, 0.3, 12)
    if duplicates:
        first[6:], offset[6:] = first[:6], offset[:6]
    a = small.node(
        "Relu",
        small.node("Conv", x, small.constant(first.astype(np.float32), "w1"), small.constant(offset.astype(np.float32), "b1"), name="first", pads=[1] * 4),
    )
    parts = [a, small.constant(small.random.normal(0, 0.3, (5, 12, 3, 3)).astype(np.float32), "w2"), *([small.weight(5, name="b2")] if bias else [])]
    return small.model(small.node("Conv", *parts, name="second", pads=[1] * 4))


def without(teacher: Model, left: np.ndarray) -> tuple[Model, list[RepairLayer]]:
    w = {name: c.values for name, c in teacher.graph.initializers.items()}
    student, twins = cut(teacher, {"w1": w["w1"][left], "b1": w["b1"][left], "w2": w["w2"][:, left]})
    return student, pairs(teacher, twins, {"first": left})


def test_channels_that_others_repeat_are_restored(tools: Tools) -> None:
    teacher = two_convolutions(tools, duplicates=True)
    student, layers = without(teacher, np.arange(6))
    assert error(teacher, student, images(1, 3, 8, 8)) > 0.05
    report = repair(teacher, student, layers, images(1, 3, 8, 8), seed=0)
    assert error(teacher, student, images(1, 3, 8, 8, seed=1)) < 1e-5
    assert not lint(student)
    assert {entry.node: entry.method for entry in report.layers} == {"second": "least squares"}


def test_students_of_one_teacher_share_what_it_calculates(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comes out as if it were alone, whoever came before; what one of them asked for is not calculated again."""
    teacher = two_convolutions(tools)
    looked: list[int] = []

    class Watched(targets.Watch):
        def run(self, feeds: Any, **how: Any) -> Any:
            looked.extend([len(self.tensors)] * (not isinstance(feeds, list)))  # a list holds the first feed only
            return super().run(feeds, **how)

    def refitted(rows: TeacherRows | None, left: np.ndarray) -> np.ndarray:
        student, layers = without(teacher, left)
        if rows is None:
            repair(teacher, student, layers, images(1, 3, 8, 8), seed=0, mirrors=True)
        else:
            repair_from(rows, student, layers)
        return student.graph.initializers["w2"].values

    cuts = [np.arange(6), np.arange(3, 12), np.arange(6)]
    alone = [refitted(None, left) for left in cuts]
    monkeypatch.setattr(targets, "Watch", Watched)
    with TeacherRows(teacher, images(1, 3, 8, 8), seed=0, positions=POSITIONS, mirrors=True) as rows:
        for expected, left in zip(alone, cuts, strict=True):
            np.testing.assert_array_equal(refitted(rows, left), expected)
    assert looked == [1]


@pytest.mark.parametrize("by_channel", [False, True])
def test_rounding_teaches_nothing(by_channel: bool) -> None:
    """Inputs that are the same but for rounding, and targets that differ by thirty times of it: a weight of thirty fits, and would answer other inputs with nonsense."""
    random = np.random.default_rng(0)
    n = 1 if by_channel else 6
    x = (3 * (1 + 6e-8 * random.integers(-1, 2, (1, 60, n)))).astype(np.float32)
    y = x.sum(axis=-1, keepdims=True) + 30 * (x - 3).sum(axis=-1, keepdims=True)
    gram = Gram()
    gram.update(x, y)
    old = np.ones((1, n, 1))
    assert np.abs(refit([gram.finish()], old, 1e-3) - old).max() < 0.2
    gram = Gram()
    large = 3 + 1e5 * (x - 3)  # what varies by a percent does
    gram.update(large, 30 * large.sum(axis=-1, keepdims=True))
    assert np.abs(refit([gram.finish()], old, 1e-3) - 30).max() < 0.5


def test_what_lost_nothing_stays_bit_for_bit(tools: Tools) -> None:
    """Channels that are dead do not touch what reads them; a layer before the cut is not even looked at."""
    teacher = two_convolutions(tools)
    dead, _ = cut(teacher, {"b1": np.where(np.arange(12) < 8, teacher.graph.initializers["b1"].values, -1e3).astype(np.float32)})
    student, layers = without(dead, np.arange(8))
    second = student.graph.initializers["w2"].values
    report = repair(dead, student, layers, images(1, 3, 8, 8), seed=0)
    assert [(entry.node, entry.method) for entry in report.layers] == [("second", "none")]
    np.testing.assert_array_equal(student.graph.initializers["w2"].values, second)


def test_with_nothing_cut_there_is_nothing_to_do(tools: Tools) -> None:
    teacher = two_convolutions(tools)
    student, layers = without(teacher, np.arange(12))
    assert repair(teacher, student, layers, [], seed=0).layers == ()


def test_a_refit_is_better_than_a_new_bias_and_that_than_none(tools: Tools) -> None:
    feeds, fresh = images(1, 3, 8, 8, count=96), images(1, 3, 8, 8, seed=1)
    teacher = two_convolutions(tools)
    left = np.arange(7)
    none, _ = without(teacher, left)
    full, full_layers = without(teacher, left)
    entry = repair(teacher, full, full_layers, feeds, seed=0).layers[-1]
    bias, bias_layers = without(teacher, left)
    repair(teacher, bias, bias_layers, feeds, seed=0, ridges=(1e9,))
    np.testing.assert_allclose(bias.graph.initializers["w2"].values, none.graph.initializers["w2"].values, rtol=1e-5, atol=1e-7)
    errors = [error(teacher, m, fresh) for m in (full, bias, none)]
    assert errors == sorted(errors) and errors[0] < 0.8 * errors[1] < errors[2]
    assert entry.after < entry.before and abs(entry.after - errors[0]) < 0.3 * errors[0]


def test_a_bias_is_made_where_the_mean_error_matters(tools: Tools) -> None:
    teacher = two_convolutions(tools, bias=False)
    student, layers = without(teacher, np.arange(8))
    repair(teacher, student, layers, images(1, 3, 8, 8), seed=0, positions=64)
    assert len(node(student, "second").inputs) == 3
    name = teacher.outputs[0].name
    whole = {"x": np.concatenate([f["x"] for f in images(1, 3, 8, 8)])}
    shift = (run_once(teacher, whole)[name] - run_once(student, whole)[name]).mean(axis=(0, 2, 3))
    assert np.abs(shift).max() < 1e-3
    assert len(node(teacher, "second").inputs) == 2


def test_where_nothing_has_a_place_for_a_bias_rows_are_fitted_about_zero(tools: Tools) -> None:
    small = tools.Small()
    teacher = small.model(
        small.node("MatMul", small.input("x", "n", 6), small.constant(small.random.normal(0, 1, (6, 4)).astype(np.float32), "w"), name="product")
    )
    student, twins = cut(teacher, {"w": 0 * teacher.graph.initializers["w"].values})
    repair(teacher, student, pairs(teacher, twins), images(4, 6), seed=0, ridges=(1e-6,))
    np.testing.assert_allclose(student.graph.initializers["w"].values, teacher.graph.initializers["w"].values, atol=1e-4)


@pytest.mark.parametrize("group", [2, 4])
def test_each_group_of_a_convolution_is_fitted_by_itself(group: int, tools: Tools) -> None:
    small = tools.Small()
    weight = small.constant(small.random.normal(0, 1, (8, 4 // group, 3, 3)).astype(np.float32), "w")
    teacher = small.model(small.node("Conv", small.input("x", "n", 4, 8, 8), weight, group=group, name="grouped"))
    student, twins = cut(teacher, {"w": 0 * weight_of(teacher)})
    repair(teacher, student, pairs(teacher, twins), images(1, 4, 8, 8), seed=0, ridges=(1e-7,))
    np.testing.assert_allclose(weight_of(student), weight_of(teacher), atol=1e-3)


def weight_of(model: Model) -> np.ndarray:
    values: np.ndarray = model.graph.initializers["w"].values
    return values


def test_only_the_kept_channels_are_the_target(tools: Tools) -> None:
    small = tools.Small()
    weight = small.constant(small.random.normal(0, 1, (6, 3, 3, 3)).astype(np.float32), "w")
    teacher = small.model(small.node("Conv", small.input("x", "n", 3, 6, 6), weight, name="conv"))
    left = np.array([1, 4])
    student, twins = cut(teacher, {"w": 0 * weight_of(teacher)[left]})
    repair(teacher, student, pairs(teacher, twins, {"conv": left}), images(1, 3, 6, 6), seed=0, ridges=(1e-7,))
    np.testing.assert_allclose(weight_of(student), weight_of(teacher)[left], atol=1e-3)
    with pytest.raises(ValueError, match="'conv' has 2 output channels, and 3"):
        repair(teacher, student, pairs(teacher, twins, {"conv": np.array([0, 1, 4])}), images(1, 3, 6, 6), seed=0)


def residual(tools: Tools) -> Model:
    """A short way that loses something, and a long one that can mend it."""
    small = tools.Small()
    x = small.input("x", "n", 4, 6, 6)
    long = small.node("Conv", x, small.constant(small.random.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32), "w"), name="long", pads=[1] * 4)
    short = small.node("Conv", x, small.constant(np.eye(4, dtype=np.float32)[:, :, None, None], "s"), name="short")
    return small.model(small.node("Add", long, short, name="sum"))


def test_the_last_branch_of_a_sum_mends_the_other(tools: Tools) -> None:
    teacher = residual(tools)
    student, twins = cut(teacher, {"s": np.zeros((4, 4, 1, 1), np.float32), "w": 0.5 * weight_of(teacher)})
    layers = [RepairLayer(node(teacher, "long"), twins.node(node(teacher, "long")))]
    report = repair(teacher, student, layers, images(1, 4, 6, 6), seed=0)
    assert report.layers[0].residual
    assert error(teacher, student, images(1, 4, 6, 6, seed=1)) < 1e-3


def test_a_sum_is_no_target_before_its_other_side_is_final(tools: Tools) -> None:
    teacher = residual(tools)
    student, twins = cut(teacher, {"s": np.zeros((4, 4, 1, 1), np.float32)})
    with Edits(student) as edits:
        edits.set_value(student.graph.initializers["w"], 0.5 * weight_of(teacher))
    report = repair(teacher, student, pairs(teacher, twins), images(1, 4, 6, 6), seed=0)
    assert [(entry.node, entry.residual) for entry in report.layers] == [("long", False), ("short", True)]


def test_a_sum_that_broadcasts_is_no_target(tools: Tools) -> None:
    small = tools.Small()
    x = small.input("x", "n", 4, 6, 6)
    long = small.node("Conv", x, small.constant(small.random.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32), "w"), name="long", pads=[1] * 4)
    teacher = small.model(small.node("Add", long, small.node("GlobalAveragePool", x)))
    student, twins = cut(teacher, {"w": 0.5 * weight_of(teacher)})
    report = repair(teacher, student, pairs(teacher, twins), images(1, 4, 6, 6), seed=0)
    assert [entry.residual for entry in report.layers] == [False]
    assert error(teacher, student, images(1, 4, 6, 6, seed=1)) < 1e-3


def shared(tools: Tools) -> Model:
    small = tools.Small()
    weight = small.constant(small.random.normal(0, 0.4, (6, 6)).astype(np.float32), "w")
    first = small.node("Relu", small.node("Gemm", small.input("x", "n", 6), weight, name="first"))
    return small.model(small.node("Gemm", first, weight, name="second"))


def test_layers_that_share_a_weight_get_one(tools: Tools) -> None:
    teacher = shared(tools)
    student, twins = cut(teacher, {"w": 0.8 * weight_of(teacher)})
    before = student.copy()
    report = repair(teacher, student, pairs(teacher, twins), images(8, 6), seed=0)
    assert [entry.node for entry in report.layers] == ["first", "second"]
    assert len({id(node(student, name).inputs[1]) for name in ("first", "second")}) == 1
    assert error(teacher, student, images(8, 6, seed=1)) < 0.2 * error(teacher, before, images(8, 6, seed=1))


def test_a_weight_that_others_read_too_is_left(tools: Tools) -> None:
    teacher = shared(tools)
    student, twins = cut(teacher, {"w": 0.8 * weight_of(teacher)})
    report = repair(teacher, student, pairs(teacher, twins)[:1], images(8, 6), seed=0)
    assert [refusal.id for refusal in report.refusals] == ["prune/shared-weight"] and not report.layers
    np.testing.assert_array_equal(weight_of(student), (0.8 * weight_of(teacher)).astype(np.float32))


def test_with_fewer_rows_than_unknowns_each_channel_gets_a_factor(tools: Tools) -> None:
    small = tools.Small()
    parts = small.constant(small.random.normal(0, 1, (40, 3)).astype(np.float32), "w"), small.weight(3, name="b")
    teacher = small.model(small.node("Gemm", small.input("x", "n", 40), *parts, name="dense"))
    student, twins = cut(teacher, {"w": weight_of(teacher) * np.array([0.5, 2, 1], np.float32), "b": np.zeros(3, np.float32)})
    report = repair(teacher, student, pairs(teacher, twins), images(1, 40, count=24), seed=0, ridges=(1e-9,))
    assert report.layers[0].method == "channel factors"
    np.testing.assert_allclose(weight_of(student), weight_of(teacher), rtol=1e-4)
    np.testing.assert_allclose(student.graph.initializers["b"].values, teacher.graph.initializers["b"].values, atol=1e-4)


def test_with_more_unknowns_than_memory_each_channel_gets_a_factor(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UNKNOWNS", 20)
    teacher = two_convolutions(tools)
    student, layers = without(teacher, np.arange(8))
    report = repair(teacher, student, layers, images(1, 3, 8, 8), seed=0)
    assert report.layers[-1].method == "channel factors"
    assert report.layers[-1].after < report.layers[-1].before


def test_subgraphs_and_what_is_no_layer_are_refused_or_run_whole(tools: Tools) -> None:
    """A model with a subgraph cannot be cut into pieces: its layers are repaired all the same."""
    from graphcompress.ir.files.text import parse_model

    teacher = parse_model(
        """(float[n,4] x, bool c) => (float[n,4] y) <float[4,4] w = {1,2,0,1, 0,1,0,3, 2,0,1,0, 1,0,0,1}> {
            a = MatMul (x, w)
            y = If (c) <then_branch = t () => (float[n,4] p) { p = Relu (a) }, else_branch = e () => (float[n,4] q) { q = Neg (a) }>
        }"""
    )
    student, twins = cut(teacher, {"w": 0.5 * weight_of(teacher)})
    feeds = [{**feed, "c": np.array(index % 2 == 0)} for index, feed in enumerate(images(3, 4))]
    report = repair(teacher, student, pairs(teacher, twins), feeds, seed=0, ridges=(1e-7,))
    assert [refusal.id for refusal in report.refusals] == ["prune/no-layer"]
    np.testing.assert_allclose(weight_of(student), weight_of(teacher), atol=1e-4)


def test_the_same_seed_gives_the_same_bytes_however_feeds_are_grouped(tools: Tools) -> None:
    teacher = two_convolutions(tools)
    results = []
    for seed in (3, 3, 4):
        student, layers = without(teacher, np.arange(8))
        repair(teacher, student, layers, images(1, 3, 8, 8), seed=seed)
        results.append(student.graph.initializers["w2"].values)
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 0


def test_without_feeds_there_is_nothing_to_fit(tools: Tools) -> None:
    teacher = two_convolutions(tools)
    student, layers = without(teacher, np.arange(8))
    with pytest.raises(DataError, match="not one calibration feed"):
        repair(teacher, student, layers, [], seed=0)


def test_progress_counts_layers(tools: Tools) -> None:
    teacher = two_convolutions(tools)
    student, layers = without(teacher, np.arange(8))
    said: list[tuple[str, int, int | None]] = []
    repair(teacher, student, layers, images(1, 3, 8, 8), seed=0, progress=lambda *what: said.append(what))
    assert said == [("repairing", 1, 1)]
    assert repair(teacher, student, [], [], seed=0) == RepairReport((), ())


@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize(("relu", "sums"), [(False, False), (True, False), (True, True)])
def test_fewer_rows_than_inputs_are_fitted_in_a_basis_of_their_own(
    relu: bool, sums: bool, spoiled: bool, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights as with moments of all inputs, of which no matrix is made."""
    small = tools.Small()
    x = small.input("x", "n", 20, 6, 6)
    y = small.node("Conv", x, small.weight(30, 20, 3, 3), small.weight(30), name="ranked", pads=[1] * 4)
    y = small.node("Add", y, small.node("Conv", x, small.weight(30, 20, 1, 1), name="side")) if sums else y
    teacher = small.model(small.node("Conv", small.node("Relu", y) if relu else y, small.weight(4, 30, 1, 1), name="last"))
    feeds = images(1, 20, 6, 6, count=3)
    if spoiled:
        feeds[1]["x"][0, 3, 2, 2] = np.nan
    sizes: list[int] = []
    weights = []
    for few in (2, 10**9):
        sizes.clear()
        student, twins = teacher.clone()
        monkeypatch.setattr(layer_moments, "FEW", few)
        monkeypatch.setattr(layer_moments, "Gram", lambda: _Sized(sizes))
        layers = [RepairLayer(node(teacher, "ranked"), twins.node(node(teacher, "ranked")), None, 5)]
        report = repair(teacher, student, layers, feeds, seed=0, mirrors=False).layers[0]
        assert report.method == "reduced rank" and report.unknowns == 180 and report.residual == sums
        weights.append(node(student, "ranked").inputs[1].values.reshape(30, 180))
        assert np.linalg.matrix_rank(weights[-1], tol=1e-4) == 5
        assert max(sizes) == 180 if few > 2 else 0 < max(sizes) <= 3 * POSITIONS
    # Turns before a flat activation go through the rows in float32.
    assert np.abs(weights[0] - weights[1]).max() < (1e-3 if relu else 1e-5) * np.abs(weights[1]).max()


def test_a_wide_layer_takes_memory_for_few_matrices_of_its_inputs(tools: Tools) -> None:
    """Rows for training, for validation and mirror images, the moments of some, and what is solved."""
    small = tools.Small()
    teacher = small.model(small.node("Conv", small.input("x", "n", 128, 8, 8), small.weight(24, 128, 3, 3), name="wide", pads=[1] * 4))
    student, twins = cut(teacher, {name: c.values * 0.9 for name, c in teacher.graph.initializers.items()})
    unknowns = 128 * 9
    feeds = images(1, 128, 8, 8, count=2 * unknowns // POSITIONS)
    tracemalloc.start()
    try:
        report = repair(teacher, student, pairs(teacher, twins), feeds, seed=0, mirrors=True).layers[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.method == "least squares" and report.rows > report.unknowns == unknowns
    assert peak < 7.7 * unknowns**2 * np.dtype(np.float64).itemsize


class _Sized(Gram):
    """Moments that tell how many inputs they are of."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self._sizes = sizes

    def update(self, x: np.ndarray, y: np.ndarray | None = None) -> None:
        self._sizes.append(x.shape[-1])
        super().update(x, y)
