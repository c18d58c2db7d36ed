"""Scores that a Softmax exponentiates: there an absolute error becomes a relative one.

exp(s + e) is about exp(s) * (1 + e), so scores with an error of standard deviation 0.1 give probabilities that are off by a tenth of themselves, however
small that error is beside the largest score. Scaled dot products of unit variance keep far below that in 8 bits; sharp ones, in the tens, do not. This looks
at products of two computed matrices in front of a Softmax, and at the layers that make these matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphcompress.ir import Model, Node, Tensor, constant_value, nodes, producer
from graphcompress.passes.quantize.groups import Group
from graphcompress.passes.quantize.insert import Weights
from graphcompress.passes.quantize.scales import Ranges, scales_of

LARGEST_ERROR = 0.1  # standard deviation of a score
MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Identity", "Flatten", "Split")


def blurred_scores(model: Model, groups: Sequence[Group], ranges: Ranges, weights: Weights) -> dict[Group, tuple[Node, float]]:
    """The groups that have to stay float for the scores of some Softmax to keep LARGEST_ERROR, with that Softmax and the error that its scores would have;
    the noisiest ones go first."""
    makers = {t: g for g in groups for t in g.outputs}
    products = [(softmax, group, factor) for softmax in nodes(model) if softmax.is_op("Softmax") for group, factor in scores_of(softmax, makers)]
    result: dict[Group, tuple[Node, float]] = {}
    if not products:
        return result
    scales = scales_of(groups, ranges)

    def rounding(tensor: Tensor) -> float:
        """Mean square error of a tensor's codes, relative to its mean square. Rounding to a step has one of step**2 / 12."""
        power = ranges.observed[tensor].power
        return scales[tensor].scale ** 2 / 12 / power if power > 0 else 0.0

    for softmax, product, factor in products:
        power = ranges.observed[product.outputs[0]].power * factor
        noise = {product: power * sum(rounding(t) for t in product.inputs)}
        for layer in (layer for t in product.inputs if (layer := layer_behind(t, makers)) is not None):
            noise[layer] = noise.get(layer, 0.0) + power * (sum(rounding(t) for t in layer.inputs) + weights.noise(layer, scales[layer.inputs[0]].scale))
        total = sum(noise.values())
        error = total**0.5
        for group in sorted(noise, key=lambda g: -noise[g]):
            if total <= LARGEST_ERROR**2:
                break
            result[group] = softmax, error
            total -= noise[group]
    return result


def scores_of(softmax: Node, makers: dict[Tensor, Group]) -> Iterator[tuple[Group, float]]:
    """The products of two computed matrices whose result reaches the Softmax through additions, masks, moves and multiplication with a constant; with the
    square of that constant."""
    pending, visited = [(softmax.inputs[0], 1.0)], set[Tensor]()
    while pending:
        tensor, factor = pending.pop()
        group, node = makers.get(tensor), producer(tensor)
        if tensor in visited or node is None:
            continue
        visited.add(tensor)
        if group is not None and group.row.heavy:
            if group.weight is None:
                yield group, factor
        elif node.is_op("Add", "Sub", *MOVERS):
            pending += [(t, factor) for t in node.inputs]
        elif node.is_op("Where"):
            pending += [(t, factor) for t in node.inputs[1:]]
        elif node.is_op("Mul", "Div"):
            constants = [constant_value(t) for t in node.inputs]
            value = next((c for c in constants if c is not None and c.size == 1), None)
            if value is not None and float(value.reshape(())) != 0:
                square = float(value.reshape(())) ** 2
                pending += [(t, factor * square if node.op == "Mul" else factor / square) for t, c in zip(node.inputs, constants, strict=True) if c is None]


def layer_behind(tensor: Tensor, makers: dict[Tensor, Group]) -> Group | None:
    """The layer with a weight that makes `tensor`, apart from a bias, moves and a constant factor."""
    visited = set[Tensor]()
    while tensor not in visited:
        visited.add(tensor)
        group, node = makers.get(tensor), producer(tensor)
        if group is not None and group.row.heavy:
            return group if group.weight is not None else None
        if node is None or not node.is_op("Add", "Mul", "Div", *MOVERS):
            return None
        tensor = next((t for t in node.inputs if constant_value(t) is None), tensor)
    return None
