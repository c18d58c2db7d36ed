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
from graphcompress.ir.shapes.facts import Call, Contradiction, Output, Rule, axis_in, data_fact, size_of

#: Operator of ai.onnx -> rule.
RULES: dict[str, Rule] = {}
LARGEST_RANK = 64


def target(call: Call, index: int) -> list[Dim] | None:
    """The sizes that an input lists, as far as they are known; None where not even their number is."""
    value = call.entries(index)
    if value is not None:
        return [size_of(v) for v in value.reshape(-1)]
    shape = call.shape(index)
    if shape is not None and len(shape) == 1 and isinstance(shape[0], int):
        if shape[0] > LARGEST_RANK:
            raise Contradiction("more axes than any tensor has")
        return [None] * shape[0]
    return None


# --- made from shapes and values ------------------------------------------------------------------------------------------------


def _constant(call: Call) -> list[Output]:
    data = constant_data(call.node.outputs[0])
    if data is None:
        sparse = call.attrs.get("sparse_value")
        if sparse is None:
            raise Contradiction("a Constant without a value")
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
        raise Contradiction("more than one -1")
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
        raise Contradiction("an axis that is squeezed is not 1")
    return [(call.dtype(), [d for i, d in enumerate(shape) if i not in dropped])]


def _unsqueeze(call: Call) -> list[Output]:
    shape, axes = call.shape(), call.axes()
    if shape is None or axes is None:
        return [(call.dtype(), None)]
    rank = len(shape) + len(axes)
    new = {axis_in(a, rank) for a in axes}
    if len(new) != len(axes):
        raise Contradiction("an axis is inserted twice")
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
        raise Contradiction("no permutation of the axes")
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
            raise Contradiction(f"sizes {a} and {b}")
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
        raise Contradiction("the number of pads does not fit")
    result: list[Dim] = list(shape)
    for place, axis in enumerate(axes):
        result[axis] = plus(result[axis], plus(pads[place], pads[place + len(axes)]))
    return [(call.dtype(), result)]


RULES.update(
    {
        "Constant": _constant,
        "ConstantOfShape": _constant_of_shape,
        "Expand": _expand,
        "Flatten": _flatten,
        "Pad": _pad,
        "Range": _range,
        "Reshape": _reshape,
        "Shape": _shape,
        "Size": _size,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
