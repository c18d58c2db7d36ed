"""Numbers that rules calculate with: arrays in double precision that remember which element type they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.ir.model.element_types import numpy_dtype

Array = np.ndarray[Any, Any]

# Smallest normal number of each float type.
SMALLEST_NORMAL = {"float": 2.0**-126, "double": 2.0**-1022, "float16": 2.0**-14, "bfloat16": 2.0**-126}
INTEGERS = frozenset(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"))


class Undetermined(Exception):
    """An expression has no value for this match, for example because a tensor in it is no constant. A clause that ends so does not hold."""


@dataclass(frozen=True, slots=True)
class Value:
    """`array` is float64 for float types and int64 for integers (bool stays bool); `dtype` is ONNX's name of the type that it stands for."""

    array: Array
    dtype: str

    @property
    def floating(self) -> bool:
        return self.dtype in SMALLEST_NORMAL


def from_array(array: Array, dtype: str) -> Value:
    """The elements of a constant, widened. Raises Undetermined for types that rules do not calculate with."""
    if dtype in SMALLEST_NORMAL:
        return Value(np.asarray(array, np.float64), dtype)
    if dtype in INTEGERS:
        return Value(np.asarray(array, np.int64), dtype)
    if dtype == "bool":
        return Value(np.asarray(array, np.bool_), dtype)
    raise Undetermined(f"elements of type {dtype} are not calculated with")


def to_array(value: Value) -> Array:
    """`value` in its own element type, rounded once. Raises Undetermined where an integer does not fit."""
    target = numpy_dtype(value.dtype)
    if value.dtype in INTEGERS:
        limits = np.iinfo(target)
        if value.array.size and (value.array.min() < limits.min or value.array.max() > limits.max):
            raise Undetermined(f"an integer does not fit into {value.dtype}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(value.array.astype(target))


def safe(value: Value) -> bool:
    """Whether `value` can stand for what was calculated: every element finite, and the largest magnitude zero as calculated, or normal.

    Below the smallest normal number digits are lost. That does no harm to elements beside a normal one (the error is below the rounding of the largest),
    but where the largest itself is that small, factors that were fine have become nothing.
    """
    if not value.floating:
        return True
    rounded = to_array(value).astype(np.float64)
    if not np.isfinite(rounded).all() or not np.isfinite(value.array).all():
        return False
    largest = float(np.abs(value.array).max(initial=0.0))
    return largest == 0.0 or float(np.abs(rounded).max()) >= SMALLEST_NORMAL[value.dtype]


def common(*values: Any) -> str:
    """The one element type of all Values among `values`. Raises Undetermined where they differ."""
    types = {v.dtype for v in values if isinstance(v, Value)}
    if len(types) > 1:
        raise Undetermined(f"mixed element types: {', '.join(sorted(types))}")
    return types.pop() if types else "float"


def lifted(value: Any) -> Any:
    """The array of a Value, anything else as it is."""
    return value.array if isinstance(value, Value) else value
