"""Pairs that simplification joins: equal nodes, additions of zero, expanded operands, products behind products, branches whose results are added; and near misses of them."""

from __future__ import annotations

import itertools

import numpy as np

from differential import arrays
from differential.builder import Builder, Shape, Unsuitable, Value, both, broadcast
from differential.elementwise import binary
from differential.movement import ints, movable
from differential.networks import image, normalized, reach_of, steady
from differential.registry import emitter


@emitter(0.4, int8=0.3)
def twice(b: Builder) -> None:
    """One operator on one tensor twice, with equal attributes or others; both are read."""
    x = b.pick(("float32", "float64"), where=lambda v: v.rank > 0)
    op = b.among(("Relu", "Neg", "Abs", "LeakyRelu", "Floor", "Ceil", *(("Sign",) if b.opset >= 9 else ()), *(("Round",) if b.opset >= 11 else ())))
    attributes = [{"alpha": b.among((0.01, 0.01, 0.5))} if op == "LeakyRelu" else {} for _ in range(2)]
    first, second = (b.emit(op, [x], x.shapes, reach=x.reach, **a) for a in attributes)
    y = binary(b, b.among(("Add", "Sub", "Mul")), first, second)
    if b.chance(0.7):
        b.emit(op, [b.emit(op, [y], y.shapes, reach=y.reach)], y.shapes, reach=y.reach)


@emitter(0.4, int8=0.5)
def zero_bias(b: Builder) -> None:
    """Zeros are added to a product or to anything; what divides by the sum must tell."""
    x = steady(b, b.pick(("float32",), where=lambda v: v.rank > 1 and v.shapes[0][-1] == v.shapes[1][-1] > 0))
    depth = x.dim(-1)
    if b.chance(0.5):
        w = b.constant(arrays.weight(b.rng, x.dtype, (depth, 3), depth), plain=b.policy.int8)
        x = b.emit("MatMul", [x, w], both(lambda s: (*s[:-1], 3), x.shapes), reach=x.reach * depth, rough=True)
    zero = b.constant(np.full(b.among(((), (x.dim(-1),), (1, x.dim(-1)))), b.among((0.0, 0.0, -0.0))), x.dtype)
    y = b.emit("Add", [x, zero], x.shapes, reach=x.reach)
    b.emit(b.among(("Relu", "Softmax", "Abs")), [y], y.shapes, reach=y.reach)


@emitter(0.4, int8=0.3, since=8)
def expanded_operand(b: Builder) -> None:
    """An Expand to the shape of the other operand, or to another one that fits it."""
    x = movable(b, least=1)
    if x.dtype not in ("float32", "float64"):
        raise Unsuitable
    other = b.constant(arrays.draw(b.rng, x.dtype, (1,) * b.integer(0, x.rank)))
    target = b.emit("Shape", [x], ((x.rank,), (x.rank,)), "int64", known=lambda *_: None) if b.chance(0.6) else ints(b, [1] * x.rank)
    shapes = x.shapes if target.known is None and not target.constant else both(broadcast, other.shapes, ((1,) * x.rank, (1,) * x.rank))
    binary(b, b.among(("Add", "Mul", "Sub")), b.emit("Expand", [other, target], shapes), x)


@emitter(0.4, int8=1.0)
def products(b: Builder) -> None:
    """Two constant matrices behind one another, two Convs of 1x1, or a Conv behind a BatchNormalization or a factor per channel."""
    if b.chance(0.5):
        x = steady(b, b.pick(("float32",), where=lambda v: v.rank > 1 and v.shapes[0][-1] == v.shapes[1][-1] > 0))
        sizes = [x.dim(-1), b.integer(1, 5), b.integer(1, 5)]
        for depth, columns in itertools.pairwise(sizes):
            w = b.constant(arrays.weight(b.rng, x.dtype, (depth, columns), depth), plain=b.policy.int8)
            x = b.emit("MatMul", [x, w], both(lambda s, columns=columns: (*s[:-1], columns), x.shapes), reach=x.reach * depth, rough=True)
        return
    x = image(b, 4)
    if b.opset >= 9 and b.chance(0.5):
        factor = b.constant(arrays.draw(b.rng, x.dtype, (x.dim(1), 1, 1), "smooth"))
        _conv(b, normalized(b, x) if b.chance(0.6) else b.emit("Mul", [x, factor], x.shapes, reach=x.reach * 8, rough=True), 2, b.integer(1, 3), {})
        return
    for _ in range(2):
        x = _conv(b, x, b.integer(1, 4), 1, {"pads": [1, 0, 0, 1]} if b.chance(0.1) else {})


@emitter(0.4, int8=0.7)
def branches(b: Builder) -> None:
    """As RepVGG has them: a Conv of 3x3, one of 1x1 and a BatchNormalization, added."""
    x = image(b, 4)
    out = x.dim(1) if b.chance(0.7) else b.integer(1, 4)
    y = _conv(b, x, out, 3, {"pads": [1, 1, 1, 1]})
    if b.chance(0.7):
        y = b.emit("Add", [y, _conv(b, x, out, 1, {})], y.shapes, reach=y.reach * 2, rough=True)
    if out == x.dim(1) and b.opset >= 9 and b.chance(0.7):
        n = normalized(b, x)
        b.emit("Add", [y, n], y.shapes, reach=y.reach + n.reach, rough=True)


def _conv(b: Builder, x: Value, out: int, kernel: int, attributes: dict[str, object]) -> Value:
    channels = x.dim(1)
    fan = channels * kernel * kernel
    w = b.constant(arrays.weight(b.rng, x.dtype, (out, channels, kernel, kernel), fan), plain=b.policy.int8)
    bias = [b.constant(arrays.draw(b.rng, x.dtype, (out,)), plain=b.policy.int8)] if b.chance(0.5) else []
    pads = attributes.get("pads", [0] * 4)
    assert isinstance(pads, list)

    def shape(s: Shape) -> Shape | None:
        spatial = (s[2] + pads[0] + pads[2] - kernel + 1, s[3] + pads[1] + pads[3] - kernel + 1)
        return (s[0], out, *spatial) if min(spatial) > 0 else None  # a kernel larger than its picture

    return b.emit("Conv", [x, w, *bias], both(shape, x.shapes), reach=reach_of(x, fan), rough=True, **attributes)


@emitter(0.3, since=10)
def two_slices(b: Builder) -> None:
    """Slices of Slices, on the same axis or on two."""
    x = movable(b, least=2)
    for axis in (b.integer(0, x.rank - 1), b.integer(0, x.rank - 1)):
        start, step = b.among((0, 0, 1, -2)), b.among((1, 1, 2))

        def shape(s: Shape, axis: int = axis, start: int = start, step: int = step) -> Shape:
            return (*s[:axis], len(range(s[axis])[start::step]), *s[axis + 1 :])

        said = axis - x.rank if b.chance(0.3) else axis
        steps = [ints(b, [step])] if step != 1 else []
        x = b.emit("Slice", [x, ints(b, [start]), ints(b, [2**63 - 1]), ints(b, [said]), *steps], both(shape, x.shapes), reach=x.reach)


@emitter(1.0)
def formulas(b: Builder) -> None:
    """What an operator of its own stands for: a norm, the logarithm of a Softmax, a mean of means."""
    x = steady(b, b.pick(("float32",), where=lambda v: v.rank > 1 and v.shapes[0][-1] == v.shapes[1][-1] > 0))
    if b.chance(0.3):
        y = b.emit("Softmax", [x], x.shapes, reach=1.0, rough=True, axis=x.rank - 1)
        b.emit("Log", [y], y.shapes, rough=True)
    elif b.chance(0.4):
        y = x
        for axis in (x.rank - 1, x.rank - 2):
            y = _mean(b, y, axis)
    else:
        centre = b.emit("Sub", [x, _mean(b, x, x.rank - 1)], x.shapes, reach=x.reach * 2, rough=True)
        two = b.constant(2.0, x.dtype, plain=True)
        square = b.emit("Mul", [centre, centre], x.shapes, rough=True) if b.chance(0.6) else b.emit("Pow", [centre, two], x.shapes, rough=True)
        variance = binary(b, "Add", _mean(b, square, x.rank - 1), b.constant(1e-3, x.dtype, plain=True))
        root = b.emit("Sqrt", [variance], variance.shapes, rough=True)
        if b.chance(0.5):
            y = b.emit("Mul", [centre, b.emit("Reciprocal", [root], root.shapes, rough=True)], x.shapes, rough=True)
        else:
            y = b.emit("Div", [centre, root], x.shapes, rough=True)
        for op in ("Mul", "Add"):
            y = binary(b, op, y, b.constant(arrays.draw(b.rng, x.dtype, (x.dim(-1),), "smooth")))


def _mean(b: Builder, x: Value, axis: int) -> Value:
    shapes = both(lambda s: (*s[:axis], 1, *s[axis + 1 :]), x.shapes)
    if b.opset >= 18:
        return b.emit("ReduceMean", [x, ints(b, [axis])], shapes, reach=x.reach, rough=True)
    return b.emit("ReduceMean", [x], shapes, reach=x.reach, rough=True, axes=[axis])
