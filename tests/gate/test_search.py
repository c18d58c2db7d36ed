"""The gate: the boldest alternative that is faithful and not slower, across steps, at worst the original; only a fault of the original is an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from graphcompress.api.reports import speed_bar
from graphcompress.errors import DataError, ModelError, RuntimeUnavailable, UsageError
from graphcompress.gate import Bars, CandidateFails, Goal, Outcome, search, thread_settings
from graphcompress.gate.bars import reaches
from graphcompress.gate.explain import explanation
from graphcompress.ir import TensorSpec
from graphcompress.runtime.measure import Measurement
from graphcompress.step import Certificate, CertifiedOperator, Context, Ladder, Rung, StepResult

Y = TensorSpec("y", "float", (1, 10))


def model(name: str, outputs: tuple[TensorSpec, ...] = (Y,)) -> Any:
    return SimpleNamespace(name=name, inputs=(TensorSpec("x", "float", (1, 4)),), outputs=outputs)


def same_size(model: Any) -> int:
    return 100


ORIGINAL = model("original")
SPEEDS: dict[str, tuple[float, tuple[float, float], Any]] = {
    "faster": (2.0, (1.9, 2.1), "faster"),
    "slower": (0.5, (0.4, 0.6), "slower"),
    "barely slower": (0.985, (0.983, 0.988), "slower"),
    "same": (0.99, (0.98, 1.0), "same"),
    "noisy": (1.02, (0.8, 1.3), "noisy"),
    "noisy loss": (0.91, (0.7, 1.1), "noisy"),
    "noisy gain": (1.4, (0.9, 1.8), "noisy"),
}


@dataclass
class FakeJudge:
    """Agreement and verdict by the name of the model (default: 1.0, faster), the verdict also by (name, threads); a message where a model does not run."""

    agreement: dict[str, float | None] = field(default_factory=dict)
    verdicts: dict[Any, str] = field(default_factory=dict)
    fails: dict[str, str] = field(default_factory=dict)
    original_fails: str = ""
    unstable: bool = False
    worst: str | None = "y"
    compared: list[str] = field(default_factory=list)
    measured: list[tuple[str, int]] = field(default_factory=list)

    def compare(self, model: Any) -> Any:
        self.compared.append(model.name)
        if model.name in self.fails:
            raise CandidateFails(self.fails[model.name])
        outputs = {"y": SimpleNamespace(unstable=self.unstable)}
        agreement = self.agreement.get(model.name, 1.0)
        return SimpleNamespace(agreement=agreement, worst=self.worst, feeds=6, outputs=outputs)

    def measure(self, model: Any, threads: int) -> Any:
        self.measured.append((model.name, threads))
        speedup, interval, verdict = SPEEDS[self.verdicts.get((model.name, threads), self.verdicts.get(model.name, "faster"))]
        return Measurement(1.0, 1 / speedup, speedup, interval, (0.99, 1.01), 10, verdict, threads)

    def check_original(self) -> None:
        if self.original_fails:
            raise ModelError(self.original_fails)


def step(name: str, noun: str, ladder: Callable[[Any], Ladder], *, exact: bool = False) -> Any:
    kind = SimpleNamespace(name=name, noun=noun, exact=exact)
    return SimpleNamespace(kind=kind, options=None, run=lambda model, context: ladder(model))


def simplify(outputs: tuple[TensorSpec, ...] = (Y,)) -> Any:
    return step("simplify", "simplification", lambda m: Ladder.single(StepResult(model("simple", outputs), True)), exact=True)


def certificate(integer: int, total: int) -> Certificate:
    return Certificate("cpu", tuple(CertifiedOperator(f"n{i}", "Conv", "int8" if i < integer else "float") for i in range(total)))


@dataclass
class Quantize:
    """A ladder of `count` rungs q0 (the boldest) to q{count - 1}; on another model than "simple" the name of it goes before: "original/q0"."""

    count: int = 1
    monotone: bool = True
    gains: Sequence[float] | None = None
    breaks: dict[int, Exception] = field(default_factory=dict)
    built: list[str] = field(default_factory=list)

    def ladder(self, base: Any) -> Ladder:
        def rung(index: int) -> Rung:
            name = f"q{index}" if base.name == "simple" else f"{base.name}/q{index}"

            def build() -> StepResult:
                self.built.append(name)
                if index in self.breaks:
                    raise self.breaks[index]
                return StepResult(model(name), True, certificate=certificate(self.count - index, self.count))

            return Rung(f"{self.count - index} of {self.count} layers", build, None if self.gains is None else self.gains[index])

        return Ladder(tuple(map(rung, range(self.count))), self.monotone)

    @property
    def step(self) -> Any:
        return step("quantize", "quantization", self.ladder)


def gate(
    judge: FakeJudge, *steps: Any, bars: Bars | None = None, settings: tuple[int, ...] = (1, 2), goal: Goal = "balanced", size: Any = same_size
) -> Outcome:
    return search(ORIGINAL, steps or (simplify(), Quantize().step), Context(), judge, bars or Bars(), settings, goal=goal, size=size)


def chosen(outcome: Outcome) -> str:
    return str(outcome.chosen.candidate.model.name)  # type: ignore[attr-defined]


def told(outcome: Outcome, bars: Bars | None = None) -> str:
    return explanation(outcome, bars or Bars())


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


@pytest.mark.parametrize("faithful_from", range(1, 41))
def test_the_boldest_faithful_rung_is_found_by_bisection(faithful_from: int) -> None:
    quantize = Quantize(40)
    judge = FakeJudge(agreement={f"q{i}": 0.5 for i in range(faithful_from)})
    outcome = gate(judge, simplify(), quantize.step)
    assert chosen(outcome) == (f"q{faithful_from}" if faithful_from < 40 else "simple")
    # All of it, what it stands on, and log2 of 40 rungs; a rung that is not judged is not built.
    assert len(judge.compared) <= 2 + 6 and len(judge.compared) == len(set(judge.compared))
    assert set(quantize.built) == set(judge.compared) - {"simple"}


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
        def measure(self, model: Any, threads: int) -> Any:
            return FASTER if threads == 1 else measured(0.9, "noisy", WIDE, "wall")

    outcome = gate(Busy())
    assert chosen(outcome) == "q0"
    assert "is not slower as far as this busy machine can tell, which is not with 2 threads" in told(outcome)
    bar = speed_bar(1.0, [m for _, m in outcome.chosen.measurements])
    assert (bar.reached, bar.held) == (1.6, True)


def test_a_metric_that_is_missed_is_told() -> None:
    assert "because agreement 0.5000 by the metric on 6 feeds is below" in told(gate(FakeJudge(agreement={"q0": 0.5}, worst=None)))


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


def test_what_does_not_run_is_rolled_back_with_the_reason() -> None:
    outcome = gate(FakeJudge(fails={"q0": "onnxruntime cannot load it: no kernel."}))
    assert chosen(outcome) == "simple" and outcome.judged[0].reason == "gate/does-not-run"
    assert "Quantization was rolled back because the result does not run: onnxruntime cannot load it: no kernel." in told(outcome)


def test_a_rung_that_does_not_run_is_searched_below() -> None:
    assert chosen(gate(FakeJudge(fails={"q0": "no kernel", "q1": "no kernel"}), simplify(), Quantize(4).step)) == "q2"


@pytest.mark.parametrize("problem", [ModelError("BatchNormalization is not folded."), DataError("NaN in tensor 't'.")])
def test_a_rung_that_cannot_be_built_is_a_refusal(problem: Exception) -> None:
    outcome = gate(FakeJudge(), simplify(), Quantize(4, breaks={0: problem}).step)
    assert chosen(outcome) == "q1" and outcome.judged[0].reason == "gate/does-not-build"
    only = gate(FakeJudge(), simplify(), Quantize(1, breaks={0: problem}).step)
    assert chosen(only) == "simple" and f"Quantization was rolled back because it could not be done: {str(problem)[:-1]}." in told(only)
    assert ".." not in told(only)
    assert [e.result is None for e in only.executed] == [False, True]


def failing(problem: Exception) -> Any:
    def ladder(base: Any) -> Ladder:
        raise problem

    return step("quantize", "quantization", ladder)


def test_a_step_that_fails_is_a_refusal() -> None:
    outcome = gate(FakeJudge(), simplify(), failing(ModelError("opset 30 is not known.")))
    assert chosen(outcome) == "simple" and "it could not be done: opset 30 is not known." in told(outcome)


def test_a_step_that_fails_because_the_original_does_is_an_error() -> None:
    with pytest.raises(ModelError, match="cannot run the model"):
        gate(FakeJudge(original_fails="onnxruntime cannot run the model"), simplify(), failing(DataError("no range")))


@pytest.mark.parametrize("problem", [UsageError("--exclude 'x' matches no node."), RuntimeUnavailable("onnxruntime is not installed.")])
def test_the_callers_faults_are_errors(problem: Exception) -> None:
    with pytest.raises(type(problem)):
        gate(FakeJudge(), simplify(), failing(problem))


def test_another_signature_is_rolled_back() -> None:
    outcome = gate(FakeJudge(), simplify(outputs=(TensorSpec("y", "uint8", (1, 10)),)))
    assert chosen(outcome) == "original" and outcome.judged[0].reason == "gate/signature"


@pytest.mark.parametrize(("unstable", "says"), [(False, "no output of this model can be compared"), (True, "the original differs from itself")])
def test_where_no_output_can_judge_only_what_is_exact_stands(unstable: bool, says: str) -> None:
    outcome = gate(FakeJudge(agreement={"q0": None, "simple": None}, unstable=unstable))
    assert chosen(outcome) == "simple" and outcome.judged[0].reason == "gate/not-judged"
    assert f"Quantization was rolled back because nothing can judge it: {says}" in told(outcome)
    assert "The result computes the same function by construction" in told(outcome)


def test_nothing_changed_gives_the_original() -> None:
    judge = FakeJudge()
    unchanged = step("simplify", "simplification", lambda m: Ladder.single(StepResult(m, False)))
    outcome = gate(judge, unchanged, step("quantize", "quantization", lambda m: Ladder(())))
    assert outcome.chosen.candidate.model is ORIGINAL and told(outcome) == "The result is the original model." and judge.measured == []


def test_without_settings_nothing_is_measured_and_that_is_said() -> None:
    judge = FakeJudge()
    outcome = gate(judge, settings=())
    assert judge.measured == [] and told(outcome).endswith("Speed was not measured.")


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


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [([], True), (["faster", "faster"], True), (["faster", "noisy"], None), (["noisy", "slower"], False), (["faster", "slower"], False)],
)
def test_a_bar_is_reached_with_every_setting_missed_with_any_and_else_not_known(verdicts: list[str], expected: bool | None) -> None:
    judge = FakeJudge(verdicts=dict(enumerate(verdicts)))
    assert reaches([judge.measure(SimpleNamespace(name=i), 1) for i in range(len(verdicts))], 1.05) is expected


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
