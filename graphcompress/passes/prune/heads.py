"""Vectors of attention heads: which columns of which layers they are made of, and which rows of a layer read them.

Between a layer and a product of two activations lie nodes that move numbers about and scale them all alike. Where each number of such a vector comes from is read off by running these nodes on the numbers of
the columns, so that it does not matter how an exporter splits, joins and repeats heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.ir import Model, Node, Tensor, constant_data, output_ids, producer, sole_consumer
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.model.extract import extract
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.reconstruction.rows import Layer, layer_of
from graphcompress.runtime.session import Feed, open_session
from graphcompress.runtime.watch import Watch

MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "Expand", "Tile", "Identity")
SCALES = ("Mul", "Div")
LEAST_DIMS = 2


@dataclass(frozen=True, slots=True, eq=False)
class HeadVectors:
    """An activation as vectors [leading, places, dims]: its last two axes, or these exchanged (`swapped`). `layer` makes them, `moves` lie between; `columns` [leading, dims] are the output channels of the layer."""

    tensor: Tensor
    layer: Layer
    moves: tuple[Node, ...]
    columns: Array
    swapped: bool = False

    def of(self, value: Array) -> Array:
        """`value` of the tensor as [leading, places, dims]."""
        value = value.swapaxes(-1, -2) if self.swapped else value
        return value.reshape(-1, *value.shape[-2:])


@dataclass(frozen=True, slots=True, eq=False)
class DotProduct:
    """A MatMul that sums over the dimensions of two kinds of vectors: queries and keys. Any basis may be taken for those of a head, and the one that belongs to it for the others. `heads` are numbers, one for each
    leading index of the two."""

    left: HeadVectors
    right: HeadVectors
    heads: tuple[Array, Array]


@dataclass(frozen=True, slots=True, eq=False)
class WeightedSum:
    """A MatMul that sums vectors over places: values, which `reader` multiplies by its weight. `total` is the sum, `moves` lie between it and the reader, `rows` [heads, copies, dims] are the reader's inputs that
    each dimension of a head gets to; `heads`: of each leading index of the vectors and of the sum."""

    vectors: HeadVectors
    total: Tensor
    reader: Layer
    moves: tuple[Node, ...]
    rows: tuple[Array, ...]
    heads: tuple[Array, Array]


Site = DotProduct | WeightedSum


def find_sites(model: Model, feed: Feed, *, threads: int | None = None) -> list[Site]:
    """The products of activations in the main graph of `model` with a free choice of basis. `feed` is one that it runs with. Raises ModelError where it does not."""
    products = [n for n in model.graph.nodes if n.is_op("MatMul") and not any(constant_data(t) is not None for t in n.inputs)]
    if not products:
        return []
    outputs = output_ids(model)
    layers = [layer for node in model.graph.nodes if (layer := layer_of(node, outputs)) is not None and _own(layer, outputs)]
    made, read = {layer.output: layer for layer in layers}, {layer.x: layer for layer in layers}
    chains = []
    for node in products:
        left, right = (_origin(t, made) for t in node.inputs)
        chains.append((node, left, right, _destination(node.outputs[0], read, outputs)))
    chains = [(node, left, right, end) for node, left, right, end in chains if right is not None and (left is not None or end is not None)]
    moving = {n for _, left, right, end in chains for chain in (left, right, end) if chain is not None for n in chain[1]}
    wanted = {t for n in moving for t in n.inputs if t.name and constant_data(t) is None}
    wanted |= {t for node, left, *_ in chains for t in (*node.inputs, *(node.outputs if left is None else ()))} | {
        chain[0].output for _, *two, _ in chains for chain in two if chain is not None
    }
    values = {t: np.asarray(v) for held in Watch(model, wanted).run([feed], threads=threads, optimize="basic") for t, v in held.items()} if chains else {}
    sites: list[Site] = []
    for node, left, right, end in chains:
        a, b = node.inputs
        if left is not None and right is not None:
            sides = _vectors(model, a, left, values), _vectors(model, b, right, values, swapped=True)
            if sides[0] is not None and sides[1] is not None and (product := _product(sides[0], sides[1], values)) is not None:
                sites.append(product)
        elif left is None and right is not None and end is not None and (vectors := _vectors(model, b, right, values)) is not None:
            found = _weighted_sum(model, vectors, node.outputs[0], end, values)
            if found is not None:
                sites.append(found)
    return sites


Chain = tuple[Layer, tuple[Node, ...]]


def _own(layer: Layer, outputs: set[int]) -> bool:
    """Whether its numbers are its own to be changed: of one group, in float32, read by nothing else."""
    numbers = [layer.weight, *([] if layer.bias is None else [layer.bias])]
    alone = all(len(c.outputs) == 1 and id(c) not in outputs and c.dtype == np.float32 for c in numbers)
    return alone and layer.form.shape[0] == 1 and (layer.bias is None or math.prod(layer.bias.shape) == layer.form.shape[2])


def _origin(tensor: Tensor, made: Mapping[Tensor, Layer]) -> Chain | None:
    """The layer that `tensor` is moved from, and the nodes between, in an order that runs."""
    if tensor in made:
        return made[tensor], ()
    node = producer(tensor)
    if node is None or not node.is_op(*MOVES, *SCALES):
        return None
    for source in node.inputs[: 2 if node.is_op("Mul") else 1]:
        if constant_data(source) is None and (chain := _origin(source, made)) is not None:
            return chain[0], (*chain[1], node)
    return None


def _destination(tensor: Tensor, read: Mapping[Tensor, Layer], outputs: set[int]) -> Chain | None:
    """The layer that `tensor`, and nobody else, is moved to, and the nodes between."""
    moves: list[Node] = []
    while (node := sole_consumer(tensor, outputs)) is not None:
        if tensor in read:
            return read[tensor], tuple(moves)
        if not node.is_op(*MOVES, *SCALES) or (tensor is not node.inputs[0] and not node.is_op("Mul")) or len(node.outputs) > 1:
            return None
        moves.append(node)
        tensor = node.outputs[0]
    return None


def _numbers(model: Model, start: Tensor, numbers: Array, moves: Sequence[Node], end: Tensor, values: Mapping[Tensor, Array]) -> Array | None:
    """What becomes of `numbers`, integers above 0 in the place of `start`, at `end`; None where they are not merely moved and scaled by one factor."""
    if not moves:
        return numbers
    inner = {t for n in moves for t in n.outputs}
    more = [t for t in dict.fromkeys(t for n in moves for t in n.inputs) if t.name and t is not start and t not in inner and constant_data(t) is None]
    part, _ = extract(model, moves, [end], {t: array_dtype_name(values[t]) for t in (start, *more)})
    names = [spec.name for spec in part.inputs]
    with open_session(part, optimize="none", threads=1) as session:
        ones, moved = (
            next(iter(session.run(dict(zip(names, [array, *(values[t] for t in more)], strict=True))).values()))
            for array in (np.ones(numbers.shape, np.float32), numbers.astype(np.float32))
        )
    factor = float(ones.flat[0]) if ones.size else 0.0
    if not factor or not np.isfinite(factor) or not np.allclose(ones, factor, rtol=1e-5, atol=0):
        return None
    moved = moved / factor
    result: Array = np.round(moved).astype(np.int64)
    return result if np.abs(moved - result).max() < 0.1 else None


def _vectors(model: Model, tensor: Tensor, chain: Chain, values: Mapping[Tensor, Array], *, swapped: bool = False) -> HeadVectors | None:
    layer, moves = chain
    shape, axis = values[layer.output].shape, layer.form.channel_axis % values[layer.output].ndim
    channels = np.arange(1, shape[axis] + 1).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    numbers = _numbers(model, layer.output, np.broadcast_to(channels, shape), moves, tensor, values)
    if numbers is None or numbers.ndim < 2 or not numbers.size:
        return None
    vectors = HeadVectors(tensor, layer, moves, np.zeros(0, np.int64), swapped)
    placed = vectors.of(numbers)
    if (placed != placed[:, :1]).any() or placed.shape[-1] < LEAST_DIMS:
        return None
    return HeadVectors(tensor, layer, moves, placed[:, 0] - 1, swapped)


def _product(left: HeadVectors, right: HeadVectors, values: Mapping[Tensor, Array]) -> DotProduct | None:
    """Heads are numbered so that vectors of equal columns, and those that are multiplied with one another, have the same number."""
    keys = [np.unique(side.columns, axis=0, return_inverse=True)[1].reshape(-1) for side in (left, right)]
    shapes = [values[side.tensor].shape[:-2] for side in (left, right)]
    whole = np.broadcast_shapes(*shapes)
    pairs = np.stack([np.broadcast_to(key.reshape(shape), whole).reshape(-1) for key, shape in zip(keys, shapes, strict=True)], axis=1)
    heads = np.arange(keys[0].max() + 1), np.full(keys[1].max() + 1, -1)
    for a, b in np.unique(pairs, axis=0).tolist():
        old = heads[1][b]
        if old < 0:
            heads[1][b] = heads[0][a]
        else:
            for numbers in heads:
                numbers[numbers == heads[0][a]] = old
    product = DotProduct(left, right, (heads[0][keys[0]], heads[1][keys[1]]))
    columns = {
        layer: np.concatenate([own for side in (left, right) if side.layer is layer for own in np.unique(side.columns, axis=0)])
        for layer in (left.layer, right.layer)
    }
    return product if all(len(np.unique(own)) == len(own) for own in columns.values()) else None


def _weighted_sum(model: Model, vectors: HeadVectors, total: Tensor, chain: Chain, values: Mapping[Tensor, Array]) -> WeightedSum | None:
    reader, moves = chain
    unique, heads = np.unique(vectors.columns, axis=0, return_inverse=True)
    shape, lead = values[total].shape, values[vectors.tensor].shape[:-2]
    if len(np.unique(unique)) != unique.size or shape[-1] != unique.shape[1] or len(shape) < len(lead) + 2:
        return None
    whole = np.broadcast_to(heads.reshape(lead), shape[:-2])
    numbers = np.broadcast_to(whole[..., None, None] * shape[-1] + np.arange(1, shape[-1] + 1), shape)
    x = _numbers(model, total, numbers, moves, reader.x, values)
    if x is None:
        return None
    placed = reader.form.rows(x, np.arange(reader.form.places_from(x.shape)))[0] - 1
    if not len(placed) or (placed != placed[:1]).any() or placed.min() < 0:
        return None
    rows = []
    for head in range(len(unique)):
        places = [np.flatnonzero(placed[0] == head * shape[-1] + d) for d in range(shape[-1])]
        if not len(places[0]) or any(len(p) != len(places[0]) for p in places):
            return None
        rows.append(np.stack(places, axis=1))
    return WeightedSum(vectors, total, reader, moves, tuple(rows), (heads.reshape(-1), whole.reshape(-1)))


def tensors_between(site: Site) -> Iterator[Tensor]:
    """The activations that are others in another basis."""
    for vectors in (site.left, site.right) if isinstance(site, DotProduct) else (site.vectors,):
        yield from (vectors.layer.node.outputs[0], vectors.layer.output, *(t for n in vectors.moves for t in n.outputs))
    if isinstance(site, WeightedSum):
        yield from (site.total, *(t for n in site.moves for t in n.outputs))


def layers_of(site: Site) -> tuple[Layer, Layer]:
    """The layers whose numbers are others in another basis."""
    return (site.left.layer, site.right.layer) if isinstance(site, DotProduct) else (site.vectors.layer, site.reader)
