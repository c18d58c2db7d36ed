"""Values of small tensors that are moved, cut and joined, whatever their entries are, and of those that are made from shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphcompress.ir.model import dimensions
from graphcompress.ir.model.tensors import TensorData
from graphcompress.ir.model.walk import constant_data
from graphcompress.ir.shapes.facts import LARGEST_VALUE, Array, Call, Evaluator, Fact, as_objects, axis_in, data_fact, vector
from graphcompress.ir.shapes.layout import target
from graphcompress.ir.shapes.slicing import ENDS_OF_EITHER_SIDE

Values = Sequence["Array | None"]
#: Operator of ai.onnx -> evaluator of a node of which some input has a value.
EVALUATORS: dict[str, Evaluator] = {}
#: The same for operators that need no value of an input.
SHAPE_EVALUATORS: dict[str, Evaluator] = {}


def _constant(call: Call) -> Values:
    data = constant_data(call.node.outputs[0])
    return [None if data is None else data_fact(data).value]


def _shape(call: Call) -> Values:
    shape = call.shape()
    return [None if shape is None else vector(shape[call.number("start", 0) : call.attrs.get("end")])]


def _size(call: Call) -> Values:
    shape = call.shape()
    if shape is None or (total := dimensions.product(shape)) is None:
        return [None]
    return [vector([total]).reshape(())]


def _constant_of_shape(call: Call) -> Values:
    value = call.attrs.get("value")
    fill = np.zeros(1, np.float32) if value is None else value.load() if isinstance(value, TensorData) else value
    sizes = target(call, 0)
    if sizes is None or not _small(sizes):
        return [None]
    return [np.full([int(s) for s in sizes if isinstance(s, int)], fill.reshape(-1)[0], fill.dtype)]


def _small(sizes: Sequence[Any]) -> bool:
    return all(isinstance(s, int) and s >= 0 for s in sizes) and math.prod(sizes) <= LARGEST_VALUE


def _range(call: Call) -> Values:
    """Integers; in floating point the runtime's steps are its own."""
    start, limit, delta = (call.value(i) for i in range(3))
    if start is None or limit is None or delta is None or start.dtype.kind not in "iu":
        return [None]
    steps = range(int(start.reshape(-1)[0]), int(limit.reshape(-1)[0]), int(delta.reshape(-1)[0]))
    return [np.array(steps, start.dtype) if len(steps) <= LARGEST_VALUE else None]


def _moved(function: Callable[[Call, Array], Array | None]) -> Evaluator:
    """An operator that makes one tensor of the entries of its first input."""

    def evaluate(call: Call) -> Values:
        x = call.entries(0)
        return [None if x is None else function(call, x)]

    return evaluate


def _reshape(call: Call, x: Array) -> Array | None:
    if call.opset < 5:
        sizes: list[Any] = call.numbers("shape") or []
    else:
        sizes = target(call, 1) or []
        if not sizes and call.shape(1) != (0,):
            return None
    if any(not isinstance(s, int) for s in sizes):
        return None
    if not call.number("allowzero", 0):
        sizes = [x.shape[i] if s == 0 else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(call: Call, x: Array) -> Array:
    axis = call.number("axis", 1)
    axis = axis if axis == x.ndim else axis_in(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(call: Call, x: Array) -> Array:
    axes = call.axes()
    return np.squeeze(x, None if axes is None else tuple(axes))


def _unsqueeze(call: Call, x: Array) -> Array | None:
    axes = call.axes()
    return None if axes is None else np.expand_dims(x, tuple(axes))


def _transpose(call: Call, x: Array) -> Array:
    return np.transpose(x, call.numbers("perm"))


def _expand(call: Call, x: Array) -> Array | None:
    sizes = target(call, 1)
    if sizes is None or any(not isinstance(s, int) for s in sizes):
        return None
    numbers = [s for s in sizes if isinstance(s, int)]
    shape = np.broadcast_shapes(x.shape, tuple(numbers))
    return np.array(np.broadcast_to(x, shape)) if _small(shape) else None


def _tile(call: Call, x: Array) -> Array | None:
    repeats = call.value(1)
    if repeats is None or len(repeats) != x.ndim or not _small([d * int(r) for d, r in zip(x.shape, repeats, strict=True)]):
        return None
    return np.tile(x, [int(r) for r in repeats])


def _gather(call: Call, x: Array) -> Array | None:
    indices = call.value(1)
    if indices is None or indices.size * x.size > LARGEST_VALUE**2:
        return None
    axis = axis_in(call.number("axis", 0), x.ndim)
    return np.asarray(np.take(x, indices.astype(np.int64), axis=axis), x.dtype)


def _gather_elements(call: Call, x: Array) -> Array | None:
    indices = call.value(1)
    axis = axis_in(call.number("axis", 0), x.ndim)
    if indices is None:
        return None
    if indices.ndim != x.ndim:
        raise ValueError("ranks differ")
    places: Any = np.indices(indices.shape, sparse=True)
    return np.asarray(x[tuple(indices if i == axis else p for i, p in enumerate(places))])


def _gather_nd(call: Call, x: Array) -> Array | None:
    indices = call.value(1)
    if indices is None or call.number("batch_dims", 0):
        return None
    result = np.empty(indices.shape[:-1] + x.shape[indices.shape[-1] :], x.dtype)
    if not _small(result.shape):
        return None
    for place in np.ndindex(indices.shape[:-1]):
        result[place] = x[tuple(indices[place])]
    return result


def _scatter_elements(call: Call, x: Array) -> Array | None:
    indices, updates = call.value(1), call.entries(2)
    axis = axis_in(call.number("axis", 0), x.ndim)
    if indices is None or updates is None or call.text("reduction", "none") != "none":
        return None
    result = as_objects(x).copy()
    places: Any = np.indices(indices.shape, sparse=True)
    result[tuple(indices if i == axis else p for i, p in enumerate(places))] = as_objects(updates)
    return result


def _scatter_nd(call: Call, x: Array) -> Array | None:
    indices, updates = call.value(1), call.entries(2)
    if indices is None or updates is None or call.text("reduction", "none") != "none":
        return None
    result = as_objects(x).copy()
    source = as_objects(updates)
    for place in np.ndindex(indices.shape[:-1]):
        result[tuple(indices[place])] = source[place]
    return result


def _concat(call: Call) -> Values:
    """An operand without a value is so many unknown entries."""
    values = [_entries_of(call.fact(i)) for i in range(len(call.inputs))]
    if sum(v.size for v in values) > LARGEST_VALUE:
        return [None]
    if any(v.dtype == object for v in values):
        values = [as_objects(v) for v in values]
    return [np.concatenate(values, axis=call.number("axis", 1))]


def _entries_of(fact: Fact) -> Array:
    if fact.value is not None:
        return fact.value
    if fact.shape is None or not _small(fact.shape):
        raise ValueError("an operand has no known size")
    return np.full([int(d) for d in fact.shape if isinstance(d, int)], None, object)


def _split(call: Call) -> Values:
    x = call.entries(0)
    if x is None:
        return [None]
    axis = axis_in(call.number("axis", 0), x.ndim)
    count, length = call.outputs, x.shape[axis]
    if call.has(1):
        value = call.value(1)
        sizes = None if value is None else [int(s) for s in value]
    else:
        part = -(-length // count)
        sizes = call.numbers("split") or [part] * (count - 1) + [length - part * (count - 1)]
    if sizes is None or sum(sizes) != length or min(sizes, default=0) < 0 or len(sizes) != count:
        return [None]
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _slice(call: Call, x: Array) -> Array | None:
    if call.opset < 10:
        starts, ends, axes = (call.numbers(name) for name in ("starts", "ends", "axes"))
        steps: list[int] | None = None
    else:
        values = [call.value(i) if call.has(i) else None for i in range(1, 5)]
        bounds = [None if value is None else value.tolist() for value in values]
        if any(call.has(i + 1) and bounds[i] is None for i in range(4)):
            return None
        starts, ends, axes, steps = bounds
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_in(axis, x.ndim)
        if step < 0 and end in ENDS_OF_EITHER_SIDE:
            return None
        index[axis] = _python_slice(x.shape[axis], start, end, step)
    return x[tuple(index)]


def _python_slice(dim: int, start: int, end: int, step: int) -> slice:
    """Python takes an end of -1 for the last entry, which after clamping must mean "before the first"."""
    start = start + dim if start < 0 else start
    end = end + dim if end < 0 else end
    if step > 0:
        return slice(max(start, 0), max(end, 0), step)
    return slice(min(start, dim - 1), end if end >= 0 else None, step) if start >= 0 else slice(0, 0, step)


def _non_zero(call: Call) -> Values:
    x = call.value(0)
    return [None if x is None or x.ndim == 0 else np.array(np.nonzero(x), np.int64)]


EVALUATORS.update(
    {
        "Concat": _concat,
        "ConstantOfShape": _constant_of_shape,
        "Expand": _moved(_expand),
        "Flatten": _moved(_flatten),
        "Gather": _moved(_gather),
        "GatherElements": _moved(_gather_elements),
        "GatherND": _moved(_gather_nd),
        "NonZero": _non_zero,
        "Range": _range,
        "Reshape": _moved(_reshape),
        "ScatterElements": _moved(_scatter_elements),
        "ScatterND": _moved(_scatter_nd),
        "Slice": _moved(_slice),
        "Split": _split,
        "Squeeze": _moved(_squeeze),
        "Tile": _moved(_tile),
        "Transpose": _moved(_transpose),
        "Unsqueeze": _moved(_unsqueeze),
    }
)
SHAPE_EVALUATORS.update({"Constant": _constant, "Shape": _shape, "Size": _size})
