"""Shapes computed in the graph, as exporters write them: Shape, pieces of it, arithmetic, and operators whose sizes hang on the result."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from differential.builder import Builder, Shape, Unsuitable, Value, both, broadcast
from differential.elementwise import nothing
from differential.movement import MOVED, ints, unsqueeze
from differential.registry import emitter


def shape_of(b: Builder, x: Value) -> Value:
    """Shape, with start and end from opset 15 on."""
    start, end = 0, x.rank
    attributes: dict[str, int] = {}
    if b.opset >= 15 and b.chance(0.2):
        start, end = b.integer(-x.rank, x.rank), b.integer(-x.rank - 1, x.rank + 1)
        attributes = {"start": start, "end": end}
    pieces = [s[start:end] for s in x.shapes]
    result = b.emit("Shape", [x], ((len(pieces[0]),), (len(pieces[1]),)), "int64", reach=4096.0, rough=False, **attributes)
    return _known(b, result, (np.array(pieces[0], np.int64), np.array(pieces[1], np.int64)))


def _known(b: Builder, value: Value, values: tuple[np.ndarray, np.ndarray]) -> Value:  # type: ignore[type-arg]
    """`value` with the numbers that the shapes give it."""
    known = Value(value.name, value.dtype, (values[0].shape, values[1].shape), values, reach=float(max(np.abs(v).max(initial=0) for v in values)))
    for frame in (b.frame.values, b.frame.own):
        frame[-1] = known
    return known


@emitter(1)
def shape(b: Builder) -> None:
    shape_of(b, b.pick(where=lambda v: v.rank > 0))


@emitter(0.5)
def size(b: Builder) -> None:
    x = b.pick()
    result = b.emit("Size", [x], ((), ()), "int64", rough=False)
    _known(b, result, (np.array(math.prod(x.shapes[0]), np.int64), np.array(math.prod(x.shapes[1]), np.int64)))


def piece(b: Builder, source: Value, axis: int) -> Value:
    """Entry `axis` of a shape as a 1-D tensor of one: gathered (by a list, or by a number and unsqueezed) or sliced."""
    form = b.integer(0, 2)
    if form == 0:
        return b.emit("Gather", [source, ints(b, [axis])], ((1,), (1,)), reach=source.reach, known=lambda v, i: np.take(v, i, 0), axis=0)
    if form == 1:
        one = b.emit("Gather", [source, ints(b, axis)], ((), ()), reach=source.reach, known=lambda v, i: np.take(v, i, 0), axis=0)
        if b.chance(0.4):
            one = arithmetic(b, one)
        return unsqueeze(b, one, [0])
    if b.opset < 10:
        return b.emit("Slice", [source], ((1,), (1,)), reach=source.reach, known=lambda v: v[axis : axis + 1], starts=[axis], ends=[axis + 1], axes=[0])
    bounds = [ints(b, [axis]), ints(b, [axis + 1]), *([ints(b, [0])] if b.chance(0.6) else [])]
    return b.emit("Slice", [source, *bounds], ((1,), (1,)), reach=source.reach, known=lambda v, *_: v[axis : axis + 1])


def arithmetic(b: Builder, x: Value) -> Value:
    """A size put through arithmetic that leaves it as it is: exporters do this with factors, casts and divisions."""
    form = b.integer(0, 4)
    if form == 0:
        twice = b.emit("Mul", [x, ints(b, 2)], x.shapes, reach=x.reach * 2, known=lambda v, k: v * k)
        return b.emit("Div", [twice, ints(b, 2)], x.shapes, reach=x.reach, known=lambda v, k: v // k)
    if form == 1:
        more = b.emit("Add", [x, ints(b, 3)], x.shapes, reach=x.reach + 3, known=np.add)
        return b.emit("Sub", [more, ints(b, 3)], x.shapes, reach=x.reach, known=np.subtract)
    if form == 2:
        as_float = b.emit("Cast", [x], x.shapes, "float32", reach=x.reach, known=lambda v: v, to=1)
        return b.emit("Cast", [as_float], x.shapes, "int64", reach=x.reach, known=lambda v: v, to=7)
    if form == 3 and b.opset >= 12:
        return b.emit(b.among(("Max", "Min")), [x, x], x.shapes, reach=x.reach, known=lambda v, w: v)
    return nothing(b, x)


def computed(b: Builder, x: Value, order: list[int], changed: Callable[[Value, int], Value] | None = None) -> Value:
    """The dimensions `order` of `x` as a 1-D tensor, from Shape nodes and constants."""
    source = shape_of(b, x) if b.chance(0.5) else None
    parts: list[Value] = []
    for axis in order:
        fixed = x.shapes[0][axis] == x.shapes[1][axis]
        if fixed and b.chance(0.4):
            parts.append(ints(b, [x.shapes[0][axis]]))
            continue
        if source is None or source.shapes != ((x.rank,), (x.rank,)):
            source = b.emit("Shape", [x], ((x.rank,), (x.rank,)), "int64", reach=4096.0, rough=False)
            source = _known(b, source, (np.array(x.shapes[0], np.int64), np.array(x.shapes[1], np.int64)))
        part = piece(b, source, axis)
        parts.append(changed(part, axis) if changed is not None else part)
    if len(parts) == 1 and b.chance(0.5):
        return parts[0]
    n = len(parts)
    return b.emit("Concat", parts, ((n,), (n,)), reach=4096.0, known=lambda *v: np.concatenate(v), axis=0)


def known_shapes(value: Value) -> tuple[Shape, Shape]:
    if value.known is None:
        raise Unsuitable
    first, second = (tuple(int(d) for d in v) for v in value.known)
    return first, second


@emitter(2)
def reshape_computed(b: Builder) -> None:
    """To a permutation of its dimensions, to its own shape, or with two of them merged."""
    x = b.pick(MOVED, where=lambda v: 0 < v.rank < 5 and 0 not in v.shapes[0] + v.shapes[1])
    order = [int(i) for i in b.rng.permutation(x.rank)] if b.chance(0.5) else list(range(x.rank))
    target = computed(b, x, order)
    if x.rank > 1 and b.chance(0.3):
        rest = b.emit("Concat", [computed(b, x, order[:1]), ints(b, [-1])], ((2,), (2,)), known=lambda *v: np.concatenate(v), reach=4096.0, axis=0)
        sizes = known_shapes(rest)
        shapes = ((sizes[0][0], math.prod(x.shapes[0]) // sizes[0][0]), (sizes[1][0], math.prod(x.shapes[1]) // sizes[1][0]))
        b.emit("Reshape", [x, rest], shapes, reach=x.reach)
        return
    b.emit("Reshape", [x, target], known_shapes(target), reach=x.reach)


@emitter(1.5, since=8)
def expand_computed(b: Builder) -> None:
    """To the shape of another tensor (or its own), sometimes through Where(Equal(...)) as torch writes it."""
    x = b.pick(MOVED)
    y = b.pick(where=lambda v: v.rank >= x.rank > 0 and all(broadcast(p, q) == q for p, q in zip(x.shapes, v.shapes, strict=True)), fresh=0)
    target = computed(b, y, list(range(y.rank)))
    if b.chance(0.3) and b.opset >= 9:
        n = y.rank
        minus = b.emit("Equal", [target, ints(b, [-1] * n)], target.shapes, "bool", rough=False, known=np.equal)
        target = b.emit("Where", [minus, ints(b, [1] * n), target], target.shapes, "int64", reach=4096.0, known=np.where)
    b.emit("Expand", [x, target], both(broadcast, x.shapes, known_shapes(target)), reach=x.reach)


@emitter(1, since=9)
def constant_of_shape(b: Builder) -> None:
    x = b.pick(where=lambda v: v.rank > 0)
    target = computed(b, x, list(range(x.rank)))
    if b.chance(0.4):
        b.emit("ConstantOfShape", [target], known_shapes(target), "float32", reach=0.0)
        return
    dtype = str(b.among(("float32", "int64", "bool", "float16")))
    fill = np.array([b.among((0, 1))], dtype)
    b.emit("ConstantOfShape", [target], known_shapes(target), dtype, reach=1.0, value=onnx.numpy_helper.from_array(fill, ""))


@emitter(0.8, since=11)
def ranges(b: Builder) -> None:
    """0, 1, ... up to a size."""
    x = b.pick(where=lambda v: v.rank > 0)
    axis = b.integer(0, x.rank - 1)
    limit = b.emit("Gather", [computed(b, x, [axis]), ints(b, 0)], ((), ()), reach=4096.0, known=lambda v, i: np.take(v, i, 0), axis=0)
    result = b.emit("Range", [ints(b, 0), limit, ints(b, 1)], ((x.shapes[0][axis],), (x.shapes[1][axis],)), "int64", reach=4096.0)
    _known(b, result, (np.arange(x.shapes[0][axis]), np.arange(x.shapes[1][axis])))


@emitter(1, since=10)
def slice_computed(b: Builder) -> None:
    """Up to the size of another tensor's axis."""
    x = b.pick(MOVED, where=lambda v: v.rank > 0)
    y = b.pick(where=lambda v: v.rank > 0)
    axis, other = b.integer(0, x.rank - 1), b.integer(0, y.rank - 1)
    end = computed(b, y, [other])
    shapes = both(lambda s, t: (*s[:axis], min(s[axis], t[other]), *s[axis + 1 :]), x.shapes, y.shapes)
    b.emit("Slice", [x, ints(b, [0]), end, ints(b, [axis])], shapes, reach=x.reach)


@emitter(0.6)
def tile_computed(b: Builder) -> None:
    x = b.pick(MOVED, where=lambda v: v.rank > 0)
    y = b.pick(where=lambda v: v.rank == x.rank, fresh=0)
    repeats = computed(b, y, list(range(y.rank)))
    b.emit("Tile", [x, repeats], both(lambda s, r: tuple(d * n for d, n in zip(s, r, strict=True)), x.shapes, known_shapes(repeats)), reach=x.reach)


@emitter(0.6)
def sizes_as_data(b: Builder) -> None:
    """A shape cast to float and used in arithmetic."""
    x = b.pick(where=lambda v: v.rank > 0)
    axis = b.integer(0, x.rank - 1)
    size = computed(b, x, [axis])
    as_float = b.emit("Cast", [size], ((1,), (1,)), "float32", reach=4096.0, to=1)
    y = b.pick(("float32",))
    b.emit(b.among(("Mul", "Add", "Sub")), [y, as_float], both(broadcast, y.shapes, as_float.shapes), reach=y.reach * 4096)
