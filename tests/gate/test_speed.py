"""The gate where speed decides: what is slower, what is too noisy to tell, and bars that are stated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from graphcompress.api.cost_goals import CostGoal
from graphcompress.api.reports import speed_bar
from graphcompress.gate import Bars
from graphcompress.gate.bars import reaches
from graphcompress.runtime.measure import Measurement
from graphcompress.step import Ladder, StepResult
from tests.support.fake_judge import FakeJudge, Quantize, chosen, gate, model, simplify, step, told


def test_faithful_but_slower_less_bold_rungs_are_tried_by_what_they_are_expected_to_gain() -> None:
    judge = FakeJudge(verdicts={"q0": "slower", "q7": "slower"})
    outcome = gate(judge, simplify(), Quantize(10, gains=[9, 1, 1, 5, 1, 1, 1, 8, -1, -2]).step)
    assert chosen(outcome) == "q3"
    assert [name for name, _ in judge.measured] == ["q0", "q7", "q3", "q3"]


def test_only_a_rung_that_is_expected_to_gain_is_timed() -> None:
    judge = FakeJudge(verdicts={"q0": "slower", "q2": "slower"})
    assert chosen(gate(judge, simplify(), Quantize(4, gains=[9, 0, 0.5, -1]).step)) == "simple"
    assert [name for name, _ in judge.measured] == ["q0", "q2", "simple", "simple"]


def test_faithful_but_slower_without_expectations_is_halved_and_bounded() -> None:
    judge = FakeJudge(verdicts={f"q{i}": "slower" for i in range(100)})
    outcome = gate(judge, simplify(), Quantize(100).step)
    assert chosen(outcome) == "simple"
    assert len({name for name, _ in judge.measured}) == 1 + 3 + 1
    assert "3 less bold alternatives of it did not hold either" in told(outcome)


def test_slower_with_either_setting_is_rolled_back() -> None:
    outcome = gate(FakeJudge(verdicts={("q0", 2): "slower"}))
    assert chosen(outcome) == "simple"
    assert "Quantization was rolled back because it is slower than the original (0.50x with 2 threads)." in told(outcome)


def test_a_loss_ends_the_measuring_and_nothing_is_timed_or_compared_twice() -> None:
    judge = FakeJudge(verdicts={"q0": "slower", "simple": "slower", "original/q0": "slower"})
    outcome = gate(judge)
    assert chosen(outcome) == "original"
    assert judge.measured == [("q0", 1), ("simple", 1), ("original/q0", 1)]
    assert len(judge.compared) == len(set(judge.compared))
    assert told(outcome).endswith("The result is the original model.")


def test_a_step_is_not_blamed_for_the_one_below_it() -> None:
    """What was slow with both steps is slow because of the first: the second one's reason is that of the candidate without it."""
    store = step("store", "storing weights small", lambda m: Ladder.single(StepResult(model(f"{m.name}/store"), True)))
    verdicts = {"original/q0": "slower", "original/q0/store": "slower", "original/store": "noisy loss"}
    words = told(gate(FakeJudge(verdicts=verdicts), Quantize().step, store))
    assert "Quantization was rolled back because it is slower than the original (0.50x with 1 thread)." in words
    assert "Storing weights small was rolled back because it may be slower than the original (0.91x with 1 thread, too noisy to tell)." in words
    assert "less bold" not in words


@pytest.mark.parametrize("verdict", ["noisy", "noisy gain"])
def test_a_noisy_measurement_rejects_no_gain_and_claims_little(verdict: str) -> None:
    judge = FakeJudge(verdicts={"q0": verdict})
    outcome = gate(judge)
    assert chosen(outcome) == "q0" and judge.measured == [("q0", 1), ("q0", 2)]
    assert told(outcome).count("too noisy to tell") == 2 and "is most likely not slower, which this busy machine cannot prove" in told(outcome)


def test_a_noisy_measurement_accepts_no_loss() -> None:
    outcome = gate(FakeJudge(verdicts={"q0": "noisy loss"}))
    assert chosen(outcome) == "simple"
    assert "because it may be slower than the original (0.91x with 1 thread, too noisy to tell)" in told(outcome)


@pytest.mark.parametrize("bars", [Bars(), Bars(min_speedup=1.0)])
def test_where_all_is_a_noisy_loss_the_original_is_returned(bars: Bars) -> None:
    """It is as fast as itself, which a stated bar of 1 asks for."""
    outcome = gate(FakeJudge(verdicts=dict.fromkeys(("q0", "simple", "original/q0"), "noisy loss")), bars=bars)
    assert chosen(outcome) == "original"


def measured(speedup: float, verdict: Any, band: tuple[float, float], clock: Any) -> Measurement:
    spread = 0.2 if verdict == "noisy" else 0.05
    return Measurement(1.0, 1 / speedup, speedup, (speedup - spread, speedup + spread), band, 20, verdict, clock=clock)


WIDE, NARROW = (0.8, 1.25), (0.97, 1.03)


FASTER = measured(1.6, "faster", NARROW, "cpu")


@pytest.mark.parametrize(
    ("others", "bar", "expected"),
    [
        ([measured(0.9, "noisy", WIDE, "wall")], 1.0, True),  # within what the reference differs from itself: it tells nothing
        ([measured(0.7, "noisy", WIDE, "wall")], 1.0, False),  # beyond that
        ([measured(0.9, "noisy", WIDE, "cpu")], 1.0, False),  # time that other processes take is not in it
        ([measured(0.9, "slower", NARROW, "wall")], 1.0, False),
        ([measured(1.3, "noisy", WIDE, "wall")], 1.4, None),  # a stated gain is for all settings
    ],
)
def test_what_the_wall_clock_cannot_tell_is_no_part_of_the_claim(others: list[Measurement], bar: float, expected: bool | None) -> None:
    assert reaches([FASTER, *others], bar) is expected


def test_where_nothing_is_decided_the_median_decides() -> None:
    assert reaches([measured(0.9, "noisy", WIDE, "wall")], 1.0) is False


def test_a_claim_names_the_settings_that_it_is_not_for() -> None:
    class Busy(FakeJudge):
        def measure(self, model: Any, threads: int, bar: float = 1.0) -> Any:
            return FASTER if threads == 1 else measured(0.9, "noisy", WIDE, "wall")

    outcome = gate(Busy())
    assert chosen(outcome) == "q0"
    assert "is not slower as far as this busy machine can tell, which is not with 2 threads" in told(outcome)
    bar = speed_bar(1.0, [m for _, m in outcome.chosen.measurements])
    assert (bar.reached, bar.held) == (1.6, True)


@pytest.mark.parametrize(("verdict", "bar"), [("noisy", 1.0), ("same", 1.0), ("noisy", 1.05), ("faster", 1.9), ("faster", 2.05), ("slower", 0.45)])
def test_what_is_not_proved_to_miss_a_stated_bar_is_not_rolled_back(verdict: str, bar: float) -> None:
    judge = FakeJudge(verdicts={"q0": verdict})
    outcome = gate(judge, bars=Bars(min_speedup=bar))
    assert chosen(outcome) == "q0" and judge.compared == ["q0"]


def test_a_stated_bar_of_speed_steers_what_is_rolled_back() -> None:
    judge = FakeJudge(verdicts={"q0": "same", "q1": "faster"})
    assert chosen(gate(judge, simplify(), Quantize(2).step, bars=Bars(min_speedup=1.5))) == "q1"
    assert chosen(gate(FakeJudge(verdicts={"q0": "same", "q1": "faster"}), simplify(), Quantize(2).step)) == "q0"


def test_where_nothing_reaches_a_stated_speed_the_fastest_that_is_not_slower_is_chosen() -> None:
    bars = Bars(min_speedup=1000)
    judge = FakeJudge(verdicts={"simple": "same"})
    outcome = gate(judge, bars=bars)
    assert chosen(outcome) == "q0" and outcome.chosen.speedup == 2.0 and judge.compared == ["q0", "simple"]
    assert told(outcome, bars).endswith("The result reaches the floor of 0.99, but it misses the bar of 1000 (--min-speedup) (2.00x with 1 thread).")
    slow = FakeJudge(verdicts={"q0": "slower", "simple": "slower", "original/q0": "slower"})
    assert chosen(gate(slow, bars=bars)) == "original"


def test_without_settings_nothing_is_measured_and_that_is_said() -> None:
    judge = FakeJudge()
    outcome = gate(judge, settings=())
    assert judge.measured == [] and told(outcome).endswith("Speed was not measured.")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [([], True), (["faster", "faster"], True), (["faster", "noisy"], None), (["noisy", "slower"], False), (["faster", "slower"], False)],
)
def test_a_bar_is_reached_with_every_setting_missed_with_any_and_else_not_known(verdicts: list[str], expected: bool | None) -> None:
    judge = FakeJudge(verdicts=dict(enumerate(verdicts)))
    assert reaches([judge.measure(SimpleNamespace(name=i), 1) for i in range(len(verdicts))], 1.05) is expected


@pytest.mark.parametrize("bar", [None, 0.9, 1.5])
def test_who_measures_knows_the_bar(bar: float | None) -> None:
    bars: list[float] = []

    class Told(FakeJudge):
        def measure(self, model: Any, threads: int, bar: float = 1.0) -> Any:
            bars.append(bar)
            return super().measure(model, threads, bar)

    gate(Told(), bars=Bars(min_speedup=bar))
    assert bars == [bar or 1.0] * 2


@pytest.mark.parametrize(
    ("measurement", "held", "undecided"),
    [
        (measured(2.0, "faster", NARROW, "cpu"), True, False),
        (measured(1.7, "noisy", WIDE, "wall"), False, True),  # its interval begins below what is asked for
        (measured(2.2, "noisy", WIDE, "wall"), True, False),
        (measured(1.5, "noisy", WIDE, "wall"), False, False),
    ],
)
def test_a_latency_that_the_noise_may_have_made_is_not_reached(measurement: Measurement, held: bool, undecided: bool) -> None:
    bar = CostGoal("latency", 0.6).bar(1 / measurement.speedup, measurement)
    assert (bar.held, bar.undecided) == (held, undecided)
    assert CostGoal("size", 0.6).bar(0.59, measurement).held
