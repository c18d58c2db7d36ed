"""Times on this machine decide what pays, where they may: which kernel belongs to which group, and which attempt stands."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from quantized import CPU, context, precision

import graphcompress
from graphcompress.api.explain import advice_for
from graphcompress.ir import Model, to_bytes
from graphcompress.passes.quantize import Options, ladder, latency, quantize
from graphcompress.passes.quantize.placement import Cost
from graphcompress.runtime import profile
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.session import LocalSession
from graphcompress.step import Context
from graphcompress.targets import load_target


def two_convs(tools: Any) -> Model:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 32, 16, 16), 32, 32, name="a"))
    return small.model(small.node("Tanh", small.conv(small.node("Tanh", x), 32, 32, name="b")))


def allowed(model: Model, tools: Any) -> Any:
    return context(model, tools).__class__(**{f: getattr(context(model, tools), f) for f in ("target", "data", "threads", "seed")}, measure=True)


def test_what_would_gain_by_its_kernels_and_is_left_in_float_by_the_fastest_placement_says_so(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table leaves a small product in float; its kernels say otherwise; the placement without it was faster as a whole."""
    small = tools.Small()
    x = small.input("x", 1, 64, 32, 32)
    z = small.input("z", 1, 4, 4)
    y = small.node("Tanh", small.node("MatMul", small.node("Sin", z), small.node("Cos", z)))
    model = small.model(y, small.node("Tanh", small.conv(small.node("Tanh", x), 64, 64, name="large")))
    monkeypatch.setattr(latency, "measured_costs", lambda base, attempt, target, feeds, place: {g: Cost(1e9, 1.0) for g in attempt.groups})
    monkeypatch.setattr(latency, "fastest", lambda base, models, feeds, place, margin: 0)
    refusals = quantize(model, Context(target=CPU, data=tools.feeds(model), threads=1, measure=True), Options()).boldest.refusals
    said = [r.reason for r in refusals if r.id == "quantize/cost" and "measured here" in r.reason]
    assert said and all(reason.startswith("in the placement that was timed as the fastest it is in float: alone about ") for reason in said)
    assert {advice_for("float", reason, 0.5, borders=False, quantized=True) for reason in said} == {"leave it"}


def test_every_conv_is_measured_in_both_forms(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    real = latency.measured_costs
    monkeypatch.setattr(latency, "measured_costs", lambda *a: taken.append(real(*a)) or taken[-1])
    monkeypatch.setattr(latency, "fastest", lambda base, models, feeds, place, margin: 0)
    model = two_convs(tools)
    quantize(model, allowed(model, tools), Options())
    (costs,) = taken
    assert {g.name for g in costs if g.row.heavy} == {"a", "b"}
    assert all(c.floating >= 0 and c.integer >= 0 for c in costs.values()) and any(c.floating > 0 for c in costs.values())


@pytest.mark.parametrize(("best", "integer"), [(0, {"a", "b"}), (1, {"a"})])
def test_the_fastest_attempt_stands(best: int, integer: set[str], tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def costs(base: Any, attempt: Any, target: Any, feeds: Any, place: Any) -> Any:
        return {g: Cost(50e3, 1e3) if g.name == "a" else Cost(1e3, 50e3) for g in attempt.groups}

    monkeypatch.setattr(latency, "measured_costs", costs)
    answers = iter([best, 0])
    monkeypatch.setattr(latency, "fastest", lambda base, models, feeds, place, margin: next(answers))
    model = two_convs(tools)
    result = quantize(model, allowed(model, tools), Options()).boldest
    assert {name for name, kind in precision(result).items() if kind == "int8"} == integer
    if best:
        assert next(r.reason for r in result.refusals if r.node == "b").count("measured here") == 1


def test_without_leave_nothing_is_timed(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "measured_costs", None)
    monkeypatch.setattr(latency, "fastest", None)
    model = two_convs(tools)
    assert quantize(model, context(model, tools), Options()).boldest.changed


@pytest.mark.parametrize(
    ("intervals", "best"),
    [
        ([(0.99, 1.0, 1.01), (1.49, 1.5, 1.51), (1.52, 1.5 * CPU.boundary.margin - 1e-9, 1.54)], 1),  # less than the margin
        ([(0.99, 1.0, 1.01), (1.49, 1.5, 1.51), (1.55, 1.6, 1.65)], 2),
        ([(1.7, 1.75, 1.84), (1.78, 1.83, 1.87)], 0),  # noise explains it
        ([(1.7, 1.75, 1.77), (1.78, 1.83, 1.87)], 1),
    ],
)
def test_a_later_attempt_must_gain_more_than_the_margin_and_than_noise(
    intervals: list[tuple[float, float, float]], best: int, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter(intervals)

    class Result:
        def __init__(self) -> None:
            low, self.speedup, high = next(measured)
            self.speedup_ci = low, high

    monkeypatch.setattr(latency, "measure", lambda *a, **k: Result())
    model = two_convs(tools)
    feeds = [{"x": np.zeros((1, 32, 16, 16), np.float32)}]
    assert latency.fastest(model, [model] * len(intervals), feeds, LocalPlace(), CPU.boundary.margin) == best


def test_attempts_are_timed_on_the_provider_and_with_the_options_of_the_place(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, dict[str, str]]] = []

    class Session(LocalSession):
        def __init__(self, model: Any, *, provider: str = "cpu", config: Any = None, **options: Any) -> None:
            opened.append((provider, dict(config or {})))
            super().__init__(model, **options)

    monkeypatch.setattr("graphcompress.runtime.place.LocalSession", Session)
    monkeypatch.setattr(profile, "LocalSession", Session)
    model = two_convs(tools)
    feeds = [{"x": np.zeros((1, 32, 16, 16), np.float32)}]
    place = LocalPlace("openvino", (("session.intra_op.allow_spinning", "0"),))
    latency.fastest(model, [model], feeds, place, 1.0)
    profile.kernel_times([model], feeds, place)
    assert opened == [("openvino", {"session.intra_op.allow_spinning": "0"})] * 4


@pytest.mark.parametrize(
    ("target", "place", "measure", "timed"),
    [
        ("cpu", None, True, True),
        ("cpu", None, False, False),
        ("cpu-vnni", LocalPlace("CPUExecutionProvider"), True, True),
        ("tensorrt", LocalPlace("cpu"), True, False),
        ("cpu", LocalPlace("openvino"), True, False),
        ("cpu", object(), True, False),
    ],
)
def test_times_decide_only_where_results_run_here_on_the_provider_of_the_target(target: str, place: Any, measure: bool, timed: bool) -> None:
    assert (Context(target=load_target(target), place=place, measure=measure).timing_place() is not None) == timed


def test_a_target_whose_provider_is_not_here_is_judged_on_another(tools: Any) -> None:
    model = two_convs(tools)
    feeds = list(tools.feeds(model, 8))
    result = graphcompress.quantize(model, feeds, target="tensorrt", provider="cpu")
    assert result.record.steps[0].in_result and result.record.measurements


@pytest.mark.parametrize(("best", "int8", "products"), [(1, ["a"], ["m"]), (2, None, ["m"])])
def test_products_by_the_ranges_of_each_run_where_they_are_faster(
    best: int, int8: list[str] | None, products: list[str], tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 32, 16, 16), 32, 32, name="a"))
    model = small.model(small.node("MatMul", small.node("Tanh", x), small.weight(16, 64), name="m"))
    answers = iter([0, best])
    monkeypatch.setattr(latency, "fastest", lambda base, models, feeds, place, margin: next(answers))
    dear = CPU.model_copy(update={"operator": tuple(r for r in CPU.operator if r.op != "MatMul")})
    wide = allowed(model, tools)
    context_ = wide.__class__(target=dear, data=wide.data, threads=1, measure=True)
    result = quantize(model, context_, Options()).boldest
    assert result.decisions["products"] == products and result.decisions.get("int8") == int8
    assert precision(result) == {"a": "int8" if int8 else "float", "m": "int8"}
    again = quantize(model, context_.__class__(target=dear, data=wide.data, threads=1, decisions=result.decisions), Options()).boldest
    assert to_bytes(again.model) == to_bytes(result.model)


@pytest.mark.parametrize("share", [0.0, 1.0, math.inf])
def test_rungs_below_the_first_have_products_that_are_as_quiet_as_they_must_be(share: float, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 32, 16, 16), 32, 32, name="a"))
    model = small.model(small.node("MatMul", small.node("Tanh", x), small.weight(16, 64), name="m"))
    answers = iter([0, 1])
    monkeypatch.setattr(latency, "fastest", lambda base, models, feeds, place, margin: next(answers))
    measured: list[float] = []
    real = ladder.noise_of_products
    monkeypatch.setattr(ladder, "noise_of_products", lambda *a: measured.append(real(*a)) or (measured[-1] if share == 1.0 else share))
    dear = CPU.model_copy(update={"operator": tuple(r for r in CPU.operator if r.op != "MatMul")})
    wide = allowed(model, tools)
    rungs = quantize(model, wide.__class__(target=dear, data=wide.data, threads=1, measure=True), Options()).rungs
    with_products = ["products" in rung.result.decisions for rung in rungs]
    assert with_products[:2] == [True, False]
    assert len(measured) == 1 and 0 < measured[0] < 1e-3
    # Noise allowed falls from rung to rung: what is too loud for one is so for those below it.
    assert with_products[2:] == sorted(with_products[2:], reverse=True)
    assert all(with_products[2:]) if share == 0 else not any(with_products[2:]) if share == math.inf else not with_products[-1]
