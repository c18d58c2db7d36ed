"""Shape arithmetic on small tensors of which some entries may be unknown.

A value is an int64 or bool array, or an object array that holds ints, symbols of the signature (str, a size >= 0) and None (unknown). Each function takes a
node and the values of its inputs, and returns the value of its first output, or None where it has no answer. They are exact where they answer: a symbol
is never compared with another one, and only 1 * s, s + 0, s / 1 keep it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphcompress.ir.model.objects import Node

Array = np.ndarray[Any, Any]
Operation = Callable[[Node, Sequence[Array]], "Array | None"]
INTEGER_CASTS = (6, 7)  # TensorProto.INT32, INT64


def packed(value: Array) -> Array:
    """int64 or bool where all entries are known, else objects."""
    if value.dtype != object:
        return value
    kinds = {type(v) for v in value.reshape(-1)}
    if kinds == {bool}:
        return value.astype(np.bool_)
    return value.astype(np.int64) if kinds <= {int} else value


def entries(items: Sequence[Any]) -> Array:
    """A 1-D value."""
    made = np.empty(len(items), object)
    made[:] = items
    return packed(made)


def opened(value: Array) -> Array:
    """The value as objects, Python's ints and bools."""
    made = np.empty(value.shape, object)
    made.reshape(-1)[:] = value.reshape(-1).tolist()
    return made


def _axes(node: Node, values: Sequence[Array]) -> tuple[int, ...] | None:
    """Attribute up to opset 12, input from 13 on; None where they are not said, or not known."""
    if len(values) > 1:
        return tuple(int(a) for a in values[1].reshape(-1)) if values[1].dtype == np.int64 else None
    axes = node.attrs.get("axes")
    return tuple(int(a) for a in axes) if isinstance(axes, list) else None


def _same(node: Node, values: Sequence[Array]) -> Array | None:
    return values[0]


def _cast(node: Node, values: Sequence[Array]) -> Array | None:
    """Sizes fit into int32."""
    return values[0] if node.attrs.get("to") in INTEGER_CASTS and values[0].dtype != np.bool_ else None


def _gather(node: Node, values: Sequence[Array]) -> Array | None:
    data, index = values
    return None if index.dtype == object else np.asarray(np.take(data, index.astype(np.int64), axis=int(node.attrs.get("axis", 0))))


def _concat(node: Node, values: Sequence[Array]) -> Array | None:
    some = any(v.dtype == object for v in values)
    return packed(np.concatenate([opened(v) if some else v for v in values], axis=int(node.attrs["axis"])))


def _unsqueeze(node: Node, values: Sequence[Array]) -> Array | None:
    axes = _axes(node, values)
    return None if axes is None else np.expand_dims(values[0], axes)


def _squeeze(node: Node, values: Sequence[Array]) -> Array | None:
    axes = _axes(node, values)
    if axes is None and (len(values) > 1 or "axes" in node.attrs):
        return None
    return np.squeeze(values[0], axes)


def _elementwise(function: Callable[..., Any], arity: int) -> Operation:
    spread = np.frompyfunc(function, arity, 1)

    def run(node: Node, values: Sequence[Array]) -> Array | None:
        return packed(np.asarray(spread(*(opened(v) for v in values)), object))

    return run


def _numbers(function: Callable[[int, int], Any], *, left: int | None = None, right: int | None = None) -> Operation:
    """An operation of two ints; `left` and `right` are neutral operands at that side."""

    def one(a: Any, b: Any) -> Any:
        if isinstance(a, int) and isinstance(b, int):
            return function(a, b)
        if left is not None and a == left:
            return b
        return a if right is not None and b == right else None

    return _elementwise(one, 2)


def _divide(a: int, b: int) -> int | None:
    """Integers divide towards zero, as in C."""
    if b == 0:
        return None
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _equal(a: Any, b: Any) -> Any:
    """A size is never negative; two sizes are equal for sure only where they are the same one."""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if a == b:
        return True
    number = next((v for v in (a, b) if isinstance(v, int)), 0)
    return False if number < 0 else None


def _where(condition: Any, a: Any, b: Any) -> Any:
    if condition is None:
        return a if a == b else None
    return a if condition else b


#: Operator of ai.onnx -> what it does to such values.
OPERATIONS: dict[str, Operation] = {
    "Identity": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Add": _numbers(operator.add, left=0, right=0),
    "Sub": _numbers(operator.sub, right=0),
    "Mul": _numbers(operator.mul, left=1, right=1),
    "Div": _numbers(_divide, right=1),
    "Min": _numbers(min),
    "Max": _numbers(max),
    "Equal": _elementwise(_equal, 2),
    "Where": _elementwise(_where, 3),
}
