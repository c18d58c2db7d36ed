"""Operators that move elements and lose none: the gradient goes the same way back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphcompress.gradient.build import FLOATS, NodeGradient, NoGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.ir import Tensor


@mapper
def reshaping(call: NodeGradient) -> Mapping[int, Tensor]:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    return {0: call.add("Reshape", call.dy, call.build.shape_of(call.x))}


@mapper
def transposition(call: NodeGradient) -> Mapping[int, Tensor]:
    perm = call.attr("perm") or list(range(call.rank(call.x)))[::-1]
    return {0: call.transpose(call.dy, [int(i) for i in np.argsort(perm)])}


@mapper
def expansion(call: NodeGradient) -> Mapping[int, Tensor]:
    return {0: call.build.reduced_to(call.dy, call.x)}


@mapper
def tile(call: NodeGradient) -> Mapping[int, Tensor]:
    """Every axis is split into (repeat, size), and the repeats are summed."""
    repeats = call.value(1) or []
    parts = [n for r, s in zip(repeats, call.static(call.x), strict=True) for n in (r, s)]
    split = call.reshape(call.dy, parts)
    return {0: call.add("ReduceSum", split, call.ints(range(0, len(parts), 2)), keepdims=0)}


@mapper
def concatenation(call: NodeGradient) -> Mapping[int, Tensor]:
    axis = call.axis(call.y, 0)
    sizes = [call.size(t, axis) for t in call.node.inputs]
    if len(sizes) == 1:
        return {0: call.dy}
    parts = call.build.add_several("Split", len(sizes), call.dy, call.ints(sizes), axis=axis)
    return dict(enumerate(parts))


@mapper
def split(call: NodeGradient) -> Mapping[int, Tensor]:
    axis = call.axis(call.x, 0)
    parts = [call.zeros(t) if g is None else g for t, g in zip(call.node.outputs, call.cotangents, strict=True)]
    return {0: call.add("Concat", *parts, axis=axis)}


@mapper
def depth_and_space(call: NodeGradient) -> Mapping[int, Tensor]:
    """DepthToSpace and SpaceToDepth undo one another; the mode CRD, which SpaceToDepth lacks, goes back through Reshape and Transpose."""
    block = int(call.attr("blocksize"))
    if call.node.op == "SpaceToDepth":
        return {0: call.add("DepthToSpace", call.dy, blocksize=block)}
    if call.attr("mode", "DCR") == "DCR":
        return {0: call.add("SpaceToDepth", call.dy, blocksize=block)}
    n, c, h, w = call.static(call.x)
    parts = call.reshape(call.dy, [n, c // block**2, h, block, w, block])
    return {0: call.reshape(call.transpose(parts, [0, 1, 3, 5, 2, 4]), [n, c, h, w])}


@mapper
def cumulative_sum(call: NodeGradient) -> Mapping[int, Tensor]:
    return {0: call.add("CumSum", call.dy, call.input(1), exclusive=call.attr("exclusive", 0), reverse=1 - int(call.attr("reverse", 0)))}


@mapper
def cast(call: NodeGradient) -> Mapping[int, Tensor]:
    """Between float types, and of the codes of a QuantizeLinear, whose gradient is a float. To integers it is a step, and no gradient asks for it."""
    if call.dtype(call.y) not in FLOATS:
        raise NoGradient("cast", "a Cast to integers has no gradient")
    return {0: call.add("CastLike", call.dy, call.x) if call.dtype(call.x) in FLOATS else call.dy}


@mapper
def dropout(call: NodeGradient) -> Mapping[int, Tensor]:
    """Inference only: the identity."""
    training = call.node.input(2)
    if training is not None:
        value = call.build.shapes.value(training)
        if value is None or bool(value.reshape(-1)[0]):
            raise NoGradient("training-mode", "a Dropout in training mode has no gradient rule")
    return {0: call.dy}
