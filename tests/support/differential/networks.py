"""Operators with weights, normalization, pooling and reductions, and the patterns that rules fuse. What they give is `rough`: a rewrite may round differently."""

from __future__ import annotations

import math

import numpy as np

from differential import arrays
from differential.builder import UNKNOWN, Builder, Pair, Shape, Unsuitable, Value, both, broadcast
from differential.elementwise import NUMBERS, binary, nothing
from differential.movement import ints, padded
from differential.registry import emitter

WEIGHTED = ("float32", "float32", "float64")


def reach_of(x: Value, fan: int) -> float:
    """A bound for a sum over `fan` products with weights below 2."""
    return x.reach * 2 * max(fan, 1) + 2


def moderate(v: Value) -> bool:
    return v.reach < 1e4


def steady(b: Builder, x: Value) -> Value:
    """`x`, brought back below 6 where its magnitude is large or unknown, or (in half of the cases where it may be NaN) left alone."""
    if x.reach < 100 or (not x.rough and not b.policy.int8 and b.chance(0.5)):
        return x
    return b.emit(b.among(("Tanh", "Sigmoid")), [x], x.shapes, reach=1.0)


def channel_constant(b: Builder, channels: int, rank: int, dtype: str) -> Value:
    """One value per channel, for all channels, or (the trap) along the last axis or with a shape that widens the result."""
    form = b.integer(0, 6)
    if form < 3:
        shape: tuple[int, ...] = (channels, *(1,) * (rank - 2))
    elif form == 3:
        shape = (1, channels, *(1,) * (rank - 2))
    elif form == 4:
        shape = (1,) * b.integer(0, rank)
    elif form == 5:
        shape = (channels,)
    else:
        shape = (b.among((1, 2)), channels, *(1,) * (rank - 2))
    return b.constant(arrays.draw(b.rng, dtype, shape, "positive" if b.chance(0.6) else "smooth"))


def normalized(b: Builder, x: Value) -> Value:
    """BatchNormalization over axis 1."""
    channels = x.dim(1)
    scale, bias, mean = (b.constant(arrays.draw(b.rng, x.dtype, (channels,), "smooth"), shared=False) for _ in range(3))
    variance = b.constant(arrays.draw(b.rng, x.dtype, (channels,), "positive"), shared=False, plain=True)
    attributes: dict[str, object] = {"epsilon": 1e-3} if b.chance(0.5) else {}
    return b.emit("BatchNormalization", [x, scale, bias, mean, variance], x.shapes, reach=x.reach * 8 + 40, rough=True, **attributes)


def followed(b: Builder, x: Value) -> None:
    """Up to three nodes behind a weighted one that rules fold into it."""
    for turn in range(b.among((0, 1, 1, 2, 3))):
        kind = b.among(("normalize", *(("normalize",) if turn == 0 else ()), "arithmetic", "arithmetic", "arithmetic", "activation", "nothing"))
        if kind == "normalize" and x.rank >= 2 and b.opset >= 9:
            x = normalized(b, x)
        elif kind == "arithmetic":
            constant = channel_constant(b, x.dim(1), x.rank, x.dtype) if x.rank >= 2 else b.constant(arrays.draw(b.rng, x.dtype, (), "positive"))
            x = binary(b, b.among(("Add", "Add", "Mul", "Mul", "Sub", "Div")), x, constant, swap=0.3)
        elif kind == "nothing":
            x = nothing(b, x)
        else:
            x = b.emit(b.among(("Relu", "LeakyRelu", "Sigmoid") if x.dtype == "float32" else ("Relu",)), [x], x.shapes, reach=x.reach)


def image(b: Builder, rank: int) -> Value:
    """Something to convolve: an existing tensor, or an input with channels of a fixed number."""
    dtype = "float16" if "float16" in b.policy.dtypes and b.chance(0.3) else "float32"  # the provider has no kernels for double
    usable = [
        v
        for v in b.frame.values
        if v.dtype == dtype and v.rank == rank and v.shapes[0][1] == v.shapes[1][1] and 0 not in v.shapes[0] + v.shapes[1] and not v.constant
    ]
    if usable and b.chance(0.6):
        return steady(b, usable[-1 - b.integer(0, min(2, len(usable) - 1))])
    if len(b.inputs) > 4 or any(f.isolated for f in b.frames):
        raise Unsuitable
    sizes = [b.dimension() if b.chance(0.15) else b.integer(3, 7) for _ in range(rank - 2)]
    return b.input(dtype, [b.dimension(), b.among((1, 2, 3, 4, 8)), *sizes])


def window(b: Builder, x: Value, kernel: list[int]) -> tuple[Pair, dict[str, object]]:
    """Spatial sizes of a Conv or pooling, and the attributes that give them."""
    axes = len(kernel)
    attributes: dict[str, object] = {}
    strides, dilations, pads = [1] * axes, [1] * axes, [0] * (2 * axes)
    if b.chance(0.3):
        strides = [b.integer(1, 2) for _ in kernel]
        attributes["strides"] = strides
    form = b.among(("none", "pads", "pads", "same", "valid"))
    if form == "pads":
        pads = [b.integer(0, (kernel[i % axes]) // 2) for i in range(2 * axes)]
        attributes["pads"] = pads
    elif form in ("same", "valid"):
        attributes["auto_pad"] = {"same": b.among(("SAME_UPPER", "SAME_LOWER")), "valid": "VALID"}[form]

    def spatial(s: Shape) -> Shape | None:
        out = []
        for i, (d, k) in enumerate(zip(s[2:], kernel, strict=True)):
            reach = (k - 1) * dilations[i] + 1
            out.append(-(-d // strides[i]) if form == "same" else (d + pads[i] + pads[i + axes] - reach) // strides[i] + 1)
        return tuple(out) if all(d > 0 for d in out) else None

    return both(spatial, x.shapes), attributes


@emitter(3.5, int8=5)
def conv(b: Builder) -> None:
    rank = b.among((3, 4, 4, 4, 5))
    x = image(b, rank)
    if b.chance(0.35) and (x.dtype == "float32" or b.opset >= 11):
        x = padded(b, x, axes=0 if b.chance(0.1) else 2)
    channels = x.dim(1)
    if channels == 0:
        raise Unsuitable
    group = b.among([g for g in (1, 1, 1, channels, 2) if channels % g == 0])
    out = group * b.integer(1, 3)
    kernel = [b.among((1, 2, 3)) for _ in range(rank - 2)]
    fan = channels // group * math.prod(kernel)
    shapes, attributes = window(b, x, kernel)
    w = b.constant(arrays.weight(b.rng, x.dtype, (out, channels // group, *kernel), fan), plain=b.policy.int8)
    inputs = [x, w, *([b.constant(arrays.draw(b.rng, x.dtype, (out,)), plain=b.policy.int8)] if b.chance(0.5) else [])]
    if group > 1:
        attributes["group"] = group
    y = b.emit("Conv", inputs, both(lambda s, t: (s[0], out, *t), x.shapes, shapes), reach=reach_of(x, fan), rough=True, **attributes)
    followed(b, y)


@emitter(1.2, int8=0.4)
def conv_transpose(b: Builder) -> None:
    x = image(b, b.among((3, 4)))
    if x.dtype != "float32":
        raise Unsuitable
    channels = x.dim(1)
    group = b.among([g for g in (1, 1, 2, channels) if channels % g == 0])
    per_group = b.integer(1, 3)
    kernel = [b.integer(1, 3) for _ in range(x.rank - 2)]
    fan = channels * math.prod(kernel)
    w = b.constant(arrays.weight(b.rng, x.dtype, (channels, per_group, *kernel), fan))
    inputs = [x, w, *([b.constant(arrays.draw(b.rng, x.dtype, (per_group * group,)))] if b.chance(0.5) else [])]
    shapes = both(lambda s: (s[0], per_group * group, *(d + k - 1 for d, k in zip(s[2:], kernel, strict=True))), x.shapes)
    y = b.emit("ConvTranspose", inputs, shapes, reach=reach_of(x, fan), rough=True, **({"group": group} if group > 1 else {}))
    followed(b, y)


@emitter(3.5, int8=4)
def matmul(b: Builder) -> None:
    """Vectors, matrices, stacks; the right side is a constant more often than not."""
    x = b.pick(WEIGHTED if not b.policy.int8 else ("float32",), where=lambda v: v.rank > 0 and v.shapes[0][-1] == v.shapes[1][-1] > 0)
    x = steady(b, x)
    depth = x.dim(-1)
    if b.chance(0.25):
        others = [v for v in b.frame.values if v.dtype == x.dtype and v.rank >= 2 and v.dim_or_none(-2) == depth and v.reach < 100 and not v.constant]
        w = b.among(others)
    else:
        columns = b.among((1, 2, 3, 4, 8))
        shape = b.among(((depth, columns), (depth, columns), (depth, columns), (depth,), (b.among((1, 2)), depth, columns)))
        w = b.constant(arrays.weight(b.rng, x.dtype, shape, depth), plain=b.policy.int8)
    y = b.emit("MatMul", [x, w], both(product, x.shapes, w.shapes), reach=x.reach * max(w.reach, 1) * depth, rough=True)
    if y.rank >= 2:
        dense(b, y)


def product(a: Shape, b: Shape) -> Shape | None:
    left, right = ((1, *a) if len(a) == 1 else a), ((*b, 1) if len(b) == 1 else b)
    stack = broadcast(left[:-2], right[:-2])
    if left[-1] != right[-2] or stack is None:
        return None
    return (*stack, *left[-2:-1][: len(a) - 1], *right[-1:][: len(b) - 1])


def dense(b: Builder, y: Value) -> None:
    """What follows a MatMul: additions and multiplications per column, or nearly so."""
    columns = y.shapes[0][-1] if y.shapes[0][-1] == y.shapes[1][-1] else 1
    kinds = ("Add", "Add", "Mul", "Mul", "Sub", "Div", "normalize", "nothing", "Relu")
    pattern = (
        b.among((("Add", "Add"), ("Add", "Mul"), ("Mul",), ("normalize",))) if (fits := b.chance(0.4)) else [b.among(kinds) for _ in range(b.integer(0, 3))]
    )
    for kind in pattern:
        if kind == "normalize" and y.rank == 2 and b.opset >= 9:
            y = normalized(b, y)
        elif kind in ("nothing", "normalize"):
            y = nothing(b, y)
        elif kind == "Relu":
            y = b.emit("Relu", [y], y.shapes, reach=y.reach)
        else:
            shape = (columns,) if fits else b.among(((columns,), (columns,), (1, columns), (1,), (), (1, 1, columns), (columns, 1), (2, 1)))
            y = binary(b, kind, y, b.constant(arrays.draw(b.rng, y.dtype, shape, "positive" if b.chance(0.5) else "smooth")), swap=0.3)


@emitter(2, int8=3)
def gemm(b: Builder) -> None:
    x = steady(b, b.pick(WEIGHTED if not b.policy.int8 else ("float32",), 2, where=lambda v: 0 not in v.shapes[0] + v.shapes[1]))
    attributes: dict[str, object] = {}
    flip = b.chance(0.15)
    if flip:
        attributes["transA"] = 1
    depth = x.dim(0 if flip else 1)
    rows = tuple(s[1 if flip else 0] for s in x.shapes)
    columns = b.among((1, 2, 3, 4, 8))
    w = arrays.weight(b.rng, x.dtype, (depth, columns), depth)
    if b.chance(0.5):
        w, attributes["transB"] = np.ascontiguousarray(w.T), 1
    if b.chance(0.2):
        attributes["alpha"] = 0.5
    if b.chance(0.2):
        attributes["beta"] = b.among((2.0, 0.5, 0.0))
    inputs = [x, b.constant(w, plain=b.policy.int8)]
    if b.opset < 11 or b.chance(0.7):
        forms: list[tuple[int, ...]] = [(columns,), (columns,), (1, columns), (1,), ()]
        if rows[0] == rows[1]:
            forms += [(rows[0], 1), (rows[0], columns)]
        inputs.append(b.constant(arrays.draw(b.rng, x.dtype, b.among(forms)), plain=b.policy.int8))
    y = b.emit("Gemm", inputs, ((rows[0], columns), (rows[1], columns)), reach=reach_of(x, depth), rough=True, **attributes)
    followed(b, y)


@emitter(0.7)
def batch_normalization(b: Builder) -> None:
    x = b.pick(("float32", "float64"), where=lambda v: v.rank >= 2 and v.shapes[0][1] == v.shapes[1][1])
    normalized(b, steady(b, x))


@emitter(1.2, int8=1.2)
def pooling(b: Builder) -> None:
    x = image(b, b.among((3, 4, 4)))
    op = b.among(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"))
    if op.startswith("Global"):
        b.emit(op, [x], both(lambda s: (*s[:2], *(1,) * (len(s) - 2)), x.shapes), reach=x.reach, rough=x.rough or op == "GlobalAveragePool")
        return
    if x.dtype != "float32":
        raise Unsuitable
    kernel = [b.integer(1, 3) for _ in range(x.rank - 2)]
    shapes, attributes = window(b, x, kernel)
    if op == "AveragePool" and b.chance(0.4):
        attributes["count_include_pad"] = 1
    b.emit(
        op,
        [x],
        both(lambda s, t: (*s[:2], *t), x.shapes, shapes),
        reach=x.reach,
        rough=True if op == "AveragePool" else None,
        kernel_shape=kernel,
        **attributes,
    )


@emitter(2.5, int8=1)
def reduction(b: Builder) -> None:
    """Axes as an attribute or an input, negative, absent (all)."""
    op = b.among(("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd"))
    if b.policy.int8:
        op = b.among(("ReduceMean", "ReduceMax", "ReduceMin"))
    double = op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin") and not b.policy.int8
    x = b.pick(("float32", "float64") if double else ("float32",), 4 if b.chance(0.5) else None)
    if x.rank == 0 or any(0 in s for s in x.shapes) or (op in ("ReduceL2", "ReduceProd") and x.rough):
        raise Unsuitable
    axes = sorted(int(a) for a in b.rng.choice(x.rank, b.integer(1, x.rank), replace=False))
    if x.rank == 4 and b.chance(0.5):
        axes = [2, 3]
    every = b.chance(0.1)
    if every:
        axes = list(range(x.rank))
    keep = b.chance(0.5)
    shapes = both(lambda s: tuple(1 if i in axes else d for i, d in enumerate(s) if keep or i not in axes), x.shapes)
    attributes: dict[str, object] = {} if keep and b.chance(0.5) else {"keepdims": int(keep)}
    inputs = [x]
    said = [a - x.rank if b.opset >= 11 and b.chance(0.3) else a for a in axes]
    if not every and (b.opset >= 18 or (op == "ReduceSum" and b.opset >= 13)):
        inputs.append(ints(b, said))
    elif not every:
        attributes["axes"] = said
    count = max(math.prod(s[a] for a in axes) for s in x.shapes)
    reach = x.reach if op in ("ReduceMax", "ReduceMin", "ReduceMean") else x.reach * count if op != "ReduceProd" else UNKNOWN
    b.emit(op, inputs, shapes, reach=reach, rough=True if op not in ("ReduceMax", "ReduceMin") else None, **attributes)


@emitter(1, int8=1)
def softmax(b: Builder) -> None:
    x = steady(b, b.pick(("float32", "float64") if not b.policy.int8 else ("float32",), where=lambda v: v.rank > 0 and 0 not in v.shapes[0] + v.shapes[1]))
    axis = b.integer(0, x.rank - 1)
    attributes = {"axis": axis if b.opset < 11 or b.chance(0.5) else axis - x.rank}
    if b.chance(0.2) and (b.opset >= 13 or x.rank >= 2):
        attributes = {}
    op = "Softmax" if b.policy.int8 or b.chance(0.7) else "LogSoftmax"
    b.emit(op, [x], x.shapes, reach=1.0 if op == "Softmax" else x.reach + 10, rough=True, **attributes)


@emitter(0.5, since=17)
def layer_normalization(b: Builder) -> None:
    x = b.pick(("float32",), where=lambda v: v.rank > 0 and v.shapes[0][-1] == v.shapes[1][-1] > 1)
    if x.rough:
        raise Unsuitable  # divides by a deviation that may be nearly 0
    scale = b.constant(arrays.draw(b.rng, "float32", (x.dim(-1),), "positive"))
    b.emit("LayerNormalization", [x, scale, *([b.constant(arrays.draw(b.rng, "float32", (x.dim(-1),)))] if b.chance(0.5) else [])], x.shapes, rough=True)


@emitter(0.5, int8=0.4, since=10)
def resize(b: Builder) -> None:
    """Nearest neighbour by whole factors; from opset 11 on with the absent region of interest."""
    x = image(b, 4)
    if x.dtype != "float32":
        raise Unsuitable
    factors = b.among(((1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 2.0, 1.0)))
    scales = b.constant(np.array(factors), "float32", plain=True)
    shapes = both(lambda s: tuple(int(d * f) for d, f in zip(s, factors, strict=True)), x.shapes)
    if b.opset == 10:
        b.emit("Resize", [x, scales], shapes, reach=x.reach, mode="nearest")
    elif b.opset < 13:
        b.emit(
            "Resize",
            [x, b.constant(np.zeros(0), "float32", plain=True), scales],
            shapes,
            reach=x.reach,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    else:
        b.emit("Resize", [x, None, scales], shapes, reach=x.reach, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@emitter(0.4, since=11)
def top_k(b: Builder) -> None:
    x = b.pick(("float32", "int64"), where=lambda v: v.rank > 0 and not v.rough and v.reach < UNKNOWN)
    k = b.integer(1, 2)
    if any(s[-1] < k for s in x.shapes):
        raise Unsuitable
    shapes = both(lambda s: (*s[:-1], k), x.shapes)
    b.emit_many("TopK", [x, ints(b, [k])], [shapes, shapes], [x.dtype, "int64"], reach=x.reach)


@emitter(0.4)
def arg_max(b: Builder) -> None:
    x = b.pick(("float32",), where=lambda v: v.rank > 0 and not v.rough and v.reach < UNKNOWN and 0 not in v.shapes[0] + v.shapes[1])
    axis = b.integer(0, x.rank - 1)
    b.emit("ArgMax", [x], both(lambda s: tuple(1 if i == axis else d for i, d in enumerate(s)), x.shapes), "int64", axis=axis, reach=16.0)


@emitter(0.3)
def lstm(b: Builder) -> None:
    """With absent optional inputs in the middle of the list, and of three outputs one or two."""
    x = steady(b, b.pick(("float32",), 3, where=lambda v: v.shapes[0][2] == v.shapes[1][2] and 0 not in v.shapes[0] + v.shapes[1]))
    size, hidden = x.dim(2), b.integer(1, 3)
    w, r = (b.constant(arrays.weight(b.rng, "float32", (1, 4 * hidden, n), n)) for n in (size, hidden))
    start = b.constant(np.zeros((1, x.dim(1), hidden)), "float32") if x.shapes[0][1] == x.shapes[1][1] and b.chance(0.4) else None
    inputs = [x, w, r, None, None, start]
    outputs = [both(lambda s: (s[0], 1, s[1], hidden), x.shapes), both(lambda s: (1, s[1], hidden), x.shapes)][: b.integer(1, 2)]
    b.emit_many("LSTM", inputs, outputs, reach=1.0, rough=True, hidden_size=hidden)


@emitter(0.5)
def dynamic_arithmetic(b: Builder) -> None:
    """Two computed tensors of one shape."""
    x = b.pick(NUMBERS)
    y = b.same_type(x)
    binary(b, b.among(("Add", "Sub", "Mul")), x, y)
