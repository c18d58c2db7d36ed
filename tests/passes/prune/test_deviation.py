"""The error of a student's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir.files.text import parse_model
from graphcompress.passes.prune.deviation import RelativeError, TeacherAnswers, logits

TEXT = "(float[n,4] x) => (float[n,4] p, int64[n] k) <float[4] w = {1,2,3,4}> { a = Mul (x, w) s = Softmax (a) p = Identity (s) k = ArgMax <axis = 1, keepdims = 0> (a) }"


def error(*pairs: tuple[Any, Any]) -> float:
    relative = RelativeError(1)
    for teacher, student in pairs:
        relative.update([teacher], [student])
    return relative.finish()


def test_it_is_the_squared_error_as_a_part_of_the_squares() -> None:
    one, other = np.array([3.0, 4.0]), np.array([3.0, 5.0])
    assert error((one, other)) == 1 / 25
    assert error((one, other), (2 * one, 2 * one)) == 1 / 125
    assert error((one, one)) == 0 == error((0 * one, 0 * one))


def test_parts_are_merged() -> None:
    one, other = np.array([3.0, 4.0]), np.array([3.0, 5.0])
    first, second = RelativeError(1), RelativeError(1)
    first.update([one], [other])
    second.update([2 * one], [2 * one])
    assert first.merge(second).finish() == 1 / 125


def test_outputs_count_alike_and_integers_not_at_all() -> None:
    relative = RelativeError(3)
    relative.update([np.array([1.0]), np.array([100.0]), np.array([1])], [np.array([0.0]), np.array([100.0]), np.array([9])])
    assert relative.finish() == 0.5


@pytest.mark.parametrize("broken", [np.array([np.nan, 1.0]), np.array([np.inf, 1.0])])
def test_what_is_not_finite_in_the_student_alone_is_the_worst(broken: np.ndarray) -> None:
    sound = np.array([1.0, 1.0])
    assert error((sound, broken)) == float("inf")
    assert error((broken, sound)) == 0


def test_of_another_shape_all_is_lost_and_nothing_from_nothing_is_infinite() -> None:
    assert error((np.ones(3), np.ones(2))) == 1
    assert error((np.zeros(3), np.ones(3))) == float("inf")


def test_outputs_are_compared_before_a_softmax() -> None:
    assert [t.name for t in logits(parse_model(TEXT))] == ["a", "k"]
    assert [t.name for t in logits(parse_model("(float[2] x) => (float[2] y) { a = Relu (x) y = Identity (a) }"))] == ["y"]


def test_a_reference_judges_students() -> None:
    feeds = [{"x": np.random.default_rng(i).normal(0, 1, (1, 4)).astype(np.float32)} for i in range(5)]
    reference = TeacherAnswers(parse_model(TEXT), feeds)
    assert reference.relative_error(parse_model(TEXT)) == 0
    twice = parse_model(TEXT.replace("{1,2,3,4}", "{2,4,6,8}"))
    np.testing.assert_allclose(reference.relative_error(twice), 1, rtol=1e-5)
    broken = parse_model("(float[n,4] x) => (float[n,4] p, int64[n] k) <int64[1] s = {3}> { p = Reshape (x, s) k = ArgMax <axis = 0, keepdims = 0> (x) }")
    assert reference.relative_error(broken) == float("inf")
