"""A step that teaches stands only where its result is nearer to the original than its input."""

from __future__ import annotations

from typing import Any

import pytest

from graphcompress.gate import Outcome
from graphcompress.step import Ladder, StepResult
from tests.support.fake_judge import FakeJudge, Quantize, chosen, gate, model, step, told


def prune(rungs: int = 3) -> Any:
    """Cuts p0 (the boldest) to p{rungs - 1}."""
    quantize = Quantize(rungs)

    def ladder(base: Any) -> Ladder:
        return quantize.ladder(model("simple"))

    return step("prune", "pruning", ladder)


def distill(*, changed: bool = True) -> Any:
    return step("distill", "distillation", lambda m: Ladder.single(StepResult(model(f"{m.name}/taught") if changed else m, changed)), teaches=True)


def store() -> Any:
    return step("store", "storing weights small", lambda m: Ladder.single(StepResult(model(f"{m.name}/s"), True)))


def search(judge: FakeJudge, *more: Any, taught: Any = None, **options: Any) -> Outcome:
    return gate(judge, prune(), taught or distill(), *more, **options)


def test_what_was_taught_stands_where_it_is_nearer() -> None:
    judge = FakeJudge(agreement={"q0": 0.991, "q0/taught": 0.996})
    assert chosen(search(judge)) == "q0/taught" and judge.compared == ["q0", "q0/taught"]


def test_what_was_taught_goes_where_it_is_not_nearer_even_if_it_is_faithful() -> None:
    outcome = search(FakeJudge(agreement={"q0": 0.996, "q0/taught": 0.995}), store())
    assert chosen(outcome) == "q0/s"
    assert [j.reason for j in outcome.judged if j.candidate.steps == ("prune", "distill")] == ["gate/not-nearer"]
    assert told(outcome).startswith(
        "Distillation was rolled back because the model is not nearer to the original after it (agreement 0.9950, before agreement 0.9960)."
    )


def test_a_cut_that_is_not_faithful_may_be_after_learning() -> None:
    judge = FakeJudge(agreement={"q0": 0.97, "q0/s": 0.97, "q0/taught": 0.993, "q0/taught/s": 0.993})
    assert chosen(search(judge, store())) == "q0/taught/s"


def test_where_learning_is_not_enough_a_less_bold_cut_is_taught() -> None:
    judge = FakeJudge(agreement={"q0": 0.9, "q0/taught": 0.95, "q1": 0.991, "q1/taught": 0.994, "q2": 0.999})
    assert chosen(search(judge, clear=False)) == "q1/taught"


def test_what_stands_on_a_taught_model_is_not_tried_again_without_it() -> None:
    """A model that was farther away does not hold where a nearer one did not."""
    judge = FakeJudge(agreement={"q0": 0.992, "q0/taught": 0.996, "q0/taught/s": 0.98})
    assert chosen(search(judge, store())) == "q0/taught" and "q0/s" not in judge.compared


@pytest.mark.parametrize("changed", [True, False])
def test_the_smallest_is_not_looked_for_without_learning(changed: bool) -> None:
    """Other weights are no smaller."""
    judge = FakeJudge(agreement={"q0": 0.992, "q0/taught": 0.996})
    outcome = search(judge, store(), taught=distill(changed=changed), goal="size", size=lambda m: 50 if m.name.endswith("/s") else 100)
    assert chosen(outcome) == ("q0/taught/s" if changed else "q0/s") and (not changed or "q0/s" not in judge.compared)


def test_what_was_taught_and_does_not_run_goes() -> None:
    judge = FakeJudge(agreement={"q0": 0.992}, fails={"q0/taught": "no kernel"})
    outcome = search(judge, store())
    assert chosen(outcome) == "q0/s"
    assert "Distillation was rolled back because the result does not run: no kernel." in told(outcome)
