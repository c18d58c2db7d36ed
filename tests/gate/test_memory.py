"""The original is asked once about each feed, whatever the number of candidates."""

from __future__ import annotations

import tracemalloc
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from small import Small, feeds

from graphcompress.gate import SessionJudge, judge
from graphcompress.gate.memory import NOTHING, OBJECT, OutputMemory
from graphcompress.ir import Model, TensorSpec
from graphcompress.ir.analysis.output_kinds import output_kinds
from graphcompress.runtime.compare import RUN_TWICE
from graphcompress.runtime.session import LocalSession
from graphcompress.step import Context


class Counter:
    """Answers with how often it was asked."""

    outputs = (TensorSpec("y", "float32", (1,)),)

    def __init__(self, size: int = 1) -> None:
        self.asked = 0
        self.size = size

    def run(self, feed: Any) -> dict[str, Any]:
        self.asked += 1
        return {"y": np.full(self.size, self.asked, np.float32)}


def passes(memory: OutputMemory, count: int) -> list[list[float]]:
    answers = []
    for _ in range(count):
        memory.rewind()
        answers.append([float(memory.run({})["y"][0]) for _ in range(5)])
    return answers


def counted(bound: int) -> OutputMemory:
    """One whose session counts how often it is asked."""
    counter = Counter()
    return OutputMemory(counter.outputs, lambda: counter, bound)


def test_answers_are_held_within_the_bound_and_asked_for_anew_beyond_it() -> None:
    bound = 5 * (4 + 2 * OBJECT)  # a number, in an array, in a dict
    assert passes(counted(bound), 3) == [[1, 2, 3, 4, 5]] * 3
    for lower in (bound - 1, NOTHING):
        assert passes(counted(lower), 2) == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


@pytest.mark.parametrize(
    ("value", "objects", "content"),
    [
        (np.zeros(3, np.float32), 1, 12),
        (np.array(["a", "b"], object), 3, 0),
        ([np.zeros(3, np.float32), np.zeros(2, np.int64)], 3, 28),
        ([dict.fromkeys(range(10), 0.1), dict.fromkeys(range(4), 0.25)], 17, 0),  # what classifiers return as probabilities
        (None, 1, 0),  # an empty optional
    ],
)
def test_answers_of_any_type_count_with_their_objects(value: Any, objects: int, content: int) -> None:
    """Beside the object that holds the outputs of a feed; the first feed is run twice."""

    class Answers:
        def run(self, feed: Any) -> dict[str, Any]:
            return {"y": value}

    bound = 2 * ((objects + 1) * OBJECT + content)
    for room, held in ((bound, True), (bound - 1, False)):
        assert OutputMemory((), Answers, room).learn([{}]) is held


def test_many_small_answers_are_held_within_the_bound() -> None:
    """Each is mostly Python's own objects."""
    held = []
    for count in (1000, 5000):
        tracemalloc.start()
        memory = counted(200_000)
        for _ in range(count):
            memory.run({})
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(held) < 500_000


def test_a_pass_that_ended_early_is_gone_on_with() -> None:
    counter = Counter()
    memory = OutputMemory(counter.outputs, lambda: counter)
    memory.run({}), memory.run({})
    assert passes(memory, 2) == [[1, 2, 3, 4, 5]] * 2


def test_learning_takes_what_a_comparison_asks_for() -> None:
    counter, large = Counter(), Counter(1000)
    assert OutputMemory(counter.outputs, lambda: counter).learn([{}] * 6) and counter.asked == 6 + RUN_TWICE
    assert not OutputMemory(large.outputs, lambda: large, bound=10_000).learn([{}] * 6) and large.asked == 4


@pytest.fixture
def model() -> Model:
    small = Small()
    return small.model(small.node("MatMul", small.input("x", 1, 16), small.weight(16, 8)))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[LocalSession]:
    asked: list[LocalSession] = []
    run = LocalSession.run

    def noted(self: LocalSession, *rest: Any) -> Any:
        asked.append(self)
        return run(self, *rest)

    monkeypatch.setattr(LocalSession, "run", noted)
    return asked


@pytest.mark.parametrize("large", [False, True])
def test_candidates_are_compared_with_what_the_original_answered_once(
    model: Model, runs: list[LocalSession], monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:
        monkeypatch.setattr(judge, "LARGE", 1)
    data = feeds(model, 10)
    opened: list[Any] = []
    with closing(SessionJudge(model, data, data, Context(threads=1), output_kinds(model))) as judging:
        for number in range(3):
            candidate = model.copy()
            assert judging.compare(candidate).agreement == 1.0
            assert len(runs) == (10 + RUN_TWICE) + 10 * (number + 1)
            opened.append(len(judging._originals))
        assert judging.compare(model).agreement == 1.0
    assert opened == ([0] if large else [1]) * 3


def test_what_was_learned_is_not_asked_for_again() -> None:
    counter, large = Counter(), Counter(1000)
    memory, beyond = OutputMemory(counter.outputs, lambda: counter), OutputMemory(large.outputs, lambda: large, bound=1)
    assert [memory.learn([{}] * 3) for _ in range(2)] == [True, True] and counter.asked == 6
    assert [beyond.learn([{}] * 3) for _ in range(2)] == [False, False] and large.asked == 2
    assert memory.learn(iter(())) and counter.asked == 6  # the feeds are not even read


@pytest.mark.parametrize("large", [False, True])
def test_where_one_model_is_compared_only_answers_of_a_large_original_are_held(
    model: Model, runs: list[LocalSession], monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:
        monkeypatch.setattr(judge, "LARGE", 1)
    data = feeds(model, 10)
    with closing(SessionJudge(model, data, data, Context(threads=1), output_kinds(model), once=True)) as judging:
        for number in range(2):
            assert judging.compare(model.copy()).agreement == 1.0
            assert len(runs) == (10 + RUN_TWICE) * (1 if large else number + 1) + 10 * (number + 1)
