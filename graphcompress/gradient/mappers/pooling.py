"""Pooling."""

from __future__ import annotations

from collections.abc import Mapping

from graphcompress.gradient.build import NodeGradient, NoGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.gradient.mappers.separable import axis_matrix, transposed_along
from graphcompress.ir import Tensor
from graphcompress.ir.model.edit import Edits


@mapper
def max_pool(call: NodeGradient) -> Mapping[int, Tensor]:
    """dy is added where the maximum was: the forward node is asked for the indices, which count through the whole tensor."""
    node = call.node
    if call.attr("storage_order", 0):
        raise NoGradient("storage-order", "a MaxPool that counts its indices column by column has no gradient rule")
    if len(node.outputs) < 2 or not node.outputs[1].name:
        with Edits(call.build.model) as edits:
            edits.set_output(node, 1, call.build.model.variable("indices"))
        call.build.shapes.forget(node.outputs)
    flat = call.ints([-1])
    zeros = call.add("Reshape", call.zeros(call.x), flat)
    places = call.add("Reshape", node.outputs[1], flat)
    added = call.add("ScatterElements", zeros, places, call.add("Reshape", call.dy, flat), axis=0, reduction="add")
    return {0: call.add("Reshape", added, call.build.shape_of(call.x))}


@mapper
def average_pool(call: NodeGradient) -> Mapping[int, Tensor]:
    """The average over a window is an average along one axis after the other: dy goes back through the transposed matrix of each axis."""
    kernel = [int(k) for k in call.attr("kernel_shape")]
    rank = len(kernel)
    gradient = call.dy
    for axis in range(rank):
        attrs = {name: [int(v) for v in call.attr(name)][axis::rank] for name in ("strides", "dilations", "pads") if call.attr(name)}
        attrs |= {name: call.attr(name) for name in ("auto_pad", "ceil_mode", "count_include_pad") if call.attr(name) is not None}
        matrix = axis_matrix(call, "AveragePool", call.size(call.x, axis + 2), {"kernel_shape": [kernel[axis]], **attrs})
        gradient = transposed_along(call, gradient, matrix, axis + 2)
    return {0: gradient}
