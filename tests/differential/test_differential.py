"""Random graphs compute the same after `simplify`, nearly the same after `quantize`, and the same at newer opsets.

More of them with `HYPOTHESIS_PROFILE=search`, or in slices by `PYTHONPATH=tests/support python -m differential simplify 0 20000`.
"""

from __future__ import annotations

import os

import pytest
from differential.report import report, search

SEARCH = os.environ.get("HYPOTHESIS_PROFILE") == "search"
#: Graphs of a run in CI, and of one that searches.
COUNTS = {"simplify": (500, 20_000), "quantize": (60, 2_000), "lift": (200, 5_000), "prune": (2_000, 20_000), "neutral": (200, 5_000)}
SLICES = 10


@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("kind", COUNTS)
def test_random_graphs(kind: str, part: int) -> None:
    size = COUNTS[kind][SEARCH] // SLICES
    outcome = search(kind, range(part * size, (part + 1) * size), limit=3)
    assert outcome.discarded <= 0.2 * outcome.tried
    assert not outcome.faults, "\n".join(report(case, fault) for case, fault in outcome.faults)
