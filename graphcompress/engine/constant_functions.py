"""Functions of the rule language that read the values of constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphcompress.engine.functions import (
    ANY,
    Function,
    GraphQueries,
    array_of,
    constant_of,
    ints_of,
    list_of,
    node_of,
    read,
    registry,
    short,
    tensor_of,
    value_of,
)
from graphcompress.engine.values import Undetermined, Value, lifted, safe
from graphcompress.ir import Tensor, constant_data

Array = np.ndarray[Any, Any]
CHUNK = 1 << 16
NEAR = 2.0**-22  # relative; half a unit of single precision, and constants that were rounded twice
DEEPEST = 6
"""Nodes above one that are looked at."""
SQUARES = ("Abs", "Exp", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Sigmoid", "Softmax")
KEEPING = ("ReduceMean", "ReduceSum", "Reshape", "Squeeze", "Transpose", "Unsqueeze")

FUNCTIONS: dict[str, Function] = {}
function = registry(FUNCTIONS, structural=False)


@function(1, 2)
def pads(graph: GraphQueries, tensor: Any, *rank_: int) -> list[int]:
    """What a matched Pad adds, begins before ends: as it is written, or with a rank for all axes. An attribute up to opset 10, then inputs."""
    node = node_of(tensor)
    written = node.attrs.get("pads") if graph.opset < 11 else ints_of(graph, node, 1)
    if not isinstance(written, list):
        raise Undetermined("there are no pads")
    axes_ = ints_of(graph, node, 3) if graph.opset >= 18 else None
    if not rank_:
        return written
    if axes_ is None:
        axes_ = list(range(rank_[0]))
    if len(written) != 2 * len(axes_):
        raise Undetermined("the number of pads does not fit")
    full = [0] * (2 * short(rank_[0]))
    for position, axis in enumerate(axes_):
        full[axis % rank_[0]] = written[position]
        full[axis % rank_[0] + rank_[0]] = written[len(axes_) + position]
    return full


@function(1)
def pad_value(graph: GraphQueries, tensor: Any) -> float:
    """What a matched Pad writes in constant mode."""
    node = node_of(tensor)
    if graph.opset < 11:
        return float(node.attrs.get("value", 0.0))
    tensor_ = graph.input(node, 2)
    if tensor_ is None:
        return 0.0
    number = constant_of(tensor_).array
    if number.size != 1:
        raise Undetermined("the value of the Pad is not one number")
    return float(number.reshape(()))


@function(2)
def axes(graph: GraphQueries, tensor: Any, rank_: int) -> list[int]:
    """The axes of a matched Squeeze, Unsqueeze or reduction, in ascending order: an attribute, or the second input in later opsets. They must be given."""
    node = node_of(tensor)
    attribute = node.attrs.get("axes", None)
    axes_ = attribute if isinstance(attribute, list) else ints_of(graph, node, 1)
    if not axes_:
        raise Undetermined("there are no axes")
    return sorted(int(a) % rank_ for a in axes_)


@function(1)
def steps(graph: GraphQueries, tensor: Any) -> list[int]:
    """The steps of a matched Slice, one per start."""
    node = node_of(tensor)
    starts, steps_ = ints_of(graph, node, 1), ints_of(graph, node, 4)
    return steps_ if steps_ is not None else [1] * short(len(starts or []))


@function(2)
def joined(graph: GraphQueries, a: Any, b: Any) -> Value:
    """Two lists or vectors of integers, one behind the other."""
    return Value(np.array([int(v) for v in (*list_of(a), *list_of(b))], np.int64), "int64")


@function(3)
def apart(graph: GraphQueries, a: Any, b: Any, rank_: int) -> bool:
    """Two lists of axes have none in common."""
    return {int(v) % rank_ for v in list_of(a)}.isdisjoint({int(v) % rank_ for v in list_of(b)})


@function(1, ANY)
def finite(graph: GraphQueries, *values: Any) -> bool:
    """Every value, rounded to its element type, is finite and its largest magnitude not lost below the smallest normal number."""
    return all(not isinstance(v, Value) or safe(v) for v in map(read, values))


@function(1)
def every(graph: GraphQueries, condition: Any) -> bool:
    """A condition holds for all elements."""
    return bool(np.all(lifted(read(condition))))


@function(2)
def filled(graph: GraphQueries, tensor: Any, number: float) -> bool:
    """Every element of a constant is `number`."""
    return _all(tensor, lambda array: array == number)


@function(2)
def near(graph: GraphQueries, tensor: Any, number: float) -> bool:
    """Every element of a constant is `number`, as single precision has it."""
    return _all(tensor, lambda array: np.abs(array - number) <= abs(number) * NEAR)


@function(1)
def plus_zero(graph: GraphQueries, tensor: Any) -> bool:
    """Every element is +0, or the zero of an integer type."""
    return _all(tensor, lambda array: (array == 0) & ~np.signbit(array) if array.dtype.kind == "f" else array == 0)


@function(1)
def minus_zero(graph: GraphQueries, tensor: Any) -> bool:
    """Every element is -0, or the zero of an integer type: what can be added to anything without a trace."""
    return _all(tensor, lambda array: (array == 0) & np.signbit(array) if array.dtype.kind == "f" else array == 0)


@function(1)
def sqrt(graph: GraphQueries, value: Any) -> Any:
    """Square root; NaN below zero."""
    operand = read(value)
    return Value(np.sqrt(operand.array), operand.dtype) if isinstance(operand, Value) else float(np.sqrt(operand))


@function(2)
def total(graph: GraphQueries, value: Any, axes_: list[int]) -> Value:
    """The sum over some axes."""
    operand = value_of(value)
    return Value(np.asarray(operand.array.sum(axis=tuple(axes_))), operand.dtype)


@function(1)
def magnitude(graph: GraphQueries, value: Any) -> Any:
    """Absolute values."""
    operand = read(value)
    return Value(np.abs(operand.array), operand.dtype) if isinstance(operand, Value) else abs(operand)


@function(1)
def largest(graph: GraphQueries, values: Any) -> Any:
    """The largest number."""
    return max(list_of(values))


@function(1)
def smallest(graph: GraphQueries, values: Any) -> Any:
    """The smallest number."""
    return min(list_of(values))


@function(2, 3)
def per_channel(graph: GraphQueries, value: Any, rank_: int, *axis: int) -> Any:
    """A vector laid along `axis` (default 0) of a tensor with `rank_` axes. A single number stays one."""
    operand = read(value)
    if not isinstance(operand, Value) or operand.array.size == 1:
        return operand if not isinstance(operand, Value) else Value(operand.array.reshape(()), operand.dtype)
    place = axis[0] if axis else 0
    form = [1] * short(rank_)
    form[place] = operand.array.size
    return Value(operand.array.reshape(form), operand.dtype)


@function(2)
def vector(graph: GraphQueries, value: Any, length: int) -> Any:
    """A channelwise or columnwise operand as a vector of `length`."""
    operand = read(value)
    if not isinstance(operand, Value):
        return operand
    return Value(np.broadcast_to(operand.array.reshape(-1), (length,)), operand.dtype)


@function(3)
def per_output(graph: GraphQueries, value: Any, rank_: int, groups: int) -> Any:
    """A function of the weights of a ConvTranspose: see `split_groups`; here a vector over output channels becomes [groups, 1, channels per group, 1 ...]."""
    operand = read(value)
    if not isinstance(operand, Value):
        return operand
    return Value(operand.array.reshape((groups, 1, -1) + (1,) * (short(rank_) - 2)), operand.dtype)


@function(2)
def split_groups(graph: GraphQueries, value: Any, groups: int) -> Any:
    """Weights [C, ...] as [groups, C / groups, ...]."""
    weights = value_of(value)
    return Value(weights.array.reshape(groups, weights.array.shape[0] // groups, *weights.array.shape[1:]), weights.dtype)


@function(2)
def reshaped(graph: GraphQueries, value: Any, dims: list[int]) -> Any:
    """A tensor in another shape."""
    operand = value_of(value)
    return Value(operand.array.reshape([int(d) for d in dims]), operand.dtype)


@function(3)
def filled_with(graph: GraphQueries, value: Any, dims: list[int], like: Any) -> Value:
    """A constant, or zeros of the type of `like` where it is absent, broadcast to `dims`."""
    operand = read(value)
    if not isinstance(operand, Value):
        operand = Value(np.asarray(operand, np.float64), value_of(like).dtype)
    return Value(np.broadcast_to(operand.array, [int(d) for d in dims]), operand.dtype)


@function(1)
def diagonal(graph: GraphQueries, value: Any) -> Value:
    """The matrix that has a vector on its diagonal."""
    operand = value_of(value)
    return Value(np.diag(operand.array), operand.dtype)


@function(2)
def centred(graph: GraphQueries, value: Any, kernel: list[int]) -> Value:
    """Weights with zeros around them, so that their last axes have the sizes of a larger `kernel`."""
    operand = value_of(value)
    first = operand.array.ndim - len(kernel)
    room = [0] * first + [int(k) - n for k, n in zip(kernel, operand.array.shape[first:], strict=True)]
    return Value(np.pad(operand.array, [(r // 2, r // 2) for r in room]), operand.dtype)


@function(2)
def windowed(graph: GraphQueries, value: Any, taps: list[int]) -> Value:
    """Weights with those taps of their last axes alone that `live_taps` names."""
    operand = value_of(value)
    spatial = len(taps) // 2
    places: tuple[Any, ...] = (..., *(slice(begin, end) for begin, end in zip(taps[:spatial], taps[spatial:], strict=True)))
    return Value(operand.array[places], operand.dtype)


@function(1)
def nonnegative(graph: GraphQueries, tensor: Any) -> bool:
    """No element can be below zero, nor be -0, by how the tensor is made: squares, magnitudes, exponentials, their sums and means, moved about."""
    return _nonnegative(graph, tensor_of(tensor), DEEPEST)


def _nonnegative(graph: GraphQueries, tensor: Tensor, depth: int) -> bool:
    if constant_data(tensor) is not None:
        array = constant_of(tensor).array
        return bool((array >= 0).all()) and not np.signbit(array).any()  # the root of -0 is -0, its power +0, and 1 / -0 is not 1 / +0
    node = graph.maker(tensor)
    if node is None or not node.standard or depth == 0:
        return False
    inputs = [t for t in (graph.input(node, i) for i in range(len(node.inputs))) if t is not None]
    if node.op in SQUARES or (node.op == "Mul" and inputs[0] is inputs[1]):
        return True
    if node.op == "Pow":
        return constant_data(inputs[1]) is not None and bool((constant_of(inputs[1]).array == 2).all())
    if node.op in KEEPING:
        return _nonnegative(graph, inputs[0], depth - 1)
    return node.op in ("Add", "Mul") and all(_nonnegative(graph, t, depth - 1) for t in inputs)


def _all(tensor: Any, condition: Callable[[Array], Array]) -> bool:
    """Whether `condition` holds for all elements of a constant. The first one decides most cases, and then nothing else of a large tensor is read."""
    array = array_of(tensor).reshape(-1)
    if not condition(array[:1]).all():
        return False
    return all(bool(condition(array[start : start + CHUNK]).all()) for start in range(0, array.size, CHUNK))
