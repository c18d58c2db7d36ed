"""Values of small tensors, as far as they follow from the signature and the constants: shape arithmetic, mostly.

An evaluator takes a node whose inputs have values (some entries may be sizes, or None where they are unknown) and returns the values of its outputs. Where
everything is known, the result is what onnxruntime computes, bit by bit; operators whose floating-point results depend on an order of operations, or on a library
of functions, are left out. Operators that move entries work on any; arithmetic on sizes is exact or unknown.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphcompress.ir.model import dimensions
from graphcompress.ir.model.dimensions import Polynomial, at_least, minus
from graphcompress.ir.model.element_types import dtype_name, numpy_dtype
from graphcompress.ir.shapes.facts import (
    INTEGER_TYPES,
    LARGEST_VALUE,
    VALUE_TYPES,
    Array,
    Call,
    Evaluator,
    as_objects,
    axis_in,
    size_of,
)

Values = Sequence["Array | None"]
#: Operator of ai.onnx -> evaluator; every input that is present must have a value.
EVALUATORS: dict[str, Evaluator] = {}
LARGEST_POWER = 2**53


def _inputs(call: Call) -> list[Array]:
    """Values of all inputs that are there. Raises ValueError where one has none."""
    values = [f.value for f in call.inputs if f is not None]
    if any(v is None for v in values):
        raise ValueError("an input has no value")
    return [v for v in values if v is not None]


# --- arithmetic -----------------------------------------------------------------------------------------------------------------


def _applied(values: Sequence[Array], exact: Callable[..., Array | None], symbolic: Callable[..., Any] | None) -> Array | None:
    """`exact` for arrays of numbers, `symbolic` for single entries where some are sizes."""
    if math.prod(np.broadcast_shapes(*(v.shape for v in values))) > LARGEST_VALUE:
        return None
    if all(v.dtype != object for v in values):
        result = exact(*values)
        return None if result is None else np.asarray(result)
    if symbolic is None:
        return None
    return np.asarray(np.frompyfunc(symbolic, len(values), 1)(*map(as_objects, values)), object)


def _elementwise(exact: Callable[..., Array | None], symbolic: Callable[..., Any] | None) -> Evaluator:
    return lambda call: [_applied(_inputs(call), exact, symbolic)]


def _folded(exact: Callable[[Array, Array], Array | None], symbolic: Callable[[Any, Any], Any]) -> Evaluator:
    """An operation of any number of operands."""

    def evaluate(call: Call) -> Values:
        first, *others = _inputs(call)
        result: Array | None = first
        for value in others:
            result = None if result is None else _applied([result, value], exact, symbolic)
        return [result]

    return evaluate


def _sizes(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An operation on integer entries, as one on sizes."""
    return lambda a, b: None if isinstance(a, bool | float) or isinstance(b, bool | float) else function(size_of(a), size_of(b))


def _divide(a: Array, b: Array) -> Array | None:
    """Integers are divided towards zero."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if (b == 0).any() or (b.dtype.kind == "i" and (b == -1).any() and (a == np.iinfo(a.dtype).min).any()):
        return None
    whole = a // b
    return np.asarray(whole + ((a % b != 0) & ((a < 0) != (b < 0))).astype(whole.dtype))


def _divide_sizes(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    exact = dimensions.quotient(a, b) if isinstance(b, int) else None
    if exact is not None:
        return exact
    if not isinstance(b, int) or b <= 0:
        return None
    if dimensions.nonnegative(a):
        return dimensions.floor_divided(a, b)
    # What is above -b and below 0 becomes 0.
    return dimensions.maximum(dimensions.floor_divided(a, b), 0) if dimensions.nonnegative(dimensions.plus(a, b - 1)) else None


def _remainder_of_sizes(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return None
    if isinstance(b, int) and b > 0 and dimensions.nonnegative(a):
        return dimensions.minus(a, dimensions.times(dimensions.floor_divided(a, b), b))
    return None


def _mod(call: Call) -> Values:
    a, b = _inputs(call)
    if a.dtype == object or b.dtype == object:
        return _elementwise(lambda *_: None, _sizes(_remainder_of_sizes))(call)
    if a.dtype.kind == "f" or (b == 0).any():
        return [None]
    return [np.asarray(np.fmod(a, b) if call.number("fmod", 0) else np.mod(a, b))]


def _pow(a: Array, b: Array) -> Array | None:
    """Integers, where a calculation in double precision is exact too."""
    if a.dtype.kind not in "iu" or b.dtype.kind not in "iu" or (b < 0).any():
        return None
    bases, exponents = np.broadcast_arrays(as_objects(a), as_objects(b))
    if any(e > 64 or abs(x) > LARGEST_POWER or abs(x**e) > LARGEST_POWER for x, e in zip(bases.flat, exponents.flat, strict=True)):
        return None
    return np.asarray(bases**exponents).astype(a.dtype)


def _smaller(a: Array, b: Array) -> Array | None:
    return None if _has_nan(a, b) else np.minimum(a, b)


def _larger(a: Array, b: Array) -> Array | None:
    return None if _has_nan(a, b) else np.maximum(a, b)


def _has_nan(*arrays: Array) -> bool:
    return any(a.dtype.kind == "f" and bool(np.isnan(a).any()) for a in arrays)


def _equal(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return None
    if not isinstance(a, str | Polynomial) and not isinstance(b, str | Polynomial):
        return bool(a == b)
    if a == b:
        return True
    a, b = size_of(a), size_of(b)
    return False if _below(a, b) or _below(b, a) else None


def _below(a: Any, b: Any) -> bool:
    """a < b for certain."""
    return dimensions.nonnegative(minus(minus(b, a), 1))


def _less(a: Any, b: Any) -> Any:
    a, b = size_of(a), size_of(b)
    return None if a is None or b is None else True if _below(a, b) else False if at_least(a, b) else None


def _less_or_equal(a: Any, b: Any) -> Any:
    a, b = size_of(a), size_of(b)
    return None if a is None or b is None else True if at_least(b, a) else False if _below(b, a) else None


def _and(a: Any, b: Any) -> Any:
    return False if a is False or b is False else None if a is None or b is None else bool(a and b)


def _or(a: Any, b: Any) -> Any:
    return True if a is True or b is True else None if a is None or b is None else bool(a or b)


def _where(condition: Any, a: Any, b: Any) -> Any:
    if condition is None:
        return a if a is not None and type(a) is type(b) and a == b else None
    return a if condition else b


def _sign_of_size(a: Any) -> Any:
    return 1 if _below(0, size_of(a)) else None


def _round(a: Array) -> Array:
    return np.asarray(np.round(a))


def _clip(call: Call) -> Values:
    x = call.entries(0)
    if x is None or x.dtype == object or _has_nan(x):
        return [None]
    for index, name, function in ((1, "min", np.maximum), (2, "max", np.minimum)):
        bound = call.value(index) if call.has(index) else None if call.has(index) else call.attrs.get(name)
        if call.has(index) and bound is None:
            return [None]
        if bound is not None:
            x = np.asarray(function(x, np.asarray(bound).astype(x.dtype)))
    return [x]


def _cast(call: Call) -> Values:
    code = call.attrs.get("to")
    return [_converted(call, dtype_name(code) if isinstance(code, int) else "")]


def _cast_like(call: Call) -> Values:
    return [_converted(call, call.dtype(1) or "")]


def _converted(call: Call, dtype: str) -> Array | None:
    value, source = call.entries(0), call.dtype()
    if value is None or dtype not in VALUE_TYPES:
        return None
    if value.dtype == object:
        # Sizes fit into 32 bits; flags keep their numbers.
        integers = source in INTEGER_TYPES and dtype in ("int32", "int64", "uint32", "uint64")
        return value if integers or dtype == source else None
    target_type = numpy_dtype(dtype)
    if value.dtype.kind == "f" and target_type.kind in "iu":
        limits = np.iinfo(target_type)
        if not np.isfinite(value).all() or (value <= limits.min - 1.0).any() or (value >= limits.max + 1.0).any():
            return None
    return value.astype(target_type)


# --- reductions -----------------------------------------------------------------------------------------------------------------


def _reduction(exact: Callable[..., Array] | None, symbolic: Callable[[Any, Any], Any]) -> Evaluator:
    """Sums and products of integers wrap around as in the runtime."""

    def evaluate(call: Call) -> Values:
        x = call.entries(0)
        axes = call.axes()
        if x is None or (x.dtype != object and x.dtype.kind not in "iu") or x.size == 0:
            return [None]
        if not axes and call.number("noop_with_empty_axes", 0):
            return [x]
        over = tuple(axis_in(a, x.ndim) for a in axes) if axes else tuple(range(x.ndim))
        keep = bool(call.number("keepdims", 1))
        if x.dtype != object and exact is not None:
            with np.errstate(over="ignore"):
                return [np.asarray(exact(x, axis=over, keepdims=keep)).astype(x.dtype)]
        moved = np.moveaxis(as_objects(x), over, range(len(over)))
        flat = moved.reshape((-1, *moved.shape[len(over) :]))
        result = flat[0]
        step = np.frompyfunc(_sizes(symbolic), 2, 1)
        for row in flat[1:]:
            result = np.asarray(step(result, row), object)
        result = np.asarray(result, object)
        return [np.expand_dims(result, over) if keep else result]

    return evaluate


def _cumulative_sum(call: Call) -> Values:
    x, axis = call.value(0), call.value(1)
    if x is None or axis is None or x.dtype.kind not in "iu" or call.number("exclusive", 0) or call.number("reverse", 0):
        return [None]
    return [np.cumsum(x, axis=axis_in(int(axis.reshape(-1)[0]), x.ndim), dtype=x.dtype)]


EVALUATORS.update(
    {
        "Abs": _elementwise(np.abs, lambda a: a if a is not None and dimensions.nonnegative(size_of(a)) else None),
        "Add": _elementwise(operator.add, _sizes(dimensions.plus)),
        "And": _elementwise(np.logical_and, _and),
        "Cast": _cast,
        "CastLike": _cast_like,
        "Ceil": _elementwise(np.ceil, None),
        "Clip": _clip,
        "CumSum": _cumulative_sum,
        "Div": _elementwise(_divide, _sizes(_divide_sizes)),
        "Equal": _elementwise(np.equal, _equal),
        "Floor": _elementwise(np.floor, None),
        "Greater": _elementwise(np.greater, lambda a, b: _less(b, a)),
        "GreaterOrEqual": _elementwise(np.greater_equal, lambda a, b: _less_or_equal(b, a)),
        "Less": _elementwise(np.less, _less),
        "LessOrEqual": _elementwise(np.less_equal, _less_or_equal),
        "Max": _folded(_larger, _sizes(dimensions.maximum)),
        "Min": _folded(_smaller, _sizes(dimensions.minimum)),
        "Mod": _mod,
        "Mul": _elementwise(operator.mul, _sizes(dimensions.times)),
        "Neg": _elementwise(np.negative, lambda a: minus(0, size_of(a))),
        "Not": _elementwise(np.logical_not, lambda a: None if a is None else not a),
        "Or": _elementwise(np.logical_or, _or),
        "Pow": _elementwise(_pow, None),
        "ReduceMax": _reduction(np.max, dimensions.maximum),
        "ReduceMin": _reduction(np.min, dimensions.minimum),
        "ReduceProd": _reduction(np.prod, dimensions.times),
        "ReduceSum": _reduction(np.sum, dimensions.plus),
        "Round": _elementwise(_round, None),
        "Sign": _elementwise(np.sign, _sign_of_size),
        "Sqrt": _elementwise(lambda a: np.sqrt(a) if a.dtype.kind == "f" else None, None),
        "Sub": _elementwise(operator.sub, _sizes(dimensions.minus)),
        "Sum": _folded(operator.add, _sizes(dimensions.plus)),
        "Where": _elementwise(np.where, _where),
        "Xor": _elementwise(np.logical_xor, lambda a, b: None if a is None or b is None else bool(a) != bool(b)),
    }
)
