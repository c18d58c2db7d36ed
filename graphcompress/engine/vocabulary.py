"""The functions that `where` and `let` may call.

A structural function looks at the graph (shapes, types, uses, attributes); the others read values of constants. Axes and permutations come normalised: not negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graphcompress.engine.values import SMALLEST_NORMAL, Undetermined, Value, from_array, lifted, safe
from graphcompress.ir import Node, Shape, Tensor, constant_data, constant_value
from graphcompress.ir.tensors import array_dtype_name, dtype_name


class Facts(Protocol):
    """What a match may ask about the graph around it."""

    @property
    def opset(self) -> int: ...
    def uses(self, tensor: Tensor) -> int: ...
    def shape(self, tensor: Tensor) -> Shape | None: ...
    def dtype(self, tensor: Tensor) -> str | None: ...
    def input(self, node: Node, index: int) -> Tensor | None: ...


@dataclass(frozen=True, slots=True)
class Ref:
    """What a name of `before` is bound to: a tensor (None: an optional input that is absent) and the matched node that makes it, if one does."""

    name: str
    tensor: Tensor | None
    node: Node | None

    def value(self) -> Value | float:
        """The constant; an absent input reads as zero. Raises Undetermined for a tensor that is computed at run time."""
        if self.tensor is None:
            return 0.0
        return _constant(self.tensor)


@dataclass(frozen=True, slots=True)
class Function:
    """A word of the vocabulary: `least` to `most` arguments."""

    name: str
    structural: bool
    least: int
    most: int
    body: Callable[..., Any]

    def __call__(self, facts: Facts, *arguments: Any) -> Any:
        return self.body(facts, *arguments)


ANY = 32
VOCABULARY: dict[str, Function] = {}


def _word(least: int, most: int | None = None, *, structural: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(body: Callable[..., Any]) -> Callable[..., Any]:
        name = body.__name__.strip("_")
        VOCABULARY[name] = Function(name, structural, least, least if most is None else most, body)
        return body

    return enter


# --- the graph ------------------------------------------------------------------------------------------------------------------


@_word(1, ANY, structural=True)
def constant(facts: Facts, *tensors: Any) -> bool:
    """Every tensor is an initializer or made by a Constant node; absent ones count."""
    return all(t.tensor is None or constant_data(t.tensor) is not None for t in map(_ref, tensors))


@_word(1, structural=True)
def has(facts: Facts, tensor: Any) -> bool:
    """An optional input is there."""
    return _ref(tensor).tensor is not None


@_word(1, structural=True)
def uses(facts: Facts, tensor: Any) -> int:
    """How often a tensor is read, in subgraphs too; being an output of a graph is a use."""
    return facts.uses(_tensor(tensor))


@_word(1, structural=True)
def outputs(facts: Facts, tensor: Any) -> int:
    """How many outputs the matched node that makes `tensor` has by name."""
    return sum(1 for t in _node(tensor).outputs if t.name)


@_word(2, structural=True)
def same(facts: Facts, a: Any, b: Any) -> bool:
    """Two names are bound to one tensor."""
    return _tensor(a) is _tensor(b)


@_word(2, 3, structural=True)
def attr(facts: Facts, tensor: Any, name: str, *default: Any) -> Any:
    """An attribute of the matched node that makes `tensor`. Without a default it must be there."""
    found = _node(tensor).attrs.get(name)
    if found is None:
        if not default:
            raise Undetermined(f"there is no attribute {name}")
        # A default is what the operator's definition says, and definitions hold single precision.
        return float(np.float32(default[0])) if isinstance(default[0], float) else default[0]
    if not isinstance(found, int | float | str | list):
        raise Undetermined(f"the attribute {name} is no number, text or list")
    return list(found) if isinstance(found, list) else found


@_word(0, structural=True)
def opset(facts: Facts) -> int:
    """Version of ai.onnx."""
    return facts.opset


@_word(1, structural=True)
def shape(facts: Facts, tensor: Any) -> list[Any]:
    """The dimensions: numbers, symbols of the signature, None."""
    if isinstance(tensor, Value):
        return list(tensor.array.shape)
    found = facts.shape(_tensor(tensor))
    if found is None:
        raise Undetermined(f"the rank of {_ref(tensor).name} is not known")
    return list(found)


@_word(1, structural=True)
def rank(facts: Facts, tensor: Any) -> int:
    """Number of axes."""
    return len(shape(facts, tensor))


@_word(2, structural=True)
def dim(facts: Facts, tensor: Any, axis: int) -> int:
    """One dimension; it must be a number."""
    found = shape(facts, tensor)[axis]
    if not isinstance(found, int):
        raise Undetermined(f"axis {axis} of {_ref(tensor).name} is dynamic")
    return found


@_word(1, structural=True)
def dtype(facts: Facts, tensor: Any) -> str:
    """Element type by ONNX's name."""
    found = facts.dtype(_tensor(tensor))
    if found is None:
        raise Undetermined(f"the element type of {_ref(tensor).name} is not known")
    return found


@_word(1, structural=True)
def floating(facts: Facts, tensor: Any) -> bool:
    """The elements are float, double, float16 or bfloat16."""
    return dtype(facts, tensor) in SMALLEST_NORMAL


@_word(1, structural=True)
def type_name(facts: Facts, code: int) -> str:
    """Name of an element type's number, as Cast has it in `to`."""
    return dtype_name(code)


@_word(2, structural=True)
def broadcasts(facts: Facts, operand: Any, tensor: Any) -> bool:
    """`operand` broadcasts into `tensor` without changing its shape, whatever its dynamic dimensions turn out to be."""
    small = facts.shape(_tensor(operand))
    if small is None:
        return False
    if not small:
        return True
    large = facts.shape(_tensor(tensor))
    if large is None or len(small) > len(large):
        return False
    return all(a == 1 or (a is not None and a == b) for a, b in zip(reversed(small), reversed(large), strict=False))


@_word(2, structural=True)
def same_shape(facts: Facts, a: Any, b: Any) -> bool:
    """Two tensors of equally many elements have equal shapes: all dimensions are equal, or all but one are equal positive numbers."""
    first, second = facts.shape(_tensor(a)), facts.shape(_tensor(b))
    if first is None or second is None or len(first) != len(second):
        return False
    open_ = [(x, y) for x, y in zip(first, second, strict=True) if x is None or x != y]
    if not open_:
        return True
    others = [x for x, y in zip(first, second, strict=True) if x is not None and x == y]
    numbers = [(x, y) for x, y in open_ if isinstance(x, int) and isinstance(y, int)]
    return len(open_) == 1 and not numbers and all(isinstance(x, int) and x > 0 for x in others)


@_word(3, structural=True)
def channelwise(facts: Facts, operand: Any, rank_: int, channels: int) -> bool:
    """`operand`, broadcast against a tensor of `rank_` axes with `channels` on axis 1, has one value per channel, or one for all."""
    found = facts.shape(_tensor(operand))
    if found is None or len(found) > rank_:
        return False
    full = (1,) * (rank_ - len(found)) + tuple(found)
    return all(d == 1 for axis, d in enumerate(full) if axis != 1) and full[1] in (1, channels)


@_word(2, structural=True)
def columnwise(facts: Facts, operand: Any, columns: int) -> bool:
    """`operand`, broadcast against a matrix of `columns` columns, has one value per column, or one for all; it does not raise the rank above 2."""
    found = facts.shape(_tensor(operand))
    return found is not None and len(found) <= 2 and all(d == 1 for d in found[:-1]) and (not found or found[-1] in (1, columns))


@_word(1, structural=True)
def perm(facts: Facts, tensor: Any) -> list[int]:
    """The permutation of a matched Transpose; without the attribute it turns the axes around."""
    node = _node(tensor)
    found = node.attrs.get("perm")
    if isinstance(found, list):
        return [int(i) for i in found]
    source = facts.input(node, 0)
    known = facts.shape(source) if source is not None else None
    if known is None:
        raise Undetermined("the rank of what is transposed is not known")
    return list(range(len(known)))[::-1]


@_word(1, structural=True)
def count(facts: Facts, length: int) -> list[int]:
    """[0, 1, ...] up to `length`."""
    return list(range(_short(length)))


@_word(1, structural=True)
def length(facts: Facts, values: list[Any]) -> int:
    """Number of entries of a list."""
    return len(values)


@_word(1, structural=True)
def zeros(facts: Facts, length: int) -> list[int]:
    """A list of zeros."""
    return [0] * _short(length)


@_word(2, structural=True)
def compose(facts: Facts, first: list[int], second: list[int]) -> list[int]:
    """The permutation of transposing by `first`, then by `second`."""
    return [first[i] for i in second]


@_word(2, structural=True)
def added(facts: Facts, a: list[int], b: list[int]) -> list[int]:
    """Two lists of one length, added entry by entry."""
    return [x + y for x, y in zip(a, b, strict=True)]


@_word(3, structural=True)
def cut(facts: Facts, values: list[Any], start: int, end: int) -> list[Any]:
    """Entries `start` to `end` of a list, the last one left out."""
    return values[start:end]


# --- values ---------------------------------------------------------------------------------------------------------------------


@_word(1, 2)
def pads(facts: Facts, tensor: Any, *rank_: int) -> list[int]:
    """What a matched Pad adds, begins before ends: as it is written, or with a rank for all axes. An attribute up to opset 10, then inputs."""
    node = _node(tensor)
    written = node.attrs.get("pads") if facts.opset < 11 else _ints(facts, node, 1)
    if not isinstance(written, list):
        raise Undetermined("there are no pads")
    axes_ = _ints(facts, node, 3) if facts.opset >= 18 else None
    if not rank_:
        return written
    if axes_ is None:
        axes_ = list(range(rank_[0]))
    if len(written) != 2 * len(axes_):
        raise Undetermined("the number of pads does not fit")
    full = [0] * (2 * _short(rank_[0]))
    for position, axis in enumerate(axes_):
        full[axis % rank_[0]] = written[position]
        full[axis % rank_[0] + rank_[0]] = written[len(axes_) + position]
    return full


@_word(1)
def pad_value(facts: Facts, tensor: Any) -> float:
    """What a matched Pad writes in constant mode."""
    node = _node(tensor)
    if facts.opset < 11:
        return float(node.attrs.get("value", 0.0))
    given = facts.input(node, 2)
    if given is None:
        return 0.0
    found = _constant(given).array
    if found.size != 1:
        raise Undetermined("the value of the Pad is not one number")
    return float(found.reshape(()))


@_word(2)
def axes(facts: Facts, tensor: Any, rank_: int) -> list[int]:
    """The axes of a matched Squeeze, Unsqueeze or reduction, in ascending order: an attribute, or the second input in later opsets. They must be given."""
    node = _node(tensor)
    given = node.attrs.get("axes", None)
    found = given if isinstance(given, list) else _ints(facts, node, 1)
    if not found:
        raise Undetermined("there are no axes")
    return sorted(int(a) % rank_ for a in found)


@_word(1, ANY)
def finite(facts: Facts, *values: Any) -> bool:
    """Every value, rounded to its element type, is finite and its largest magnitude not lost below the smallest normal number."""
    return all(not isinstance(v, Value) or safe(v) for v in map(_read, values))


@_word(1)
def every(facts: Facts, condition: Any) -> bool:
    """A condition holds for all elements."""
    return bool(np.all(lifted(_read(condition))))


@_word(1)
def plus_zero(facts: Facts, tensor: Any) -> bool:
    """Every element is +0, or the zero of an integer type."""
    array = lifted(_read(tensor))
    return bool(np.all(array == 0) and not np.any(np.signbit(array)))


@_word(1)
def minus_zero(facts: Facts, tensor: Any) -> bool:
    """Every element is -0, or the zero of an integer type: what can be added to anything without a trace."""
    found = _read(tensor)
    array = lifted(found)
    return bool(np.all(array == 0) and (not isinstance(found, Value) or not found.floating or np.all(np.signbit(array))))


@_word(1)
def sqrt(facts: Facts, value: Any) -> Any:
    """Square root; NaN below zero."""
    found = _read(value)
    return Value(np.sqrt(found.array), found.dtype) if isinstance(found, Value) else float(np.sqrt(found))


@_word(1)
def largest(facts: Facts, values: Any) -> Any:
    """The largest entry."""
    return max(_list(values))


@_word(1)
def smallest(facts: Facts, values: Any) -> Any:
    """The smallest entry."""
    return min(_list(values))


@_word(2, 3)
def per_channel(facts: Facts, value: Any, rank_: int, *axis: int) -> Any:
    """A vector laid along `axis` (default 0) of a tensor with `rank_` axes. A single number stays one."""
    found = _read(value)
    if not isinstance(found, Value) or found.array.size == 1:
        return found if not isinstance(found, Value) else Value(found.array.reshape(()), found.dtype)
    place = axis[0] if axis else 0
    form = [1] * _short(rank_)
    form[place] = found.array.size
    return Value(found.array.reshape(form), found.dtype)


@_word(2)
def vector(facts: Facts, value: Any, length: int) -> Any:
    """A channelwise or columnwise operand as a vector of `length`."""
    found = _read(value)
    if not isinstance(found, Value):
        return found
    return Value(np.broadcast_to(found.array.reshape(-1), (length,)), found.dtype)


@_word(3)
def per_output(facts: Facts, value: Any, rank_: int, groups: int) -> Any:
    """A function of the weights of a ConvTranspose: see `split_groups`; here a vector over output channels becomes [groups, 1, channels per group, 1 ...]."""
    found = _read(value)
    if not isinstance(found, Value):
        return found
    return Value(found.array.reshape((groups, 1, -1) + (1,) * (_short(rank_) - 2)), found.dtype)


@_word(2)
def split_groups(facts: Facts, value: Any, groups: int) -> Any:
    """Weights [C, ...] as [groups, C / groups, ...]."""
    found = _value(value)
    return Value(found.array.reshape(groups, found.array.shape[0] // groups, *found.array.shape[1:]), found.dtype)


@_word(2)
def reshaped(facts: Facts, value: Any, dims: list[int]) -> Any:
    """A tensor in another shape."""
    found = _value(value)
    return Value(found.array.reshape([int(d) for d in dims]), found.dtype)


# --- inside ---------------------------------------------------------------------------------------------------------------------


def _ref(argument: Any) -> Ref:
    if not isinstance(argument, Ref):
        raise Undetermined("a name of `before` is expected")
    return argument


def _tensor(argument: Any) -> Tensor:
    tensor = _ref(argument).tensor
    if tensor is None:
        raise Undetermined(f"{argument.name} is absent")
    return tensor


def _node(argument: Any) -> Node:
    node = _ref(argument).node
    if node is None:
        raise Undetermined(f"{argument.name} is not made by a matched node")
    return node


def _read(argument: Any) -> Any:
    return argument.value() if isinstance(argument, Ref) else argument


def _value(argument: Any) -> Value:
    found = _read(argument)
    if not isinstance(found, Value):
        raise Undetermined("a tensor is expected")
    return found


def _list(argument: Any) -> Sequence[Any]:
    found = _read(argument)
    return found.array.ravel().tolist() if isinstance(found, Value) else found


def _short(length: int) -> int:
    if not 0 <= length <= 64:
        raise Undetermined("no rank is that large")
    return length


def _constant(tensor: Tensor) -> Value:
    data = constant_data(tensor)
    if data is None:
        raise Undetermined(f"{tensor.name} is no constant")
    array = constant_value(tensor)
    assert array is not None
    return from_array(array, array_dtype_name(array))


def _ints(facts: Facts, node: Node, index: int) -> list[int] | None:
    """A constant input of integers; None where it is absent."""
    tensor = facts.input(node, index)
    if tensor is None:
        return None
    found = _constant(tensor)
    if found.floating:
        raise Undetermined("integers are expected")
    return [int(v) for v in found.array.ravel()]
