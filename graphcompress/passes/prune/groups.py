"""Groups of channels: which units can be removed, what each costs, and why the others stay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.ir import Model, Node, Tensor, constant_data, graphs
from graphcompress.ir.analysis.statistics import node_macs, run_shapes
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.prune.axes.algebra import Algebra
from graphcompress.passes.prune.axes.forms import Letter, Slot
from graphcompress.passes.prune.axes.labels import Array, Axis, Reason
from graphcompress.passes.prune.axes.state import Pattern
from graphcompress.passes.prune.costs import Factor, ProductCost, WidthCost
from graphcompress.passes.prune.sharing import separated

PRIMES = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061, 1063, 1069)
FEWEST = 2
"""Units that stay of a group: an axis of length 1 would broadcast."""
MOST_PATTERNS = 24
"""How many patterns of forms are tried in another mode."""


@dataclass(frozen=True, slots=True, eq=False)
class UnitGroup:
    """Units that live in the same axes: the channels of a stage, the hidden units of an MLP. `name`: the first weighted node that makes them; `units`: their numbers, in
    the order of the indices of the first axis; `weights`: the axes of constants that they are in; `blocks`: positions in `units`, of each of which equally many stay (none: any may
    go)."""

    name: str
    units: Array
    weights: tuple[tuple[Tensor, int], ...]
    blocks: tuple[tuple[int, ...], ...] = ()

    @property
    def size(self) -> int:
        return len(self.units)

    @property
    def partition(self) -> tuple[tuple[int, ...], ...]:
        """`blocks`, or all units as one."""
        return self.blocks or (tuple(range(self.size)),)

    @property
    def step(self) -> int:
        """How many units go at once."""
        return len(self.partition)


class Groups:
    """The groups of a model. `algebra` says where their units are; `macs` and `parameters` are what a model of other widths costs: multiply-accumulates of one run of batch 1,
    elements of the constants that have groups; `node_macs` are those of each node, None where they are not known."""

    def __init__(self, algebra: Algebra, macs: Mapping[Node, int | None]) -> None:
        self.algebra = algebra
        self.groups: tuple[UnitGroup, ...] = tuple(_groups(algebra))
        units = len(algebra.components.reason)
        self.group_of = np.full(units, -1, np.int64)
        for index, group in enumerate(self.groups):
            self.group_of[group.units] = index
        self._of_node = {a.form.node: [a.vectors.get(x) for x in a.costs] for a in algebra.applications if macs.get(a.form.node)}
        self.node_macs = macs
        products = [ProductCost(node, count, self._factors(self._of_node.get(node, []))) for node, count in macs.items() if count]
        self.macs = WidthCost(products, 0.0, len(self.groups))
        axes = {t: algebra.axes[t] or () for t, _, _ in weight_axes(algebra)}
        self._of_constant = {t: self._factors(parts) for t, parts in axes.items()}
        self._of_constant |= {c: () for g in graphs(algebra.model) for c in g.initializers.values() if c not in axes}
        sizes = [ProductCost(t, math.prod(algebra.shapes.static(t) or ()), factors) for t, factors in self._of_constant.items()]
        self.parameters = WidthCost(sizes, 0.0, len(self.groups))

    @property
    def widths(self) -> Array:
        """[groups] units of each."""
        return np.array([g.size for g in self.groups], np.int64)

    def widths_of(self, keep: Array) -> Array:
        """[groups] units of each that are in `keep` [units]."""
        return np.array([keep[g.units].sum() for g in self.groups], np.int64)

    def bytes(self, total: int) -> WidthCost:
        """Bytes of the file, of which the whole model's has `total`."""
        sizes = [ProductCost(t, float(values.nbytes), factors) for t, factors in self._of_constant.items() if (values := constant_data(t)) is not None]
        return WidthCost(sizes, max(0.0, total - sum(p.base for p in sizes)), len(self.groups))

    def factors(self, node: Node) -> tuple[Factor, ...]:
        """What the time of a node grows with: the axes that its multiply-accumulates have, of other nodes those of the first output."""
        axes = self._of_node.get(node)
        return self._factors(list(self.algebra.axes.get(node.outputs[0]) or ()) if axes is None and node.outputs else axes or ())

    def axis_factors(self, tensor: Tensor, axis: int) -> tuple[Factor, ...]:
        """What the length of one axis of a constant grows with, none where no group has indices of it."""
        axes = self.algebra.axes.get(tensor) or ()
        return self._factors(axes[axis : axis + 1])

    def fixed(self) -> list[tuple[Reason, int]]:
        """Why indices of weights stay, and how many do for each reason, most first; of reasons that differ in their node only, the first node."""
        components, reasons = self.algebra.components, self.algebra.labels.reasons
        counts: Counter[tuple[str, str]] = Counter()
        first: dict[tuple[str, str], Reason] = {}
        for _, _, axis in weight_axes(self.algebra):
            numbers = components.reason[components.unit[axis]]
            for number, count in Counter(numbers[numbers >= 0].tolist()).items():
                reason = reasons[number]
                counts[reason.id, reason.text] += count
                first.setdefault((reason.id, reason.text), reason)
        return [(first[key], count) for key, count in counts.most_common()]

    def _factors(self, axes: Sequence[Axis]) -> tuple[Factor, ...]:
        factors = []
        for axis in axes:
            if isinstance(axis, np.ndarray):
                group = self.group_of[self.algebra.components.unit[axis]]
                counts = np.bincount(group[group >= 0], minlength=len(self.groups)) / np.maximum(1, self.widths)
                if counts.any():
                    factors.append(Factor(counts, int((group < 0).sum()), len(axis)))
        return tuple(factors)


def find_groups(model: Model, feed_shapes: Mapping[str, Sequence[int]] | None = None) -> Groups:
    """The groups of `model`. Costs are those of a run of batch 1 at `feed_shapes`.

    Where a form has several modes (a product axis can lose indices of one of its factors), each pattern of forms takes the one that leaves most of the multiply-accumulates in
    reach, the patterns being decided one after the other. The algebra is that of a copy of `model` in which small constants are not shared.
    """
    model = separated(model)
    shapes, sample = infer(model), infer(model, _primes(model))
    macs = node_macs(model, run_shapes(model, feed_shapes))
    modes: dict[Pattern, int] = {}
    algebra = Algebra(model, shapes, sample, modes)
    reach = _reach(algebra, macs)
    for pattern, count in list(algebra.patterns.items())[:MOST_PATTERNS]:
        for mode in range(1, count):
            other = Algebra(model, shapes, sample, modes | {pattern: mode})
            value = _reach(other, macs)
            if value > reach:
                modes, algebra, reach = modes | {pattern: mode}, other, value
    return Groups(algebra, macs)


def _primes(model: Model) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs with a large prime for each free dimension, the same for the same symbol."""
    numbers = iter(PRIMES)
    of_symbol: dict[object, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in (*model.inputs, *model.overridable):
        if spec.shape is not None:
            keys = [d if isinstance(d, str) else (spec.name, a) for a, d in enumerate(spec.shape)]
            shapes[spec.name] = tuple(
                d if isinstance(d, int) else of_symbol.setdefault(k, next(numbers, PRIMES[-1])) for k, d in zip(keys, spec.shape, strict=True)
            )
    return shapes


def _reach(algebra: Algebra, macs: Mapping[Node, int | None]) -> float:
    """Multiply-accumulates that go where every group keeps its fewest units: modes that leave more and smaller units are worth more."""
    total = 0.0
    blocks = {int(units[0, 0]): len(units) for balance in algebra.labels.balances for units in [algebra.components.unit[balance]]}

    def blocks_of(units: Array) -> int:
        return max((count for first, count in blocks.items() if first in units), default=1)

    for application in algebra.applications:
        cost = macs.get(application.form.node) or 0
        if cost and application.costs:
            rest = 1.0
            for letter in application.costs:
                axis = application.vectors.get(letter)
                if axis is not None:
                    units = algebra.components.unit[axis]
                    free = units[algebra.components.free[units]]
                    fewest = min(1.0, FEWEST * blocks_of(free) / max(1, len(np.unique(free))))
                    rest *= 1 - len(free) / len(units) * (1 - fewest)
            total += cost * (1 - rest)
    return total


def weight_axes(algebra: Algebra) -> list[tuple[Tensor, int, Array]]:
    """The labelled axes of all constants."""
    return [
        (tensor, a, axis)
        for tensor, axes in algebra.axes.items()
        if constant_data(tensor) is not None
        for a, axis in enumerate(axes or ())
        if isinstance(axis, np.ndarray)
    ]


def _groups(algebra: Algebra) -> list[UnitGroup]:
    """Free units, by the set of axes in which they occur."""
    components = algebra.components
    mark = components.marks(algebra.axes)
    balances = {int(mark[units[0, 0]]): units for balance in algebra.labels.balances for units in [components.unit[balance]]}
    weights = weight_axes(algebra)
    places: dict[int, list[tuple[Tensor, int]]] = {}
    order: dict[int, dict[int, None]] = {}
    for tensor, a, axis in weights:
        units = components.unit[axis]
        units = units[components.free[units]]
        for key in np.unique(mark[units]).tolist():
            places.setdefault(key, []).append((tensor, a))
        for unit in units.tolist():
            order.setdefault(int(mark[unit]), {}).setdefault(unit)
    names = _names(algebra)
    result = []
    for key, members in order.items():
        if len(members) >= FEWEST and key in places:
            name = next((names[t, a] for t, a in places[key] if (t, a) in names), places[key][0][0].name)
            position = {unit: index for index, unit in enumerate(members)}
            blocks = tuple(tuple(position[u] for u in row) for row in balances[key].tolist()) if key in balances else ()
            result.append(UnitGroup(name, np.array(list(members), np.int64), tuple(places[key]), blocks))
    return result


def _names(algebra: Algebra) -> dict[tuple[Tensor, int], str]:
    """(weight, axis) -> name of the node that makes these channels with it."""
    names: dict[tuple[Tensor, int], str] = {}
    for application in algebra.applications:
        written: set[Letter] = {x for s in application.form.outputs for x in s.letters}
        node = application.form.node
        for slot in application.form.inputs:
            if application.costs and _makes(slot, written):
                names.setdefault((slot.tensor, slot.axis), node.name or node.outputs[0].name)
    return names


def _makes(slot: Slot, written: set[Letter]) -> bool:
    return constant_data(slot.tensor) is not None and bool(set(slot.letters) & written)
