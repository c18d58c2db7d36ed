"""Operators that pick elements by index, and those that write them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphcompress.gradient.build import NodeGradient, NoGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.ir import Tensor


@mapper
def gather(call: NodeGradient) -> Mapping[int, Tensor]:
    """dy is added where elements came from. One constant position is a Pad; the general case scatters whole rows, the axis in front."""
    x, indices, dy = call.x, call.input(1), call.dy
    axis, rank = call.axis(x, 0), call.rank(x)
    value = call.build.shapes.value(indices)
    if value is not None and value.size == 1:
        size = call.size(x, axis)
        place = int(value.reshape(-1)[0]) % size
        row = dy if value.ndim == 1 else call.add("Unsqueeze", dy, call.ints([axis])) if value.ndim == 0 else None
        if row is not None:
            return {0: call.pad(row, {axis: place}, {axis: size - 1 - place}, rank)}
    count = call.rank(indices)
    front = [axis, *(i for i in range(rank) if i != axis)]
    rows = call.transpose(dy, [*range(axis, axis + count), *range(axis), *range(axis + count, rank - 1 + count)])
    zeros = call.zeros(x)
    moved = call.transpose(zeros, front)
    added = call.add("ScatterND", moved, call.add("Unsqueeze", indices, call.ints([-1])), rows, reduction="add")
    return {0: call.transpose(added, [int(i) for i in np.argsort(front)])}


@mapper
def gather_elements(call: NodeGradient) -> Mapping[int, Tensor]:
    return {0: call.add("ScatterElements", call.zeros(call.x), call.input(1), call.dy, axis=call.axis(call.x, 0), reduction="add")}


@mapper
def gather_nd(call: NodeGradient) -> Mapping[int, Tensor]:
    if call.attr("batch_dims", 0):
        raise NoGradient("batch-dims", "a GatherND with batch_dims has no gradient rule")
    return {0: call.add("ScatterND", call.zeros(call.x), call.input(1), call.dy, reduction="add")}


@mapper
def top_k(call: NodeGradient) -> Mapping[int, Tensor]:
    axis = call.axis(call.x, -1)
    return {0: call.add("ScatterElements", call.zeros(call.x), call.node.outputs[1], call.dy, axis=axis)}


@mapper
def scatter_nd(call: NodeGradient) -> Mapping[int, Tensor]:
    """What is written over has no gradient; what is added to keeps it."""
    indices = call.input(1)
    reduction = call.attr("reduction", "none")
    if reduction not in ("none", "add"):
        raise NoGradient("reduction", f"a ScatterND with reduction {reduction} has no gradient rule")
    updates = call.add("GatherND", call.dy, indices)
    return {0: call.dy if reduction == "add" else call.add("ScatterND", call.dy, indices, call.zeros(call.input(2))), 2: updates}


@mapper
def scatter_elements(call: NodeGradient) -> Mapping[int, Tensor]:
    """As `scatter_nd`, along one axis."""
    indices, axis = call.input(1), call.axis(call.x, 0)
    reduction = call.attr("reduction", "none")
    if reduction not in ("none", "add"):
        raise NoGradient("reduction", f"a ScatterElements with reduction {reduction} has no gradient rule")
    updates = call.add("GatherElements", call.dy, indices, axis=axis)
    return {0: call.dy if reduction == "add" else call.add("ScatterElements", call.dy, indices, call.zeros(call.input(2)), axis=axis), 2: updates}
