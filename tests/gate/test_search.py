"""The gate: the boldest alternative that is faithful and not slower, across steps, at worst the original; only a fault of the original is an error."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphcompress.api import cost_goals
from graphcompress.errors import UsageError
from graphcompress.findings import Finding
from graphcompress.gate import Bars, Outcome, search, thread_settings
from graphcompress.gate.bars import is_clear
from graphcompress.runtime.compare import Comparison
from graphcompress.step import Context, Ladder, Rung, StepResult
from tests.support.fake_judge import ORIGINAL, FakeJudge, Quantize, chosen, gate, model, same_size, simplify, step, told


def test_all_steps_at_their_boldest_are_judged_first_and_alone() -> None:
    judge = FakeJudge()
    quantize = Quantize(40)
    outcome = gate(judge, simplify(), quantize.step)
    assert chosen(outcome) == "q0" and outcome.chosen.candidate.steps == ("simplify", "quantize")
    assert judge.compared == ["q0"] and judge.measured == [("q0", 1), ("q0", 2)] and quantize.built == ["q0"]
    assert told(outcome) == "The result reaches the floor of 0.99 and is not slower: agreement 1.0000, 2.00x with 1 thread, 2.00x with 2 threads."


def test_below_the_floor_the_step_is_rolled_back_and_never_timed() -> None:
    judge = FakeJudge(agreement={"q0": 0.9899})
    outcome = gate(judge)
    assert chosen(outcome) == "simple" and [j.reason for j in outcome.judged] == ["gate/floor", ""]
    assert told(outcome).startswith(
        "Quantization was rolled back because agreement 0.9899 of output 'y' on 6 feeds is below the floor of 0.99. The result reaches"
    )
    assert "q0" not in {name for name, _ in judge.measured}


@pytest.mark.parametrize(("agreement", "expected"), [(0.99, "q0"), (0.98999, "simple")])
def test_the_floor_is_compared_as_a_number(agreement: float, expected: str) -> None:
    assert chosen(gate(FakeJudge(agreement={"q0": agreement}))) == expected


@pytest.mark.parametrize(("bar", "expected"), [(0.999, "q2"), (0.9, "q0"), (0.95, "q1"), (1.0, "simple")])
def test_a_stated_bar_of_agreement_replaces_the_floor_and_steers_what_stays_float(bar: float, expected: str) -> None:
    judge = FakeJudge(agreement={"q0": 0.92, "q1": 0.97, "q2": 0.9995})
    bars = Bars(min_agreement=bar)
    outcome = gate(judge, simplify(), Quantize(3).step, bars=bars)
    assert chosen(outcome) == expected
    assert f"the bar of {bar:g} (--min-agreement)" in told(outcome, bars)


@pytest.mark.parametrize(
    ("agreement", "expected"),
    [({"q0": 0.92, "q1": 0.992, "q2": 0.996}, "q2"), ({"q0": 0.92, "q1": 0.992, "q2": 0.993}, "q1"), ({"q0": 0.991}, "q0"), ({"q0": 0.92, "q1": 0.9951}, "q1")],
)
def test_of_several_the_boldest_that_is_clear_of_the_floor_is_chosen_where_one_is(agreement: dict[str, float], expected: str) -> None:
    assert chosen(gate(FakeJudge(agreement=agreement), simplify(), Quantize(3).step)) == expected


@pytest.mark.parametrize(("inputs", "expected"), [(1, "q4"), (19, "q3"), (10_000, "q2")])
def test_with_more_inputs_less_distance_from_the_floor_is_clear_of_it(inputs: int, expected: str) -> None:
    agreement = {"q0": 0.92, "q1": 0.9901, "q2": 0.9920, "q3": 0.9960, "q4": 0.9985}
    assert chosen(gate(FakeJudge(agreement=agreement, inputs=inputs), simplify(), Quantize(5).step)) == expected


@pytest.mark.parametrize("floor", [0.5, 0.9, 0.9991])
@pytest.mark.parametrize("inputs", [4, 64, 1000])
def test_what_is_clear_is_a_standard_error_of_a_binomial_from_the_floor(floor: float, inputs: int) -> None:
    allowed = 1 - floor
    share = allowed / (1 + np.sqrt(allowed * (1 - allowed) / inputs) / allowed)  # this share and a standard error are what the floor allows
    for lost, clear in ((0.999 * share, True), (1.001 * share, False), (0.0, True)):
        measure: Any = SimpleNamespace(agreement=1 - lost / allowed * 0.01, floor=floor)
        outputs: Any = {"y": SimpleNamespace(inputs=inputs)}
        assert is_clear(Comparison(outputs, 5, (("y", measure),))) is clear
    repeated = Finding("data/repeated", "", distinct=1 / inputs)
    close: Any = SimpleNamespace(agreement=1 - share / allowed * 0.0099, floor=floor)
    assert is_clear(Comparison(outputs, 5, (("y", close),))) and not is_clear(Comparison(outputs, 5, (("y", close),), findings=(repeated,)))


AT_THE_BAR = {"q0": 0.92, "q1": 0.992, "q2": 0.993}


def test_where_what_is_clear_of_the_floor_is_too_slow_a_bolder_one_that_was_judged_is_tried() -> None:
    judge = FakeJudge(agreement=AT_THE_BAR, verdicts={f"q{i}": "slower" for i in range(3, 9)})
    outcome = gate(judge, simplify(), Quantize(9).step)
    assert chosen(outcome) == "q2" and len(judge.compared) == len(set(judge.compared))


def test_where_what_is_clear_of_the_floor_is_too_large_a_bolder_one_that_was_judged_is_tried() -> None:
    sizes = {"q1": 50, "q2": 60, **{f"q{i}": 200 for i in (0, *range(3, 9))}}
    outcome = gate(FakeJudge(agreement=AT_THE_BAR), simplify(), Quantize(9).step, size=lambda model: sizes.get(model.name, 100))
    assert chosen(outcome) == "q2"


def test_a_bolder_one_that_is_not_faithful_is_not_tried() -> None:
    judge = FakeJudge(agreement={"q0": 0.92, "q1": 0.95, "q2": 0.95}, verdicts={f"q{i}": "slower" for i in range(3, 9)})
    assert chosen(gate(judge, simplify(), Quantize(9).step)) == "simple" and not {"q1", "q2"} & {name for name, _ in judge.measured}


def test_where_the_caller_says_how_much_is_to_go_the_bar_itself_is_enough() -> None:
    assert chosen(gate(FakeJudge(agreement=AT_THE_BAR), simplify(), Quantize(9).step, clear=False)) == "q1"


@pytest.mark.parametrize("goal", ["size=0.5", "macs=0.5", "latency=0.5"])
def test_goals_of_a_cost_say_how_much_is_to_go(goal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def search(*arguments: Any, **words: Any) -> Outcome:
        asked.append(words["clear"])
        return gate(FakeJudge())

    monkeypatch.setattr(cost_goals, "search", search)
    gate_goal, cost = cost_goals.parse_goal(goal)
    assert cost is not None
    judge: Any = SimpleNamespace(size=same_size)
    cost_goals.reach(ORIGINAL, cost, gate_goal, Context(), judge, Bars(), (), plans=lambda part: cost_goals.plan_of(cost, part), macs=same_size)
    assert asked and not any(asked)


@pytest.mark.parametrize("faithful_from", range(1, 41))
def test_the_boldest_faithful_rung_is_found_by_bisection(faithful_from: int) -> None:
    quantize = Quantize(40)
    judge = FakeJudge(agreement={f"q{i}": 0.5 for i in range(faithful_from)})
    outcome = gate(judge, simplify(), quantize.step)
    assert chosen(outcome) == (f"q{faithful_from}" if faithful_from < 40 else "simple")
    # All of it, what it stands on, and log2 of 40 rungs; a rung that is not judged is not built.
    assert len(judge.compared) <= 2 + 6 and len(judge.compared) == len(set(judge.compared))
    assert set(quantize.built) == set(judge.compared) - {"simple"}


@pytest.mark.parametrize(("agreement", "expected"), [({}, "q0"), ({"q0": 0.92}, "simple")])
def test_without_a_search_a_step_is_done_at_its_boldest_or_not_at_all(agreement: dict[str, float], expected: str) -> None:
    quantize = Quantize(9)
    outcome = gate(FakeJudge(agreement=agreement), simplify(), quantize.step, boldest_only=True)
    assert chosen(outcome) == expected and quantize.built == ["q0"]


def test_what_stays_float_is_counted_and_explained() -> None:
    outcome = gate(FakeJudge(agreement={f"q{i}": 0.5 for i in range(9)}), simplify(), Quantize(40).step)
    assert told(outcome).startswith(
        "9 of 40 heavy operators stay float after quantization because with '40 of 40 layers' agreement 0.5000 of output 'y' on 6 feeds is below the floor of 0.99."
    )


def test_a_ladder_that_is_not_monotone_is_searched_in_order_and_within_bounds() -> None:
    judge = FakeJudge(agreement={"q0": 0.5, "q1": 0.5, "q3": 0.5})
    assert chosen(gate(judge, simplify(), Quantize(40, monotone=False).step)) == "q2"
    judge = FakeJudge(agreement={f"q{i}": 0.5 for i in range(40)})
    assert chosen(gate(judge, simplify(), Quantize(40, monotone=False).step)) == "simple" and len(judge.compared) < 12


def test_nothing_is_searched_on_top_of_what_is_not_faithful() -> None:
    judge = FakeJudge(agreement={"q0": 0.5, "simple": 0.5})
    quantize = Quantize(40)
    outcome = gate(judge, simplify(), quantize.step)
    assert chosen(outcome) == "original/q0" and judge.compared == ["q0", "simple", "original/q0"]
    assert [e.in_result for e in outcome.executed] == [False, True]
    assert "Simplification was rolled back because agreement 0.5000" in told(outcome)


@pytest.mark.parametrize("teaches", [False, True])
def test_on_a_goal_that_is_not_faithful_only_what_teaches_is_built(teaches: bool) -> None:
    """Quantizing what was pruned too far costs minutes, and brings nothing back."""

    def rungs(names: list[str]) -> Ladder:
        return Ladder(tuple(Rung(name, lambda name=name: StepResult(model(name), True)) for name in names))

    judge = FakeJudge(agreement={"half": 0.9, "half/taught": 0.999})
    quantize = Quantize()
    prune = step("prune", "pruning", lambda base: rungs(["half", "most"]), stated=True)
    teach = step("distill", "distillation", lambda base: rungs([f"{base.name}/taught"]), teaches=True)
    outcome = gate(judge, prune, *([teach] if teaches else []), quantize.step)
    assert chosen(outcome) == ("half/taught/q0" if teaches else "most/q0")
    assert quantize.built == [chosen(outcome)]
    assert judge.compared == (["half", "half/taught", "half/taught/q0"] if teaches else ["half", "most", "most/q0"])


def test_a_metric_that_is_missed_is_told() -> None:
    assert "because agreement 0.5000 by the metric on 6 feeds is below" in told(gate(FakeJudge(agreement={"q0": 0.5}, worst=None)))


def test_nothing_changed_gives_the_original() -> None:
    judge = FakeJudge()
    unchanged = step("simplify", "simplification", lambda m: Ladder.single(StepResult(m, False)))
    outcome = gate(judge, unchanged, step("quantize", "quantization", lambda m: Ladder(())))
    assert outcome.chosen.candidate.model is ORIGINAL and told(outcome) == "The result is the original model." and judge.measured == []


def test_the_executed_steps_are_those_of_the_result() -> None:
    outcome = gate(FakeJudge(agreement={"q0": 0.5}), simplify(), Quantize(3).step)
    assert [(e.step.kind.name, e.rung, e.in_result) for e in outcome.executed] == [("simplify", "", True), ("quantize", "2 of 3 layers", True)]
    assert outcome.chosen.candidate.rungs == ("", "2 of 3 layers")
    rolled_back = gate(FakeJudge(agreement={f"q{i}": 0.5 for i in range(3)}), simplify(), Quantize(3).step)
    assert [(e.rung, e.in_result) for e in rolled_back.executed] == [("", True), ("3 of 3 layers", False)]
    assert all(e.peak_memory_bytes for e in rolled_back.executed)


def test_the_seconds_of_the_steps_lie_within_those_of_the_search() -> None:
    begin = time.perf_counter()
    outcome = gate(FakeJudge())
    assert 0 < sum(e.seconds for e in outcome.executed) < time.perf_counter() - begin


@pytest.mark.parametrize(
    "bars", [{"min_agreement": 1.1}, {"min_agreement": -0.1}, {"min_agreement": float("nan")}, {"min_speedup": 0}, {"min_speedup": float("inf")}]
)
def test_a_bar_that_nothing_can_reach_is_refused(bars: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Bars(**bars)


@pytest.mark.parametrize("bars", [{"min_agreement": 0}, {"min_agreement": 1}, {"min_speedup": 0.01}])
def test_the_ends_of_what_a_bar_can_be(bars: dict[str, float]) -> None:
    Bars(**bars)


def test_thread_settings() -> None:
    assert thread_settings(3) == (3,)
    assert thread_settings(None)[0] == 1


def test_a_rung_that_changes_nothing_is_no_part_of_the_result() -> None:
    """What would be left of the step is the model before it."""

    def ladder(base: Any) -> Ladder:
        return Ladder((Rung("all", lambda: StepResult(model("bold"), True)), Rung("none", lambda: StepResult(base, False))))

    judge = FakeJudge(agreement={"bold": 0.5})
    outcome = search(ORIGINAL, [simplify(), step("quantize", "quantization", ladder)], Context(), judge, Bars(), [1], goal="balanced", size=same_size)
    assert outcome.chosen.candidate.steps == ("simplify",)
    assert outcome.chosen.candidate.rungs == ("",)
