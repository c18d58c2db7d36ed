"""What a result is chosen by: neither slower nor larger, speed alone, or size."""

from __future__ import annotations

from typing import Any

import pytest

from graphcompress.api.reports import gate_report
from graphcompress.gate import Bars, Goal
from graphcompress.step import Ladder, Rung, StepResult
from tests.support.fake_judge import FakeJudge, Quantize, chosen, gate, model, simplify, step, told

BYTES = {"original": 100, "simple": 90, "q0": 30, "simple/s0": 25, "q0/s0": 28}


def sizes(**more: int) -> Any:
    table = BYTES | {name.replace("_", "/"): size for name, size in more.items()}
    return lambda m: table.get(m.name, 100)


def store(rungs: int = 1, asked: list[str] | None = None) -> Any:
    """Makes NAME/s0, NAME/s1, ... of NAME, none of which is expected to gain time."""

    def ladder(base: Any) -> Ladder:
        def rung(index: int) -> Rung:
            def build() -> StepResult:
                if asked is not None:
                    asked.append(f"{base.name}/s{index}")
                return StepResult(model(f"{base.name}/s{index}"), True)

            return Rung(f"s{index}", build, 0.0)

        return Ladder(tuple(map(rung, range(rungs))))

    return step("store", "storing weights small", ladder)


STEPS = (simplify(), Quantize().step, store())


@pytest.mark.parametrize(("goal", "expected"), [("balanced", "q0/s0"), ("speed", "q0/s0"), ("size", "simple/s0")])
def test_the_smallest_is_taken_where_size_is_the_goal(goal: Goal, expected: str) -> None:
    assert chosen(gate(FakeJudge(), *STEPS, goal=goal, size=sizes())) == expected


def test_what_was_left_out_for_size_is_told() -> None:
    said = told(gate(FakeJudge(), *STEPS, goal="size", size=sizes()))
    assert said.startswith("Quantization was left out because the result is smaller without it. The result reaches")
    assert "left out" not in told(gate(FakeJudge(), *STEPS, size=sizes()))


def test_where_the_smallest_is_not_faithful_what_holds_stays() -> None:
    judge = FakeJudge(agreement={"simple/s0": 0.5})
    outcome = gate(judge, *STEPS, goal="size", size=sizes())
    assert chosen(outcome) == "q0/s0" and outcome.chosen.holds


def test_what_would_be_larger_than_what_is_chosen_is_not_timed() -> None:
    judge = FakeJudge()
    outcome = gate(judge, *STEPS, goal="size", size=sizes(simple_s0=29))
    assert chosen(outcome) == "q0/s0"
    assert {name for name, _ in judge.measured} == {"q0/s0"}
    assert [j.reason for j in outcome.judged if j.candidate.model.name == "simple/s0"] == ["gate/larger"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("goal", "expected"), [("balanced", "simple"), ("speed", "q0"), ("size", "simple")])
def test_a_result_that_is_larger_than_the_original_is_chosen_for_speed_alone(goal: Goal, expected: str) -> None:
    judge = FakeJudge()
    outcome = gate(judge, goal=goal, size=sizes(q0=101))
    assert chosen(outcome) == expected
    if goal == "balanced":
        assert "its file is larger than the original (101 bytes; at most 100 were wanted)" in told(outcome)
        assert "q0" not in {name for name, _ in judge.measured}


def test_a_step_that_makes_a_larger_file_stands_where_the_next_one_makes_it_small() -> None:
    assert chosen(gate(FakeJudge(), *STEPS, size=sizes(q0=120))) == "q0/s0"


def test_equal_bytes_are_not_larger() -> None:
    assert chosen(gate(FakeJudge(), size=sizes(q0=100))) == "q0"


@pytest.mark.parametrize(("goal", "expected"), [("balanced", "original"), ("size", "q0")])
def test_a_hair_of_time_may_be_paid_for_size(goal: Goal, expected: str) -> None:
    """The interval of "barely" lies between 0.98 and 1."""
    judge = FakeJudge(verdicts={"q0": "barely slower", "simple": "slower", "original/q0": "slower"})
    assert chosen(gate(judge, goal=goal, size=sizes())) == expected


def test_a_stated_bar_of_speed_holds_for_size_as_well() -> None:
    judge = FakeJudge(verdicts={"q0": "barely slower", "simple": "slower", "original/q0": "slower"})
    assert chosen(gate(judge, goal="size", size=sizes(), bars=Bars(min_speedup=1.0))) == "original"


def test_weights_are_stored_small_also_where_quantization_is_rolled_back() -> None:
    judge = FakeJudge(agreement={"q0": 0.5, "q0/s0": 0.5})
    assert chosen(gate(judge, *STEPS, size=sizes())) == "simple/s0"


def test_where_quantization_is_too_slow_forms_of_weights_are_not_tried_for_speed() -> None:
    asked: list[str] = []
    judge = FakeJudge(verdicts={"q0": "slower", "q0/s0": "slower"})
    assert chosen(gate(judge, simplify(), Quantize().step, store(4, asked), size=lambda m: 10)) == "simple/s0"
    assert asked == ["q0/s0", "simple/s0"]


def test_nothing_is_compared_or_timed_twice_where_the_smallest_is_searched_after_the_fastest() -> None:
    """Without quantization all was tried already, when its boldest rung was not faithful and the next one missed the stated bar."""
    judge = FakeJudge(agreement={"q0": 0.5, "q0/s0": 0.5}, verdicts=dict.fromkeys(("simple", "q1", "simple/s0"), "same"))
    outcome = gate(judge, simplify(), Quantize(2).step, store(), goal="size", size=sizes(q1_s0=28), bars=Bars(min_speedup=1000))
    assert chosen(outcome) == "q1/s0"
    assert {"q1/s0", "simple/s0"} <= {name for name, _ in judge.measured}
    assert len(judge.measured) == len(set(judge.measured)) and len(judge.compared) == len(set(judge.compared))


def test_a_step_is_asked_once_for_each_model_that_it_builds_on() -> None:
    """The search for the smallest goes over the same models again."""
    quantize = Quantize()
    calls: list[str] = []
    simple = simplify()
    counted = step("simplify", "simplification", lambda m: (calls.append(m.name), simple.run(m, None))[1], exact=True)
    gate(FakeJudge(), counted, quantize.step, store(), goal="size", size=sizes())
    assert calls == ["original"]


def test_the_smallest_that_costs_a_little_time_is_not_called_as_fast() -> None:
    outcome = gate(FakeJudge(verdicts={"simple/s0": "barely slower"}), *STEPS, goal="size", size=sizes())
    assert chosen(outcome) == "simple/s0"
    assert "takes at most 1.02 times as long" in told(outcome) and "not slower" not in told(outcome)
    assert gate_report(outcome, Bars(), "size").speedup == 1 / 1.02 and gate_report(outcome, Bars(), "balanced").speedup == 1
    assert gate_report(outcome, Bars(min_speedup=1.5), "size").speedup == 1.5
