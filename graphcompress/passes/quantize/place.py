"""From groups and what was observed to scales: tensors that data only moves between share theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from graphcompress.ir import Tensor, producer
from graphcompress.passes.quantize.groups import Group
from graphcompress.passes.quantize.observe import Observed
from graphcompress.passes.quantize.parameters import Scale, activation_scale
from graphcompress.passes.quantize.ranges import Range, Statistic
from graphcompress.targets import Target

Choose = Callable[[Statistic], Range]


class Ranges:
    """Chooses the range of a set of tensors, each set once."""

    def __init__(self, seen: Mapping[str, Observed], choose: Choose) -> None:
        self.seen = seen
        self.choose = choose
        self._known: dict[tuple[str, ...], Range] = {}

    def of(self, names: Sequence[str]) -> Range:
        """The range of all values of the tensors `names` together: their statistics are merged before one is chosen."""
        key = tuple(sorted(names))
        if key not in self._known:
            statistic = self.seen[key[0]].statistic
            if len(key) > 1:
                statistic = type(statistic)()
                for name in key:
                    statistic.merge(self.seen[name].statistic)
            self._known[key] = self.choose(statistic)
        return self._known[key]


def scales_of(groups: Sequence[Group], ranges: Ranges, target: Target) -> dict[str, Scale]:
    """A scale for every tensor that `groups` read or make, by name. Where one moves data, its tensors get one scale, that of the values before they were moved."""
    tensors: dict[str, Tensor] = {t.name: t for g in groups for t in (*g.inputs, *g.outputs)}
    parent = {name: name for name in tensors}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    moved: set[str] = set()
    bounds: dict[str, tuple[float, float]] = {}
    for group in groups:
        if group.row.tied:
            moved.update(t.name for t in group.outputs)
            first, *others = [t.name for t in (*group.inputs, *group.outputs)]
            for name in others:
                parent[root(name)] = root(first)
        else:
            bounds[group.key] = group.bounds
    classes: dict[str, list[str]] = {}
    for name in tensors:
        classes.setdefault(root(name), []).append(name)
    scales: dict[str, Scale] = {}
    for members in classes.values():
        sources = [n for n in members if n not in moved]
        fixed = [r for n in sources if (r := fixed_range(tensors[n], target)) is not None]
        free = [n for n in sources if fixed_range(tensors[n], target) is None]
        parts = fixed + ([ranges.of(free)] if free else [])
        whole = Range(min(p.low for p in parts), max(p.high for p in parts))
        low = max((bounds[n][0] for n in sources if n in bounds), default=-math.inf)
        high = min((bounds[n][1] for n in sources if n in bounds), default=math.inf)
        scale = activation_scale(whole, target.activation, (low, high))
        scales.update(dict.fromkeys(members, scale))
    return scales


def fixed_range(tensor: Tensor, target: Target) -> Range | None:
    """The range that a tensor has whatever the data say (a Sigmoid's, a Softmax's), whether its operator goes to integers or not."""
    before = producer(tensor)
    if before is None or not before.standard:
        return None
    return next((Range(*row.fixed) for row in target.rows(before.op) if row.fixed is not None), None)
