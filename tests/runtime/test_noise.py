"""How far outputs moved: only numbers that have a counterpart count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.runtime.noise import relative_noise

ONES = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("before", "after", "noise"),
    [
        (ONES, ONES * 1.5, 0.25),
        (ONES, np.float32([1, 1, np.nan, 3]), 4 / 3),
        (np.float32([1, 1, np.inf, 2]), np.float32([1, 1, 5, 3]), 1 / 6),
        (ONES, np.full((1, 4), 2, np.float32), 0.0),  # that numpy could subtract
        (ONES, np.ones(3, np.float32), 0.0),
        (ONES * 0, ONES, 0.0),  # nothing to compare with
        (ONES.astype(np.int64), ONES.astype(np.int64) * 2, 0.0),
        (ONES.astype(np.float16), ONES.astype(np.float16) * 2, 1.0),
        ([ONES], [ONES * 2], 0.0),
        (None, None, 0.0),
        (np.array(["a"], object), np.array(["b"], object), 0.0),
    ],
)
def test_float_outputs_of_one_shape_count(before: Any, after: Any, noise: float) -> None:
    assert relative_noise([{"y": before}], [{"y": after}]) == pytest.approx(noise)


def test_all_runs_count_by_their_power_and_the_worst_output_decides() -> None:
    before = [{"y": ONES, "z": ONES}, {"y": ONES * 3, "z": ONES}]
    after = [{"y": ONES * 2, "z": ONES}, {"y": ONES * 3, "z": ONES * 1.1}]
    assert relative_noise(before, after) == pytest.approx(1 / 10)
