"""The gate where something fails: candidates that cannot be built, run or judged, and whose fault that is."""

from __future__ import annotations

from typing import Any

import pytest

from graphcompress.errors import DataError, ModelError, RuntimeUnavailable, UsageError
from graphcompress.ir import TensorSpec
from graphcompress.step import Ladder
from tests.support.fake_judge import FakeJudge, Quantize, chosen, gate, simplify, step, told


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
