"""Structural functions of the rule language: they look at shapes, types, uses and attributes, never at the values of constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.engine.functions import ANY, Function, GraphQueries, binding_of, node_of, registry, short, tensor_of
from graphcompress.engine.values import SMALLEST_NORMAL, Undetermined, Value
from graphcompress.ir import constant_data
from graphcompress.ir.model.element_types import dtype_code, dtype_name

FUNCTIONS: dict[str, Function] = {}
function = registry(FUNCTIONS, structural=True)


@function(1, ANY)
def constant(graph: GraphQueries, *tensors: Any) -> bool:
    """Every tensor is an initializer or made by a Constant node; absent ones count."""
    return all(t.tensor is None or constant_data(t.tensor) is not None for t in map(binding_of, tensors))


@function(1)
def has(graph: GraphQueries, tensor: Any) -> bool:
    """An optional input is there."""
    return binding_of(tensor).tensor is not None


@function(1)
def uses(graph: GraphQueries, tensor: Any) -> int:
    """How often a tensor is read, in subgraphs too; being an output of a graph is a use."""
    return graph.uses(tensor_of(tensor))


@function(2, ANY)
def read_by(graph: GraphQueries, tensor: Any, *ops: str) -> bool:
    """One of the operators reads a tensor."""
    return any(n.is_op(*ops) for n in graph.readers(tensor_of(tensor)))


@function(3, ANY)
def made_behind(graph: GraphQueries, tensor: Any, steps: int, *ops: str) -> bool:
    """One of the operators stands at most `steps` nodes above a tensor."""
    tensors = [tensor_of(tensor)]
    for _ in range(short(steps)):
        makers = {id(n): n for n in map(graph.maker, tensors) if n is not None}.values()
        if any(n.is_op(*ops) for n in makers):
            return True
        tensors = [t for n in makers for i in range(len(n.inputs)) if (t := graph.input(n, i)) is not None]
    return False


@function(1)
def outputs(graph: GraphQueries, tensor: Any) -> int:
    """How many outputs the matched node that makes `tensor` has by name."""
    return sum(1 for t in node_of(tensor).outputs if t.name)


@function(2)
def same(graph: GraphQueries, a: Any, b: Any) -> bool:
    """Two names are bound to one tensor."""
    return tensor_of(a) is tensor_of(b)


@function(2, 3)
def attr(graph: GraphQueries, tensor: Any, name: str, *default: Any) -> Any:
    """An attribute of the matched node that makes `tensor`. Without a default it must be there."""
    value = node_of(tensor).attrs.get(name)
    if value is None:
        if not default:
            raise Undetermined(f"there is no attribute {name}")
        # A default is what the operator's definition says, and definitions hold single precision.
        return float(np.float32(default[0])) if isinstance(default[0], float) else default[0]
    if not isinstance(value, int | float | str | list):
        raise Undetermined(f"the attribute {name} is no number, text or list")
    return list(value) if isinstance(value, list) else value


@function(0)
def opset(graph: GraphQueries) -> int:
    """Version of ai.onnx."""
    return graph.opset


@function(1)
def shape(graph: GraphQueries, tensor: Any) -> list[Any]:
    """The dimensions: numbers, symbols of the signature, None."""
    if isinstance(tensor, Value):
        return list(tensor.array.shape)
    dims = graph.shape(tensor_of(tensor))
    if dims is None:
        raise Undetermined(f"the rank of {binding_of(tensor).name} is not known")
    return list(dims)


@function(1)
def rank(graph: GraphQueries, tensor: Any) -> int:
    """Number of axes."""
    return len(shape(graph, tensor))


@function(2)
def dim(graph: GraphQueries, tensor: Any, axis: int) -> int:
    """One dimension; it must be a number."""
    size = shape(graph, tensor)[axis]
    if not isinstance(size, int):
        raise Undetermined(f"axis {axis} of {binding_of(tensor).name} is dynamic")
    return size


@function(2)
def sizes(graph: GraphQueries, tensor: Any, axes: list[int]) -> list[Any]:
    """The dimensions on some axes."""
    dims = shape(graph, tensor)
    return [dims[axis] for axis in axes]


@function(1)
def dtype(graph: GraphQueries, tensor: Any) -> str:
    """Element type by ONNX's name."""
    name = graph.dtype(tensor_of(tensor))
    if name is None:
        raise Undetermined(f"the element type of {binding_of(tensor).name} is not known")
    return name


@function(1)
def floating(graph: GraphQueries, tensor: Any) -> bool:
    """The elements are float, double, float16 or bfloat16."""
    return dtype(graph, tensor) in SMALLEST_NORMAL


@function(1)
def type_name(graph: GraphQueries, code: int) -> str:
    """Name of an element type's number, as Cast has it in `to`."""
    return dtype_name(code)


@function(1)
def type_code(graph: GraphQueries, name: str) -> int:
    """Number of an element type, as Cast has it in `to`."""
    return dtype_code(name)


@function(2)
def broadcasts(graph: GraphQueries, operand: Any, tensor: Any) -> bool:
    """`operand` broadcasts into `tensor` without changing its shape, whatever its dynamic dimensions turn out to be."""
    small = graph.shape(tensor_of(operand))
    if small is None:
        return False
    if not small:
        return True
    large = graph.shape(tensor_of(tensor))
    if large is None or len(small) > len(large):
        return False
    return all(a == 1 or (a is not None and a == b) for a, b in zip(reversed(small), reversed(large), strict=False))


@function(2)
def same_shape(graph: GraphQueries, a: Any, b: Any) -> bool:
    """Two tensors of equally many elements have equal shapes: all dimensions are equal, or all but one are equal positive numbers."""
    first, second = graph.shape(tensor_of(a)), graph.shape(tensor_of(b))
    if first is None or second is None or len(first) != len(second):
        return False
    open_ = [(x, y) for x, y in zip(first, second, strict=True) if x is None or x != y]
    if not open_:
        return True
    others = [x for x, y in zip(first, second, strict=True) if x is not None and x == y]
    numbers = [(x, y) for x, y in open_ if isinstance(x, int) and isinstance(y, int)]
    return len(open_) == 1 and not numbers and all(isinstance(x, int) and x > 0 for x in others)


@function(3)
def channelwise(graph: GraphQueries, operand: Any, rank_: int, channels: int) -> bool:
    """`operand`, broadcast against a tensor of `rank_` axes with `channels` on axis 1, has one value per channel, or one for all."""
    dims = graph.shape(tensor_of(operand))
    if dims is None or len(dims) > rank_:
        return False
    full = (1,) * (rank_ - len(dims)) + tuple(dims)
    return all(d == 1 for axis, d in enumerate(full) if axis != 1) and full[1] in (1, channels)


@function(2)
def columnwise(graph: GraphQueries, operand: Any, columns: int) -> bool:
    """`operand`, broadcast against a matrix of `columns` columns, has one value per column, or one for all; it does not raise the rank above 2."""
    dims = graph.shape(tensor_of(operand))
    return dims is not None and len(dims) <= 2 and all(d == 1 for d in dims[:-1]) and (not dims or dims[-1] in (1, columns))


@function(1)
def perm(graph: GraphQueries, tensor: Any) -> list[int]:
    """The permutation of a matched Transpose; without the attribute it turns the axes around."""
    node = node_of(tensor)
    axes = node.attrs.get("perm")
    if isinstance(axes, list):
        return [int(i) for i in axes]
    source = graph.input(node, 0)
    known = graph.shape(source) if source is not None else None
    if known is None:
        raise Undetermined("the rank of what is transposed is not known")
    return list(range(len(known)))[::-1]


@function(1)
def count(graph: GraphQueries, length: int) -> list[int]:
    """[0, 1, ...] up to `length`."""
    return list(range(short(length)))


@function(1)
def length(graph: GraphQueries, values: list[Any]) -> int:
    """Number of entries of a list."""
    return len(values)


@function(1)
def zeros(graph: GraphQueries, length: int) -> list[int]:
    """A list of zeros."""
    return [0] * short(length)


@function(2)
def compose(graph: GraphQueries, first: list[int], second: list[int]) -> list[int]:
    """The permutation of transposing by `first`, then by `second`."""
    return [first[i] for i in second]


@function(2)
def added(graph: GraphQueries, a: list[int], b: list[int]) -> list[int]:
    """Two lists of one length, added one by one."""
    return [x + y for x, y in zip(a, b, strict=True)]


@function(3)
def cut(graph: GraphQueries, values: list[Any], start: int, end: int) -> list[Any]:
    """Entries `start` to `end` of a list, the last one left out."""
    return values[start:end]


@function(3)
def live_taps(graph: GraphQueries, conv: Any, x: Any, w: Any) -> list[int]:
    """Begins, then ends, per spatial axis of the taps of a matched Conv that meet an element of `x` somewhere. The others, at the borders of the kernel, see
    nothing but padding; no more of them are left out than there is padding to leave out with them. Sizes must be numbers."""
    axes = _spans(graph, conv, x, w)
    return [a.begin for a in axes] + [a.end for a in axes]


@function(3)
def live_pads(graph: GraphQueries, conv: Any, x: Any, w: Any) -> list[int]:
    """The pads, begins before ends, that a matched Conv has with its `live_taps` alone."""
    axes = _spans(graph, conv, x, w)
    return [a.pads[0] - a.begin * a.dilation for a in axes] + [a.pads[1] - (a.taps - a.end) * a.dilation for a in axes]


@dataclass(frozen=True, slots=True)
class _Span:
    """Taps `begin` to `end` (the last one left out) of a kernel along one spatial axis."""

    taps: int
    dilation: int
    pads: tuple[int, int]
    begin: int
    end: int


def _spans(graph: GraphQueries, conv: Any, x: Any, w: Any) -> list[_Span]:
    axes = range(rank(graph, w) - 2)
    strides, dilations = (attr(graph, conv, name, [1] * len(axes)) for name in ("strides", "dilations"))
    auto = attr(graph, conv, "auto_pad", "NOTSET")
    stated = attr(graph, conv, "pads", [0] * (2 * len(axes))) if auto == "NOTSET" else [0] * (2 * len(axes))
    spans = []
    for i, stride, dilation in zip(axes, strides, dilations, strict=True):
        size, taps = dim(graph, x, i + 2), dim(graph, w, i + 2)
        pads = (stated[i], stated[i + len(axes)])
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max(0, (-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size)
            pads = (total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2)
        last = (size + sum(pads) - (taps - 1) * dilation - 1) // stride
        live = [t for t in range(taps) if _meets(t * dilation - pads[0], stride, last, size)] or [0, taps - 1]
        begin, end = min(live[0], pads[0] // dilation), max(live[-1] + 1, taps - pads[1] // dilation)
        spans.append(_Span(taps, dilation, pads, begin, end))
    return spans


def _meets(start: int, stride: int, last: int, size: int) -> bool:
    """Whether one of `start`, `start + stride` ... up to the place `last` lies in 0 to `size`."""
    place = max(0, -(start // stride))
    return place <= last and start + place * stride < size
