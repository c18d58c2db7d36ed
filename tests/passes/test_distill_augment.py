"""Inputs that are made of others, and which of them the teacher's answers pick."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.data import memory_data
from graphcompress.errors import UsageError
from graphcompress.ir import TensorSpec
from graphcompress.ir.files.text import parse_model
from graphcompress.passes.distill import Options, distill
from graphcompress.passes.distill.augment import Augmentation, moved
from graphcompress.passes.distill.run import _Course
from graphcompress.step import Context

Array = np.ndarray[Any, Any]
PICTURE = "(float[n,3,16,16] x) => (float[n,3,16,16] y) { y = Relu (x) }"


def specs(text: str) -> tuple[TensorSpec, ...]:
    return tuple(parse_model(text, {"": 17}).inputs)


def picture(seed: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((1, 3, 16, 16)).astype(np.float32)}


@pytest.mark.parametrize("layout", ["first", "last"])
def test_a_moved_picture_shows_its_border_in_a_mirror(layout: str) -> None:
    x = np.arange(3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16)
    batch = x if layout == "first" else x.transpose(0, 2, 3, 1)
    result = moved(batch, np.array([1.0, -1.0]))
    result = result if layout == "first" else result.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(result[..., :14, 2:], x[..., 2:, :14])  # an eighth of 16 pixels
    np.testing.assert_array_equal(result[..., 14:, 2:], x[..., [14, 13], :14])
    np.testing.assert_array_equal(result[..., :14, :2], x[..., 2:, [2, 1]])


def test_a_flip_is_a_mirror_half_of_the_time() -> None:
    augmentation = Augmentation(("flip",), specs(PICTURE))
    x, rng = picture(1), np.random.default_rng(0)
    drawn = [augmentation.draw(x, x, rng)["x"] for _ in range(40)]
    mirrored = [np.array_equal(d, x["x"][..., ::-1]) for d in drawn]
    assert all(m or np.array_equal(d, x["x"]) for m, d in zip(mirrored, drawn, strict=True)) and 10 < sum(mirrored) < 30


def test_a_mixture_is_a_mean_of_two_inputs_of_one_shape() -> None:
    augmentation = Augmentation(("mix",), specs(PICTURE))
    first, second, rng = picture(1), picture(2), np.random.default_rng(0)
    drawn = augmentation.draw(first, second, rng)["x"]
    part = (drawn - second["x"]).sum() / (first["x"] - second["x"]).sum()
    assert 0 < part < 1 and drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, part * first["x"] + (1 - part) * second["x"], atol=1e-5)
    assert augmentation.draw(first, {"x": second["x"][..., :8]}, rng) is first


def test_noise_is_small_beside_the_input() -> None:
    x = picture(1)
    drawn = Augmentation(("noise",), specs(PICTURE)).draw(x, x, np.random.default_rng(0))
    assert (drawn["x"] - x["x"]).std() == pytest.approx(0.05 * x["x"].std(), rel=0.1)


def test_integers_stay_as_they_are() -> None:
    inputs = specs("(float[n,4] x, int64[n] i) => (float[n,4] y) { y = Relu (x) }")
    feed = {"x": np.ones((1, 4), np.float32), "i": np.array([3])}
    other = {"x": np.zeros((1, 4), np.float32), "i": np.array([5])}
    rng = np.random.default_rng(0)
    assert Augmentation(("noise",), inputs).draw(feed, other, rng)["i"] is feed["i"]
    assert Augmentation(("mix",), inputs).draw(feed, other, rng) is feed  # what belongs to other integers is no part of the mean
    with pytest.raises(UsageError, match="crop is for pictures"):
        Augmentation(("crop",), inputs)


def test_numbers_are_asked_for_where_something_is_to_be_mixed() -> None:
    with pytest.raises(UsageError, match="mix is for inputs of floats"):
        Augmentation(("mix",), specs("(int64[n,4] i) => (int64[n,4] y) { y = Identity (i) }"))


NET = "(float[n,3,8,8] x) => (float[n,2] y) <float[2,192] w = {$w}> { f = Flatten (x)  t = Transpose <perm = [1, 0]> (w)  y = MatMul (f, t) }"
WATCHED = {(): 0.5, ("crop",): 0.3, ("flip",): 0.7, ("mix",): 0.4999, ("noise",): 0.4}


def taught(monkeypatch: pytest.MonkeyPatch, steps: int, **context: Any) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """The decisions of a course in which the feeds that watch answer by the augmentation alone, and under which of these gradients were calculated."""
    rng = np.random.default_rng(3)
    teacher = parse_model(NET.replace("$w", ", ".join(f"{v:.5f}" for v in rng.standard_normal(384))), {"": 17})
    feeds = memory_data([{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(16)], teacher.inputs)
    seen: list[tuple[str, ...]] = []
    gradients = _Course.gradients

    def noted(self: _Course, indices: Any) -> Any:
        seen.append(self.augmentation.kinds)
        return gradients(self, indices)

    monkeypatch.setattr(_Course, "gradients", noted)
    monkeypatch.setattr(_Course, "watched", lambda self: WATCHED.get(self.augmentation.kinds, 0.2))
    result = distill(teacher, Context(data=feeds, teacher=teacher, threads=1, **context), Options(steps=steps, batch=4))
    return result.boldest.decisions, seen


def test_kinds_are_taken_that_help_in_a_trial_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture that is no better than noise explains, and a mirror that is worse, are not."""
    decisions, seen = taught(monkeypatch, 400)
    assert decisions["augment"] == ["crop", "noise"]
    assert decisions["trials"] == {"none": 0.5, "crop": 0.3, "flip": 0.7, "mix": 0.4999, "noise": 0.4}
    assert [seen.count(kinds) for kinds in WATCHED] == [20] * 5 and seen[100:] == [("crop", "noise")] * 400


def test_without_time_for_trials_inputs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    decisions, seen = taught(monkeypatch, 300)
    assert decisions["augment"] == [] and seen == [()] * 300


def test_what_was_decided_before_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    decisions, seen = taught(monkeypatch, 400, decisions={"augment": ["flip"], "steps": 400})
    assert decisions["augment"] == ["flip"] and "trials" not in decisions and seen == [("flip",)] * 400
