"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Mapping

from graphcompress.gradient.build import NodeGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.ir import Tensor


@mapper
def reduction(call: NodeGradient) -> Mapping[int, Tensor]:
    """Every kind of reduction: the gradient of the result, repeated along the axes that were reduced, times the derivative of the result by each element."""
    op, x = call.node.op, call.x
    dy, y = keep_axes(call, call.dy), keep_axes(call, call.y)
    add = call.add
    match op:
        case "ReduceSum":
            return {0: add("Expand", dy, call.build.shape_of(x))}
        case "ReduceMean":
            share = add("Div", add("CastLike", add("Size", y), dy), add("CastLike", add("Size", x), dy))
            return {0: add("Expand", add("Mul", dy, share), call.build.shape_of(x))}
        case "ReduceMax" | "ReduceMin":
            mask = add("CastLike", add("Equal", x, y), dy)
            ties = keep_axes(
                call,
                add("ReduceSum", mask, *call.node.inputs[1:], keepdims=call.attr("keepdims", 1), noop_with_empty_axes=call.attr("noop_with_empty_axes", 0)),
            )
            return {0: add("Mul", mask, add("Div", dy, ties))}
        case "ReduceL1":
            return {0: add("Mul", dy, add("Sign", x))}
        case "ReduceL2":
            return {0: add("Mul", add("Div", dy, y), x)}
        case "ReduceSumSquare":
            return {0: add("Mul", add("Mul", dy, call.number(2)), x)}
        case "ReduceLogSum":
            return {0: add("Expand", add("Mul", dy, add("Exp", add("Neg", y))), call.build.shape_of(x))}
        case "ReduceLogSumExp":
            return {0: add("Mul", dy, add("Exp", add("Sub", x, y)))}
        case _:  # ReduceProd; an element that is zero has the product of all others as its derivative, which this does not give
            return {0: add("Div", add("Mul", dy, y), x)}


def keep_axes(call: NodeGradient, tensor: Tensor) -> Tensor:
    """A result, or its gradient, with the reduced axes as axes of size one."""
    axes = call.node.input(1)
    if call.attr("keepdims", 1):
        return tensor
    if axes is None:
        return tensor if call.attr("noop_with_empty_axes", 0) else call.reshape(tensor, [1] * call.rank(call.x))
    return call.add("Unsqueeze", tensor, axes)
