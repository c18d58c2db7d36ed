"""Types and shapes of operators that make, move, cut and join tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphcompress.ir.model import dimensions
from graphcompress.ir.model.dimensions import Dim, Size, ceil_divided, minus, nonnegative, plus, product, quotient, times
from graphcompress.ir.model.element_types import array_dtype_name, dtype_name
from graphcompress.ir.model.tensors import TensorData
from graphcompress.ir.model.walk import constant_data
from graphcompress.ir.shapes.facts import Call, Output, Rule, Unfit, axis_in, data_fact, size_of

#: Operator of ai.onnx -> rule.
RULES: dict[str, Rule] = {}
# Ends of a Slice beyond this mean "to the end", whatever the symbols stand for.
BEYOND_ALL_SIZES = 2**31 - 1
# With a negative step onnxruntime takes these for the beginning, and ONNX for the end.
ENDS_OF_EITHER_SIDE = (2**31 - 1, 2**63 - 1)
LARGEST_RANK = 64
LARGEST_PARTS = 1 << 16


def target(call: Call, index: int) -> list[Dim] | None:
    """The sizes that an input lists, as far as they are known; None where not even their number is."""
    value = call.entries(index)
    if value is not None:
        return [size_of(v) for v in value.reshape(-1)]
    shape = call.shape(index)
    if shape is not None and len(shape) == 1 and isinstance(shape[0], int):
        if shape[0] > LARGEST_RANK:
            raise Unfit("more axes than any tensor has")
        return [None] * shape[0]
    return None


# --- made from shapes and values ------------------------------------------------------------------------------------------------


def _constant(call: Call) -> list[Output]:
    data = constant_data(call.node.outputs[0])
    if data is None:
        sparse = call.attrs.get("sparse_value")
        if sparse is None:
            raise Unfit("a Constant without a value")
        return [(dtype_name(sparse.sparse_tensor.values.data_type), list(sparse.sparse_tensor.dims))]
    fact = data_fact(data)
    return [(fact.dtype, fact.shape)]


def _constant_of_shape(call: Call) -> list[Output]:
    value = call.attrs.get("value")
    dtype = "float" if value is None else value.dtype_name if isinstance(value, TensorData) else array_dtype_name(value)
    return [(dtype, target(call, 0))]


def _shape(call: Call) -> list[Output]:
    shape = call.shape()
    return [("int64", [None if shape is None else len(shape[call.number("start", 0) : call.attrs.get("end")])])]


def _size(call: Call) -> list[Output]:
    return [("int64", ())]


def _range(call: Call) -> list[Output]:
    start, limit, delta = (_scalar(call, i) for i in range(3))
    dtype = call.dtype(0) or call.dtype(1) or call.dtype(2)
    if delta is None or isinstance(delta, str | dimensions.Polynomial) or delta == 0:
        return [(dtype, [None])]
    exact = dtype is not None and ("int" in dtype or all(_is_whole(v) for v in (start, limit, delta)))
    if exact:
        step = int(delta)
        start, limit = (int(v) if isinstance(v, float | np.floating) else v for v in (start, limit))
        span = minus(size_of(limit), size_of(start)) if step > 0 else minus(size_of(start), size_of(limit))
        return [(dtype, [dimensions.maximum(ceil_divided(span, abs(step)), 0)])]
    return [(dtype, [None])]


def _scalar(call: Call, index: int) -> Any:
    value = call.entries(index)
    return None if value is None else value.reshape(-1)[0]


def _is_whole(value: Any) -> bool:
    """Whether calculations with it in single precision are exact."""
    return isinstance(value, float | np.floating) and abs(float(value)) < 1 << 23 and float(value).is_integer()


# --- one shape into another -----------------------------------------------------------------------------------------------------


def _reshape(call: Call) -> list[Output]:
    shape = call.shape()
    if call.opset < 5:
        sizes: list[Dim] | None = list(call.numbers("shape") or [])
    else:
        sizes = target(call, 1)
    return [(call.dtype(), None if sizes is None else reshaped(shape, sizes, allow_zero=bool(call.number("allowzero", 0))))]


def reshaped(shape: tuple[Size, ...] | None, sizes: Sequence[Dim], *, allow_zero: bool) -> list[Dim]:
    """The shape that a Reshape to `sizes` makes: 0 copies an axis (unless `allow_zero`), -1 is what is left.

    A symbol that stands for 0 copies its axis as well. That is the same 0, or no run succeeds, unless a -1 makes up for it (or two sizes are 0 at once, which is
    not looked at): then nothing is known of either.
    """
    result: list[Dim] = list(sizes)
    inferred = [i for i, size in enumerate(sizes) if size == -1]
    unknown = [i for i, size in enumerate(sizes) if size is None]
    unsafe = False
    for axis, size in enumerate(sizes):
        if size is None or size == -1 or (isinstance(size, int) and size != 0):
            continue
        copied: Dim = shape[axis] if shape is not None and axis < len(shape) else None
        if size == 0:
            result[axis] = 0 if allow_zero else copied
        elif not nonnegative(size):
            result[axis] = None  # perhaps -1
            unknown.append(axis)
        elif not allow_zero and inferred and not dimensions.vanishes_with(size, copied):
            result[axis], unsafe = None, True
    if len(inferred) > 1:
        raise Unfit("more than one -1")
    if inferred:
        others = [size for axis, size in enumerate(result) if axis != inferred[0]]
        result[inferred[0]] = None if unsafe or unknown or shape is None else rest_of(shape, others)
    elif len(unknown) == 1 and shape is not None:
        others = [size for axis, size in enumerate(result) if axis != unknown[0]]
        if all(isinstance(size, int) and size > 0 for size in others):
            result[unknown[0]] = rest_of(shape, others)
    return result


def rest_of(shape: Sequence[Dim], others: Sequence[Dim]) -> Dim:
    """What is left of the elements of `shape` for one axis beside `others`, given that they fit. Equal sizes are cancelled first, so that no product grows."""
    if any(d is None for d in (*shape, *others)):
        return None
    above, below = Counter(d for d in shape if not isinstance(d, int)), Counter(d for d in others if not isinstance(d, int))
    both = above & below
    numerator = times(product(d for d in shape if isinstance(d, int)), product((above - both).elements()))
    denominator = times(product(d for d in others if isinstance(d, int)), product((below - both).elements()))
    exact = quotient(numerator, denominator)
    if exact is None and isinstance(denominator, int) and denominator > 0:
        return dimensions.floor_divided(numerator, denominator)
    return exact


def _flatten(call: Call) -> list[Output]:
    shape = call.shape()
    axis = call.number("axis", 1)
    if shape is None:
        return [(call.dtype(), [None, None])]
    axis = axis if axis == len(shape) else axis_in(axis, len(shape)) if shape else 0
    return [(call.dtype(), [product(shape[:axis]), product(shape[axis:])])]


def _squeeze(call: Call) -> list[Output]:
    shape, axes = call.shape(), call.axes()
    if shape is None:
        return [(call.dtype(), None)]
    if axes is None:
        return [(call.dtype(), [d for d in shape if d != 1] if all(isinstance(d, int) for d in shape) else None)]
    dropped = {axis_in(a, len(shape)) for a in axes}
    if any(isinstance(shape[a], int) and shape[a] != 1 for a in dropped):
        raise Unfit("an axis that is squeezed is not 1")
    return [(call.dtype(), [d for i, d in enumerate(shape) if i not in dropped])]


def _unsqueeze(call: Call) -> list[Output]:
    shape, axes = call.shape(), call.axes()
    if shape is None or axes is None:
        return [(call.dtype(), None)]
    rank = len(shape) + len(axes)
    new = {axis_in(a, rank) for a in axes}
    if len(new) != len(axes):
        raise Unfit("an axis is inserted twice")
    rest = iter(shape)
    return [(call.dtype(), [1 if i in new else next(rest) for i in range(rank)])]


def _transpose(call: Call) -> list[Output]:
    shape = call.shape()
    perm = call.numbers("perm")
    if shape is None:
        return [(call.dtype(), None if perm is None else [None] * len(perm))]
    if perm is None:
        return [(call.dtype(), shape[::-1])]
    if sorted(perm) != list(range(len(shape))):
        raise Unfit("no permutation of the axes")
    return [(call.dtype(), [shape[i] for i in perm])]


def _expand(call: Call) -> list[Output]:
    shape, sizes = call.shape(), target(call, 1)
    if shape is None or sizes is None:
        return [(call.dtype(), None)]
    rank = max(len(shape), len(sizes))
    left = [1] * (rank - len(shape)) + list(shape)
    right = [1] * (rank - len(sizes)) + list(sizes)
    result: list[Dim] = []
    for a, b in zip(left, right, strict=True):
        if isinstance(a, int) and isinstance(b, int) and a != b and 1 not in (a, b):
            raise Unfit(f"sizes {a} and {b}")
        result.append((a if isinstance(a, int) and a != 1 else None) if b is None or not nonnegative(b) else dimensions.broadcast(a, b))
    return [(call.dtype(), result)]


def _tile(call: Call) -> list[Output]:
    shape = call.shape()
    if call.opset < 6:
        return [(call.dtype(), None if shape is None else [None] * len(shape))]
    repeats = target(call, 1)
    if shape is None or repeats is None:
        return [(call.dtype(), None if repeats is None else [None] * len(repeats))]
    return [(call.dtype(), [times(d, r) for d, r in zip(shape, repeats, strict=True)])]


def _pad(call: Call) -> list[Output]:
    shape = call.shape()
    if shape is None:
        return [(call.dtype(), None)]
    if call.opset < 11:
        pads: list[Dim] | None = list(call.numbers("pads" if call.opset > 1 else "paddings") or [])
    else:
        pads = target(call, 1)
    axes = list(range(len(shape)))
    if call.has(3):
        chosen = call.value(3)
        if chosen is None:
            return [(call.dtype(), [None] * len(shape))]
        axes = [axis_in(int(a), len(shape)) for a in chosen.reshape(-1)]
    if pads is None:
        return [(call.dtype(), [None] * len(shape))]
    if len(pads) != 2 * len(axes):
        raise Unfit("the number of pads does not fit")
    result: list[Dim] = list(shape)
    for place, axis in enumerate(axes):
        result[axis] = plus(result[axis], plus(pads[place], pads[place + len(axes)]))
    return [(call.dtype(), result)]


# --- cut and joined -------------------------------------------------------------------------------------------------------------


def _concat(call: Call) -> list[Output]:
    facts = [call.fact(i) for i in range(len(call.inputs))]
    dtype = next((f.dtype for f in facts if f.dtype is not None), None)
    known = [f.shape for f in facts if f.shape is not None]
    if not known:
        return [(dtype, None)]
    axis = axis_in(call.number("axis", 1), len(known[0]))
    if any(len(s) != len(known[0]) for s in known):
        raise Unfit("ranks differ")
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
                raise Unfit("sizes differ")
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
            raise Unfit("the number of sizes is not that of the outputs")
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
        raise Unfit("no such number of parts")
    if isinstance(dim, int) and uneven:
        part = -(-dim // count)
        last = dim - part * (count - 1)
        if last < 0:
            raise Unfit("more parts than entries")
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
            raise Unfit("a Slice without bounds")
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
    """The shape of a Slice. Raises Unfit where the lists do not fit."""
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
        raise Unfit("a step of 0")
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
        raise Unfit("more indices than axes")
    return [(call.dtype(), [*indices[:-1], *shape[batch + indices[-1] :]])]


def _depth_to_space(call: Call) -> list[Output]:
    shape, block = call.shape(), call.number("blocksize", 0)
    if shape is None:
        return [(call.dtype(), [None] * 4)]
    n, c, h, w = shape
    if block < 1:
        raise Unfit("no block size")
    return [(call.dtype(), [n, rest_of([c], [block * block]), times(h, block), times(w, block)])]


def _space_to_depth(call: Call) -> list[Output]:
    shape, block = call.shape(), call.number("blocksize", 0)
    if shape is None:
        return [(call.dtype(), [None] * 4)]
    n, c, h, w = shape
    if block < 1:
        raise Unfit("no block size")
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
        "Constant": _constant,
        "ConstantOfShape": _constant_of_shape,
        "DepthToSpace": _depth_to_space,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "GatherElements": _like_indices,
        "GatherND": _gather_nd,
        "Pad": _pad,
        "Range": _range,
        "Reshape": _reshape,
        "Resize": _resize,
        "Shape": _shape,
        "Size": _size,
        "Slice": _slice,
        "SpaceToDepth": _space_to_depth,
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
        "Upsample": _resize,
    }
)
