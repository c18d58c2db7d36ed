"""Whether one model is nearer to the original than another, by two comparisons on the same feeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphcompress.runtime.agreement.measured import Measured
    from graphcompress.runtime.compare import Comparison


def nearer(after: Comparison, before: Comparison) -> bool:
    """Whether learning has helped: the signal-to-noise ratio of the worst output is higher, and no measure has fallen by more than chance explains; where values have no such ratio, the agreement is higher.

    Some hundred inputs hardly tell two students apart by what they decide, since one input more or less is chance, but well by how far they are from the teacher.
    """
    if any(fallen(measured, dict(before.judging)[output], after.trials(output)) for output, measured in after.judging):
        return False
    ratio, ratio_before = noise_ratio(after), noise_ratio(before)
    if ratio is None or ratio_before is None:
        return after.agreement is not None and before.agreement is not None and after.agreement > before.agreement
    return ratio > ratio_before


def fallen(after: Measured, before: Measured, inputs: int) -> bool:
    """Whether so many more of the inputs differ than before that chance (one standard deviation of the difference of two counts) does not explain it."""
    counts = [inputs * m.disagreements / m.decisions if m.decisions else 0.0 for m in (after, before)]
    return counts[0] - counts[1] > math.sqrt(sum(counts))


def noise_ratio(comparison: Comparison) -> float | None:
    """The lowest signal-to-noise ratio of an output, in dB, infinite for equal ones; None where outputs that differ have none."""
    ratios = [math.inf if o.equal else o.sqnr_db for o in comparison.outputs.values()]
    return min((ratio for ratio in ratios if ratio is not None), default=None)


def distance(comparison: Comparison) -> str:
    """How near a student is to its teacher, in words."""
    ratio = noise_ratio(comparison)
    if ratio == math.inf:
        return "the same answers"
    decisions = "not judged" if comparison.agreement is None else f"agreement {comparison.agreement:.4f}"
    return decisions if ratio is None else f"{decisions}, signal to noise {ratio:.1f} dB"
