"""Operators that change nothing: And and Or with themselves or with what says nothing, reductions over axes of size 1. In graphs of the kind "neutral" they stand among the others."""

from __future__ import annotations

import numpy as np

from differential.builder import UNKNOWN, Builder, Unsuitable, both
from differential.movement import ints, unsqueeze

REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceSum")


def neutral(b: Builder) -> None:
    """One of them, or a near miss, and something that reads it."""
    if b.chance(0.4):
        logical(b)
    else:
        reduction(b)


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
