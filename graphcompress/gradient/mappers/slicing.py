"""Slice, Pad and Resize."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from graphcompress.gradient.build import FARTHEST, NodeGradient, NoGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.gradient.mappers.separable import axis_matrix, transposed_along
from graphcompress.ir import Tensor


@mapper
def slicing(call: NodeGradient) -> Mapping[int, Tensor]:
    """Zeros where nothing was taken: around the slice, and between its elements where the step is not one."""
    starts, ends = call.value(1) or [], call.value(2) or []
    rank = call.rank(call.x)
    axes = [a % rank for a in (call.value(3) or range(len(starts)))]
    steps = call.value(4) or [1] * len(starts)
    gradient = call.dy
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if start == 0 and step == 1 and end >= 2**31 - 1:  # the whole axis, whatever its size
            continue
        size = call.size(call.x, axis)
        positions = range(size)[slice(start, end if step > 0 or end >= -size else None, step)]
        if not positions:
            return {0: call.zeros(call.x)}
        if step < 0:
            gradient = call.add("Slice", gradient, call.ints([-1]), call.ints([-FARTHEST]), call.ints([axis]), call.ints([-1]))
            positions = positions[::-1]
        if positions.step > 1:
            gradient = spread(call, gradient, axis, positions.step)
        before[axis], after[axis] = positions[0], size - 1 - positions[-1]
    return {0: call.pad(gradient, before, after, rank)}


def spread(call: NodeGradient, tensor: Tensor, axis: int, step: int) -> Tensor:
    """`step` - 1 zeros between the elements of an axis."""
    rank, size = call.rank(tensor), call.size(tensor, axis)
    wide = call.pad(call.add("Unsqueeze", tensor, call.ints([axis + 1])), {}, {axis + 1: step - 1}, rank + 1)
    if axis == rank - 1:
        joined = call.add("Reshape", wide, call.ints([*[0] * axis, -1]))
    else:
        front = call.add("Shape", tensor, end=axis)
        back = call.add("Shape", tensor, start=axis + 1)
        joined = call.add("Reshape", wide, call.add("Concat", front, call.ints([size * step]), back, axis=0))
    return call.pad(joined, {}, {axis: 1 - step}, rank)


@mapper
def padding(call: NodeGradient) -> Mapping[int, Tensor]:
    """Pad: what was added is cut off. Copies of elements (reflect, edge, wrap) are added to where they came from."""
    rank = call.rank(call.x)
    pads = call.value(1) or []
    axes = [a % rank for a in (call.value(3) or range(rank))]
    count = len(axes)
    before, after = {a: pads[i] for i, a in enumerate(axes)}, {a: pads[count + i] for i, a in enumerate(axes)}
    mode = call.attr("mode", "constant")
    if mode == "constant":
        return {0: call.pad(call.dy, {a: -n for a, n in before.items()}, {a: -n for a, n in after.items()}, rank)}
    gradient = call.dy
    for axis in axes:
        gradient = copies_returned(call, gradient, axis, (before[axis], after[axis]), mode)
    return {0: gradient}


def copies_returned(call: NodeGradient, gradient: Tensor, axis: int, pads: tuple[int, int], mode: Literal["reflect", "edge", "wrap"]) -> Tensor:
    """Along one axis: what lies inside, and each end that was added, times the matrix that says which of a few neighbouring elements it is a copy of."""
    if min(pads) < 0:
        raise NoGradient("cut", f"a Pad that repeats elements ({mode}) and cuts some has no gradient rule")
    size, rank = call.size(call.x, axis), call.rank(gradient)
    sources = np.pad(np.arange(size), pads, mode=mode)
    total = [call.pad(gradient, {axis: -pads[0]}, {axis: -pads[1]}, rank)]
    for first, last in ((0, pads[0]), (pads[0] + size, len(sources))):
        if first == last:
            continue
        copied = sources[first:last]
        low, high = int(copied.min()), int(copied.max())
        matrix = (copied[None, :] == np.arange(low, high + 1)[:, None]).astype(np.float32)
        end = call.pad(gradient, {axis: -first}, {axis: last - len(sources)}, rank)
        total.append(call.pad(transposed_along(call, end, matrix, axis), {axis: low}, {axis: size - 1 - high}, rank))
    return call.build.total(total)


@mapper
def resize(call: NodeGradient) -> Mapping[int, Tensor]:
    """Every mode interpolates along one axis after the other."""
    if call.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise NoGradient("crop", "a Resize that crops has no gradient rule")
    rank = call.rank(call.x)
    axes = [a % rank for a in (call.attr("axes") or range(rank))]
    scales = None if call.node.input(2) is None else call.build.shapes.value(call.input(2))
    names = ("antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value", "mode", "nearest_mode")
    attrs = {name: call.attr(name) for name in names if call.attr(name) is not None}
    gradient = call.dy
    for place, axis in enumerate(axes):
        size = call.shape(call.x)[axis]
        if scales is not None and scales.size:  # the result of a scale that is no quotient of the sizes depends on the scale itself
            if float(scales[place]) == 1.0:
                continue
            inputs = [None, np.array([1, 1, 1, scales[place]], np.float32)]
        else:
            result = call.shape(call.y)[axis]
            if size is not None and size == result:
                continue
            inputs = [None, None, np.array([call.size(call.x, axis), 1, 1, call.size(call.y, axis)], np.int64)]
        gradient = transposed_along(call, gradient, axis_matrix(call, "Resize", call.size(call.x, axis), attrs, inputs, between=2), axis)
    return {0: gradient}
