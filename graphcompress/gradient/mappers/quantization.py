"""QuantizeLinear and DequantizeLinear: rounding is passed straight through, what lies outside the range of the codes is not moved.

The gradients of a pair are those of fake quantization with a learned scale: Bengio et al. (arXiv 1308.3432) for x, Esser et al. (arXiv 1902.08153) for the scale. Codes are integers; the gradient of a tensor of
codes is of the scale's type.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphcompress.gradient.build import NodeGradient, NoGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.ir import Tensor
from graphcompress.ir.model.element_types import integer_limits


@mapper
def quantization(call: NodeGradient) -> Mapping[int, Tensor]:
    """y = clip(round(x / s) + z): dx = dy / s and ds = -dy x / s^2 where nothing was clipped."""
    limits = integer_limits(call.dtype(call.y))
    if limits is None:
        raise NoGradient("codes", f"QuantizeLinear to {call.dtype(call.y)} has no gradient")
    scale, zero = parameters(call)
    dtype = call.dtype(scale)
    low, high = (call.build.number(float(limit), dtype) for limit in limits)
    quotient = call.add("Div", call.add("CastLike", call.x, scale), scale)
    place = call.add("Round", quotient) if zero is None else call.add("Add", call.add("Round", quotient), zero)
    inside = call.add("CastLike", call.add("Equal", place, call.add("Clip", place, low, high)), scale)
    through = call.add("Div", call.add("Mul", call.dy, inside), scale)
    gradients = {0: call.add("CastLike", through, call.x)}
    if 1 in call.targets:
        gradients[1] = as_scale(call, call.add("Neg", call.add("Mul", through, quotient)), scale)
    return gradients


@mapper
def dequantization(call: NodeGradient) -> Mapping[int, Tensor]:
    """y = (x - z) s: dx = dy s, ds = dy (x - z)."""
    scale, zero = parameters(call)
    gradients: dict[int, Tensor] = {}
    if 0 in call.targets:
        gradients[0] = call.add("Mul", call.dy, scale)
    if 1 in call.targets:
        codes = call.add("CastLike", call.x, scale)
        gradients[1] = as_scale(call, call.add("Mul", call.dy, codes if zero is None else call.add("Sub", codes, zero)), scale)
    return gradients


def parameters(call: NodeGradient) -> tuple[Tensor, Tensor | None]:
    """Scale and zero point as floats that broadcast over x. Raises NoGradient for blocks of an axis."""
    scale, zero = call.input(1), call.node.input(2)
    as_float = None if zero is None else call.add("CastLike", zero, scale)
    rank = call.rank(scale)
    if rank > 1 or call.attr("block_size"):
        raise NoGradient("blocks", f"{call.node.op} with a scale for each block has no gradient")
    if rank == 0 or call.static(scale) == (1,):
        return scale, as_float
    axes, axis = call.rank(call.x), call.axis(call.x, 1)
    shape = [-1 if i == axis else 1 for i in range(axes)]
    return call.reshape(scale, shape), None if as_float is None else call.reshape(as_float, shape)


def as_scale(call: NodeGradient, gradient: Tensor, scale: Tensor) -> Tensor:
    """`gradient` summed to the scale as it was applied, in the shape that it has."""
    return call.add("Reshape", call.build.reduced_to(gradient, scale), call.build.shape_of(call.input(1)))
