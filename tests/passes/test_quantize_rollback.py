"""What the provider does not take is found and left in float with a reason; what is left is offered as a ladder."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from quantized import CPU, EAGER, context, done, precision, reason, residual, sqnr

from graphcompress.errors import ModelError
from graphcompress.ir import Model, nodes
from graphcompress.passes.quantize import Options, plan, quantize
from graphcompress.passes.quantize.plan import island_of
from graphcompress.step import StepResult


def chain(tools: Any, count: int = 6) -> Model:
    """Gemms g0, g1, ... with Tanh between them: each an island of its own."""
    small = tools.Small()
    x = small.input("x", 4, 32)
    for index in range(count):
        x = small.node("Tanh", small.node("Gemm", x, small.weight(32, 32), small.weight(32), transB=1, name=f"g{index}"))
    return small.model(x)


def refuse_together(monkeypatch: pytest.MonkeyPatch, *sets: set[str]) -> list[set[str]]:
    """Let the provider reject every attempt that has all of one of `sets` in integers; returns the attempts as they are made."""
    real = plan.check_fusion
    attempts: list[set[str]] = []

    def check(model: Model, groups: Any, *rest: Any) -> Any:
        names = {g.name for g in groups}
        attempts.append(names)
        if any(s <= names for s in sets):
            raise ModelError("no kernel for this")
        return real(model, groups, *rest)

    monkeypatch.setattr(plan, "check_fusion", check)
    return attempts


@pytest.mark.parametrize("bad", [{"g0"}, {"g5"}, {"g1", "g4"}])
def test_groups_that_do_not_run_are_found_one_by_one(bad: set[str], tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_together(monkeypatch, *({name} for name in bad))
    result = done(chain(tools), tools)
    assert {name for name, kind in precision(result).items() if kind == "float"} == bad
    for name in bad:
        assert reason(result, name) == "quantize/does-not-run: written in INT8 the provider cannot load or run it: no kernel for this"


def test_of_two_that_only_fail_together_one_stays(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_together(monkeypatch, {"g1", "g4"})
    floats = {name for name, kind in precision(done(chain(tools), tools)).items() if kind == "float"}
    assert floats in ({"g1"}, {"g4"})


def test_where_nothing_runs_the_model_comes_back_with_the_reasons(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = refuse_together(monkeypatch, *({f"g{i}"} for i in range(6)))
    model = chain(tools)
    result = done(model, tools)
    assert result.model is model and not result.changed
    assert all(o.id == "quantize/does-not-run" for o in result.certificate.operators)  # type: ignore[union-attr]
    assert len(attempts) <= 2 * plan.LARGEST_SEARCH


def test_the_search_is_bounded(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "LARGEST_SEARCH", 3)
    attempts = refuse_together(monkeypatch, {"g2"})
    result = done(chain(tools), tools)
    assert precision(result)["g2"] == "float"
    assert len(attempts) <= 6


def test_an_island_is_what_is_joined_by_tensors(tools: Any) -> None:
    from graphcompress.ir.shapes.infer import infer
    from graphcompress.passes.quantize.groups import find

    model = residual(tools)
    groups = find(model, CPU, infer(model)).groups
    assert island_of(groups, groups[:1]) == set(groups)
    separate = find(chain(tools), CPU, infer(chain(tools))).groups
    assert island_of(separate, separate[:1]) == set(separate[:1])


# --- operators that are fused whatever the scales are -----------------------------------------------------------------------------------


def between(op: str, tools: Any, **attrs: Any) -> Model:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 16, 8, 8), 16, 16, name="before"))
    if op == "Where":
        x = small.node("Where", small.constant(np.arange(8) > 3), x, small.conv(x, 16, 16, name="beside"), name="middle")
    else:
        x = small.node(op, x, name="middle", **attrs)
    return small.model(small.node("Tanh", small.conv(x, 16, 16, kernel=1, name="behind")))


UNARY: dict[str, dict[str, Any]] = {
    "AveragePool": {"kernel_shape": [2, 2]},
    "GlobalAveragePool": {},
    "LeakyRelu": {"alpha": 0.1},
    "Sigmoid": {},
    "Where": {},
    "Softmax": {"axis": 1},
    "MaxPool": {"kernel_shape": [2, 2]},
    "ReduceMax": {"axes": [2]},
    "ReduceMin": {"axes": [2]},
    "Transpose": {"perm": [0, 1, 3, 2]},
    "DepthToSpace": {"blocksize": 1},
    "Tanh": {},
    "Abs": {},
    "Elu": {},
    "HardSwish": {},
    "HardSigmoid": {},
    "LogSoftmax": {"axis": 1},
    "GlobalMaxPool": {},
    "ReduceMean": {"axes": [2]},
    "LpPool": {"kernel_shape": [2, 2]},
    "SpaceToDepth": {"blocksize": 1},
    "Identity": {},
    "Neg": {},
    "Sqrt": {},
}


@pytest.mark.parametrize("op", UNARY)
def test_what_must_stay_float_between_integers_loads_runs_and_is_right(op: str, tools: Any) -> None:
    """Excluded, so that no group of ours may take it: either it stays float, or a neighbour does."""
    model = between(op, tools, **UNARY[op])
    result = done(model, tools, exclude=("^middle$",))
    assert sqnr(model, result, tools) > 20
    if op in ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Where"):
        assert "float" in precision(result).values()
        assert not any(n.op_type == f"QLinear{op}" for n in tools.optimized(result.model))
    else:
        assert set(precision(result).values()) == {"int8"}


@pytest.mark.parametrize("op", ["AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Where"])
def test_what_the_provider_makes_integer_anyway_becomes_a_group(op: str, tools: Any) -> None:
    """Too dear by the table, but it cannot stay float between integers on all sides: then its codes are ours."""
    dear = EAGER.model_copy(
        update={
            "operator": tuple(
                row if row.op != op else row.model_copy(update={"price": (row.price[-1].model_copy(update={"ratio": 3.0, "float_ns": 1.0}),)})
                for row in EAGER.operator
            )
        }
    )
    result = done(between(op, tools, **UNARY[op]), tools, target=dear)
    assert f"quantize/{op.lower()}" in result.applied
    assert set(precision(result).values()) == {"int8"}


# --- the ladder -------------------------------------------------------------------------------------------------------------------------


def rungs(model: Model, tools: Any) -> list[StepResult]:
    return [rung.result for rung in quantize(model, context(model, tools), Options()).rungs]


def test_each_rung_has_less_in_integers_and_a_certificate_of_its_own(tools: Any) -> None:
    model = chain(tools, 8)
    ladder = quantize(model, context(model, tools), Options())
    assert ladder.monotone and len({rung.label for rung in ladder.rungs}) == len(ladder.rungs) > 3
    kinds = [{o.node for o in rung.result.certificate.operators if o.precision == "int8"} for rung in ladder.rungs]  # type: ignore[union-attr]
    assert len(kinds[0]) == 8
    assert all(later <= earlier for earlier, later in itertools.pairwise(kinds)) and len(set(map(frozenset, kinds))) > 3
    last = ladder.rungs[-1].result
    bold, second = (ladder.rungs[index].result.decisions for index in (0, 1))
    shares = second["noise"]  # of all that the boldest had in integers, the worst first
    assert set(second["int8"]) < set(shares) == set(bold["int8"]) and list(shares.values()) == sorted(shares.values(), reverse=True)
    assert "noise" not in bold
    assert reason(last, next(n for n, kind in precision(last).items() if kind == "float")).startswith("quantize/accuracy")
    assert ladder.rungs[0].gain_ns is not None and ladder.rungs[0].gain_ns > 0


def test_a_weight_that_codes_spoil_stays_float_first_however_small_it_is(tools: Any) -> None:
    small = tools.Small()
    x = small.input("x", 4, 32)
    for index in range(6):
        weight = small.random.normal(0, 0.18, (32, 32))
        if index == 3:
            weight = np.where(np.eye(32) > 0, 0.05, weight * 1e-4)  # the step is that of one number per row
        x = small.node("Tanh", small.node("Gemm", x, small.constant(weight.astype(np.float32)), transB=1, name=f"g{index}"))
    second = rungs(small.model(x), tools)[1]
    floats = {name for name, kind in precision(second).items() if kind == "float"}
    assert "g3" in floats and not floats & {"g1", "g2", "g4"}


def test_what_reads_a_tensor_that_codes_spoil_stays_float_first_however_small_it_is(tools: Any) -> None:
    small = tools.Small()
    x = small.input("x", 4, 32)
    for index in range(6):
        weight = small.random.normal(0, 0.18, (32, 32))
        if index == 2:
            weight *= np.where(np.arange(32) == 5, 1e-1, 1e-4)[:, None]  # the step of its result is that of one column,
        if index == 3:
            weight[:, 5] = 0.0  # which nobody needs
        x = small.node("Tanh", small.node("Gemm", x, small.constant(weight.astype(np.float32)), transB=1, name=f"g{index}"))
    second = rungs(small.model(x), tools)[1]
    assert {name for name, kind in precision(second).items() if kind == "float"} == {"g3"}


def test_rungs_below_the_first_are_built_when_they_are_asked_for(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = refuse_together(monkeypatch)
    model = chain(tools, 8)
    ladder = quantize(model, context(model, tools), Options())
    assert ladder.boldest.changed and len(attempts) == 1
    assert ladder.rungs[1].result.changed and len(attempts) == 2


def test_what_loses_most_goes_first(tools: Any) -> None:
    """One layer whose weights have few large values among many small ones, in a chain of good ones."""
    small = tools.Small()
    x = small.input("x", 4, 64)
    for index in range(8):
        weight = np.random.default_rng(index).normal(0, 0.1, (64, 64)).astype(np.float32)
        if index == 5:
            weight[:, 7] = 40.0
        x = small.node("Tanh", small.node("Gemm", x, small.constant(weight), transB=1, name=f"g{index}"))
    results = rungs(small.model(x), tools)
    assert [name for name, kind in precision(results[1]).items() if kind == "float"] == ["g5"]


def test_where_nothing_goes_to_integers_there_is_one_rung(tools: Any) -> None:
    small = tools.Small()
    model = small.model(small.node("Tanh", small.input("x", 1, 4)))
    (only,) = rungs(model, tools)
    assert only.model is model


def test_every_rung_is_faithful_to_its_label(tools: Any) -> None:
    model = residual(tools)
    for result in rungs(model, tools):
        assert result.certificate is not None
        integer = sum(n.op == "QuantizeLinear" for n in nodes(result.model))
        assert (integer > 0) == result.changed == (result.certificate.integer > 0)
        assert sqnr(model, result, tools) > 20
