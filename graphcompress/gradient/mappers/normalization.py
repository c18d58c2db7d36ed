"""Normalizations by the statistics of the input itself: y = (x - mean) / sqrt(var + epsilon) * scale + bias over some axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphcompress.gradient.build import NodeGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.ir import Tensor

EPSILON = 1e-5


@mapper
def layer_normalization(call: NodeGradient) -> Mapping[int, Tensor]:
    rank = call.rank(call.x)
    axes = range(call.axis(call.x, -1), rank)
    return through(call, call.x, call.dy, list(axes), call.input(1), centered=True)


@mapper
def rms_normalization(call: NodeGradient) -> Mapping[int, Tensor]:
    axes = range(call.axis(call.x, -1), call.rank(call.x))
    return through(call, call.x, call.dy, list(axes), call.input(1), centered=False)


@mapper
def instance_normalization(call: NodeGradient) -> Mapping[int, Tensor]:
    """The scale [C] stands along axis 1."""
    rank = call.rank(call.x)
    return through(call, call.x, call.dy, list(range(2, rank)), per_channel(call, call.input(1), rank), centered=True)


@mapper
def group_normalization(call: NodeGradient) -> Mapping[int, Tensor]:
    """Channels are split into groups on an axis of their own."""
    shape = call.static(call.x)
    groups = int(call.attr("num_groups"))
    split = [shape[0], groups, shape[1] // groups, *shape[2:]]
    scale = call.reshape(call.input(1), [groups, shape[1] // groups, *[1] * (len(shape) - 2)])
    results = through(call, call.reshape(call.x, split), call.reshape(call.dy, split), list(range(2, len(split))), scale, centered=True)
    return {0: call.reshape(results[0], shape), **{i: results[i] for i in results if i}}


@mapper
def local_response(call: NodeGradient) -> Mapping[int, Tensor]:
    """LRN: y = x s^-beta, s = bias + alpha / size B (x x), where B adds neighbouring channels; dx = dy s^-beta - 2 alpha beta / size x B^T (dy y / s)."""
    add, number = call.add, call.number
    channels, size = call.size(call.x, 1), int(call.attr("size"))
    alpha, beta, bias = (float(call.attr(name, default)) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band = ((offset >= -((size - 1) // 2)) & (offset <= size // 2)).astype(np.float64)
    dtype, flat = call.dtype(call.x), call.ints([0, channels, -1])
    x, y, dy = (add("Reshape", t, flat) for t in (call.x, call.y, call.dy))
    sums = add("MatMul", call.build.array(band, dtype), add("Mul", x, x))
    s = add("Add", add("Mul", sums, number(alpha / size)), number(bias))
    back = add("MatMul", call.build.array(band.T, dtype), add("Div", add("Mul", dy, y), s))
    dx = add("Sub", add("Mul", dy, add("Pow", s, number(-beta))), add("Mul", add("Mul", x, back), number(2 * alpha * beta / size)))
    return {0: add("Reshape", dx, call.build.shape_of(call.x))}


def per_channel(call: NodeGradient, vector: Tensor, rank: int) -> Tensor:
    return call.add("Unsqueeze", vector, call.ints(range(1, rank - 1))) if rank > 2 else vector


def through(call: NodeGradient, x: Tensor, dy: Tensor, axes: Sequence[int], scale: Tensor, *, centered: bool) -> dict[int, Tensor]:
    """The gradients of x, scale and bias. With n = (x - mean) r and h = dy scale: dx = r (h - mean(h) - n mean(h n)); without a mean that is subtracted its term is left out."""
    add, over = call.add, call.ints(axes)
    epsilon = call.number(float(call.attr("epsilon", EPSILON)))
    away = add("Sub", x, add("ReduceMean", x, over, keepdims=1)) if centered else x
    variance = add("ReduceMean", add("Mul", away, away), over, keepdims=1)
    inverse = add("Reciprocal", add("Sqrt", add("Add", variance, epsilon)))
    normal = add("Mul", away, inverse)
    gradients: dict[int, Tensor] = {}
    if 0 in call.targets:
        scaled = add("Mul", dy, scale)
        inner = add("Mul", normal, add("ReduceMean", add("Mul", scaled, normal), over, keepdims=1))
        rest = add("Sub", scaled, inner)
        if centered:
            rest = add("Sub", rest, add("ReduceMean", scaled, over, keepdims=1))
        gradients[0] = add("Mul", rest, inverse)
    if 1 in call.targets:
        gradients[1] = as_parameter(call, add("Mul", dy, normal), scale, call.input(1))
    if 2 in call.targets:
        gradients[2] = as_parameter(call, dy, scale, call.input(2))
    return gradients


def as_parameter(call: NodeGradient, gradient: Tensor, like: Tensor, parameter: Tensor) -> Tensor:
    """`gradient` summed to the shape of the scale as it was applied, in the shape of the parameter."""
    summed = call.build.reduced_to(gradient, like)
    return summed if call.build.shapes.same_shape(summed, parameter) else call.add("Reshape", summed, call.build.shape_of(parameter))
