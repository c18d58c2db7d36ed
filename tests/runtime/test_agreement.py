"""Measures of agreement: their definitions, and that they are not blind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.ir.analysis.output_kinds import OutputKind, stated_kind
from graphcompress.runtime.agreement.measured import FLOOR, FLOORS, Measured
from graphcompress.runtime.agreement.sequences import collapse, edit_distance
from graphcompress.runtime.agreement.thresholds import Tally, decisions
from graphcompress.runtime.output_statistics import OutputStatistic

Array = np.ndarray[Any, Any]
LOGITS = OutputKind("classes", unsure=True)


def measured(kind: str | OutputKind, *pairs: tuple[Array, Array], rows: int = 1) -> dict[str, float]:
    """Values by measure."""
    statistic = OutputStatistic(kind if isinstance(kind, OutputKind) else stated_kind(kind))
    for r, c in pairs:
        statistic.update(r, c, rows)
    return {m.name: m.value for m in statistic.finish().measures}


def accepted(kind: str | OutputKind, *pairs: tuple[Array, Array], rows: int = 1) -> bool:
    """Whether all measures reach their floors."""
    found = measured(kind, *pairs, rows=rows)
    assert found
    return all(value >= FLOORS[name] for name, value in found.items())


def split(r: Array, c: Array) -> list[tuple[Array, Array]]:
    """As feeds of one row."""
    return [(r[i : i + 1], c[i : i + 1]) for i in range(len(r))]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def classifier(n: int = 400, classes: int = 10, sure: float = 8.0) -> Array:
    """Logits of a trained network."""
    logits = rng(1).standard_normal((n, classes))
    logits[np.arange(n), np.arange(n) % classes] += sure
    return logits.astype(np.float32)


# --- the scale --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_all_measures_are_on_one_scale(name: str) -> None:
    at = [Measured(name, value, 1, 0).agreement for value in (0.0, FLOORS[name] / 2, FLOORS[name], (1 + FLOORS[name]) / 2, 1.0)]
    assert at == pytest.approx([0, FLOOR / 2, FLOOR, (1 + FLOOR) / 2, 1])


# --- classes ----------------------------------------------------------------------------------------------------------------------------


def test_a_disagreement_costs_the_regret_beside_the_typical_margin() -> None:
    r = np.array([[4, 0, 1], [4, 0, 0], [0, 4, 3], [0, 4, 0], [0, 8, 4]], np.float32)  # margins 3, 4, 1, 4, 4
    c = r.copy()
    c[2] = [0, 1, 2]  # the candidate's choice is worth 1 less than the reference's own, of 4
    assert measured("classes", (r, c))["classes"] == pytest.approx(1 - 0.15 / 5, rel=1e-3)  # a tenth is allowed
    c[0] = [0, 9, 1]  # 4 less
    assert measured("classes", (r, c))["classes"] == pytest.approx(1 - 1.15 / 5, rel=1e-3)
    c[0], c[2] = r[0], [0, 3.1, 3.2]
    r[2] = [0, 4, 3.7]
    assert measured("classes", (r, c))["classes"] == 1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_logits_of_any_temperature_are_judged_alike(scale: float) -> None:
    r = classifier(sure=3)
    c = (r + rng(2).normal(0, 0.5, r.shape)).astype(np.float32)
    assert measured("classes", (r * np.float32(scale), c * np.float32(scale)))["classes"] == pytest.approx(measured("classes", (r, c))["classes"], abs=1e-4)


def test_near_ties_cost_next_to_nothing_and_confident_flips_one() -> None:
    r = rng(3).standard_normal((2000, 50)).astype(np.float32)  # a network that was not trained
    close = (r + rng(4).normal(0, 0.02, r.shape)).astype(np.float32)
    flips = float((r.argmax(1) != close.argmax(1)).mean())
    assert flips > 0.02 and measured("classes", (r, close))["classes"] > 1 - flips / 5
    assert measured("classes", (r, rng(5).standard_normal(r.shape).astype(np.float32)))["classes"] < 0.1
    sure = softmax(classifier())
    assert measured("classes", (sure, np.roll(sure, 1, axis=1)))["classes"] < 0.01


@pytest.mark.parametrize("lost", [0, 3])
def test_one_dead_class_is_seen(lost: int) -> None:
    r = softmax(classifier(classes=64))
    c = r.copy()
    c[:, lost] = 0
    assert not accepted("classes", (r, c))


def test_a_map_is_judged_without_its_background() -> None:
    """[n, 3, 20, 20], classes along the second axis: 4 pixels of 400 are no background, and all are lost."""
    r = np.zeros((1, 3, 20, 20), np.float32)
    r[:, 0] = 5
    r[:, 1, :2, :2] = 10
    c = r.copy()
    c[:, 1] = 0
    assert measured(OutputKind("classes", 1), (r, c))["classes"] == pytest.approx(0.1 / 4)
    assert measured(OutputKind("classes", 1), (r, r))["classes"] == 1
    assert measured("classes", (r.reshape(3, -1).T.copy(), c.reshape(3, -1).T.copy()))["classes"] == pytest.approx(1 - 3.9 / 400)  # rows of a table are inputs


# --- tables that hold logits or values --------------------------------------------------------------------------------------------------


def test_logits_of_a_trained_network_are_judged_as_classes() -> None:
    r = classifier()
    assert set(measured(LOGITS, (r, (r * 1.3 + 2).astype(np.float32)))) == {"classes"}


def landmarks(n: int = 200) -> Array:
    """68 points: a mean face in pixels, moved and changed a little."""
    shape = rng(0).uniform(20, 100, 136)
    return (shape + rng(1).normal(0, 3, (n, 136)) + rng(2).normal(0, 2, (n, 1))).astype(np.float32)


def test_landmarks_are_no_classes() -> None:
    r = landmarks()
    assert set(measured(LOGITS, *split(r, r))) == {"values", "channel"}
    assert accepted(LOGITS, *split(r, (r + rng(3).normal(0, 0.2, r.shape)).astype(np.float32)))
    assert not accepted(LOGITS, *split(r, (r + rng(3).normal(0, 3, r.shape)).astype(np.float32)))
    assert not accepted(LOGITS, *split(r, np.broadcast_to(r.mean(axis=0), r.shape).copy()))  # the mean face for everybody
    one = r.copy()
    one[:, 7] = r[:, 7].mean()
    assert not accepted(LOGITS, *split(r, one))


def test_an_embedding_without_a_norm_in_the_graph_is_no_table_of_classes() -> None:
    r = rng(0).standard_normal((300, 512)).astype(np.float32)
    c = (r + rng(1).normal(0, 0.02, r.shape)).astype(np.float32)
    assert (r.argmax(1) != c.argmax(1)).mean() > 0.01
    assert accepted(LOGITS, *split(r, c))
    assert not accepted(LOGITS, *split(r, r[::-1].copy()))


def test_one_large_entry_makes_no_classes() -> None:
    """As in embeddings of language models, where one dimension is always the largest."""
    r = rng(0).standard_normal((300, 64)).astype(np.float32)
    r[:, 5] += 20
    assert "classes" not in measured(LOGITS, (r, r))


# --- sequences ---------------------------------------------------------------------------------------------------------------------------


def frames(classes: list[int], count: int = 5, sure: float = 6.0) -> Array:
    """[1, frames, count] of logits."""
    return np.asarray(sure * np.eye(count)[classes])[None].astype(np.float32)


def test_sequences_are_collapsed_and_the_blank_is_dropped() -> None:
    r = frames([0, 0, 1, 1, 0, 0, 2, 0, 0, 2, 0, 0])
    assert measured("sequence", (r, frames([0, 1, 1, 0, 0, 2, 2, 0, 0, 2, 2, 0])))["sequence"] == 1  # a frame earlier or longer
    assert measured("sequence", (r, frames([0, 0, 1, 1, 0, 0, 2, 0, 0, 3, 0, 0])))["sequence"] == pytest.approx(2 / 3)
    assert measured("sequence", (r, frames([0] * 12)))["sequence"] == 0
    assert measured("sequence", (frames([0] * 12), frames([0] * 12)))["sequence"] == 1
    assert measured("sequence", (frames([0] * 12), frames([1] * 12)))["sequence"] == 0
    along_time = measured("sequence", (np.swapaxes(r, 0, 1), np.swapaxes(frames([0, 0, 1, 1, 0, 0, 2, 0, 0, 3, 0, 0]), 0, 1)))
    assert along_time["sequence"] == pytest.approx(2 / 3)


def test_a_frame_that_is_a_toss_counts_as_the_references_choice() -> None:
    r = frames([0, 0, 1, 0, 0, 2, 0])
    c = r.copy()
    r[0, 2, 3] = 5.9  # of 6, where typical margins are 6
    c[0, 2, 3] = 6.1
    assert measured("sequence", (r, c))["sequence"] == 1
    r[0, 2, 3] = 5
    assert measured("sequence", (r, c))["sequence"] == 0.5


def test_frames_with_nan_are_lost() -> None:
    r = frames([0, 0, 1, 0, 2, 0, 0])
    c = r.copy()
    c[0, 2] = np.nan
    assert measured("sequence", (r, c))["sequence"] == 0.5
    assert measured("sequence", (c, c))["sequence"] == 1


SYMBOLS = st.lists(st.integers(0, 3), max_size=8).map(np.array)


@given(SYMBOLS, SYMBOLS)
def test_edit_distance_is_that_of_the_definition(a: Array, b: Array) -> None:
    def slow(x: list[int], y: list[int]) -> int:
        if not x or not y:
            return len(x) + len(y)
        return min(slow(x[1:], y) + 1, slow(x, y[1:]) + 1, slow(x[1:], y[1:]) + (x[0] != y[0]))

    a, b = a.astype(int)[:5], b.astype(int)[:5]
    assert edit_distance(a, b) == slow(list(a), list(b)) == edit_distance(b, a)


def test_collapse() -> None:
    classes, lengths = collapse(np.array([0, 1, 1, 0, 1, 2, 2, 0]), 0)
    assert list(classes) == [1, 1, 2] and list(lengths) == [2, 1, 2]


# --- probabilities ------------------------------------------------------------------------------------------------------------------------


def sparse(share: float = 0.002) -> Array:
    r = rng(0).uniform(0, 0.02, (8, 100, 100))
    r[rng(1).random(r.shape) < share] = 0.9
    return r.astype(np.float32)


def test_sparse_maps_are_judged_by_what_is_in_them() -> None:
    r = sparse()
    c = np.minimum(r, 0.01)
    found = measured("probabilities", *split(r, c))
    assert found["scores"] > 0.99 and found["probabilities"] == 0 and not accepted("probabilities", *split(r, c))
    assert accepted("probabilities", *split(r, np.clip(r + 0.01, 0, 1)))
    extra = np.where(rng(2).random(r.shape) < 0.002, 0.9, r).astype(np.float32)
    assert 0.5 < measured("probabilities", *split(r, extra))["probabilities"] < 0.7


def test_what_lies_at_the_threshold_costs_nothing() -> None:
    r = np.array([[0.49, 0.51, 0.95, 0.9, 0.02]], np.float32)
    c = np.array([[0.52, 0.48, 0.95, 0.9, 0.02]], np.float32)
    assert measured("probabilities", (r, c))["probabilities"] > 0.97
    c = np.array([[0.49, 0.51, 0.4, 0.9, 0.02]], np.float32)
    assert measured("probabilities", (r, c))["probabilities"] < 0.7


def test_where_nothing_reaches_a_half_a_lower_threshold_decides() -> None:
    r = (0.3 * sparse() / 0.9).astype(np.float32)
    assert not accepted("probabilities", *split(r, np.zeros_like(r)))
    assert accepted("probabilities", *split(r, (r * 1.02).astype(np.float32)))


def test_where_nothing_is_positive_the_values_judge_alone() -> None:
    r = rng(0).uniform(0, 0.01, (4, 50)).astype(np.float32)
    assert set(measured("probabilities", *split(r, r))) == {"scores"}
    assert accepted("probabilities", *split(r, r + np.float32(0.004)))
    assert not accepted("probabilities", *split(r, r + np.float32(0.6)))


@pytest.mark.parametrize("candidate", [np.nan, 0.1])
def test_nan_is_the_wrong_decision(candidate: float) -> None:
    tally = Tally()
    tally.count(decisions(np.array([0.9, 0.9]), np.array([0.9, candidate])))
    assert tally.f1() is not None and tally.f1()[0] == pytest.approx(2 / 3)  # type: ignore[index]


# --- values -------------------------------------------------------------------------------------------------------------------------------


AXES = pytest.mark.parametrize("axis", [1, 2])


def joined(axis: int, *parts: tuple[int, float], feeds: int = 4) -> list[Array]:
    """Uniform values with `count` positions up to `scale` for each part, along an axis."""
    generator = rng()
    arrays = [np.concatenate([generator.uniform(0, scale, (1, count, 50)) for count, scale in parts], axis=1).astype(np.float32) for _ in range(feeds)]
    return [np.ascontiguousarray(np.moveaxis(a, 1, axis)) for a in arrays]


def without(array: Array, axis: int, positions: slice) -> Array:
    changed = array.copy()
    np.moveaxis(changed, axis, 0)[positions] = 0
    return changed


def test_an_element_may_be_off_by_a_part_of_its_spread() -> None:
    r = rng(0).normal(0, 2, (500, 4)).astype(np.float32)
    spread = 2.58 * 2
    for offset, tolerance in ((0, 0.05 * spread), (100, 0.01 * 106), (1000, 0.25 * spread)):
        for factor, share in ((0.8, 1.0), (1.25, 0.0)):
            assert measured("values", *split(r + np.float32(offset), r + np.float32(offset + factor * tolerance)))["values"] == share


def test_the_spread_is_that_over_inputs() -> None:
    """A ramp of 0 to 1000 that is nearly the same for all inputs: the mean ramp is no answer."""
    ramp = np.linspace(0, 1000, 200)
    r = (ramp + rng(0).normal(0, 1, (50, 200))).astype(np.float32)
    assert not accepted("values", *split(r, np.broadcast_to(ramp, r.shape).astype(np.float32)))
    assert accepted("values", *split(r, (r + 0.1).astype(np.float32)))


@AXES
@pytest.mark.parametrize("small", [0.01, 1.0, 3.0])
def test_each_part_is_held_against_its_own_scale(axis: int, small: float) -> None:
    feeds = joined(axis, (4, 600.0), (8, small))
    assert measured("values", *((r, without(r, axis, slice(4, None))) for r in feeds))["values"] < 0.2
    assert measured("values", *((r, without(r, axis, slice(0, 1))) for r in feeds))["values"] == pytest.approx(0.77, abs=0.03)
    assert measured("values", *((r, (r * 1.01).astype(np.float32)) for r in feeds))["values"] == 1.0


@AXES
def test_bands_of_a_spectrum_are_no_one_scale(axis: int) -> None:
    """64 bands over four decades without a gap; 60 of them are wrong."""
    shape = [-1 if i == axis else 1 for i in range(3)]
    feeds = [r * np.geomspace(1, 1e-4, 64).astype(np.float32).reshape(shape) for r in joined(axis, (64, 100.0))]
    assert not accepted("values", *((r, without(r, axis, slice(4, None))) for r in feeds))
    assert accepted("values", *((r, (r * 1.01).astype(np.float32)) for r in feeds))


def test_scores_beside_boxes_are_probabilities() -> None:
    """Eight feeds of 4 boxes and 80 scores in 200 cells, most scores 0."""
    kind = OutputKind("values", scores=True)
    boxes, scores = rng(0).uniform(0, 640, (8, 4, 200)), rng(1).uniform(0, 0.003, (8, 80, 200))
    scores[rng(2).random(scores.shape) < 0.002] = 0.8
    r = np.concatenate([boxes, scores], axis=1).astype(np.float32)
    zeroed, flat = r.copy(), r.copy()
    zeroed[:, 4:] = 0
    flat[:, 4:] = 0.01
    assert not accepted(kind, *split(r, zeroed)) and not accepted(kind, *split(r, flat))
    assert accepted(kind, *split(r, (r + np.where(np.arange(84)[:, None] < 4, 2.0, 0.002)).astype(np.float32)))
    lost = r.copy()
    lost[:, :4] = r[:, :4].mean()
    assert not accepted(kind, *split(r, lost))


def test_a_dead_channel_among_many_is_seen() -> None:
    r = rng(0).standard_normal((4, 64, 10, 10)).astype(np.float32)
    c = r.copy()
    c[:, 9] = 0
    found = measured("values", *split(r, c))
    assert found["values"] > 0.98 and found["channel"] < 0.2 and not accepted("values", *split(r, c))


def test_values_of_one_input_are_held_against_each_other() -> None:
    r = rng(0).normal(50, 1, (1, 8, 100)).astype(np.float32)
    assert accepted("values", (r, r + np.float32(0.05))) and not accepted("values", (r, r + np.float32(0.5)))


def test_what_never_varies_is_held_against_its_magnitude() -> None:
    r = np.full((5, 3, 7), 100, np.float32)
    assert accepted("values", *split(r, r + np.float32(4))) and not accepted("values", *split(r, r + np.float32(6)))


def test_feeds_of_other_lengths_are_judged_as_a_whole() -> None:
    pairs = [(rng(n).standard_normal((1, n)).astype(np.float32),) * 2 for n in (5, 9)]
    assert accepted("values", *pairs)
    assert measured("values", pairs[0], (pairs[1][0], -pairs[1][0]))["values"] < 0.5


# --- embeddings ---------------------------------------------------------------------------------------------------------------------------


def unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_embeddings_are_compared_by_direction() -> None:
    r = unit(rng(0).standard_normal((100, 256)))
    close = unit(r + rng(1).normal(0, 0.02 / 16, r.shape))
    assert float((r * close).sum(1).mean()) == pytest.approx(0.9998, abs=1e-4) and accepted("embedding", (r, close))
    assert measured("embedding", (r, (3 * r).astype(np.float32)))["embedding"] == 1
    assert measured("embedding", (r, r[::-1].copy()))["embedding"] < 0.2
    assert measured("embedding", (r, np.full_like(r, np.nan)))["embedding"] == 0


def test_a_direction_that_all_share_is_no_answer() -> None:
    """Cosine 0.99 between any two inputs: what takes one for the other is wrong."""
    r = unit(rng(0).standard_normal((100, 256)) + 160 * np.eye(256)[0])
    assert float((r * r[::-1]).sum(1).mean()) > 0.98
    assert measured("embedding", (r, r[::-1].copy()))["embedding"] < 0.1
