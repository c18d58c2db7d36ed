"""Agreement of detections: sets of boxes, matched whatever their order and number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir.analysis.output_kinds import OutputKind, stated_kind
from graphcompress.runtime.agreement.detections import Detections
from graphcompress.runtime.output_statistics import OutputStatistic

Array = np.ndarray[Any, Any]

BOXES = np.array([[10.5, 10.5, 50.5, 50.5, 0.9, 1], [200, 80, 260, 120, 0.8, 3], [300, 10, 350, 70, 0.26, 1]], np.float32)


def measured(*pairs: tuple[Array, Array], kind: OutputKind | None = None) -> dict[str, float]:
    statistic = OutputStatistic(kind or stated_kind("boxes"))
    for reference, candidate in pairs:
        statistic.update(reference, candidate, 1)
    return {m.name: m.value for m in statistic.finish().measures}


def boxes(*pairs: tuple[Array, Array]) -> float:
    return measured(*pairs)["boxes"]


def test_detections_are_matched_whatever_their_order_and_number() -> None:
    assert boxes((BOXES, BOXES[::-1].copy())) == 1
    assert boxes((BOXES, BOXES[:2])) > 0.98  # the weakest passed the threshold by chance
    assert boxes((BOXES[2:], BOXES[:0])) == 0  # but it is all there is
    assert boxes((BOXES, BOXES[1:])) < 0.7
    assert boxes((BOXES[:2], np.concatenate([BOXES[:2], BOXES[:1] + np.float32([100, 0, 100, 0, 0, 0])]))) < 0.9
    assert boxes((BOXES, BOXES[:0])) == 0 and boxes((BOXES[:0], BOXES[:0])) == 1
    assert boxes((BOXES, BOXES + np.float32([2, -2, 2, -2, -0.05, 0]))) == 1


@pytest.mark.parametrize("change", [(60, 0, 60, 0, 0, 0), (0, 0, 0, 0, -0.5, 0), (0, 0, 0, 0, 0, 1)], ids=["place", "score", "class"])
def test_detections_that_differ_in_one_thing(change: tuple[float, ...]) -> None:
    assert boxes((BOXES, BOXES + np.float32(change))) < 0.1


def test_a_row_counts_by_its_score_and_an_empty_set_for_nothing() -> None:
    weights = [(0.9 - 0.26) / 0.74, (0.8 - 0.26) / 0.74, 0.05]
    assert boxes((BOXES, BOXES[:2])) == pytest.approx(1 - 0.05 / (2 * sum(weights) - 0.05), abs=1e-6)
    nothing = BOXES[:0], BOXES[:0]
    assert boxes(nothing, (BOXES, BOXES)) == 1 and boxes(nothing, (BOXES, BOXES[:2])) == boxes((BOXES, BOXES[:2]))


def test_one_row_matches_one_row() -> None:
    assert boxes((BOXES[:1], np.repeat(BOXES[:1], 3, axis=0))) == pytest.approx(0.5)


def test_indices_of_detections_are_sets_of_whole_numbers() -> None:
    r = np.array([[0, 1, 17], [0, 2, 30]])
    assert boxes((r, r[::-1].copy())) == 1 and boxes((r, r + np.array([[0, 0, 1], [0, 0, 0]]))) == 0.5


def test_a_batch_is_a_set_for_each_input() -> None:
    r = np.stack([BOXES, BOXES + np.float32([100, 100, 100, 100, 0, 0])])
    assert boxes((r, np.ascontiguousarray(r[:, ::-1]))) == 1
    assert boxes((r, r[::-1].copy())) < 0.1


@pytest.mark.parametrize("filler", [0, -1])
@pytest.mark.parametrize("rows", [10, 300])
def test_rows_that_pad_a_table_hide_nothing(filler: float, rows: int) -> None:
    full, poor = np.full((2, 1, rows, 6), filler, np.float32)
    full[0, :3], poor[0, :1] = BOXES, BOXES[:1]
    assert boxes((full, full)) == boxes((BOXES[None], BOXES[None])) == 1
    assert boxes((full, poor)) < 0.75 and boxes((poor, full)) < 0.75
    assert boxes((full[..., :4], poor[..., :4])) < 0.75, "places without scores"
    nothing = np.full_like(full, filler)
    assert boxes((nothing, nothing)) == 1 and boxes((nothing, full)) == 0 and boxes((full, nothing)) < 0.2


def test_scores_of_several_detections_in_a_row_are_a_set_of_each_input() -> None:
    scores = np.zeros((2, 100), np.float32)
    scores[0, :3], scores[1, :2] = (0.9, 0.8, 0.7), (0.95, 0.6)
    less = np.where(scores > 0, scores - np.float32(0.05), scores)
    lost = np.where(scores < 0.75, 0, scores)
    kind = OutputKind("boxes", 1)
    assert measured((scores, less), kind=kind)["boxes"] == 1
    assert measured((scores, lost), kind=kind)["boxes"] < 0.95
    assert measured((scores, less))["boxes"] == 0, "as rows of a hundred numbers none matches"


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_how_many_there_are_differs_by_what_has_no_partner(shape: tuple[int, ...], dtype: Any) -> None:
    def count(number: float) -> Array:
        return np.full(shape, number).astype(dtype)

    kind = OutputKind("boxes", 0)
    assert measured((count(34), count(34)), (count(0), count(0)), kind=kind)["boxes"] == 1
    assert measured((count(34), count(33)), kind=kind)["boxes"] == pytest.approx(1 - 1 / 67)
    assert measured((count(2), count(1)), kind=kind)["boxes"] < 0.7 and measured((count(2), count(0)), kind=kind)["boxes"] == 0


def test_a_count_that_is_no_number_is_lost() -> None:
    assert measured((np.float32([3, 3]), np.float32([3, np.nan])), kind=OutputKind("boxes", 0))["boxes"] < 0.9


def test_sets_of_other_width_have_no_counterpart() -> None:
    assert measured((BOXES, BOXES[:, :4]))["values"] == 0


def test_rows_of_both_sides_cost_no_more_than_they_weigh() -> None:
    found = Detections()
    found.update(BOXES, BOXES, 1)
    assert found.finish()[0].value == 1 and found.finish()[0].disagreements == 0
