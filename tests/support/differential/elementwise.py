"""Operators that compute element by element, and those that do nothing in certain forms."""

from __future__ import annotations

import numpy as np
from onnx import helper

from differential import arrays
from differential.builder import FLOATS, INTEGERS, UNKNOWN, Builder, Pair, Unsuitable, Value, both, broadcast
from differential.registry import emitter

NUMBERS = ("float32", "float64", "float16", "int32", "int64")
HALF = ("float32", "float16")

# Operator -> (element types, first opset, bound of the result for a bound of the input or None where it is not continuous, attributes)
UNARY = {
    "Relu": (("float32", "float64", "float16"), 7, lambda r: r, {}),
    "Neg": (NUMBERS, 7, lambda r: r, {}),
    "Abs": (NUMBERS, 7, lambda r: r, {}),
    "Sigmoid": (FLOATS, 7, lambda r: 1.0 if r < UNKNOWN else UNKNOWN, {}),
    "Tanh": (FLOATS, 7, lambda r: 1.0 if r < UNKNOWN else UNKNOWN, {}),
    "Erf": (HALF, 9, lambda r: 1.0 if r < UNKNOWN else UNKNOWN, {}),
    "Softplus": (HALF, 7, lambda r: r + 1, {}),
    "Softsign": (HALF, 7, lambda r: 1.0 if r < UNKNOWN else UNKNOWN, {}),
    "LeakyRelu": (HALF, 7, lambda r: r, {"alpha": 0.125}),
    "Elu": (HALF, 7, lambda r: r + 1, {"alpha": 0.5}),
    "Selu": (HALF, 7, lambda r: 2 * r + 2, {}),
    "HardSigmoid": (HALF, 7, lambda r: 1.0 if r < UNKNOWN else UNKNOWN, {}),
    "HardSwish": (HALF, 14, lambda r: r, {}),
    "Sin": (("float32", "float64"), 7, lambda r: 1.0 if r < UNKNOWN else UNKNOWN, {}),
    "Celu": (("float32",), 12, lambda r: r + 1, {}),
    "Gelu": (HALF, 20, lambda r: r, {}),
    "ThresholdedRelu": (HALF, 10, None, {"alpha": 0.5}),
    "Floor": (FLOATS, 7, None, {}),
    "Ceil": (FLOATS, 7, None, {}),
    "Round": (FLOATS, 11, None, {}),
    "Sign": (NUMBERS, 9, None, {}),
    "Exp": (FLOATS, 7, None, {}),
    "Log": (FLOATS, 7, None, {}),
    "Sqrt": (FLOATS, 7, None, {}),
    "Reciprocal": (FLOATS, 7, None, {}),
    "IsNaN": (("float32", "float64", "float16"), 9, None, {}),
    "IsInf": (("float32", "float64"), 10, None, {}),
    "Not": (("bool",), 7, None, {}),
}
BOOLEAN = ("IsNaN", "IsInf")
BOUND_AFTER_A_STEP = {"Floor": 1.0, "Ceil": 1.0, "Round": 1.0, "Sign": 0.0, "ThresholdedRelu": 0.0}


@emitter(5, int8=2)
def unary(b: Builder) -> None:
    names = [n for n, (_, since, bound, _) in UNARY.items() if since <= b.opset and (bound is not None or not b.policy.int8)]
    name = str(b.among(names))
    dtypes, _, bound, attributes = UNARY[name]
    x = b.pick(dtypes, where=lambda v: bound is not None or not v.rough)
    if bound is not None:
        reach = float(bound(x.reach))
    else:
        reach = x.reach + BOUND_AFTER_A_STEP[name] if name in BOUND_AFTER_A_STEP else UNKNOWN
    b.emit(name, [x], x.shapes, "bool" if name in BOOLEAN else None, reach=reach, known=np.negative if name == "Neg" else None, **attributes)


def operand(b: Builder, x: Value, *, neutral: float = 0.5, grows: float = 0.08) -> Value:
    """A second operand for `x` that broadcasts against it: a constant (often a neutral one), or another tensor."""
    if b.chance(0.3):
        fitting = [v for v in b.frame.values if v.dtype == x.dtype and all(broadcast(p, q) is not None for p, q in zip(v.shapes, x.shapes, strict=True))]
        if fitting:
            return b.among(fitting)  # type: ignore[no-any-return]
    shape = narrower(b, x.shapes)
    if b.chance(grows) and len(shape) < 5:
        shape = (*(1,) * (x.rank + 1 - len(shape)), *shape)
        shape = (b.among((1, 1, 2)), *shape[1:])
    make = arrays.neutral if b.chance(neutral) else arrays.draw
    return b.constant(make(b.rng, x.dtype, shape))


def narrower(b: Builder, shapes: Pair) -> tuple[int, ...]:
    """A shape that broadcasts into `shapes` under both bindings."""
    dims = [p if p == q and b.chance(0.6) else 1 for p, q in zip(*shapes, strict=True)]
    start = b.integer(0, len(dims)) if b.chance(0.6) else 0
    return tuple(dims[start:])


ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}


@emitter(7, int8=3)
def arithmetic(b: Builder) -> None:
    op = b.among(("Add", "Add", "Sub", "Sub", "Mul", "Mul", "Div", "Div"))
    x = b.pick(("float32",) if b.policy.int8 else FLOATS if op == "Div" else NUMBERS)
    binary(b, op, x, operand(b, x))


def binary(b: Builder, op: str, x: Value, y: Value, *, swap: float = 0.4) -> Value:
    """`op` of two operands in either order."""
    if op == "Div" and (x.rough or y.rough or b.policy.int8):
        bottom = y if y.constant and y.known is not None and np.all(np.abs(y.known[0].astype(np.float64)) >= 0.25) else b.constant(np.full((), 2), x.dtype)
        return b.emit("Div", [x, bottom], both(broadcast, x.shapes, bottom.shapes), reach=x.reach * 4)
    reach = UNKNOWN if op == "Div" else x.reach * y.reach if op == "Mul" else x.reach + y.reach
    if op == "Mul" and UNKNOWN in (x.reach, y.reach):
        reach = UNKNOWN
    if (x.rough or y.rough) and reach == UNKNOWN and op == "Mul" and not (x.constant or y.constant):
        raise Unsuitable
    if b.chance(swap):
        x, y = y, x
    return b.emit(op, [x, y], both(broadcast, x.shapes, y.shapes), reach=reach, known=ARITHMETIC.get(op))


@emitter(1.0)
def integer_division(b: Builder) -> None:
    """By a positive constant: by 0 the kernel ends the process."""
    x = b.pick(("int32", "int64"))
    divisor = b.constant(b.among((1, 1, 2, 3)), x.dtype, plain=True)
    if b.chance(0.3) and b.opset >= 10:
        b.emit("Mod", [x, divisor], x.shapes, reach=x.reach, known=np.mod)
    else:
        b.emit("Div", [x, divisor], x.shapes, reach=x.reach, known=lambda p, q: np.sign(p) * (np.abs(p) // q))


@emitter(1.5, since=8)
def variadic(b: Builder) -> None:
    op = b.among(("Sum", "Mean", "Max", "Min", "Sum"))
    x = b.pick(("float32", "float64", "float16") if op in ("Max", "Min") else ("float32", "float64", "float16") if op == "Sum" else HALF)
    others = [operand(b, x) for _ in range(b.integer(0, 2))]
    shapes = x.shapes
    for other in others:
        shapes = both(broadcast, shapes, other.shapes)
    b.emit(op, [x, *others], shapes, reach=sum(v.reach for v in (x, *others)), rough=True if op == "Mean" else None)


@emitter(1.5)
def comparison(b: Builder) -> None:
    op = b.among(("Equal", "Greater", "Less", *(("GreaterOrEqual", "LessOrEqual") if b.opset >= 12 else ())))
    dtypes = ("int32", "int64", "bool") if op == "Equal" and b.opset < 11 else ("float32", "float64", *(() if b.opset < 9 else ("int32", "int64")))
    x = b.pick(dtypes, where=lambda v: not v.rough)
    y = operand(b, x)
    if y.rough:
        raise Unsuitable
    b.emit(op, [x, y], both(broadcast, x.shapes, y.shapes), "bool", reach=1.0)


@emitter(0.8)
def logical(b: Builder) -> None:
    x = b.pick(("bool",))
    y = operand(b, x)
    b.emit(b.among(("And", "Or", "Xor")), [x, y], both(broadcast, x.shapes, y.shapes), reach=1.0)


@emitter(1.2, int8=0.7, since=9)
def where(b: Builder) -> None:
    x = b.pick(("float32",) if b.policy.int8 else ("float32", "float64", "float16", "int32", "int64", "uint8"))
    y = operand(b, x)
    shapes = both(broadcast, x.shapes, y.shapes)
    conditions = [v for v in b.frame.values if v.dtype == "bool" and all(broadcast(p, q) == q for p, q in zip(v.shapes, shapes, strict=True))]
    condition = b.among(conditions) if conditions and b.chance(0.7) else b.constant(arrays.draw(b.rng, "bool", narrower(b, shapes)))
    operands = [x, y] if b.chance(0.5) else [y, x]
    b.emit("Where", [condition, *operands], shapes, x.dtype, reach=max(x.reach, y.reach))


@emitter(1.2, int8=0.5)
def clip(b: Builder) -> None:
    x = b.pick(("float32",) if b.opset < 11 else ("float32", "float64", "float16"))
    low, high = (-1.0, b.among((0.5, 1.0, 6.0))) if b.chance(0.5) else (0.0, b.among((1.0, 6.0)))
    bounds = b.among(("both", "both", "low", "high", "none"))
    reach = max(abs(low), high) if bounds == "both" and x.reach < UNKNOWN else x.reach
    if b.opset < 11:
        attributes = {**({"min": low} if bounds in ("both", "low") else {}), **({"max": high} if bounds in ("both", "high") else {})}
        b.emit("Clip", [x], x.shapes, reach=reach, **attributes)
        return
    least = b.constant(low, x.dtype) if bounds in ("both", "low") else None
    most = b.constant(high, x.dtype) if bounds in ("both", "high") else None
    b.emit("Clip", [x, least, most], x.shapes, reach=reach if all(v is None or v.constant for v in (least, most)) else x.reach + 8)


@emitter(0.8, int8=0.3)
def prelu(b: Builder) -> None:
    x = b.pick(("float32",))
    slope = arrays.draw(b.rng, x.dtype, narrower(b, x.shapes)) if b.chance(0.4) else np.full(narrower(b, x.shapes), b.among((0.25, 0.1, 0.0, -1.5)), x.dtype)
    b.emit("PRelu", [x, b.constant(slope)], x.shapes, reach=x.reach * 4)


@emitter(0.6)
def power(b: Builder) -> None:
    x = b.pick(("float32", "float64"), where=lambda v: not v.rough or v.reach < 100)
    b.emit("Pow", [x, b.constant(b.among((2.0, 1.0, 3.0, 0.0)) if x.rough else b.among((2.0, 1.0, 0.5, -1.0, 0.0)), x.dtype, plain=True)], x.shapes)


def code(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


@emitter(2.0)
def cast(b: Builder) -> None:
    """Floats go to integers only from a known range: elsewhere the result is undefined."""
    x = b.pick()
    targets = [x.dtype, *FLOATS]
    if x.dtype in FLOATS:
        targets += ["bool"] if not x.rough else []
        targets += ["int32", "int64"] if x.reach < 1e4 and not x.rough else []
    else:
        targets += ["int32", "int64", "bool"]
    target = str(b.among([t for t in targets if t in b.policy.dtypes or t in ("bool", "int64", x.dtype)]))
    reach = x.reach if x.dtype in FLOATS or x.dtype == "bool" else max(x.reach, 1.0)
    known = (lambda v: v) if x.dtype in INTEGERS and target in ("int32", "int64") else None
    if b.opset >= 15 and b.chance(0.2):
        like = [v for v in b.frame.values if v.dtype == target]
        if like:
            b.emit("CastLike", [x, b.among(like)], x.shapes, target, reach=reach, rough=x.rough)
            return
    b.emit("Cast", [x], x.shapes, target, reach=reach, known=known, to=code(target))


# --- what does nothing --------------------------------------------------------------------------------------------------------------


@emitter(3.5, int8=0.7)
def identity(b: Builder) -> None:
    read(b, nothing(b, b.pick()))


def read(b: Builder, x: Value) -> None:
    """Mostly a node behind `x`: what is an output itself keeps its node."""
    if b.chance(0.25):
        return
    if x.dtype == "bool":
        b.emit("Not", [x], x.shapes, reach=1.0)
    elif x.dtype == "uint8":
        b.emit("Cast", [x], x.shapes, "int32", reach=x.reach, to=code("int32"))
    else:
        b.emit(b.among(("Neg", "Abs")), [x], x.shapes, reach=x.reach)


@emitter(2.5, int8=0.3)
def nearly_nothing(b: Builder) -> None:
    """What looks like a node that hands its operand on, and does not: operands swapped, a shape that widens, a zero of the other sign."""
    x = b.pick(NUMBERS, where=lambda v: not v.rough)
    op, fill = b.among((("Sub", 0.0), ("Sub", -0.0), ("Div", 1.0), ("Add", 0.0), ("Mul", -1.0), ("Mul", 0.0), ("Mul", 1.0)))
    if op == "Div" and (x.dtype not in FLOATS or b.policy.int8):
        raise Unsuitable
    wider = (b.among((1, 1, 2)), *(1,) * x.rank) if x.rank < 5 and b.chance(0.3) else b.among(((), (1,) * x.rank))
    y = b.constant(np.full(wider, fill), x.dtype)
    operands = [y, x] if op in ("Sub", "Div") or b.chance(0.5) else [x, y]
    read(b, b.emit(op, operands, both(broadcast, y.shapes, x.shapes), reach=UNKNOWN if op == "Div" else x.reach))


def nothing(b: Builder, x: Value) -> Value:
    """A node that hands `x` on, in one of its many forms."""
    same = (lambda v, *_: v) if x.known is not None else None
    kinds = ["Identity", "Identity", "Cast", "neutral", "Reshape", "Transpose"]
    kinds += ["Concat"] if x.rank and b.opset >= 8 and x.dtype not in ("uint8",) else []
    kinds += ["variadic"] if x.dtype in ("float32", "float64") and b.opset >= 8 else []
    kinds += ["Dropout"] if x.dtype in FLOATS else []
    kinds += ["Expand"] if b.opset >= 8 and x.static else []
    kind = b.among(kinds)
    if kind == "Cast":
        return b.emit("Cast", [x], x.shapes, reach=x.reach, known=same, to=code(x.dtype))
    if kind == "neutral" and x.dtype in NUMBERS:
        op, fill = b.among((("Add", -0.0), ("Add", 0.0), ("Sub", 0.0), ("Mul", 1.0), ("Div", 1.0)))
        shape = b.among([narrower(b, x.shapes), (1,) * b.integer(0, 2), ()])
        if len(shape) > x.rank:
            shape = ()
        return b.emit(op, [x, b.constant(np.full(shape, fill), x.dtype)], x.shapes, reach=x.reach, known=same)
    if kind == "Reshape" and x.static:
        return b.emit("Reshape", [x, b.constant(np.array(x.shapes[0]), "int64")], x.shapes, reach=x.reach, known=same) if 0 not in x.shapes[0] else x
    if kind == "Transpose" and x.rank:
        return b.emit("Transpose", [x], x.shapes, reach=x.reach, known=same, perm=list(range(x.rank)))
    if kind == "Concat":
        return b.emit("Concat", [x], x.shapes, reach=x.reach, known=same, axis=b.integer(0, x.rank - 1))
    if kind == "variadic":
        return b.emit(b.among(("Sum", "Mean", "Max", "Min") if x.dtype == "float32" else ("Sum", "Max")), [x], x.shapes, reach=x.reach)
    if kind == "Dropout":
        return dropout(b, x)
    if kind == "Expand":
        return b.emit("Expand", [x, b.constant(np.array(x.shapes[0]), "int64")], x.shapes, reach=x.reach)
    return b.emit("Identity", [x], x.shapes, reach=x.reach, known=same)


def dropout(b: Builder, x: Value) -> Value:
    """Not in training; sometimes with a mask, or its optional inputs."""
    mask = b.chance(0.3) and b.opset >= 10
    if b.opset < 12:
        inputs, attributes = [x], {"ratio": 0.5}
    else:
        ratio = b.constant(0.5, "float32") if b.chance(0.6) else None
        inputs, attributes = [x, ratio, b.constant(False, "bool") if b.chance(0.5) else None], {}  # type: ignore[list-item]
        if any(v is not None and not v.constant for v in inputs[1:]):
            inputs = [x]
    results = b.emit_many("Dropout", inputs, [x.shapes] * (2 if mask else 1), [x.dtype, "bool"][: 2 if mask else 1], reach=x.reach, **attributes)
    return results[0]
