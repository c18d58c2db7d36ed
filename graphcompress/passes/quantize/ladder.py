"""The alternatives of the INT8 step: everything that pays, then less and less, what is expected to lose most accuracy going first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from graphcompress.ir import Model, consumers
from graphcompress.passes.quantize import placement
from graphcompress.passes.quantize.groups import Group
from graphcompress.passes.quantize.plan import Attempt, Plan
from graphcompress.step import Ladder, Rung, StepResult

STEPS = (0.125, 0.25, 0.5, 0.75, 0.9)  # of the operators that lose accuracy: how many are in float


def ladder(plan: Plan, original: Model, applied: dict[str, int], calibration: str) -> Ladder:
    """The rungs, the first of them built: it tells which groups fuse at all. One rung, the original, where nothing goes to integers."""
    attempt = plan.settle()
    full = plan.result(attempt, original, applied, calibration)
    if attempt is None:
        return Ladder.single(full, "nothing in INT8")

    def build(excluded: Collection[Group]) -> StepResult:
        return plan.result(plan.settle(excluded), original, applied, calibration, excluded)

    order = by_noise(plan, attempt)
    counts = sorted({round(len(order) * step) for step in STEPS} - {0, len(order)})
    gain = placement.gain(plan.base, attempt.groups, plan.ranges.observed, plan.target)
    rungs = [Rung("INT8", lambda: full, gain)]
    rungs += [Rung(f"INT8 without {count} of {len(order)} operators", partial(build, set(order[:count]))) for count in counts]
    return Ladder(tuple(rungs))


def by_noise(plan: Plan, attempt: Attempt) -> Sequence[Group]:
    """The groups that lose accuracy, the noisiest first: an estimate good enough for an order, since what is built is judged.

    Noise of a group: that of rounding each of its inputs, its output and its weight to codes, relative to their mean square, times the number of operators
    that read its output. Rounding to a step has a mean square error of step**2 / 12. What only moves data loses nothing.
    """
    scales = attempt.insertion.scales
    noise: dict[Group, float] = {}
    for group in attempt.groups:
        if group.row.tied:
            continue
        total = 0.0
        for tensor in dict.fromkeys((*group.inputs, *group.outputs)):
            scale, power = scales.get(attempt.nodes.tensor(tensor)), plan.ranges.observed[tensor].power
            if scale is not None and power > 0:
                total += scale.scale**2 / 12 / power
        if group.weight is not None:
            total += plan.weights.noise(group, scales[attempt.nodes.tensor(group.inputs[0])].scale)
        noise[group] = total * max(1, sum(len(consumers(t)) for t in group.outputs))
    return sorted(noise, key=lambda g: -noise[g])
