"""What the functions of the rule language are made of: how they see a match, and how they read their arguments. Axes and permutations come normalised: not negative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graphcompress.engine.values import Undetermined, Value, from_array
from graphcompress.ir import Node, Shape, Tensor, constant_data, constant_value
from graphcompress.ir.model.element_types import array_dtype_name

Array = np.ndarray[Any, Any]

ANY = 32
LARGEST_RANK = 64


class GraphQueries(Protocol):
    """What a match may ask about the graph around it."""

    @property
    def opset(self) -> int: ...
    def uses(self, tensor: Tensor) -> int: ...
    def readers(self, tensor: Tensor) -> list[Node]: ...
    def maker(self, tensor: Tensor) -> Node | None: ...
    def shape(self, tensor: Tensor) -> Shape | None: ...
    def dtype(self, tensor: Tensor) -> str | None: ...
    def input(self, node: Node, index: int) -> Tensor | None: ...


@dataclass(frozen=True, slots=True)
class Binding:
    """What a name of `before` is bound to: a tensor (None: an optional input that is absent) and the matched node that makes it, if one does."""

    name: str
    tensor: Tensor | None
    node: Node | None

    def value(self) -> Value | float:
        """The constant; an absent input reads as zero. Raises Undetermined for a tensor that is computed at run time."""
        if self.tensor is None:
            return 0.0
        return constant_of(self.tensor)


@dataclass(frozen=True, slots=True)
class Function:
    """A function that `where` and `let` may call, with `least` to `most` arguments. `structural`: it looks at shapes, types, uses and attributes, never at values."""

    name: str
    structural: bool
    least: int
    most: int
    body: Callable[..., Any]

    def __call__(self, graph: GraphQueries, *arguments: Any) -> Any:
        return self.body(graph, *arguments)


def registry(table: dict[str, Function], *, structural: bool) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """A decorator that enters functions of `least` to `most` arguments into `table`."""

    def function(least: int, most: int | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def enter(body: Callable[..., Any]) -> Callable[..., Any]:
            table[body.__name__] = Function(body.__name__, structural, least, least if most is None else most, body)
            return body

        return enter

    return function


def binding_of(argument: Any) -> Binding:
    """The argument as a name of `before`."""
    if not isinstance(argument, Binding):
        raise Undetermined("a name of `before` is expected")
    return argument


def tensor_of(argument: Any) -> Tensor:
    """The tensor that an argument is bound to."""
    tensor = binding_of(argument).tensor
    if tensor is None:
        raise Undetermined(f"{argument.name} is absent")
    return tensor


def node_of(argument: Any) -> Node:
    """The matched node that makes an argument."""
    node = binding_of(argument).node
    if node is None:
        raise Undetermined(f"{argument.name} is not made by a matched node")
    return node


def read(argument: Any) -> Any:
    """The value of an argument; plain data as it is."""
    return argument.value() if isinstance(argument, Binding) else argument


def value_of(argument: Any) -> Value:
    """The argument as a tensor's value."""
    value = read(argument)
    if not isinstance(value, Value):
        raise Undetermined("a tensor is expected")
    return value


def list_of(argument: Any) -> Sequence[Any]:
    """The argument as a list of numbers."""
    value = read(argument)
    return value.array.ravel().tolist() if isinstance(value, Value) else value


def short(length: int) -> int:
    """`length`, where it could be a rank."""
    if not 0 <= length <= LARGEST_RANK:
        raise Undetermined("no rank is that large")
    return length


def array_of(argument: Any) -> Array:
    """The elements of a constant in their own type, a view into the file where that is possible. Raises Undetermined for a type that numpy has not."""
    if isinstance(argument, Value):
        return argument.array
    array = constant_value(tensor_of(argument))
    if array is None:
        raise Undetermined(f"{argument.name} is no constant")
    if array.dtype.kind not in "fiub":
        raise Undetermined(f"elements of type {array_dtype_name(array)} are not calculated with")
    return array


def constant_of(tensor: Tensor) -> Value:
    """The value of a constant."""
    data = constant_data(tensor)
    if data is None:
        raise Undetermined(f"{tensor.name} is no constant")
    array = constant_value(tensor)
    assert array is not None
    return from_array(array, array_dtype_name(array))


def ints_of(graph: GraphQueries, node: Node, index: int) -> list[int] | None:
    """A constant input of integers; None where it is absent."""
    tensor = graph.input(node, index)
    if tensor is None:
        return None
    value = constant_of(tensor)
    if value.floating:
        raise Undetermined("integers are expected")
    return [int(v) for v in value.array.ravel()]
