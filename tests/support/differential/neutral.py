"""What stands among the others in graphs of the kind "neutral", so that the graphs of older kinds stay what they are.

Operators that change nothing: And and Or with themselves or with what says nothing, reductions over axes of size 1. Runs of factors and offsets; activations spelled out; one entry that is
gathered, with or without its axis; kernels larger than their map.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from differential import arrays
from differential.builder import UNKNOWN, Builder, Unsuitable, Value, both
from differential.elementwise import binary
from differential.movement import ints, squeeze, unsqueeze
from differential.networks import steady

REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceSum")


def neutral(b: Builder) -> None:
    """One of them, or a near miss, and something that reads it."""
    draw = b.among((logical, reduction, affine_run, gelu, gelu, hard_swish, entry, small_map, small_map, expanded, expanded))
    draw(b)


def logical(b: Builder) -> None:
    """A tensor and itself, or a constant that is the same throughout."""
    x = b.pick(("bool",))
    other = x if b.chance(0.4) else b.constant(np.full(b.among(((), (1,) * x.rank)), b.chance(0.5)), "bool")
    y = b.emit(b.among(("And", "Or")), [x, other] if b.chance(0.5) else [other, x], x.shapes, reach=1.0)
    b.emit("Not", [y], y.shapes, reach=1.0)


def reduction(b: Builder) -> None:
    """Over an axis that was put in, mostly; else over one as it comes."""
    op = b.among(REDUCTIONS)
    x = b.pick(("float32",), where=lambda v: 0 < v.rank < 5 and not v.rough)
    axis = b.integer(0, x.rank - 1)
    if b.chance(0.8):
        x = unsqueeze(b, x, [axis])
    elif any(0 in s for s in x.shapes):
        raise Unsuitable
    keep = b.chance(0.8)
    shapes = both(lambda s: (*s[:axis], *((1,) if keep else ()), *s[axis + 1 :]), x.shapes)
    as_input = b.opset >= 18 or (op == "ReduceSum" and b.opset >= 13)
    attributes = {"keepdims": int(keep), **({} if as_input else {"axes": [axis]})}
    y = b.emit(op, [x, ints(b, [axis])] if as_input else [x], shapes, reach=UNKNOWN, rough=True, **attributes)
    b.emit("Neg", [y], y.shapes, reach=UNKNOWN, rough=True)


def entry(b: Builder) -> None:
    """Of an axis, by a constant number or a list of one; then an axis is put in or taken away, mostly that one."""
    x = b.pick(("float32", "int64"), where=lambda v: 0 < v.rank < 5)
    axis = b.integer(0, x.rank - 1)
    size = min(s[axis] for s in x.shapes)
    if size == 0:
        raise Unsuitable
    index = b.integer(-size if b.opset >= 11 else 0, size - 1)
    listed = b.chance(0.5)
    shapes = both(lambda s: (*s[:axis], *((1,) if listed else ()), *s[axis + 1 :]), x.shapes)
    y = b.emit("Gather", [x, ints(b, [index] if listed else index)], shapes, reach=x.reach, axis=axis if b.chance(0.7) else axis - x.rank)
    other = axis if b.chance(0.7) else b.integer(0, x.rank - 1)
    if not listed:
        unsqueeze(b, y, [other])
    elif all(s[other] == 1 for s in y.shapes):
        squeeze(b, y, [other])


def small_map(b: Builder) -> None:
    """A Conv whose kernel reaches far beyond the map, so that some of its taps see padding alone."""
    if len(b.inputs) > 4 or any(f.isolated for f in b.frames):
        raise Unsuitable
    channels, axes = b.among((1, 2, 4)), b.among((1, 2))
    sizes = [b.dimension() if b.chance(0.1) else b.integer(1, 3) for _ in range(axes)]
    x = b.input("float32", [b.dimension(), channels, *sizes])
    kernel, strides, dilations = ([b.integer(1, most) for _ in range(axes)] for most in (4, 3, 3))
    same = b.chance(0.3)
    dilations = [1] * axes if same else dilations  # onnxruntime runs no other ones
    pads = [b.integer(0, 4) for _ in range(2 * axes)]
    if any(0 in s for s in x.shapes):
        raise Unsuitable

    def spatial(s: tuple[int, ...]) -> tuple[int, ...] | None:
        rooms = [d + pads[i] + pads[i + axes] - (kernel[i] - 1) * dilations[i] - 1 for i, d in enumerate(s[2:])]
        out = [-(-d // t) for d, t in zip(s[2:], strides, strict=True)] if same else [room // t + 1 for room, t in zip(rooms, strides, strict=True)]
        return (s[0], 2 * channels, *out) if all(d > 0 for d in out) else None

    group = channels if b.chance(0.3) else 1
    w = b.constant(arrays.weight(b.rng, "float32", (2 * channels, channels // group, *kernel), channels // group * math.prod(kernel)))
    more = [b.constant(arrays.draw(b.rng, "float32", (2 * channels,)))] if b.chance(0.5) else []
    stated: dict[str, object] = {"auto_pad": b.among(("SAME_UPPER", "SAME_LOWER"))} if same else {"pads": pads}
    y = b.emit("Conv", [x, w, *more], both(spatial, x.shapes), reach=UNKNOWN, rough=True, group=group, strides=strides, dilations=dilations, **stated)
    b.emit("Neg", [y], y.shapes, reach=UNKNOWN, rough=True)


def expanded(b: Builder) -> None:
    """What masks are made of: a constant that is expanded to a shape of the run, calculated with, and brought together with a tensor of that shape."""
    x = b.pick(("float32",), where=lambda v: 0 < v.rank < 5)
    if b.opset < 9:
        raise Unsuitable
    target = b.emit("Shape", [x], ((x.rank,), (x.rank,)), "int64", known=lambda *_: None)
    dtype = str(b.among(("bool", "float32", "int64")))
    if b.chance(0.6):
        own = tuple(x.dim(axis) if x.shapes[0][axis] == x.shapes[1][axis] and b.chance(0.4) else 1 for axis in range(x.rank))
        source = b.constant(b.rng.integers(0, 2, own), dtype)
        mask = b.emit("Expand", [source, target], x.shapes, dtype, reach=1.0)
    else:
        fill = onnx.numpy_helper.from_array(np.array([b.among((0, 1))], dtype), "")
        mask = b.emit("ConstantOfShape", [target], x.shapes, dtype, reach=1.0, value=fill)
    if dtype != "bool":
        if b.chance(0.5):
            number = b.constant(np.full(b.among(((), (1,) * x.rank, (x.dim(-1),) if x.shapes[0][-1] == x.shapes[1][-1] else ())), 2), dtype)
            mask = b.emit(
                b.among(("Mul", "Sub", "Div", "Add")),
                [number, mask] if b.chance(0.3) and dtype == "float32" else [mask, number],
                x.shapes,
                dtype,
                reach=UNKNOWN,
            )
        mask = b.emit("Cast", [mask], x.shapes, "bool", reach=1.0, to=9)
    if b.chance(0.4):
        mask = b.emit("Not", [mask], x.shapes, "bool", reach=1.0)
    if b.chance(0.3):
        b.emit("Where", [mask, x, b.constant(np.zeros(()), "float32")], x.shapes, "float32", reach=x.reach)
        return
    bias = b.emit(
        "Where", [mask, b.constant(np.zeros(()), "float32"), b.constant(np.full(b.among(((), (1,))), -100.0), "float32")], x.shapes, "float32", reach=100.0
    )
    y = b.emit("Add", [x, bias], x.shapes, reach=x.reach + 100, rough=True)
    b.emit("Softmax", [y], y.shapes, reach=1.0, rough=True) if b.opset >= 13 else b.emit("Relu", [y], y.shapes, reach=UNKNOWN, rough=True)


def affine_run(b: Builder) -> None:
    """Additions and multiplications by constants in a row, some too large or too small to be put together; sometimes one in between is read too."""
    x = y = steady(b, b.pick(("float32", "float64"), where=lambda v: v.rank > 0))
    for _ in range(b.integer(2, 5)):
        op = b.among(("Add", "Sub", "Mul", "Div"))
        number = b.among((0.5, 2.0, -3.0, 0.1, 5.0, 1.0, 100.0, 2.0**12))
        constant = b.constant(np.full(b.among(((), (1,), (1,) * x.rank)), number), x.dtype)
        reach = y.reach + abs(number) if op in ("Add", "Sub") else y.reach * abs(number) if op == "Mul" else y.reach / abs(number)
        swapped = op != "Div" and b.chance(0.2)
        y = b.emit(op, [constant, y] if swapped else [y, constant], x.shapes, reach=reach, rough=True)
        if b.chance(0.1):
            b.emit("Neg", [y], y.shapes, reach=reach, rough=True)
    b.emit("Abs", [y], y.shapes, reach=y.reach, rough=True)


def gelu(b: Builder) -> None:
    """By the error function or by a tanh, with the half in one of three places, sometimes with another number somewhere."""
    x = steady(b, b.pick(("float32",), where=lambda v: v.rank > 1 and v.shapes[0][-1] == v.shapes[1][-1] > 0))
    number = _numbers(b, x)
    if b.opset >= 9 and b.chance(0.5):
        scaled = binary(b, "Div", x, number(2**0.5)) if b.chance(0.5) else binary(b, "Mul", x, number(0.5**0.5))
        inner = b.emit("Erf", [scaled], x.shapes, reach=1.0, rough=True)
    else:
        form = b.integer(0, 2)
        if form == 0:
            term = binary(b, "Mul", b.emit("Pow", [x, number(3.0)], x.shapes, rough=True), number(0.044715))
        elif form == 1:
            term = binary(b, "Mul", binary(b, "Mul", binary(b, "Mul", x, x), x), number(0.044715))
        else:
            term = binary(b, "Mul", x, binary(b, "Mul", x, binary(b, "Mul", number(0.044715), x)))
        cubic = binary(b, "Mul", binary(b, "Add", x, term), number((2 / np.pi) ** 0.5))
        inner = b.emit("Tanh", [cubic], x.shapes, reach=1.0, rough=True)
    gate = binary(b, "Add", inner, number(1.0))
    match b.integer(0, 2):
        case 0:
            y = binary(b, "Mul", binary(b, "Mul", x, number(0.5)), gate)
        case 1:
            y = binary(b, "Mul", binary(b, "Mul", x, gate), number(0.5))
        case _:
            y = binary(b, "Mul", x, binary(b, "Mul", gate, number(0.5)))
    b.emit("Neg", [y], y.shapes, rough=True)


def hard_swish(b: Builder) -> None:
    """A Clip of a sum, divided, or multiplied by the reciprocal; perhaps multiplied by what was clipped before that."""
    if b.opset < 11:
        raise Unsuitable
    x = steady(b, b.pick(("float32",), where=lambda v: v.rank > 0))
    number = _numbers(b, x)
    y = b.emit("Clip", [binary(b, "Add", x, number(3.0)), number(0.0), number(6.0)], x.shapes, reach=8.0, rough=True)
    if b.chance(0.6):
        y = binary(b, "Mul", x, y)
    y = binary(b, "Div", y, number(6.0)) if b.chance(0.5) else binary(b, "Mul", y, number(1 / 6))
    b.emit("Neg", [y], y.shapes, rough=True)


def _numbers(b: Builder, x: Value) -> Callable[[float], Value]:
    """Constants of the type of `x`, one in twenty another number than was asked for."""
    return lambda value: b.constant(value * (1.25 if b.chance(0.05) else 1.0), x.dtype, plain=True)
