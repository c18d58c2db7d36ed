"""Operators that move, repeat or choose elements, and those that compute with shapes."""

from __future__ import annotations

import math

import numpy as np

from differential import arrays
from differential.builder import FLOATS, Array, Builder, Pair, Shape, Unsuitable, Value, both, broadcast
from differential.elementwise import nothing, read
from differential.registry import emitter

MOVED = ("float32", "float64", "float16", "int32", "int64", "uint8", "bool")


def movable(b: Builder, rank: int | None = None, least: int = 0) -> Value:
    return b.pick(("float32",) if b.policy.int8 else MOVED, rank, where=lambda v: v.rank >= least)


def ints(b: Builder, values: object) -> Value:
    """A constant list of int64 that nobody may override."""
    return b.constant(np.asarray(values, np.int64), plain=True)


def reshaped(shape: Shape, target: Shape, allowzero: bool = False) -> Shape | None:
    """What Reshape gives for `target`, None where it does not fit."""
    size = math.prod(shape)
    out = [shape[i] if d == 0 and not allowzero and i < len(shape) else d for i, d in enumerate(target)]
    if any(d == 0 and not allowzero and i >= len(shape) for i, d in enumerate(target)):
        return None
    if -1 in out:
        rest = math.prod(d for d in out if d != -1)
        if rest == 0 or size % rest:
            return None
        out[out.index(-1)] = size // rest
    return tuple(out) if math.prod(out) == size else None


# --- shapes that constants decide ---------------------------------------------------------------------------------------------------


@emitter(3, int8=1.5)
def reshape(b: Builder) -> None:
    """With a constant target: numbers, 0 (copy), -1 (the rest), and what is empty."""
    x = movable(b)
    target = _target(b, x)
    allowzero = b.opset >= 14 and 0 in target and b.chance(0.5)
    shapes = both(lambda s: reshaped(s, target, allowzero), x.shapes)
    known = (lambda v, t: v.reshape(reshaped(v.shape, target, allowzero))) if x.known is not None else None
    y = b.emit("Reshape", [x, ints(b, target)], shapes, reach=x.reach, known=known, **({"allowzero": 1} if allowzero else {}))
    if b.chance(0.3):
        read(b, y)


def _target(b: Builder, x: Value) -> Shape:
    first, second = x.shapes
    if 0 in first and 0 in second and b.chance(0.7):  # what is empty fits every empty shape
        size = x.rank if b.chance(0.6) else b.integer(1, 3)
        dims = [b.among((0, 0, 2, 3, *first[:1])) for _ in range(size)]
        return tuple(dims) if 0 in dims else (*dims[:-1], 0)
    dims = [d if d == e else None for d, e in zip(first, second, strict=True)]
    choice = b.integer(0, 4)
    if choice == 0:
        return (-1,)
    if choice == 1 and x.rank:
        return (0,) * b.integer(0, x.rank - 1) + (-1,)
    if choice == 2:  # the same shape, said with at most one -1
        return tuple(-1 if d is None else d for d in dims) if dims.count(None) <= 1 else tuple(0 if d is None else d for d in dims)
    if choice == 3:
        free = [i for i in range(x.rank) if dims[i] != 1]
        return (*(dims[i] or 0 for i in range(x.rank)), 1) if not free or b.chance(0.5) else (*((0,) * free[0]), -1)
    if dims.count(None) > 1:
        raise Unsuitable
    order = [int(i) for i in b.rng.permutation(x.rank)]
    return tuple(-1 if (d := dims[i]) is None else d for i in order)


@emitter(1.2)
def reshape_empty(b: Builder) -> None:
    """A tensor without elements fits every shape that has a 0."""
    empties = [v for v in b.frame.values if v.rank > 1 and all(0 in s for s in v.shapes)]
    if empties and b.chance(0.5):
        x = b.among(empties)
    elif len(b.inputs) > 5 or any(f.isolated for f in b.frames):
        raise Unsuitable
    else:
        dims = [b.dimension() for _ in range(b.integer(1, 2))]
        dims.insert(b.integer(0, len(dims)), 0)
        x = b.input(b.among(("float32", "int64")), dims)
    target = tuple(0 if 0 in {s[i] for s in x.shapes} else b.among((1, 2, 3, x.shapes[0][i])) for i in range(x.rank))
    read(b, b.emit("Reshape", [x, ints(b, target)], both(lambda s: reshaped(s, target), x.shapes), reach=x.reach))


@emitter(1, int8=0.7)
def flatten(b: Builder) -> None:
    x = movable(b) if b.opset >= 9 else b.pick(("float32",))
    axis = b.integer(0, x.rank) if b.opset < 11 or b.chance(0.7) else -b.integer(0, x.rank)
    at = axis + x.rank if axis < 0 else axis
    b.emit("Flatten", [x], both(lambda s: (math.prod(s[:at]), math.prod(s[at:])), x.shapes), reach=x.reach, axis=axis)


def with_axes(b: Builder, op: str, x: Value, axes: list[int], shapes: Pair, **more: object) -> Value:
    """Squeeze and Unsqueeze: `axes` is an attribute up to opset 12, an input afterwards."""
    known = None
    if x.known is not None:
        known = (lambda v, *_: np.squeeze(v, tuple(axes))) if op == "Squeeze" else (lambda v, *_: np.expand_dims(v, tuple(axes)))
    if b.opset < 13:
        return b.emit(op, [x], shapes, reach=x.reach, known=known, axes=axes)
    return b.emit(op, [x, ints(b, axes)], shapes, reach=x.reach, known=known)


def signed(b: Builder, axes: list[int], rank: int) -> list[int]:
    """Some axes counted from the back, where the opset allows it."""
    return [a - rank if b.opset >= 11 and b.chance(0.3) else a for a in axes]


def unsqueeze(b: Builder, x: Value, axes: list[int] | None = None) -> Value:
    if axes is None:
        count = b.integer(1, 2) if x.rank < 4 else 1
        axes = sorted(int(a) for a in b.rng.choice(x.rank + count, count, replace=False))
    rank = x.rank + len(axes)

    def grown(shape: Shape) -> Shape:
        dims = list(shape)
        for a in axes:
            dims.insert(a, 1)
        return tuple(dims)

    return with_axes(b, "Unsqueeze", x, signed(b, axes, rank), both(grown, x.shapes))


def squeeze(b: Builder, x: Value, axes: list[int] | None = None) -> Value:
    ones = [i for i in range(x.rank) if x.shapes[0][i] == x.shapes[1][i] == 1]
    if axes is None:
        if not ones:
            raise Unsuitable
        axes = ones if b.chance(0.4) else sorted(int(a) for a in b.rng.choice(ones, b.integer(1, len(ones)), replace=False))
    shapes = both(lambda s: tuple(d for i, d in enumerate(s) if i not in axes), x.shapes)
    if axes == ones and all(s.count(1) == len(ones) for s in x.shapes) and b.chance(0.4):
        return b.emit("Squeeze", [x], shapes, reach=x.reach)
    return with_axes(b, "Squeeze", x, signed(b, axes, x.rank), shapes)


@emitter(2, int8=0.5)
def squeezes(b: Builder) -> None:
    """Alone, or one that takes back what the other did (or another axis)."""
    x = movable(b)
    if x.rank >= 5:
        raise Unsuitable
    if b.chance(0.5):
        y = unsqueeze(b, x)
        if b.chance(0.7):
            read(b, squeeze(b, y))
    else:
        y = squeeze(b, x)
        if b.chance(0.7) and y.rank < 5:
            read(b, unsqueeze(b, y))


def transpose(b: Builder, x: Value, perm: list[int] | None = None) -> Value:
    if x.rank == 0:
        raise Unsuitable
    order = perm or [int(i) for i in b.rng.permutation(x.rank)]
    if perm is None and b.chance(0.2):
        order = list(range(x.rank))[::-1]
        return b.emit("Transpose", [x], both(lambda s: s[::-1], x.shapes), reach=x.reach)
    return b.emit("Transpose", [x], both(lambda s: tuple(s[i] for i in order), x.shapes), reach=x.reach, perm=order)


@emitter(3, int8=1.2)
def transposes(b: Builder) -> None:
    x = movable(b)
    for _ in range(b.among((1, 2, 2, 3))):
        x = transpose(b, x)
        if b.chance(0.15):
            x = nothing(b, x)
    if b.chance(0.4):
        read(b, x)


@emitter(1.5, int8=1.0)
def concat(b: Builder) -> None:
    x = b.pick(("float32",) if b.policy.int8 else ("float32", "float64", "int32", "int64", "bool"), where=lambda v: v.rank > 0)
    axis = b.integer(0, x.rank - 1)
    fitting = [
        v
        for v in b.frame.values
        if v.dtype == x.dtype and v.rank == x.rank and all(_but(p, axis) == _but(q, axis) for p, q in zip(v.shapes, x.shapes, strict=True))
    ]
    parts = [x, *(b.among(fitting) for _ in range(b.integer(1, 2)))]
    if x.static and b.chance(0.4):
        parts[-1] = b.constant(arrays.draw(b.rng, x.dtype, x.shapes[0]))
    b.rng.shuffle(parts)  # type: ignore[arg-type]
    shapes = both(lambda *s: (*s[0][:axis], sum(d[axis] for d in s), *s[0][axis + 1 :]), *(p.shapes for p in parts))
    known = (lambda *v: np.concatenate(v, axis)) if all(p.known is not None for p in parts) else None
    b.emit("Concat", parts, shapes, reach=max(p.reach for p in parts), known=known, axis=axis if b.opset < 11 or b.chance(0.7) else axis - x.rank)


def _but(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


@emitter(1.2, int8=0.8)
def split(b: Builder) -> None:
    x = b.pick(("float32",) if b.policy.int8 else ("float32", "float64", "int32", "int64"), where=lambda v: v.rank > 0)
    axis = b.integer(0, x.rank - 1)
    count = b.among((1, 1, 2, 2, 3))
    attributes: dict[str, object] = {"axis": axis}
    if count == 1:
        sizes = [x.shapes[0][axis]] if x.shapes[0][axis] == x.shapes[1][axis] else None
        shapes = [x.shapes]
    else:
        size = x.dim(axis)
        if size < count:
            raise Unsuitable
        sizes = [1] * (count - 1) + [size - count + 1] if b.chance(0.5) or size % count else None
        parts = sizes or [size // count] * count
        shapes = [both(lambda s, d=d: (*s[:axis], d, *s[axis + 1 :]), x.shapes) for d in parts]  # type: ignore[misc]
    inputs = [x]
    if sizes is not None and b.chance(0.8):
        if b.opset < 13:
            attributes["split"] = sizes
        else:
            inputs.append(ints(b, sizes))
    elif count > 1 and sizes is not None:
        raise Unsuitable
    elif b.opset >= 18:
        attributes["num_outputs"] = count
    b.emit_many("Split", inputs, shapes, [x.dtype] * count, reach=x.reach, **attributes)


@emitter(1.8, int8=0.8)
def slicing(b: Builder) -> None:
    """One or two axes; ends beyond the size, negative bounds, negative steps, absent axes."""
    x = movable(b, least=1)
    count = b.integer(1, min(2, x.rank))
    axes = sorted(int(a) for a in b.rng.choice(x.rank, count, replace=False))
    starts = [b.among((0, 0, 1, -2, -1)) for _ in axes]
    ends = [b.among((2**31 - 1, 2**63 - 1, -1, 1, 3)) for _ in axes]
    steps = [b.among((1, 1, 1, 2, -1)) if b.opset >= 10 else 1 for _ in axes]
    for i, step in enumerate(steps):
        if step < 0:
            starts[i], ends[i] = b.among((-1, 2**31 - 1)), -(2**31)

    def cut(value: Array) -> Array:
        index: list[slice] = [slice(None)] * x.rank
        for a, start, end, step in zip(axes, starts, ends, steps, strict=True):
            index[a] = slice(start, None if end <= -(2**31) else end, step)
        return value[tuple(index)]

    shapes = both(lambda s: cut(np.broadcast_to(np.int8(0), s)).shape, x.shapes)
    if b.opset < 10:
        ends = [min(e, 2**31 - 1) for e in ends]
        b.emit("Slice", [x], shapes, reach=x.reach, starts=starts, ends=ends, axes=axes)
        return
    said = axes != list(range(count)) or b.chance(0.6)
    inputs = [x, ints(b, starts), ints(b, ends), ints(b, signed(b, axes, x.rank)) if said else None]
    inputs += [ints(b, steps)] if steps != [1] * count or b.chance(0.3) else []
    b.emit("Slice", inputs, shapes, reach=x.reach, known=(lambda v, *_: cut(v)) if x.known is not None else None)


@emitter(1.5, int8=0.7)
def gather(b: Builder) -> None:
    """By constant or computed indices, negative ones from opset 11 on."""
    x = movable(b, least=1)
    axis = b.integer(0, x.rank - 1)
    size = min(s[axis] for s in x.shapes)
    if size == 0:
        raise Unsuitable
    low = -size if b.opset >= 11 else 0
    if b.chance(0.25) and not b.policy.int8 and not any(f.isolated for f in b.frames) and low:
        index = b.input(b.among(("int64", "int32")), [b.dimension() for _ in range(b.integer(0, 2))], "index", size)
    else:
        index = ints(b, b.rng.integers(low, size, tuple(b.integer(1, 3) for _ in range(b.integer(0, 2)))))
    shapes = both(lambda s, i: (*s[:axis], *i, *s[axis + 1 :]), x.shapes, index.shapes)
    known = (lambda v, i: np.take(v, i, axis)) if x.known is not None else None
    b.emit("Gather", [x, index], shapes, reach=x.reach, known=known, axis=axis if b.chance(0.7) else axis - x.rank)


@emitter(0.5, int8=0.3, since=11)
def gather_elements(b: Builder) -> None:
    x = movable(b, least=1)
    if not x.static:
        raise Unsuitable
    axis = b.integer(0, x.rank - 1)
    if x.shapes[0][axis] == 0:
        raise Unsuitable
    index = ints(b, b.rng.integers(-x.shapes[0][axis], x.shapes[0][axis], x.shapes[0]))
    b.emit("GatherElements", [x, index], x.shapes, reach=x.reach, axis=axis)


@emitter(1.2, int8=0.4, since=8)
def expand(b: Builder) -> None:
    x = movable(b)
    target = [b.among((d, 1)) if d == e else 1 for d, e in zip(*x.shapes, strict=True)]
    for i in range(len(target)):
        if x.shapes[0][i] == x.shapes[1][i] == 1 and b.chance(0.4):
            target[i] = b.among((1, 2, 3, 0) if b.policy.empty and not b.policy.int8 else (1, 2, 3))
    if b.chance(0.3) and len(target) < 5:
        target.insert(0, b.among((1, 2)))
    b.emit("Expand", [x, ints(b, target)], both(broadcast, x.shapes, (tuple(target), tuple(target))), reach=x.reach)


@emitter(0.8, int8=0.3)
def tile(b: Builder) -> None:
    x = movable(b, least=1)
    repeats = [b.among((1, 1, 2)) for _ in range(x.rank)]
    b.emit("Tile", [x, ints(b, repeats)], both(lambda s: tuple(d * r for d, r in zip(s, repeats, strict=True)), x.shapes), reach=x.reach)


@emitter(1.5, int8=0.4)
def pad(b: Builder) -> None:
    x = b.pick(("float32",) if b.opset < 11 or b.policy.int8 else ("float32", "float64", "int32", "int64"), where=lambda v: v.rank > 0)
    padded(b, x)


def padded(b: Builder, x: Value, axes: int = 0) -> Value:
    """Pad of `x`, of nothing in a third of the cases; only axes from `axes` on, and then mostly with zeros, as before a Conv."""
    before_conv = axes > 0 and b.chance(0.7)
    mode = b.among(("constant", "constant", "constant", "edge", "reflect")) if not before_conv and all(min(s, default=0) > 2 for s in x.shapes) else "constant"
    amounts = [
        0 if i % x.rank < axes or b.chance(0.5) else b.among((0, 1, 2, -1) if mode == "constant" and x.dtype in FLOATS and not before_conv else (0, 1))
        for i in range(2 * x.rank)
    ]
    if b.chance(0.33):
        amounts = [0] * (2 * x.rank)
    shapes = both(lambda s: tuple(d + amounts[i] + amounts[i + x.rank] for i, d in enumerate(s)), x.shapes)
    if any(d < 0 for s in shapes for d in s) or any(d == 0 for s in x.shapes for d in s):
        raise Unsuitable
    value = b.among((0.0, 0.0, 1.0, -0.0))
    if b.opset < 11:
        return b.emit("Pad", [x], shapes, reach=x.reach + 1, pads=amounts, mode=mode, value=value)
    given = [b.constant(value, x.dtype, plain=True)] if mode == "constant" and b.chance(0.5) else []
    extra = {"mode": mode} if mode != "constant" or b.chance(0.5) else {}
    return b.emit("Pad", [x, ints(b, amounts), *given], shapes, reach=x.reach + 1, **extra)


@emitter(0.4, int8=0.5)
def depth_to_space(b: Builder) -> None:
    x = b.pick(("float32",), 4)
    if x.dim(1) % 4 or x.dim(1) == 0:
        raise Unsuitable
    b.emit("DepthToSpace", [x], both(lambda s: (s[0], s[1] // 4, s[2] * 2, s[3] * 2), x.shapes), reach=x.reach, blocksize=2)
