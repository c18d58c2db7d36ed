"""The alternatives of the INT8 step: everything that pays, then cuts in which noise at the outputs has a higher and higher price."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graphcompress.errors import DataError, ModelError, UsageError
from graphcompress.ir import Model, Node
from graphcompress.passes.quantize import latency, placement
from graphcompress.passes.quantize.groups import Group, node_name
from graphcompress.passes.quantize.matrices import integer_products
from graphcompress.passes.quantize.noise import FEEDS, Noise, output_noise, quantized
from graphcompress.passes.quantize.plan import Attempt, Plan, labels
from graphcompress.runtime.noise import relative_noise
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.session import Feed, LocalSession
from graphcompress.step import Certificate, CertifiedOperator, Ladder, Rung, StepResult
from graphcompress.targets import Target

PARTS = (2, 4, 8, 16, 32, 64, 256, 1024)
"""What part of the noise of the first rung each of the others may have: 1 / 2, ..."""
DOUBLINGS = 30
"""How often the price of noise is raised, at most, until so little is left."""
HALVINGS = 5
"""How often the interval of the price is halved afterwards."""
MOST_NAMED = 5
"""Operators that an error names."""


def ladder(
    plan: Plan,
    original: Model,
    applied: dict[str, int],
    calibration: str,
    feeds: Iterable[Feed],
    *,
    excluded: Callable[[Node], bool] = lambda node: False,
    timing: LocalPlace | None = None,
) -> Ladder:
    """The rungs, the first of them built: it tells which groups fuse at all. One rung, the original, where nothing goes to integers. Noise is measured when a rung below the first is asked
    for. With `timing` times taken there decide what pays."""
    some = [feed for feed, _ in zip(feeds, range(FEEDS), strict=False)]
    attempt = plan.settle()
    if timing is not None and plan.groups:
        attempt = faster(plan, attempt, some, timing)
    full = plan.result(attempt, original, applied, calibration)
    dynamic = faster_products(plan, original, full, some, excluded, timing) if timing is not None else None
    above = [] if dynamic is None else [Rung("INT8 with products by the ranges of each run", lambda: dynamic)]
    others = other_than(dynamic)
    if attempt is None:
        return Ladder((*above, Rung("nothing in INT8", lambda: full)))
    gain = placement.gain(plan.base, attempt.groups, plan.ranges.observed, plan.target, plan.measured)

    @functools.cache
    def noise() -> Noise:
        return noise_of(plan, attempt, some)

    @functools.cache
    def product_noise() -> float:
        return noise_of_products(plan, original, others, some)

    def build(part: int) -> StepResult:
        total = noise().total(attempt.groups)
        shares = {g: noise().total([g]) / total for g in attempt.groups} if total > 0 else {}
        chosen = plan.settle(price_for(plan, noise(), gain, total / part))
        result = plan.result(chosen, original, applied, calibration, shares)
        if dynamic is None or product_noise() > total / part:
            return result
        return with_products(result, plan.target, others)

    rungs = [*above, Rung("INT8", lambda: full, gain)]
    rungs += [Rung(f"INT8 with 1/{part} of its noise", functools.partial(build, part)) for part in PARTS]
    return Ladder(tuple(rungs))


def repeated(plan: Plan, original: Model, applied: dict[str, int], calibration: str, decisions: Mapping[str, Any]) -> Ladder:
    """What an earlier run had in integers, once more. Raises UsageError where an operator of that time is no candidate now."""
    by_label = dict(zip(labels(g.name for g in plan.candidates.groups), plan.candidates.groups, strict=True))
    names, products = decisions.get("int8", ()), decisions.get("products", ())
    check_names([name for name in names if by_label.get(name) not in plan.groups])
    chosen = {by_label[name] for name in names}
    attempt = plan.write([g for g in plan.groups if g in chosen]) if chosen else None
    result = plan.result(attempt, original, applied, calibration)
    if products:
        result = with_products(result, plan.target, lambda node: node_name(node) not in products)
        check_names(sorted(set(products) - set(result.decisions.get("products", ()))))
    return Ladder.single(result, "as decided")


def check_names(missing: Sequence[str]) -> None:
    """Raise UsageError for operators that were in INT8 in an earlier run and cannot be; nothing where there are none."""
    if missing:
        named = ", ".join(map(repr, missing[:MOST_NAMED])) + (f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else "")
        raise UsageError(
            f"The decisions do not fit: an earlier run had {named} in INT8, and with these feeds and options that cannot be. Run it without --decisions."
        )


def faster(plan: Plan, attempt: Attempt | None, feeds: list[Feed], place: LocalPlace) -> Attempt | None:
    """The fastest of `attempt`, which the target's table chose, the cut by the times of kernels at `place`, and all groups in integers."""
    everything = plan.everything()
    if everything is None:
        return attempt
    table = plan.measured
    try:
        plan.measured = latency.measured_costs(plan.base, everything, plan.target, feeds, place)
        here = plan.settle()
        attempts = {frozenset(a.groups): a for a in (attempt, here, everything) if a is not None}
        best = latency.fastest(plan.base, [a.model for a in attempts.values()], feeds, place, plan.target.boundary.margin)
    except (ModelError, DataError):
        plan.measured = table
        return attempt
    return list(attempts.values())[best]


def faster_products(
    plan: Plan, original: Model, static: StepResult, feeds: list[Feed], excluded: Callable[[Node], bool], place: LocalPlace
) -> StepResult | None:
    """Products with the ranges of each run, in the place of `static` or for what it leaves in float, where that is faster; None where it is not."""
    try:
        added = with_products(static, plan.target, excluded)
        alone = integer_products(original, plan.target, excluded)
        if added is static and not alone.changed:
            return None
        results = list({id(r.model): r for r in (static, added, alone)}.values())
        best = latency.fastest(plan.base, [r.model for r in results], feeds, place, plan.target.boundary.margin)
    except (ModelError, DataError):
        return None
    return None if best == 0 else results[best]


def other_than(result: StepResult | None) -> Callable[[Node], bool]:
    """Whether a node is none of the products of `result` with the ranges of each run."""
    names = frozenset(() if result is None else result.decisions.get("products", ()))
    return lambda node: node_name(node) not in names


def noise_of_products(plan: Plan, original: Model, excluded: Callable[[Node], bool], feeds: list[Feed]) -> float:
    """What products with the ranges of each run, but for those `excluded`, do to the outputs by themselves, as `Noise` has it; infinite where they do not run alone."""
    try:
        alone = integer_products(original, plan.target, excluded)
        with LocalSession(plan.base, threads=1) as before, LocalSession(alone.model, threads=1) as after:
            return relative_noise([before.run(f) for f in feeds], [after.run(f) for f in feeds])
    except (ModelError, DataError):
        return math.inf


def with_products(static: StepResult, target: Target, excluded: Callable[[Node], bool]) -> StepResult:
    """`static` with what it leaves in float as products with the ranges of each run; as it is where there are none."""
    added = integer_products(static.model, target, excluded)
    if not added.changed or static.certificate is None or added.certificate is None:
        return static
    integer = {o.node for o in added.certificate.operators if o.precision == "int8"}
    operators = tuple(CertifiedOperator(o.node, o.op, "int8") if o.node in integer else o for o in static.certificate.operators)
    return StepResult(
        added.model,
        True,
        {**static.applied, **added.applied},
        tuple(r for r in static.refusals if r.node not in integer),
        {**static.decisions, **added.decisions},
        Certificate(target.name, operators),
    )


def price_for(plan: Plan, noise: Noise, gain: float, limit: float) -> placement.NoisePrice:
    """About the lowest price at which the cheapest cut has no more noise than `limit`."""
    groups = [g for g in plan.groups if g in noise.groups]

    def quiet(ns: float) -> bool:
        chosen = placement.decide(plan.base, groups, plan.ranges.observed, plan.target, price=placement.NoisePrice(noise, ns), measured=plan.measured)
        return noise.total(chosen) <= limit

    low = high = max(gain, 1.0)
    for _ in range(DOUBLINGS):
        if quiet(high):
            break
        low, high = high, 4 * high
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if quiet(middle) else (middle, high)
    return placement.NoisePrice(noise, high)


def noise_of(plan: Plan, attempt: Attempt, feeds: list[Feed]) -> Noise:
    """The noise of what `attempt` has in integers. Rounding to a step has a mean square error of step**2 / 12."""
    scales = {t: s for g in attempt.groups for t in quantized(g) if (s := attempt.insertion.scales.get(attempt.nodes.tensor(t))) is not None}
    local: dict[Group, tuple[float, float]] = {}
    for group in attempt.groups:
        power = plan.ranges.observed[group.inputs[0]].power
        if group.weight is not None and power > 0 and group.inputs[0] in scales:
            step = scales[group.inputs[0]].scale
            local[group] = step**2 / 12 / power, plan.weights.noise(group, step)
    return output_noise(plan.base, attempt.groups, scales, plan.target.activation.type, local, feeds, plan.progress)
