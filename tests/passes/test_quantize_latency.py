"""Times on this machine decide what pays, where they may: which kernel belongs to which group, and which attempt stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantized import CPU, context, precision

from graphcompress.ir import Model, to_bytes
from graphcompress.passes.quantize import Options, latency, quantize
from graphcompress.passes.quantize.placement import Cost
from graphcompress.runtime import profile


def two_convs(tools: Any) -> Model:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 32, 16, 16), 32, 32, name="a"))
    return small.model(small.node("Tanh", small.conv(small.node("Tanh", x), 32, 32, name="b")))


def allowed(model: Model, tools: Any) -> Any:
    return context(model, tools).__class__(**{f: getattr(context(model, tools), f) for f in ("target", "data", "threads", "seed")}, measure=True)


def test_a_run_ends_with_its_event_and_kernels_of_one_name_are_added_up() -> None:
    def kernel(name: str, us: int) -> dict[str, Any]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us}

    end = {"cat": "Session", "name": "model_run", "dur": 1}
    events = [kernel("a", 900), end]
    for us in (9, 3, 7, 5, 8, 6, 4, 2):
        events += [kernel("a", us), kernel("a", 1), kernel("b", 10 * us), {"cat": "Node", "name": "a_fence_before", "dur": 99}, end]
    assert {k.name: k.ns for k in profile._kernels(events)} == {"a": pytest.approx(3500.0), "b": pytest.approx(25000.0)}


def test_kernels_are_found_by_number_or_by_the_tensor_that_they_make(tools: Any) -> None:
    model = two_convs(tools)
    numbers = list(model.graph.nodes)
    conv, relu, tanh, second, _ = numbers
    kernels = {"gc2xgc3x": 5000.0, f"{relu.outputs[0].name}_nchwc": 3000.0, "Transpose_token_1": 1000.0}
    times = latency._by_node([profile.Kernel(name, "", "", ns) for name, ns in kernels.items()], numbers)
    assert times == {tanh: 2000.0, second: 2000.0, conv: 2000.0}


def test_every_conv_is_measured_in_both_forms(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    real = latency.measured_costs
    monkeypatch.setattr(latency, "measured_costs", lambda *a: taken.append(real(*a)) or taken[-1])
    monkeypatch.setattr(latency, "fastest", lambda base, models, feeds, target: (0, [1.0] * len(models)))
    model = two_convs(tools)
    quantize(model, allowed(model, tools), Options())
    (costs,) = taken
    assert {g.name for g in costs if g.row.heavy} == {"a", "b"}
    assert all(c.floating >= 0 and c.integer >= 0 for c in costs.values()) and any(c.floating > 0 for c in costs.values())


@pytest.mark.parametrize(("best", "integer"), [(0, {"a", "b"}), (1, {"a"})])
def test_the_fastest_attempt_stands(best: int, integer: set[str], tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def costs(base: Any, attempt: Any, target: Any, feeds: Any) -> Any:
        return {g: Cost(50e3, 1e3) if g.name == "a" else Cost(1e3, 50e3) for g in attempt.groups}

    monkeypatch.setattr(latency, "measured_costs", costs)
    answers = iter([best, 0])
    monkeypatch.setattr(latency, "fastest", lambda base, models, feeds, target: (next(answers), [1.0] * len(models)))
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


def test_a_later_attempt_must_gain_more_than_the_margin(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    speedups = iter([1.0, 1.5, 1.5 * CPU.boundary.margin - 1e-9])

    class Result:
        def __init__(self) -> None:
            self.speedup = next(speedups)

    monkeypatch.setattr(latency, "measure", lambda *a, **k: Result())
    model = two_convs(tools)
    feeds = [{"x": np.zeros((1, 32, 16, 16), np.float32)}]
    assert latency.fastest(model, [model] * 3, feeds, CPU) == (1, [1.0, 1.5, pytest.approx(1.53)])


@pytest.mark.parametrize(("best", "int8", "products"), [(1, ["a"], ["m"]), (2, None, ["m"])])
def test_products_by_the_ranges_of_each_run_where_they_are_faster(
    best: int, int8: list[str] | None, products: list[str], tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 32, 16, 16), 32, 32, name="a"))
    model = small.model(small.node("MatMul", small.node("Tanh", x), small.weight(16, 64), name="m"))
    answers = iter([0, best])
    monkeypatch.setattr(latency, "fastest", lambda base, models, feeds, target: (next(answers), [1.0] * len(models)))
    dear = CPU.model_copy(update={"operator": tuple(r for r in CPU.operator if r.op != "MatMul")})
    wide = allowed(model, tools)
    context_ = wide.__class__(target=dear, data=wide.data, threads=1, measure=True)
    result = quantize(model, context_, Options()).boldest
    assert result.decisions["products"] == products and result.decisions.get("int8") == int8
    assert precision(result) == {"a": "int8" if int8 else "float", "m": "int8"}
    again = quantize(model, context_.__class__(target=dear, data=wide.data, threads=1, decisions=result.decisions), Options()).boldest
    assert to_bytes(again.model) == to_bytes(result.model)
