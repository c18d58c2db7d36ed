"""The alternatives of the INT8 step: everything that pays, then cuts in which noise at the outputs has a higher and higher price."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from graphcompress.ir import Model
from graphcompress.passes.quantize import placement
from graphcompress.passes.quantize.groups import Group
from graphcompress.passes.quantize.noise import FEEDS, Noise, output_noise, quantized
from graphcompress.passes.quantize.plan import Attempt, Plan
from graphcompress.runtime.session import Feed
from graphcompress.step import Ladder, Rung, StepResult

PARTS = (2, 4, 8, 16, 32, 64, 256, 1024)
"""What part of the noise of the first rung each of the others may have: 1 / 2, ..."""
DOUBLINGS = 30
"""How often the price of noise is raised, at most, until so little is left."""
HALVINGS = 5
"""How often the interval of the price is halved afterwards."""


def ladder(plan: Plan, original: Model, applied: dict[str, int], calibration: str, feeds: Iterable[Feed]) -> Ladder:
    """The rungs, the first of them built: it tells which groups fuse at all. One rung, the original, where nothing goes to integers. Noise is measured when a rung below the first is asked
    for."""
    attempt = plan.settle()
    full = plan.result(attempt, original, applied, calibration)
    if attempt is None:
        return Ladder.single(full, "nothing in INT8")
    gain = placement.gain(plan.base, attempt.groups, plan.ranges.observed, plan.target)

    @functools.cache
    def noise() -> Noise:
        some = [feed for feed, _ in zip(feeds, range(FEEDS), strict=False)]
        return measured(plan, attempt, some)

    def build(part: int) -> StepResult:
        total = noise().total(attempt.groups)
        shares = {g: noise().total([g]) / total for g in attempt.groups} if total > 0 else {}
        chosen = plan.settle(price_for(plan, noise(), gain, total / part))
        return plan.result(chosen, original, applied, calibration, shares)

    rungs = [Rung("INT8", lambda: full, gain)]
    rungs += [Rung(f"INT8 with 1/{part} of its noise", functools.partial(build, part)) for part in PARTS]
    return Ladder(tuple(rungs))


def price_for(plan: Plan, noise: Noise, gain: float, limit: float) -> placement.Price:
    """About the lowest price at which the cheapest cut has no more noise than `limit`."""
    groups = [g for g in plan.groups if g in noise.groups]

    def quiet(ns: float) -> bool:
        chosen = placement.decide(plan.base, groups, plan.ranges.observed, plan.target, price=placement.Price(noise, ns))
        return noise.total(chosen) <= limit

    low = high = max(gain, 1.0)
    for _ in range(DOUBLINGS):
        if quiet(high):
            break
        low, high = high, 4 * high
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if quiet(middle) else (middle, high)
    return placement.Price(noise, high)


def measured(plan: Plan, attempt: Attempt, feeds: list[Feed]) -> Noise:
    """The noise of what `attempt` has in integers. Rounding to a step has a mean square error of step**2 / 12."""
    scales = {t: s for g in attempt.groups for t in quantized(g) if (s := attempt.insertion.scales.get(attempt.nodes.tensor(t))) is not None}
    local: dict[Group, tuple[float, float]] = {}
    for group in attempt.groups:
        power = plan.ranges.observed[group.inputs[0]].power
        if group.weight is not None and power > 0 and group.inputs[0] in scales:
            step = scales[group.inputs[0]].scale
            local[group] = step**2 / 12 / power, plan.weights.noise(group, step)
    return output_noise(plan.base, attempt.groups, scales, plan.target.activation.type, local, feeds, plan.progress)
