"""From groups and what was observed to scales: tensors that data only moves between share theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from graphcompress.ir import Node, Tensor, producer
from graphcompress.passes.quantize.groups import Group, hard_sigmoid
from graphcompress.passes.quantize.observe import Observed
from graphcompress.passes.quantize.parameters import QuantizationParameters, activation_scale, scale_with_code
from graphcompress.passes.quantize.ranges import Histogram, Range, Statistic, squared_error
from graphcompress.targets import Target

Choose = Callable[[Statistic], Range]
# How much more squared error a range may have that holds whatever comes, against one that was only observed: one bit of the code.
WORTH_OF_A_BOUND = 4.0
WIDEST_FOR_A_CODE = 1.25
"""How many times as wide a range may become for the value at which a HardSigmoid begins to be a code."""


class Ranges:
    """Chooses the range of a set of tensors, each set once."""

    def __init__(self, observed: Mapping[Tensor, Observed], choose: Choose, target: Target) -> None:
        self.observed = observed
        self.target = target
        self._choose = choose
        self._chosen: dict[tuple[int, ...], Range] = {}

    def of(self, tensors: Sequence[Tensor]) -> Range:
        """The range of all values of `tensors` together: the statistics of those that have no range of their own are merged before one is chosen."""
        key = tuple(sorted(id(t) for t in tensors))
        if key not in self._chosen:
            bounded = {t: r for t in tensors if (r := bounded_range(t, self.target)) is not None}
            parts = [self._bounded(t, r) for t, r in bounded.items()]
            free = [self.observed[t].statistic for t in tensors if t not in bounded]
            if free:
                statistic = free[0]
                if len(free) > 1:
                    statistic = type(free[0])()
                    for other in free:
                        statistic.merge(other)
                parts.append(self._choose(statistic))
            self._chosen[key] = Range(min(p.low for p in parts), max(p.high for p in parts))
        return self._chosen[key]

    def problem(self, tensor: Tensor) -> tuple[str, str] | None:
        """Why no range can be given to `tensor`, as an id and a sentence; None where one can."""
        seen = self.observed[tensor]
        if seen.dtype != "float32":
            return "not-float32", "it does not compute in float32"
        if seen.unusable is not None:
            return seen.unusable
        if not seen.elements:
            return (
                "no-range",
                f"no value of '{tensor.name}' was seen in {seen.feeds} calibration feeds (it is empty, or its branch is not taken), so no range is known for it",
            )
        low, high = seen.statistic.finish()
        if bounded_range(tensor, self.target) is not None:
            return None
        if low == high == 0:
            return "no-range", f"'{tensor.name}' was zero in all calibration feeds, so no range is known for it. Give feeds in which it is not"
        if low == high and seen.elements > 1:
            return "no-range", f"'{tensor.name}' was {low:g} in all calibration feeds, so no range is known for it. Give feeds in which it varies"
        return None

    def clipping_problem(self, group: Group, maker: Group | None) -> tuple[str, str] | None:
        """Why the codes of what a clipped `group` reads cannot be clipped, `maker` being the group that makes it; None where they can."""
        start, seen = -reach(group.node), self.of(group.inputs)
        low, high = min(0.0, seen.low), max(0.0, seen.high)
        if maker is not None and maker.bounds != (-math.inf, math.inf):
            return "no-code", "what it reads is bounded by an activation that the Q behind it makes redundant, so that its codes are given"
        if high - min(low, start) > WIDEST_FOR_A_CODE * (high - low):
            return (
                "no-code",
                f"what it reads was between {seen.low:.3g} and {seen.high:.3g}; with {start:g}, where it begins to rise, among the codes the others would be too coarse",
            )
        return None

    def _bounded(self, tensor: Tensor, bound: Range) -> Range:
        """The bound, or what was observed where that is so much narrower that its codes have far less error (a Softmax over many classes)."""
        statistic = self.observed[tensor].statistic
        narrow = self._choose(statistic)
        if not isinstance(statistic, Histogram) or narrow.low == narrow.high:
            return bound
        counts, centres = statistic.counts.astype(float), statistic.centres
        errors = [squared_error(centres, counts, min(0.0, r.low), max(0.0, r.high)) for r in (bound, narrow)]
        return bound if errors[0] <= WORTH_OF_A_BOUND * errors[1] else narrow


def bounded_range(tensor: Tensor, target: Target) -> Range | None:
    """The range that a tensor has whatever the data say (a Sigmoid's, a Softmax's), whether its operator goes to integers or not."""
    before = producer(tensor)
    if before is None or not before.standard:
        return None
    return next((Range(*row.fixed) for row in target.rows(before.op) if row.fixed is not None), None)


def reach(node: Node) -> float:
    """How far below 0 a HardSigmoid begins to rise."""
    alpha, beta = hard_sigmoid(node)
    return beta / alpha


def clipped_codes(node: Node, read: QuantizationParameters) -> tuple[int, int]:
    """The codes of what a HardSigmoid reads at which its result begins to rise and ends to."""
    low = read.zero - round(reach(node) / read.scale)
    return low, low + round(1 / hard_sigmoid(node)[0] / read.scale)


def scales_of(groups: Sequence[Group], ranges: Ranges) -> dict[Tensor, QuantizationParameters]:
    """A scale for every tensor that `groups` read or make. Where one moves data, its tensors get one scale, that of the values before they were moved."""
    tensors = list(dict.fromkeys(t for g in groups for t in (*g.inputs, *g.outputs)))
    parent = {t: t for t in tensors}

    def root(tensor: Tensor) -> Tensor:
        while parent[tensor] is not tensor:
            parent[tensor] = tensor = parent[parent[tensor]]
        return tensor

    moved: set[Tensor] = set()
    bounds: dict[Tensor, tuple[float, float]] = {}
    for group in groups:
        if group.row.tied:
            moved.update(group.outputs)
            first, *others = [*group.inputs, *group.outputs]
            for tensor in others:
                parent[root(tensor)] = root(first)
        else:
            bounds.update(dict.fromkeys(group.outputs, group.bounds))
    classes: dict[Tensor, list[Tensor]] = {}
    for tensor in tensors:
        classes.setdefault(root(tensor), []).append(tensor)
    scales: dict[Tensor, QuantizationParameters] = {}
    clipped = [g for g in groups if g.row.clipped]
    derived = {root(g.outputs[0]) for g in clipped}
    starts = {root(g.inputs[0]): reach(g.node) for g in clipped}
    for key, members in classes.items():
        if key in derived:
            continue
        sources = [t for t in members if t not in moved]
        if key in starts:
            scales.update(dict.fromkeys(members, scale_with_code(ranges.of(sources), ranges.target.activation, starts[key])))
            continue
        low = max((bounds[t][0] for t in sources if t in bounds), default=-math.inf)
        high = min((bounds[t][1] for t in sources if t in bounds), default=math.inf)
        scale = activation_scale(ranges.of(sources), ranges.target.activation, (low, high))
        scales.update(dict.fromkeys(members, scale))
    for group in clipped:
        read = scales[group.inputs[0]]
        factor = np.float32(hard_sigmoid(group.node)[0]) * np.float32(read.scale)
        made = QuantizationParameters(float(factor), clipped_codes(group.node, read)[0])
        scales.update(dict.fromkeys(classes[root(group.outputs[0])], made))
    return scales
