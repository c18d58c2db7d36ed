"""The probe of integer kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model
from graphcompress.runtime.saturation import DEPTH, LARGEST, WIDTH, saturates
from graphcompress.runtime.session import open_session


class Kernel:
    """A session whose matrix product is computed here."""

    def __init__(self, lane: int) -> None:
        self.lane = lane

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        pairs = np.minimum(feed["x"].astype(np.int64).reshape(1, -1, 2).sum(axis=2) * 127, self.lane)
        return {"y": np.repeat(pairs.sum(axis=1, keepdims=True), WIDTH, axis=1)}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("lane", "expected"), [(2**15 - 1, True), (2 * LARGEST, False)])
def test_a_lane_of_16_bits_saturates(lane: int, expected: bool) -> None:
    assert saturates(lambda model: Kernel(lane)) is expected  # type: ignore[arg-type, return-value]


def test_the_probe_runs_here_and_float_sums_would_be_exact() -> None:
    opened: list[Model] = []

    def place(model: Model) -> Any:
        opened.append(model)
        return open_session(model, threads=1)

    assert saturates(place) in (True, False)
    assert [n.op for n in opened[0].graph.nodes] == ["MatMulInteger"]
    assert DEPTH % 2 == 0
