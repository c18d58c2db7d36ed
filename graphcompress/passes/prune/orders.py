"""The order in which the units of each group should go, and what that costs: from the inputs of the layers that sum over them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graphcompress.ir import constant_value, output_ids
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.axes.state import Application
from graphcompress.passes.prune.groups import Groups, UnitGroup
from graphcompress.passes.prune.moments import SeenLayer, see
from graphcompress.passes.prune.scores import Consumer, Order, activation_costs, magnitudes, order_by_cost, removal_order
from graphcompress.reconstruction.rows import Layer, layer_of
from graphcompress.runtime.session import Feed
from graphcompress.step import Progress, silent


def find_orders(groups: Groups, feeds: Iterable[Feed] | None, *, score: str, seed: int, threads: int | None = None, progress: Progress = silent) -> list[Order]:
    """For each group the order of its units (as positions in `UnitGroup.units`). `score`: "obs", "activation", or "magnitude", which needs no feeds and is also the
    order of groups that no layer with a constant weight sums over."""
    layers = {} if feeds is None or score == "magnitude" else readers(groups)
    runs = {layer: _run(units) for layer, units in layers.items()}
    seen = [] if feeds is None else see(groups.algebra.model, list(layers), feeds, seed=seed, runs=runs, threads=threads, progress=progress)
    orders = []
    for index, group in enumerate(groups.groups):
        # A layer and the inverse of its moments are held for the groups that are still to come.
        seen = [layer for layer in seen if groups.group_of[layers[layer.layer]].max() >= index]
        consumers = [c for layer in seen if (groups.group_of[layers[layer.layer]] == index).any() for c in _consumers(layer, layers[layer.layer], group)]
        if not consumers:
            orders.append(order_by_cost(_norms(groups, group), group.blocks))
        elif score == "obs":
            orders.append(removal_order(consumers, group.size, group.blocks))
        else:
            orders.append(order_by_cost(activation_costs(consumers, group.size), group.blocks))
    return orders


def _consumers(seen: SeenLayer, units: Array, group: UnitGroup) -> list[Consumer]:
    """`seen` as consumers of a group; `units` are those of its input channels."""
    return [c for c in seen.consumers([np.flatnonzero(units == unit) for unit in group.units]) if any(len(rows) for rows in c.units)]


def _run(units: Array) -> int:
    """The length of the runs of equal `units` [input channels], as a Flatten makes them of a map; 1 where they are not alike."""
    ends = np.append(np.flatnonzero(np.diff(units)) + 1, len(units))
    lengths = np.diff(ends, prepend=0)
    return int(lengths[0]) if len(lengths) and (lengths == lengths[0]).all() else 1


def readers(groups: Groups) -> dict[Layer, Array]:
    """The layers that sum over units of groups, each with the units of its input channels."""
    outputs = output_ids(groups.algebra.model)
    result: dict[Layer, Array] = {}
    for application in groups.algebra.applications:
        layer = layer_of(application.form.node, outputs)
        units = None if layer is None else _input_units(groups, application, layer)
        if layer is not None and units is not None and (groups.group_of[units] >= 0).any():
            result[layer] = units
    return result


def feeling(groups: Groups) -> list[tuple[Layer, ...]]:
    """For each group the layers that sum over its units."""
    layers = readers(groups)
    return [tuple(layer for layer, units in layers.items() if (groups.group_of[units] == index).any()) for index in range(len(groups.groups))]


def _input_units(groups: Groups, application: Application, layer: Layer) -> Array | None:
    """The unit of each input channel of a layer, None where nothing is summed that could go."""
    for _, slots in application.contractions():
        for slot in slots:
            axis = (groups.algebra.axes[slot.tensor] or ())[slot.axis]
            if slot.tensor is layer.x and isinstance(axis, np.ndarray):
                units: Array = groups.algebra.components.unit[axis]
                return units
    return None


def _norms(groups: Groups, group: UnitGroup) -> Array:
    """Squared norms of what each unit owns of each constant, as parts of the constant's mean: [units]."""
    producers = []
    for tensor, axis in group.weights:
        values, labels = constant_value(tensor), (groups.algebra.axes[tensor] or ())[axis]
        assert values is not None and isinstance(labels, np.ndarray)
        units = groups.algebra.components.unit[labels]
        if values.shape[axis] != len(units):  # counted within blocks, of which the rows tell nothing
            continue
        producers.append((np.moveaxis(values, axis, -1).reshape(-1, len(units)), [np.flatnonzero(units == unit) for unit in group.units]))
    return magnitudes(producers, group.size)
