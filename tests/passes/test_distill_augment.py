"""Inputs that are made of others, and which of them the teacher's answers pick."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.errors import UsageError
from graphcompress.ir import TensorSpec
from graphcompress.ir.files.text import parse_model
from graphcompress.passes.distill.augment import Augmentation, automatic, moved

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


def test_the_kinds_are_picked_under_which_the_mean_answer_varies_least() -> None:
    """A mean over mixtures of two is one over more inputs. Where a teacher answers to mixtures at random, they are not picked."""
    feeds = [picture(seed) for seed in range(40)]
    rng = np.random.default_rng(0)
    kinds, spreads = automatic(specs(PICTURE), feeds, lambda some: np.concatenate([f["x"].reshape(1, -1) for f in some]), 32, rng)
    assert "mix" in kinds and spreads[",".join(kinds)] == min(spreads.values()) < 0.95 * spreads["none"]
    known = {f["x"].std().round(5) for f in feeds}

    def wild(some: Any) -> Array:
        return np.stack([np.ones(4) if f["x"].std().round(5) in known else 100 * rng.standard_normal(4) for f in some])

    kinds, _ = automatic(specs(PICTURE), feeds, wild, 32, rng)
    assert not set(kinds) & {"mix", "crop", "noise"}


def test_where_nothing_can_be_made_of_inputs_nothing_is_picked() -> None:
    kinds, spreads = automatic(
        specs("(int64[n,4] i) => (int64[n,4] y) { y = Identity (i) }"),
        [{"i": np.array([[1, 2, 3, 4]])}],
        lambda some: np.ones((len(some), 2)),
        8,
        np.random.default_rng(0),
    )
    assert kinds == () and list(spreads) == ["none"]
