"""When a student that has learned is handed out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from quantized import residual

import graphcompress
from graphcompress.errors import DataError, UsageError
from graphcompress.gate.nearness import distance, nearer
from graphcompress.ir import to_bytes, to_proto
from graphcompress.runtime.agreement.measured import Measured
from graphcompress.runtime.compare import Comparison
from graphcompress.runtime.output_statistics import OutputComparison


def compared(differing: int, ratio: float | None, inputs: int = 96) -> Comparison:
    """A student whose answers to `differing` inputs are not the teacher's; all of its numbers are where the `ratio` is infinite."""
    measured = Measured("classes", 1 - differing / inputs, inputs, differing)
    return Comparison(
        {"y": OutputComparison("classes", ratio == math.inf, (measured,), None if ratio == math.inf else ratio, None, None, inputs, 0)},
        inputs,
        (("y", measured),),
    )


@pytest.mark.parametrize(
    ("after", "before", "helped"),
    [
        ((8, 13.0), (8, 12.0), True),
        ((9, 13.0), (8, 12.0), True),  # one input is chance; a fifth of the error is not
        ((14, 13.0), (8, 12.0), False),
        ((1, 13.0), (0, 12.0), True),
        ((2, 13.0), (0, 12.0), False),
        ((8, 12.0), (8, 12.0), False),
        ((4, 11.9), (8, 12.0), False),  # fewer differ by chance, and all are farther
        ((4, None), (8, None), True),
        ((8, None), (8, None), False),
        ((0, math.inf), (0, 12.0), True),
        ((0, math.inf), (0, math.inf), False),
    ],
)
def test_values_decide_whether_a_student_is_nearer_and_decisions_only_where_chance_does_not_explain_them(
    after: tuple[int, float | None], before: tuple[int, float | None], helped: bool
) -> None:
    assert nearer(compared(*after), compared(*before)) is helped


def test_a_distance_names_what_is_known() -> None:
    assert distance(compared(8, 12.04)) == "agreement 0.9083, signal to noise 12.0 dB"
    assert distance(compared(8, None)) == "agreement 0.9083"
    assert distance(compared(0, math.inf)) == "the same answers"


def test_a_quantized_model_is_tuned_or_stays_as_it_was(tools: Any) -> None:
    """Both steps are in the record; what tuning brought is said, and what came no nearer is not in the result."""
    model = residual(tools)
    feeds = list(tools.feeds(model, 48))
    kept = {}
    for minutes in (None, 0.05):
        result = graphcompress.quantize(to_proto(model), feeds, tune=minutes, measure=False, threads=1)
        steps = {step.use: step for step in result.record.steps}
        kept[minutes] = to_bytes(result.model)
    assert list(steps) == ["quantize", "distill"] and steps["quantize"].in_result and steps["distill"].decisions["trained"] > 0
    assert steps["distill"].in_result == (kept[None] != kept[0.05])
    assert steps["distill"].changed == any("before tuning" in note for note in result.record.notes)


def test_tuning_needs_data(tools: Any) -> None:
    with pytest.raises(DataError):
        graphcompress.quantize(to_proto(residual(tools)), None, mode="weights-int8", tune=0.02)


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_tuning_takes_time(tools: Any, minutes: float) -> None:
    with pytest.raises(UsageError, match="more than 0"):
        graphcompress.quantize(to_proto(residual(tools)), None, tune=minutes)
