"""Types and shapes of operators that cut tensors, join them, pick entries and resize axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphcompress.ir.model import dimensions
from graphcompress.ir.model.dimensions import Dim, Size, ceil_divided, minus, nonnegative, plus, quotient, times
from graphcompress.ir.shapes.facts import Call, Contradiction, Output, Rule, axis_in
from graphcompress.ir.shapes.layout import rest_of, target

#: Operator of ai.onnx -> rule.
RULES: dict[str, Rule] = {}
# Ends of a Slice beyond this mean "to the end", whatever the symbols stand for.
BEYOND_ALL_SIZES = 2**31 - 1
# With a negative step onnxruntime takes these for the beginning, and ONNX for the end.
ENDS_OF_EITHER_SIDE = (2**31 - 1, 2**63 - 1)
LARGEST_PARTS = 1 << 16


def _concat(call: Call) -> list[Output]:
    facts = [call.fact(i) for i in range(len(call.inputs))]
    dtype = next((f.dtype for f in facts if f.dtype is not None), None)
    known = [f.shape for f in facts if f.shape is not None]
    if not known:
        return [(dtype, None)]
    axis = axis_in(call.number("axis", 1), len(known[0]))
    if any(len(s) != len(known[0]) for s in known):
        raise Contradiction("ranks differ")
    result: list[Dim] = []
    for i, dims in enumerate(zip(*known, strict=True)):
        if i == axis:
            total: Dim = 0 if len(known) == len(facts) else None
            for d in dims:
                total = plus(total, d)
            result.append(total)
        else:  # all are equal: a number says most, then a symbol
            numbers = {d for d in dims if isinstance(d, int)}
            if len(numbers) > 1:
                raise Contradiction("sizes differ")
            symbols = [d for d in dims if dimensions.named(d) is not None]
            result.append(numbers.pop() if numbers else symbols[0] if symbols else dims[0])
    return [(dtype, result)]


def _split(call: Call) -> list[Output]:
    shape = call.shape()
    count = call.outputs
    if shape is None:
        return [(call.dtype(), None)] * count
    axis = axis_in(call.number("axis", 0), len(shape))
    sizes: Sequence[Dim] | None
    if call.has(1):
        sizes = target(call, 1)
        if sizes is not None and len(sizes) != count:
            raise Contradiction("the number of sizes is not that of the outputs")
    else:
        sizes = call.numbers("split") or _equal_parts(shape[axis], call.number("num_outputs", count), uneven="num_outputs" in call.attrs)
    if sizes is None:
        sizes = [None] * count
    elif sum(size is None for size in sizes) == 1:  # the parts together are the whole
        rest: Dim = shape[axis]
        for size in sizes:
            rest = rest if size is None else minus(rest, size)
        sizes = [rest if size is None else size for size in sizes]
    return [(call.dtype(), [*shape[:axis], size, *shape[axis + 1 :]]) for size in list(sizes)[:count]]


def _equal_parts(dim: Dim, count: int, *, uneven: bool) -> list[Dim]:
    """Sizes of `count` parts; from opset 18 on the last one may be smaller."""
    if count < 1 or count > LARGEST_PARTS:
        raise Contradiction("no such number of parts")
    if isinstance(dim, int) and uneven:
        part = -(-dim // count)
        last = dim - part * (count - 1)
        if last < 0:
            raise Contradiction("more parts than entries")
        return [*[part] * (count - 1), last]
    exact = quotient(dim, count)
    if exact is None and not uneven:
        exact = dimensions.floor_divided(dim, count)
    return [exact] * count


def _slice(call: Call) -> list[Output]:
    shape = call.shape()
    if shape is None:
        return [(call.dtype(), None)]
    if call.opset < 10:
        starts, ends, axes = (call.numbers(name) for name in ("starts", "ends", "axes"))
        if starts is None or ends is None:
            raise Contradiction("a Slice without bounds")
        steps: Sequence[Dim] = [1] * len(starts)
        return [(call.dtype(), sliced(shape, starts, ends, list(range(len(starts))) if axes is None else axes, steps))]
    first = target(call, 1)
    last = target(call, 2)
    if first is None and last is None:
        return [(call.dtype(), [None] * len(shape))]
    count = len(first if first is not None else last or [])
    if call.has(3):
        chosen = call.value(3)
        if chosen is None:
            return [(call.dtype(), [None] * len(shape))]
        axes = [int(a) for a in chosen.reshape(-1)]
    else:
        axes = list(range(count))
    steps = target(call, 4) or [None] * count if call.has(4) else [1] * count
    return [(call.dtype(), sliced(shape, first or [None] * count, last or [None] * count, axes, steps))]


def sliced(shape: tuple[Size, ...], starts: Sequence[Dim], ends: Sequence[Dim], axes: Sequence[int], steps: Sequence[Dim]) -> list[Dim]:
    """The shape of a Slice. Raises Contradiction where the lists do not fit."""
    result: list[Dim] = list(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis_in(axis, len(shape))
        result[place] = extent(shape[place], start, end, step)
    return result


def extent(dim: Size, start: Dim, end: Dim, step: Dim) -> Dim:
    """How many entries of an axis of length `dim` a Slice takes."""
    if not isinstance(step, int) or start is None or end is None:
        return None
    if step == 0:
        raise Contradiction("a step of 0")
    if step < 0 and end in ENDS_OF_EITHER_SIDE:
        return None
    if isinstance(dim, int) and isinstance(start, int) and isinstance(end, int):
        return _extent_of_numbers(dim, start, end, step)
    if step < 0:
        whole = isinstance(start, int) and (start == -1 or start >= BEYOND_ALL_SIZES) and isinstance(end, int) and end <= -BEYOND_ALL_SIZES
        return ceil_divided(dim, -step) if whole else None
    first, last = _bound(dim, start), _bound(dim, end)
    if isinstance(start, int) and start >= BEYOND_ALL_SIZES:
        return 0
    # A start beyond the end of the axis is cut as well, which makes no difference: the last bound is inside.
    return ceil_divided(dimensions.maximum(minus(last, first), 0), step)


def _bound(dim: Size, bound: Size) -> Dim:
    """A bound counted from the front, cut at the end of the axis; None where its sign is not known."""
    if isinstance(bound, int):
        if bound >= BEYOND_ALL_SIZES:
            return dim
        if bound < 0:
            return 0 if bound <= -BEYOND_ALL_SIZES else dimensions.maximum(plus(dim, bound), 0)
    if not nonnegative(bound):
        return None
    return dimensions.minimum(dim, bound)


def _extent_of_numbers(dim: int, start: int, end: int, step: int) -> int:
    start = start + dim if start < 0 else start
    end = end + dim if end < 0 else end
    if step > 0:
        start, end = min(max(start, 0), dim), min(max(end, 0), dim)
    else:
        start, end = min(max(start, 0), dim - 1), min(max(end, -1), dim - 1)
    return len(range(start, end, step)) if dim > 0 else 0


def _gather(call: Call) -> list[Output]:
    shape, indices = call.shape(), call.shape(1)
    if shape is None or indices is None:
        return [(call.dtype(), None)]
    axis = axis_in(call.number("axis", 0), len(shape))
    return [(call.dtype(), [*shape[:axis], *indices, *shape[axis + 1 :]])]


def _like_indices(call: Call) -> list[Output]:
    return [(call.dtype(), call.shape(1))]


def _gather_nd(call: Call) -> list[Output]:
    shape, indices = call.shape(), call.shape(1)
    batch = call.number("batch_dims", 0)
    if shape is None or indices is None or not indices or not isinstance(indices[-1], int):
        return [(call.dtype(), None)]
    if not 0 <= batch < min(len(shape), len(indices)) + 1 or not 1 <= indices[-1] <= len(shape) - batch:
        raise Contradiction("more indices than axes")
    return [(call.dtype(), [*indices[:-1], *shape[batch + indices[-1] :]])]


def _depth_to_space(call: Call) -> list[Output]:
    shape, block = call.shape(), call.number("blocksize", 0)
    if shape is None:
        return [(call.dtype(), [None] * 4)]
    n, c, h, w = shape
    if block < 1:
        raise Contradiction("no block size")
    return [(call.dtype(), [n, rest_of([c], [block * block]), times(h, block), times(w, block)])]


def _space_to_depth(call: Call) -> list[Output]:
    shape, block = call.shape(), call.number("blocksize", 0)
    if shape is None:
        return [(call.dtype(), [None] * 4)]
    n, c, h, w = shape
    if block < 1:
        raise Contradiction("no block size")
    return [(call.dtype(), [n, times(c, block * block), rest_of([h], [block]), rest_of([w], [block])])]


def _resize(call: Call) -> list[Output]:
    """By sizes, where the aspect ratio need not be kept; by scales, floor(size * scale)."""
    shape = call.shape()
    if shape is None:
        return [(call.dtype(), None)]
    scales_at, sizes_at = (1, None) if call.opset < 11 or call.op == "Upsample" else (2, 3)
    axes = [axis_in(a, len(shape)) for a in call.numbers("axes") or range(len(shape))]
    result: list[Dim] = list(shape)
    unknown: list[Dim] = [None if i in axes else d for i, d in enumerate(shape)]
    if sizes_at is not None and call.has(sizes_at):
        sizes = target(call, sizes_at)
        if sizes is None or call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
            return [(call.dtype(), unknown)]
        for axis, size in zip(axes, sizes, strict=True):
            result[axis] = size
        return [(call.dtype(), result)]
    scales: Any = call.attrs.get("scales") if call.op == "Upsample" and call.opset < 9 else call.value(scales_at) if call.has(scales_at) else None
    if scales is None:
        return [(call.dtype(), unknown)]
    for axis, scale in zip(axes, [float(s) for s in scales], strict=True):
        result[axis] = _scaled(result[axis], scale)
    return [(call.dtype(), result)]


def _scaled(dim: Dim, scale: float) -> Dim:
    """floor(dim * scale), which onnxruntime calculates in single precision: given where that is exact."""
    if scale == int(scale) and scale >= 1:
        return times(dim, int(scale)) if not isinstance(dim, int) or dim * scale < 1 << 24 else None
    if isinstance(dim, int):
        real = dim * scale
        return int(real) if abs(real - round(real)) > 1e-3 * max(real, 1) or _dyadic(scale) else None
    whole = 1 / scale if scale else 0.0
    return dimensions.floor_divided(dim, int(whole)) if scale > 0 and whole == int(whole) and _dyadic(scale) else None


def _dyadic(scale: float) -> bool:
    """Whether products with small numbers are exact."""
    return scale * 64 == int(scale * 64)


RULES.update(
    {
        "Concat": _concat,
        "DepthToSpace": _depth_to_space,
        "Gather": _gather,
        "GatherElements": _like_indices,
        "GatherND": _gather_nd,
        "Resize": _resize,
        "Slice": _slice,
        "SpaceToDepth": _space_to_depth,
        "Split": _split,
        "Upsample": _resize,
    }
)
