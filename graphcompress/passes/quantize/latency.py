"""Times of groups in float and in integers at a place in this process: profiles of the float model and of one with all groups in integers, run in turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from graphcompress.ir import Model, Node
from graphcompress.passes.quantize.placement import Cost, Costs
from graphcompress.passes.quantize.plan import Attempt
from graphcompress.runtime.measure import measure
from graphcompress.runtime.place import LocalPlace, open_for
from graphcompress.runtime.profile import Kernel, kernel_times
from graphcompress.runtime.session import Feed
from graphcompress.targets import Target

SECONDS = 1.5
"""CPU time for the comparison of an attempt with the float model."""


def measured_costs(base: Model, attempt: Attempt, target: Target, feeds: Sequence[Feed], place: LocalPlace) -> Costs:
    """Profile `base` and `attempt` (as much as possible in integers) on `feeds` at `place`. Groups whose kernels are not found in both are not in the result. Raises ModelError where a model does
    not run."""
    before, after = map(_by_node, kernel_times((base, attempt.model), feeds, place))
    costs = {}
    for group, twin in zip(attempt.groups, attempt.twins, strict=True):
        if any(n in before for n in group.chain) and any(n in after for n in twin.chain):
            times = [sum(t.get(n, 0.0) for n in g.chain) for g, t in ((group, before), (twin, after))]
            costs[group] = Cost(times[0], times[1] * target.boundary.margin)
    return costs


def fastest(base: Model, models: Sequence[Model], feeds: Sequence[Feed], place: LocalPlace, margin: float) -> int:
    """The index of the model that is fastest at `place`, in turn with `base`. An earlier one stands where a later one gains less than `margin`, a ratio, or no more than noise explains: where
    models are equally fast the choice must not hang on chance, since they are not equally near to the original."""
    measured = []
    with closing(open_for(place, base, feeds, threads=1)[0]) as first, closing(open_for(place, base, feeds, threads=1)[0]) as again:
        for model in models:
            with closing(open_for(place, model, feeds, threads=1)[0]) as session:
                measured.append(measure(first, again, session, feeds, threads=1, budget_s=SECONDS))
    best = 0
    for index, result in enumerate(measured):
        stands = measured[best]
        if result.speedup > stands.speedup * margin and result.speedup_ci[0] > stands.speedup_ci[1]:
            best = index
    return best


def _by_node(kernels: Sequence[Kernel]) -> dict[Node, float]:
    """ns of each node that a kernel computes."""
    overhead = min((k.ns for k in kernels), default=0.0)  # what the profiler itself takes for a kernel
    result: dict[Node, float] = {}
    for kernel in kernels:
        if kernel.node is not None:
            result[kernel.node] = result.get(kernel.node, 0.0) + kernel.ns - overhead
    return result
