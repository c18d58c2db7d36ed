"""Times of groups in float and in integers at a place in this process: profiles of the float model and of one with all groups in integers, run in turn.

A kernel of a profile says by its name which nodes it stands for (they are numbered while a model is loaded), or which tensor it makes. Of several runs the fast quarter counts: what other
processes take only ever adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from graphcompress.ir import Model, Node, producer
from graphcompress.passes.quantize.certify import TAG, numbered
from graphcompress.passes.quantize.placement import Cost, Costs
from graphcompress.passes.quantize.plan import Attempt
from graphcompress.runtime.measure import measure
from graphcompress.runtime.place import LocalPlace, open_for
from graphcompress.runtime.profile import Kernel, kernel_times
from graphcompress.runtime.session import Feed
from graphcompress.targets import Target

SECONDS = 1.5
"""CPU time for the comparison of an attempt with the float model."""
FUSED = 2
"""How many nodes behind a Conv the runtime computes with it, at most."""
BLOCKED = "_nchwc"
"""What the runtime adds to the name of a tensor whose node it computes in blocks of channels."""


def measured_costs(base: Model, attempt: Attempt, target: Target, feeds: Sequence[Feed], place: LocalPlace) -> Costs:
    """Profile `base` and `attempt` (as much as possible in integers) on `feeds` at `place`. Groups whose kernels are not found in both are not in the result. Raises ModelError where a model does
    not run."""
    with numbered(base) as of_base, numbered(attempt.model) as of_attempt:
        floating, integer = kernel_times((base, attempt.model), feeds, place)
        before, after = _by_node(floating, of_base), _by_node(integer, of_attempt)
    costs = {}
    for group, twin in zip(attempt.groups, attempt.twins, strict=True):
        if any(n in before for n in group.chain) and any(n in after for n in twin.chain):
            times = [sum(t.get(n, 0.0) for n in g.chain) for g, t in ((group, before), (twin, after))]
            costs[group] = Cost(times[0], times[1] * target.boundary.margin)
    return costs


def fastest(base: Model, models: Sequence[Model], feeds: Sequence[Feed], place: LocalPlace, margin: float) -> tuple[int, list[float]]:
    """The index of the model that is fastest at `place`, in turn with `base`, and the speed-up of each. An earlier one stands where a later one gains less than `margin`, a ratio."""
    speedups = []
    with closing(open_for(place, base, feeds, threads=1)[0]) as first, closing(open_for(place, base, feeds, threads=1)[0]) as again:
        for model in models:
            with closing(open_for(place, model, feeds, threads=1)[0]) as session:
                speedups.append(measure(first, again, session, feeds, threads=1, budget_s=SECONDS).speedup)
    best = 0
    for index, speedup in enumerate(speedups):
        if speedup > speedups[best] * margin:
            best = index
    return best, speedups


def _by_node(kernels: Sequence[Kernel], numbers: Sequence[Node]) -> dict[Node, float]:
    """ns of each node; a kernel that stands for several is shared out evenly."""
    overhead = min((k.ns for k in kernels), default=0.0)  # what the profiler itself takes for a kernel
    makers = {t.name: n for n in numbers for t in n.outputs if t.name}
    result: dict[Node, float] = {}
    for kernel in kernels:
        name, ns = kernel.name, kernel.ns
        members = [numbers[int(tag)] for tag in TAG.findall(name)]
        if not members and name.endswith(BLOCKED) and name.removesuffix(BLOCKED) in makers:
            members = [_first(makers[name.removesuffix(BLOCKED)])]
        for node in members:
            result[node] = result.get(node, 0.0) + (ns - overhead) / len(members)
    return result


def _first(last: Node) -> Node:
    """The Conv that a kernel in blocks of channels stands for, of which `last` is the node whose result it makes: an activation and an Add behind a Conv are computed with it."""
    node = last
    for _ in range(FUSED):
        if node.is_op("Conv"):
            return node
        before = [maker for t in node.inputs if (maker := producer(t)) is not None]
        node = next((maker for maker in before if maker.is_op("Conv")), before[0] if before else node)
    return node if node.is_op("Conv") else last
