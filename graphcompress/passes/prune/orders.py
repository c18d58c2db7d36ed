"""The order in which the units of each group should go, and what that costs: from the inputs of the layers that sum over them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import numpy as np

from graphcompress.ir import Tensor, constant_data, constant_value, output_ids
from graphcompress.passes.prune.axes.forms import Slot
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.axes.state import Application
from graphcompress.passes.prune.groups import Groups, UnitGroup
from graphcompress.passes.prune.moments import SeenLayer, see
from graphcompress.passes.prune.scores import Consumer, Order, activation_costs, magnitudes, order_by_cost, removal_order
from graphcompress.reconstruction.rows import Layer, layer_of
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import Watch
from graphcompress.step import Progress, silent

LOOKED_AT = 32
"""Feeds, for mean squares of activations."""


def find_orders(groups: Groups, feeds: Iterable[Feed] | None, *, score: str, seed: int, threads: int | None = None, progress: Progress = silent) -> list[Order]:
    """For each group the order of its units (as positions in `UnitGroup.units`). `score`: "obs", "activation", or "magnitude", which needs no feeds. Where no layer with a constant weight sums over
    a group, but a product of activations does, its order is by what each unit gives to that, else by magnitude."""
    layers = {} if feeds is None or score == "magnitude" else readers(groups)
    runs = {layer: _run(units) for layer, units in layers.items()}
    seen = [] if feeds is None else see(groups.algebra.model, list(layers), feeds, seed=seed, runs=runs, threads=threads, progress=progress)
    products = {} if feeds is None or score == "magnitude" else product_costs(groups, feeds, threads=threads)
    orders = []
    for index, group in enumerate(groups.groups):
        # A layer and the inverse of its moments are held for the groups that are still to come.
        seen = [layer for layer in seen if groups.group_of[layers[layer.layer]].max() >= index]
        consumers = [c for layer in seen if (groups.group_of[layers[layer.layer]] == index).any() for c in _consumers(layer, layers[layer.layer], group)]
        if not consumers:
            orders.append(order_by_cost(products[index] if index in products else _norms(groups, group), group.blocks))
        elif score == "obs":
            orders.append(removal_order(consumers, group.size, group.blocks))
        else:
            orders.append(order_by_cost(activation_costs(consumers, group.size), group.blocks))
        if consumers and index in products:  # packed queries, keys and values
            lost = np.cumsum([0.0, *(products[index][list(step)].sum() for step in orders[-1].steps)])
            orders[-1] = replace(orders[-1], errors=orders[-1].errors + lost)
    return orders


def product_costs(groups: Groups, feeds: Iterable[Feed], *, threads: int | None = None) -> dict[int, Array]:
    """By their place in `groups`, for groups that products of two activations sum over: what each unit [units] gives to the products' energy if its factors are drawn apart, as a part of all, summed over products.

    Of keys, the second factor, what all places of an input have in common counts nothing: a Softmax over them does not change with it.
    """
    found: list[tuple[int, Array, Slot, Slot]] = []
    for application in groups.algebra.applications:
        for _, slots in application.contractions() if application.form.node.is_op("MatMul") else ():
            axis = (groups.algebra.axes[slots[0].tensor] or ())[slots[0].axis]
            data = all(constant_data(slot.tensor) is None and len(groups.algebra.axes[slot.tensor] or ()) > 1 for slot in slots)
            if data and len(slots) == 2 and isinstance(axis, np.ndarray):
                units = groups.algebra.components.unit[axis]
                group = np.unique(groups.group_of[units])
                if len(group) == 1 and group[0] >= 0:
                    found.append((int(group[0]), units, slots[0], slots[1]))
    squares: dict[Tensor, list[Array]] = {slot.tensor: [] for _, _, *slots in found for slot in slots}
    second = {slot.tensor for *_, slot in found}
    looked = list(islice(feeds, LOOKED_AT))
    for values in Watch(groups.algebra.model, squares).run(looked, threads=threads, optimize="basic") if found else ():
        for tensor, value in values.items():
            x = np.asarray(value, np.float64)
            places, dims = (-1, -2) if tensor in second else (-2, -1)
            x = np.moveaxis(x, (places, dims), (-2, -1))
            squares[tensor].append(x.var(axis=-2) if tensor in second else np.square(x).mean(axis=-2))
    costs: dict[int, Array] = {}
    for index, units, left, right in found:
        total = sum(np.sum(a * b, axis=tuple(range(np.broadcast(a, b).ndim - 1))) for a, b in zip(squares[left.tensor], squares[right.tensor], strict=True))
        each = np.array([np.sum(np.asarray(total)[units == unit]) for unit in groups.groups[index].units])
        if each.shape and np.isfinite(each).all() and each.sum() > 0:
            costs[index] = costs.get(index, np.zeros(len(each))) + each / each.sum()
    return costs


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
