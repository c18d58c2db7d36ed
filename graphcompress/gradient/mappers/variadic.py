"""Operators of any number of operands: Sum, Mean, Max, Min."""

from __future__ import annotations

from collections.abc import Mapping

from graphcompress.gradient.build import NodeGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.ir import Tensor


@mapper
def summed(call: NodeGradient) -> Mapping[int, Tensor]:
    """Sum hands dy to every operand, Mean its share."""
    dy = call.dy if call.node.op == "Sum" else call.add("Div", call.dy, call.number(len(call.node.inputs)))
    return {i: call.build.reduced_to(dy, call.input(i)) for i in call.targets}


@mapper
def extreme(call: NodeGradient) -> Mapping[int, Tensor]:
    """Max and Min: dy goes to the operand that won, in equal parts where several did."""
    dtype = call.dtype(call.y)
    masks = [call.add("CastLike", call.add("Equal", t, call.y), call.dy) for t in call.node.inputs]
    share = call.add(
        "Div",
        call.dy,
        call.build.total([call.add("Expand", m, call.build.shape_of(call.y)) for m in masks]) if len(masks) > 1 else call.build.number(1.0, dtype),
    )
    return {i: call.build.reduced_to(call.add("Mul", share, masks[i]), call.input(i)) for i in call.targets}
