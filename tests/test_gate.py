"""The gate: the first candidate that is faithful and not slower, at worst the original."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from graphcompress.errors import ModelError
from graphcompress.gate import Candidate, choose, thread_settings
from graphcompress.ir import TensorSpec

NAMES = {"simplify": "simplification", "quantize": "quantization"}
Y = TensorSpec("y", "float", (1, 10))


def model(name: str, outputs: tuple[TensorSpec, ...] = (Y,)) -> Any:
    return SimpleNamespace(name=name, inputs=(TensorSpec("x", "float", (1, 4)),), outputs=outputs)


SPEEDS = {
    "faster": (2.0, (1.9, 2.1), "faster"),
    "slower": (0.5, (0.4, 0.6), "slower"),
    "noisy gain": (1.2, (0.9, 1.4), "noisy"),
    "noisy loss": (0.9, (0.85, 0.95), "noisy"),
}


@dataclass
class FakeJudge:
    """Figures by model name: disagreements among 1000 decisions, verdict by thread setting; a message where the model does not run."""

    disagreements: dict[str, int] = field(default_factory=dict)
    verdicts: dict[tuple[str, int], str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    unstable: bool = False
    measured: list[tuple[str, int]] = field(default_factory=list)

    def compare(self, model: Any) -> Any:
        if model.name in self.broken:
            raise ModelError(self.broken[model.name])
        from graphcompress.runtime.compare import Comparison
        from graphcompress.runtime.output_statistics import OutputComparison

        wrong = self.disagreements.get(model.name, 0)
        output = OutputComparison("class", wrong == 0, 1 - wrong / 1000, None, None, 0.0, 1000, wrong, 1000, 0, self.unstable)
        return Comparison(agreement=None if self.unstable else output.agreement, outputs={"y": output}, feeds=1000, worst=None if self.unstable else "y")

    def measure(self, model: Any, threads: int) -> Any:
        self.measured.append((model.name, threads))
        speedup, ci, verdict = SPEEDS[self.verdicts.get((model.name, threads), "faster")]
        return SimpleNamespace(speedup=speedup, speedup_ci=ci, verdict=verdict)


ORIGINAL = model("original")
SIMPLE = Candidate(model("simple"), ("simplify",))
QUANTIZED = Candidate(model("quantized"), ("simplify", "quantize"))


def gate(judge: FakeJudge, settings: tuple[int, ...] = (1, 2)) -> Any:
    return choose(ORIGINAL, [QUANTIZED, SIMPLE], judge, settings, NAMES)


def test_a_good_result_is_handed_back() -> None:
    judge = FakeJudge()
    outcome = gate(judge)
    assert outcome.chosen.candidate is QUANTIZED
    assert judge.measured == [("quantized", 1), ("quantized", 2)]
    assert (
        "taken back" not in outcome.explanation
        and "agreement 1.0000" in outcome.explanation
        and "2.00x with 1 thread, 2.00x with 2 threads" in outcome.explanation
    )


def test_below_the_floor_is_taken_back_without_measuring() -> None:
    judge = FakeJudge(disagreements={"quantized": 40})
    outcome = gate(judge)
    assert outcome.chosen.candidate is SIMPLE
    assert [j.reason for j in outcome.judged] == ["gate/floor", ""]
    assert outcome.explanation.startswith("Quantization was taken back because agreement 0.9600 of output 'y' on 1000 feeds is below the floor of 0.99.")
    assert ("quantized", 1) not in judge.measured


def test_the_floor_is_the_plain_number() -> None:
    assert gate(FakeJudge(disagreements={"quantized": 10})).chosen.candidate is QUANTIZED
    assert gate(FakeJudge(disagreements={"quantized": 11})).chosen.candidate is SIMPLE


def test_where_the_original_differs_from_itself_nothing_else_is_accepted() -> None:
    outcome = gate(FakeJudge(unstable=True))
    assert outcome.chosen.candidate.model is ORIGINAL and [j.reason for j in outcome.judged] == ["gate/floor", "gate/floor", ""]
    assert "the original differs from itself" in outcome.explanation


def test_slower_with_either_setting_is_taken_back() -> None:
    outcome = gate(FakeJudge(verdicts={("quantized", 2): "slower"}))
    assert outcome.chosen.candidate is SIMPLE
    assert "Quantization was taken back because it is slower than the original (0.50x with 2 threads)." in outcome.explanation


def test_a_simplified_model_that_is_slower_is_taken_back_too() -> None:
    outcome = gate(FakeJudge(verdicts={("quantized", 1): "slower", ("simple", 1): "slower"}))
    assert outcome.chosen.candidate.model is ORIGINAL
    assert outcome.chosen.candidate.steps == ()
    assert "Simplification was taken back" in outcome.explanation and outcome.explanation.endswith("The result is the original model.")


def test_noise_is_no_proof_of_slowness_and_is_said() -> None:
    judge = FakeJudge(verdicts={("quantized", 1): "noisy loss", ("quantized", 2): "noisy gain"})
    outcome = gate(judge)
    assert outcome.chosen.candidate is QUANTIZED
    assert judge.measured == [("quantized", 1), ("quantized", 2)]
    assert outcome.explanation.count("too noisy to tell") == 2


def test_what_does_not_run_is_taken_back_with_the_reason() -> None:
    outcome = gate(FakeJudge(broken={"quantized": "onnxruntime cannot load it: no kernel"}))
    assert outcome.chosen.candidate is SIMPLE
    assert outcome.judged[0].reason == "gate/does-not-run" and "no kernel" in outcome.explanation


def test_another_signature_is_taken_back() -> None:
    odd = Candidate(model("odd", outputs=(TensorSpec("y", "uint8", (1, 10)),)), ("simplify", "quantize"))
    outcome = choose(ORIGINAL, [odd, SIMPLE], FakeJudge(), (1,), NAMES)
    assert outcome.judged[0].reason == "gate/signature" and outcome.chosen.candidate is SIMPLE


def test_nothing_changed_gives_the_original() -> None:
    outcome = choose(ORIGINAL, [], FakeJudge(), (1,), NAMES)
    assert outcome.chosen.candidate.model is ORIGINAL and outcome.explanation == "The result is the original model."


def test_without_settings_nothing_is_measured_and_that_is_said() -> None:
    judge = FakeJudge()
    outcome = gate(judge, settings=())
    assert judge.measured == [] and "Speed was not measured." in outcome.explanation


def test_thread_settings() -> None:
    assert thread_settings(3) == (3,)
    assert thread_settings(None)[0] == 1
