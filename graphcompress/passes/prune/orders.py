"""The order in which the units of each group should go, and what that costs: from the inputs of the layers that sum over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from graphcompress.ir import Tensor, constant_value, output_ids
from graphcompress.passes.prune.axes.labels import Array, Axis
from graphcompress.passes.prune.axes.state import Application
from graphcompress.passes.prune.batches import batches, items
from graphcompress.passes.prune.gram import Gram
from graphcompress.passes.prune.groups import Groups
from graphcompress.passes.prune.rows import Layer, layer_of, sample
from graphcompress.passes.prune.scores import WIDE, Consumer, Order, activation_costs, by_channel, order_by_cost, removal_order, weight_by_channel
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import Watch

POSITIONS = 8


class _Reader:
    """A layer that sums over units of some groups: `layer`, and the unit of each of its input channels."""

    def __init__(self, layer: Layer, units: Array) -> None:
        self.layer = layer
        self.units = units
        self.wide = layer.form.shape[1] > WIDE and layer.form.taps > 1
        self.grams = Gram()

    def update(self, x: Array, at: Array) -> None:
        """Take in the inputs at some output positions."""
        rows = self.layer.form.rows(x, at)
        self.grams.update(by_channel(rows, self.layer.form.taps) if self.wide else rows)

    def consumers(self, group: Array) -> list[Consumer]:
        """One for each group of the layer's convolution; `group` are the units of the group of channels."""
        moments = self.grams.finish()
        taps = 1 if self.wide else self.layer.form.taps
        weight = self.layer.weight_matrix()
        weight = weight_by_channel(weight, self.layer.form.taps) if self.wide else weight
        energy = float(np.einsum("gno,gnm,gmo->", weight, moments.xx, weight, optimize=True))
        per_group = weight.shape[1] // taps
        channels = [np.flatnonzero(self.units == unit) for unit in group]
        result = []
        for g in range(len(weight)):
            rows = [self._rows(c, g, per_group, taps) for c in channels]
            if any(len(r) for r in rows):
                result.append(Consumer(moments.xx[g], weight[g], rows, energy))
        return result

    def _rows(self, channels: Array, g: int, per_group: int, taps: int) -> Array:
        """Rows of the channels that belong to group `g` of the convolution."""
        mine = channels[channels // per_group == g] - g * per_group
        rows: Array = (mine[:, None] * taps + np.arange(taps)).reshape(-1)
        return rows


def find_orders(groups: Groups, feeds: Iterable[Feed] | None, *, score: str, seed: int, threads: int | None = None) -> list[Order]:
    """For each group the order of its units (as positions in `Group.units`). `score`: "obs", "activation", or "magnitude", which needs no feeds."""
    algebra = groups.algebra
    readers = [] if feeds is None or score == "magnitude" else _readers(groups)
    if readers and feeds is not None:
        _observe(groups, readers, feeds, seed, threads)
    orders = []
    for index, group in enumerate(groups.groups):
        consumers = [c for r in readers if (groups.group_of[r.units] == index).any() and r.grams.rows for c in r.consumers(group.units)]
        if consumers:
            orders.append(removal_order(consumers, group.size) if score == "obs" else order_by_cost(activation_costs(consumers, group.size)))
        else:
            orders.append(order_by_cost(_norms(algebra.axes, group.weights, algebra.components.unit, group.units)))
    return orders


def _readers(groups: Groups) -> list[_Reader]:
    """The layers that sum over units of groups."""
    outputs = output_ids(groups.algebra.model)
    result = []
    for application in groups.algebra.applications:
        layer = layer_of(application.form.node, outputs)
        units = None if layer is None else _input_units(groups, application, layer)
        if layer is not None and units is not None and (groups.group_of[units] >= 0).any():
            result.append(_Reader(layer, units))
    return result


def _input_units(groups: Groups, application: Application, layer: Layer) -> Array | None:
    """The unit of each input channel of a layer, None where nothing is summed that could go."""
    for _, slots in application.contractions():
        for slot in slots:
            axis = (groups.algebra.axes[slot.tensor] or ())[slot.axis]
            if slot.tensor is layer.x and isinstance(axis, np.ndarray):
                return groups.algebra.components.unit[axis]
    return None


def _observe(groups: Groups, readers: Sequence[_Reader], feeds: Iterable[Feed], seed: int, threads: int | None) -> None:
    """Gram matrices of the layers' inputs at sampled output positions."""
    model = groups.algebra.model
    batched = batches(model, feeds, threads=threads)
    counts = [items(feed) for feed in batched]
    by_input: dict[Tensor, list[_Reader]] = {}
    for reader in readers:
        by_input.setdefault(reader.layer.x, []).append(reader)
    seen = dict.fromkeys(by_input, 0)
    random = np.random.default_rng(seed)
    for values in Watch(model, by_input).run(batched, threads=threads, optimize="basic"):
        for tensor in list(values):
            x = np.asarray(values.pop(tensor))
            for reader in by_input[tensor]:
                reader.update(x, sample(reader.layer.form.places_from(x.shape), counts[seen[tensor]], POSITIONS, random))
            seen[tensor] += 1


def _norms(axes: Mapping[Tensor, tuple[Axis, ...] | None], weights: Sequence[tuple[Tensor, int]], unit: Array, units: Array) -> Array:
    """Squared norms of what each unit owns of each weight, as parts of the weight's mean: [units]."""
    total = np.zeros(len(units))
    place = {int(u): i for i, u in enumerate(units)}
    for tensor, axis in weights:
        values, labels = constant_value(tensor), (axes[tensor] or ())[axis]
        assert values is not None and isinstance(labels, np.ndarray)
        squares = np.square(values.astype(np.float64)).sum(axis=tuple(a for a in range(values.ndim) if a != axis))
        norms = np.zeros(len(units))
        for label_unit, square in zip(unit[labels].tolist(), squares.tolist(), strict=True):
            if label_unit in place:
                norms[place[label_unit]] += square
        total += norms / max(float(norms.mean()), np.finfo(np.float64).tiny)
    return total
