"""Layers that become a product of two smaller ones: which can, what their outputs need, and the two layers in the graph.

y = x W + b with W [n, o] becomes (x A) B + b with A [n, r] and B [r, o]: a convolution to r channels and one of a kernel of 1, or two matrix products. It pays below
the rank n o / (n + o). Which directions of the outputs stay is reduced-rank regression (`reconstruction.solve.refit`); B has them as orthonormal rows, so that what
rounding or INT8 does to the r numbers in between is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphcompress.ir import Model, Node, output_ids
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.costs import FactoredCost, WidthCost
from graphcompress.passes.prune.groups import Groups
from graphcompress.passes.prune.moments import at_places
from graphcompress.reconstruction.gram import Gram, Moments
from graphcompress.reconstruction.repair import MOST_UNKNOWNS, set_bias
from graphcompress.reconstruction.rows import Layer, layer_of
from graphcompress.reconstruction.solve import main_directions
from graphcompress.runtime.session import Feed
from graphcompress.step import Progress, silent

STEP = "prune"
ONE_LAYER = ("Conv", "Gemm", "MatMul")
MOST_OUTPUTS = 2048
"""Of a layer that may become two: their moments are a square matrix, whose eigenvectors are calculated several times."""
GEMM_WITHOUT_BIAS = 11  # the first opset of ai.onnx in which its bias is optional
LEFT_OVER = 1e-4
"""Of a weight's energy: what lies outside its rank where it has been fitted to that rank is rounding."""


def factorable(groups: Groups) -> list[Layer]:
    """The layers of the main graph that could be two: one group, a weight of floating-point numbers that nobody else reads, a matrix of which more than rank 1 would pay,
    and not so large that its moments would be too much."""
    model = groups.algebra.model
    outputs = output_ids(model)
    layers = []
    for node in model.graph.nodes:
        layer = layer_of(node, outputs) if node.is_op(*ONE_LAYER) and groups.node_macs.get(node) else None
        if layer is None or len(layer.weight.outputs) > 1 or id(layer.weight) in outputs or layer.weight.values.dtype.kind != "f":
            continue
        g, n, o = layer.form.shape
        if g == 1 and n <= MOST_UNKNOWNS and o <= MOST_OUTPUTS and dearest(n, o) > 1:
            layers.append(layer)
    return layers


def dearest(n: int, o: int) -> int:
    """The largest rank at which two layers multiply and accumulate less than one [n, o]."""
    return max(0, -(-n * o // (n + o)) - 1)


def spectra(
    model: Model, layers: Sequence[Layer], feeds: Iterable[Feed], *, seed: int, threads: int | None = None, progress: Progress = silent
) -> list[Moments]:
    """The second moments of the outputs of `layers` as the rows of x: about their means, about 0 where a layer can have no bias."""
    grams = [Gram() for _ in layers]
    for index, values, at in at_places(
        model, [(layer.output, layer.form.places) for layer in layers], feeds, seed=seed, threads=threads, progress=progress, words="looking at outputs"
    ):
        grams[index].update(layers[index].form.outputs(values, at))
    finished = [gram.finish(last=True) for gram in grams]
    return [m if layer.bias_site is not None or not m.rows else m.about_zero() for layer, m in zip(layers, finished, strict=True)]


def rank_errors(moments: Moments) -> Array:
    """The part of the outputs' energy that a rank loses, for ranks 0 ... o: [o + 1]."""
    energies = np.maximum(0.0, np.linalg.eigvalsh(moments.xx))
    lost = np.concatenate([[0.0], np.cumsum(energies)])[::-1]
    return lost / (lost[0] or 1.0)


def with_ranks(cost: WidthCost, groups: Groups, layers: Sequence[Layer], slowness: Mapping[Node, float] | None = None) -> WidthCost:
    """`cost` of nodes or of constants, with the ranks of `layers` as further sizes behind those of the groups. `slowness` of nodes: `FactoredCost`."""
    count = len(groups.groups)
    products = {product.owner: product for product in cost.products}
    for index, layer in enumerate(layers):
        owner = layer.node if layer.node in products else layer.weight
        if owner in products:
            axis = layer.form.output_axis
            rows = tuple(f for a in range(len(layer.weight.shape)) if a != axis for f in groups.axis_factors(layer.weight, a))
            columns = groups.axis_factors(layer.weight, axis)
            slow = (slowness or {}).get(layer.node, 1.0)
            products[owner] = FactoredCost(products[owner], count + index, full_rank(layer), layer.form.shape[1:], rows, columns, slow)
    return WidthCost(list(products.values()), cost.other, count + len(layers))


def full_rank(layer: Layer) -> int:
    """The size of a rank that means one layer."""
    _, n, o = layer.form.shape
    return min(n, o)


# --- in the graph -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RankedLayer:
    """A layer of the student that is to have a `rank`, and the second moments of what it gave in the teacher for the outputs that are left."""

    layer: Layer
    rank: int
    outputs: Moments


def chosen_outputs(moments: Moments, channels: Array | None) -> Moments:
    """Of some outputs, all with None."""
    if channels is None:
        return moments
    return replace(moments, mean_x=moments.mean_x[channels], xx=moments.xx[np.ix_(channels, channels)])


def project(model: Model, ranked: Sequence[RankedLayer]) -> None:
    """Give weights that have more than their rank, in place, the main directions of the teacher's outputs, and biases that keep their means: what can be done without a fit."""
    with Edits(model) as edits:
        for entry in ranked:
            layer, moments = entry.layer, entry.outputs
            matrix = layer.weight_matrix()[0]
            energies = np.linalg.eigvalsh(matrix.T @ matrix)
            if energies[: len(energies) - entry.rank].sum() <= LEFT_OVER * energies.sum():
                continue
            main = main_directions(moments.xx, entry.rank)
            bias = moments.mean_x + (layer.bias_vector()[0] - moments.mean_x) @ main @ main.T
            edits.set_value(layer.weight, layer.weight_from_matrix((matrix @ main @ main.T)[None]))
            set_bias(edits, model, layer, bias[None], replace(moments, yy=np.diagonal(moments.xx)))


def factor(model: Model, layer: Layer, rank: int) -> None:
    """Put two layers, in place, where one of a weight of `rank` is. The second keeps the name, the bias and the output."""
    node, (_, _, o) = layer.node, layer.form.shape
    matrix = layer.weight_matrix()[0]
    main = main_directions(matrix.T @ matrix, rank)
    first, second = matrix @ main, main.T
    dtype, name = layer.weight.values.dtype, node.name or node.op
    place = next(i for i, t in enumerate(node.inputs) if t is layer.weight)
    attrs = dict(node.attrs)
    weights: tuple[Array, Array]
    with Edits(model) as edits:
        if node.op == "Conv":
            ones = (1,) * (len(layer.weight.shape) - 2)
            weights = first.T.reshape(rank, -1, *layer.weight.shape[2:]), second.T.reshape(o, rank, *ones)
            node.attrs = {"kernel_shape": list(ones)}
        elif node.op == "Gemm":
            flips = bool(attrs.get("transB", 0))
            first = first / float(attrs.get("alpha", 1.0))
            weights = (first.T, second.T) if flips else (first, second)
            attrs.pop("beta", None)
            node.attrs = {key: value for key, value in node.attrs.items() if key in ("beta", "transB")}
        else:
            weights = (first.T, second.T) if place == 0 else (first, second)
        a, b = (model.constant(f"{layer.weight.name}_{side}", np.ascontiguousarray(m).astype(dtype)) for side, m in zip(("in", "out"), weights, strict=True))
        inputs = [a, layer.x] if place == 0 else [layer.x, a]
        if node.op == "Gemm" and model.opset < GEMM_WITHOUT_BIAS:
            inputs.append(model.constant(f"{layer.weight.name}_zeros", np.zeros(rank, dtype)))
        between = model.add(node.op, inputs, attrs=attrs, name=f"{name}_rank", near=node, origin=(STEP, node.name)).outputs[0]
        edits.set_input(node, 1 - place, between)
        edits.set_input(node, place, b)
    if model.graph.initializers.get(layer.weight.name) is layer.weight:
        del model.graph.initializers[layer.weight.name]
