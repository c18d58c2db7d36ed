"""What the rules of inference work with: facts about tensors, and the node whose outputs are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx

from graphcompress.errors import ModelError
from graphcompress.ir.model.dimensions import Dim, Polynomial, Size
from graphcompress.ir.model.element_types import array_dtype_name, numpy_dtype
from graphcompress.ir.model.objects import Node
from graphcompress.ir.model.tensors import TensorData

Array: TypeAlias = np.ndarray[Any, Any]

#: Most elements of a value that is computed or kept.
LARGEST_VALUE = 1024
#: Element types whose values are computed.
VALUE_TYPES = frozenset(["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float", "double"])
_NUMPY_TYPES = {name: numpy_dtype(name) for name in VALUE_TYPES}
INTEGER_TYPES = frozenset(["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
#: What rules raise for a node that its operator's definition does not allow, and numpy for values that do not fit: nothing is known then.
REFUSALS = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, AttributeError, RuntimeError, NotImplementedError, MemoryError, ModelError)


@dataclass(slots=True, eq=False)
class Fact:
    """Type, shape and value of a tensor. Sizes that nothing names are `Unknown`s, so no dimension is None.

    `value` is an array of the element type; where only some entries are known it is an object array of ints, bools, sizes and None. `proto` is the type of what is
    no tensor.
    """

    dtype: str | None
    shape: tuple[Size, ...] | None
    value: Array | None = None
    kind: str = "tensor"
    proto: onnx.TypeProto | None = None


def open_fact(dtype: str | None, dims: Sequence[Dim] | None, kind: str = "tensor", proto: onnx.TypeProto | None = None) -> Fact:
    """A fact that is about to be recorded: sizes that are None become `Unknown`s then."""
    return Fact(dtype, None if dims is None else tuple(dims), None, kind, proto)  # type: ignore[arg-type]


class Contradiction(ValueError):
    """A node that contradicts its operator's definition, or the shapes of its inputs one another."""


#: What a shape rule says of one output: element type and shape; sizes that it does not know are None.
Output: TypeAlias = tuple[str | None, Sequence[Dim] | None]


class Call:
    """A node with the facts about its inputs (None: absent), as rules see it. The accessors raise what REFUSALS names where something is missing."""

    __slots__ = ("attrs", "inputs", "node", "op", "opset", "outputs")

    def __init__(self, node: Node, inputs: list[Fact | None], opset: int) -> None:
        self.node = node
        self.op: str = node.op
        self.attrs: dict[str, Any] = node.attrs
        self.inputs = inputs
        self.outputs = len(node.outputs)
        self.opset = opset

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def fact(self, index: int) -> Fact:
        fact = self.inputs[index]
        if fact is None or fact.kind != "tensor":
            raise Contradiction(f"input {index} is absent or no tensor")
        return fact

    def dtype(self, index: int = 0) -> str | None:
        return self.fact(index).dtype

    def shape(self, index: int = 0) -> tuple[Size, ...] | None:
        return self.fact(index).shape

    def entries(self, index: int) -> Array | None:
        """The value, with objects where it is known in part."""
        return self.fact(index).value

    def value(self, index: int) -> Array | None:
        """The value where it is fully known."""
        value = self.fact(index).value
        return None if value is None or value.dtype == object else value

    def number(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attrs.get(name, default)
        if not isinstance(value, int):
            raise Contradiction(f"attribute {name} is no integer")
        return value

    def text(self, name: str, default: str) -> str:
        value = self.attrs.get(name, default)
        if not isinstance(value, str):
            raise Contradiction(f"attribute {name} is no text")
        return value

    def numbers(self, name: str) -> list[int] | None:
        """A list of integers, None where the attribute is absent. Empty lists are kept as messages by the reader."""
        value = self.attrs.get(name)
        if isinstance(value, onnx.AttributeProto):
            if value.ref_attr_name:
                raise Contradiction(f"attribute {name} is a function's parameter")
            return list(value.ints)
        return None if value is None else [int(v) for v in value]

    def axes(self, index: int = 1) -> list[int] | None:
        """Axes of Squeeze, Unsqueeze and reductions: an attribute in older opsets, then an input; None where there are none. Raises Contradiction where they are not known."""
        if self.has(index):
            value = self.value(index)
            if value is None:
                raise Contradiction("the axes are computed")
            return [int(a) for a in value.reshape(-1)]
        return self.numbers("axes")


Rule: TypeAlias = Callable[[Call], Sequence[Output]]
Evaluator: TypeAlias = Callable[[Call], "Sequence[Array | None]"]


def axis_in(axis: int, rank: int) -> int:
    """A non-negative axis. Raises Contradiction for one that is out of range."""
    if not -rank <= axis < rank:
        raise Contradiction(f"axis {axis} of {rank}")
    return axis % rank


def data_fact(data: TensorData | Array) -> Fact:
    """The fact about a constant. Only small values are read."""
    if isinstance(data, TensorData):
        dtype, shape = data.dtype_name, data.shape
    else:
        dtype, shape = array_dtype_name(data), data.shape
    if any(d < 0 for d in shape):
        return Fact(dtype, None)
    value: Array | None = None
    if dtype in VALUE_TYPES and math.prod(shape) <= LARGEST_VALUE:
        try:
            value = data.load() if isinstance(data, TensorData) else data
        except REFUSALS:  # external data that is missing: known to be there, not what it is
            value = None
    return Fact(dtype, shape, value)


def packed(value: Array, dtype: str) -> Array | None:
    """`value`, of one of VALUE_TYPES, in the form that facts keep: an array of the element type where all entries are known, objects otherwise; None where nothing of it is, or it is too large."""
    if value.size > LARGEST_VALUE:
        return None
    target = _NUMPY_TYPES[dtype]
    if value.dtype != object:
        return value if value.dtype == target else value.astype(target)
    entries = value.ravel().tolist()
    if all(isinstance(v, int | float) for v in entries):
        return value.astype(target)
    return None if all(v is None for v in entries) else value


def as_objects(value: Array) -> Array:
    """The entries as Python's numbers."""
    return value if value.dtype == object else value.astype(object)


def vector(items: Sequence[Any]) -> Array:
    """A 1-D array of objects."""
    result = np.empty(len(items), object)
    for i, item in enumerate(items):
        result[i] = item
    return result


def size_of(entry: Any) -> Dim:
    """An entry of a value as a size; None where it is not known, or not an integer."""
    if isinstance(entry, str | Polynomial) or entry is None:
        return entry
    if isinstance(entry, float | np.floating):
        return None
    return int(entry)
