"""Agreement of sequences whose runs are long: how long they are is part of the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.runtime.agreement.sequences import ClassSequences, edit_distance

Array = np.ndarray[Any, Any]
Runs = tuple[tuple[int, int], ...]


def frames(runs: Runs) -> Array:
    """[1, frames, 5] one clear class for each frame, from (class, how many frames) in order."""
    return np.eye(5, dtype=np.float32)[np.repeat([c for c, _ in runs], [n for _, n in runs])][None]


def value(reference: Runs, candidate: Runs) -> float:
    statistic = ClassSequences()
    statistic.update(frames(reference), frames(candidate), 1)
    return statistic.finish()[0].value


SILENCE = (0, 60)
TWO = (SILENCE, (1, 50), (0, 1), (2, 49), SILENCE)


@pytest.mark.parametrize("candidate", [((1, 1), (0, 40), (2, 59)), ((1, 95), (0, 2), (2, 3)), ((1, 20), (0, 60), (2, 20))])
def test_segments_of_other_lengths_are_another_answer(candidate: Runs) -> None:
    assert value(TWO, (SILENCE, *candidate, SILENCE)) < 0.9


@pytest.mark.parametrize("candidate", [((1, 49), (0, 2), (2, 49)), ((1, 45), (0, 10), (2, 45)), ((1, 60), (0, 1), (2, 39))])
def test_ends_of_segments_that_move_a_little_are_none(candidate: Runs) -> None:
    assert value(TWO, (SILENCE, *candidate, SILENCE)) == 1


def test_all_frames_are_of_segments() -> None:
    """The more frequent class is taken for the blank, and the other one tells."""
    assert value(((1, 55), (2, 45)), ((1, 1), (2, 99))) < 0.8


def test_peaks_may_be_wider_or_narrower() -> None:
    assert value(((0, 20), (1, 1), (0, 20), (2, 3), (0, 20)), ((0, 19), (1, 3), (0, 20), (2, 1), (0, 21))) == 1


def test_lengths_cost_a_part_of_an_edit_at_most() -> None:
    one, symbols = np.array([1]), np.array([3])
    assert edit_distance(symbols, symbols, (one, np.array([10**6]))) == pytest.approx(0.75, abs=1e-4)
    assert edit_distance(symbols, symbols, (one, one)) == 0
    assert edit_distance(symbols, np.array([2]), (one, one)) == 1
