"""Structural functions of the rule language: they look at shapes, types, uses and attributes, never at the values of constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphcompress.engine.values import SMALLEST_NORMAL, Undetermined, Value
from graphcompress.engine.words import ANY, Facts, Function, entry, node_of, ref_of, short, tensor_of
from graphcompress.ir import constant_data
from graphcompress.ir.model.element_types import dtype_name

WORDS: dict[str, Function] = {}
word = entry(WORDS)


@word(1, ANY, structural=True)
def constant(facts: Facts, *tensors: Any) -> bool:
    """Every tensor is an initializer or made by a Constant node; absent ones count."""
    return all(t.tensor is None or constant_data(t.tensor) is not None for t in map(ref_of, tensors))


@word(1, structural=True)
def has(facts: Facts, tensor: Any) -> bool:
    """An optional input is there."""
    return ref_of(tensor).tensor is not None


@word(1, structural=True)
def uses(facts: Facts, tensor: Any) -> int:
    """How often a tensor is read, in subgraphs too; being an output of a graph is a use."""
    return facts.uses(tensor_of(tensor))


@word(1, structural=True)
def outputs(facts: Facts, tensor: Any) -> int:
    """How many outputs the matched node that makes `tensor` has by name."""
    return sum(1 for t in node_of(tensor).outputs if t.name)


@word(2, structural=True)
def same(facts: Facts, a: Any, b: Any) -> bool:
    """Two names are bound to one tensor."""
    return tensor_of(a) is tensor_of(b)


@word(2, 3, structural=True)
def attr(facts: Facts, tensor: Any, name: str, *default: Any) -> Any:
    """An attribute of the matched node that makes `tensor`. Without a default it must be there."""
    found = node_of(tensor).attrs.get(name)
    if found is None:
        if not default:
            raise Undetermined(f"there is no attribute {name}")
        # A default is what the operator's definition says, and definitions hold single precision.
        return float(np.float32(default[0])) if isinstance(default[0], float) else default[0]
    if not isinstance(found, int | float | str | list):
        raise Undetermined(f"the attribute {name} is no number, text or list")
    return list(found) if isinstance(found, list) else found


@word(0, structural=True)
def opset(facts: Facts) -> int:
    """Version of ai.onnx."""
    return facts.opset


@word(1, structural=True)
def shape(facts: Facts, tensor: Any) -> list[Any]:
    """The dimensions: numbers, symbols of the signature, None."""
    if isinstance(tensor, Value):
        return list(tensor.array.shape)
    found = facts.shape(tensor_of(tensor))
    if found is None:
        raise Undetermined(f"the rank of {ref_of(tensor).name} is not known")
    return list(found)


@word(1, structural=True)
def rank(facts: Facts, tensor: Any) -> int:
    """Number of axes."""
    return len(shape(facts, tensor))


@word(2, structural=True)
def dim(facts: Facts, tensor: Any, axis: int) -> int:
    """One dimension; it must be a number."""
    found = shape(facts, tensor)[axis]
    if not isinstance(found, int):
        raise Undetermined(f"axis {axis} of {ref_of(tensor).name} is dynamic")
    return found


@word(1, structural=True)
def dtype(facts: Facts, tensor: Any) -> str:
    """Element type by ONNX's name."""
    found = facts.dtype(tensor_of(tensor))
    if found is None:
        raise Undetermined(f"the element type of {ref_of(tensor).name} is not known")
    return found


@word(1, structural=True)
def floating(facts: Facts, tensor: Any) -> bool:
    """The elements are float, double, float16 or bfloat16."""
    return dtype(facts, tensor) in SMALLEST_NORMAL


@word(1, structural=True)
def type_name(facts: Facts, code: int) -> str:
    """Name of an element type's number, as Cast has it in `to`."""
    return dtype_name(code)


@word(2, structural=True)
def broadcasts(facts: Facts, operand: Any, tensor: Any) -> bool:
    """`operand` broadcasts into `tensor` without changing its shape, whatever its dynamic dimensions turn out to be."""
    small = facts.shape(tensor_of(operand))
    if small is None:
        return False
    if not small:
        return True
    large = facts.shape(tensor_of(tensor))
    if large is None or len(small) > len(large):
        return False
    return all(a == 1 or (a is not None and a == b) for a, b in zip(reversed(small), reversed(large), strict=False))


@word(2, structural=True)
def same_shape(facts: Facts, a: Any, b: Any) -> bool:
    """Two tensors of equally many elements have equal shapes: all dimensions are equal, or all but one are equal positive numbers."""
    first, second = facts.shape(tensor_of(a)), facts.shape(tensor_of(b))
    if first is None or second is None or len(first) != len(second):
        return False
    open_ = [(x, y) for x, y in zip(first, second, strict=True) if x is None or x != y]
    if not open_:
        return True
    others = [x for x, y in zip(first, second, strict=True) if x is not None and x == y]
    numbers = [(x, y) for x, y in open_ if isinstance(x, int) and isinstance(y, int)]
    return len(open_) == 1 and not numbers and all(isinstance(x, int) and x > 0 for x in others)


@word(3, structural=True)
def channelwise(facts: Facts, operand: Any, rank_: int, channels: int) -> bool:
    """`operand`, broadcast against a tensor of `rank_` axes with `channels` on axis 1, has one value per channel, or one for all."""
    found = facts.shape(tensor_of(operand))
    if found is None or len(found) > rank_:
        return False
    full = (1,) * (rank_ - len(found)) + tuple(found)
    return all(d == 1 for axis, d in enumerate(full) if axis != 1) and full[1] in (1, channels)


@word(2, structural=True)
def columnwise(facts: Facts, operand: Any, columns: int) -> bool:
    """`operand`, broadcast against a matrix of `columns` columns, has one value per column, or one for all; it does not raise the rank above 2."""
    found = facts.shape(tensor_of(operand))
    return found is not None and len(found) <= 2 and all(d == 1 for d in found[:-1]) and (not found or found[-1] in (1, columns))


@word(1, structural=True)
def perm(facts: Facts, tensor: Any) -> list[int]:
    """The permutation of a matched Transpose; without the attribute it turns the axes around."""
    node = node_of(tensor)
    found = node.attrs.get("perm")
    if isinstance(found, list):
        return [int(i) for i in found]
    source = facts.input(node, 0)
    known = facts.shape(source) if source is not None else None
    if known is None:
        raise Undetermined("the rank of what is transposed is not known")
    return list(range(len(known)))[::-1]


@word(1, structural=True)
def count(facts: Facts, length: int) -> list[int]:
    """[0, 1, ...] up to `length`."""
    return list(range(short(length)))


@word(1, structural=True)
def length(facts: Facts, values: list[Any]) -> int:
    """Number of entries of a list."""
    return len(values)


@word(1, structural=True)
def zeros(facts: Facts, length: int) -> list[int]:
    """A list of zeros."""
    return [0] * short(length)


@word(2, structural=True)
def compose(facts: Facts, first: list[int], second: list[int]) -> list[int]:
    """The permutation of transposing by `first`, then by `second`."""
    return [first[i] for i in second]


@word(2, structural=True)
def added(facts: Facts, a: list[int], b: list[int]) -> list[int]:
    """Two lists of one length, added entry by entry."""
    return [x + y for x, y in zip(a, b, strict=True)]


@word(3, structural=True)
def cut(facts: Facts, values: list[Any], start: int, end: int) -> list[Any]:
    """Entries `start` to `end` of a list, the last one left out."""
    return values[start:end]
