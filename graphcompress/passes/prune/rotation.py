"""Attention in the basis in which its dimensions can best be spared: the same function, other weights.

Of the dimensions of a head single ones matter little less than others, as those of any basis do. Queries and keys may be written in any basis, as long as both change together, so may values and the layer behind
them. One that sorts them by what they give to the answers lets the last ones go at the least loss, and the same ones in all heads: of queries and keys the singular vectors of the product of their moments' roots
(the best approximation of the scores of a query and a key that are drawn apart), of values those of the root of the moments of what attention makes of them, times the weight of the layer that reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from graphcompress.data import Dataset
from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, output_ids
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.heads import DotProduct, Site, WeightedSum, find_sites, layers_of, tensors_between
from graphcompress.passes.prune.oracle import largest_difference, tolerance
from graphcompress.passes.prune.sensitivity import sampled
from graphcompress.passes.prune.sharing import separated
from graphcompress.reconstruction.rows import Layer
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import Watch

INPUTS = 64
"""That the moments are of; a moment is a matrix of the dimensions of one head, for which places of few inputs suffice."""
LEAST_VARIANCE = 1e-4
"""Of the mean: in directions with less, a basis would be that of rounding."""


def rotated(model: Model, data: Dataset, checks: Sequence[Feed], *, ignore: Iterable[str] = (), threads: int | None = None) -> tuple[Model, frozenset[str]]:
    """`model` with attention in other bases where it has some, an equal model by the inputs in `checks`; and the new names of activations that hold other numbers in it. `model` itself where there is nothing to do. `ignore`: regular expressions; layers whose names one of them matches stay as they are."""
    unchanged = model, frozenset[str]()
    feeds = list(sampled(data, INPUTS))
    if not feeds or not checks:
        return unchanged
    try:
        apart = separated(model)
        kept = [re.compile(pattern) for pattern in ignore]
        sites = find_sites(apart, feeds[0], threads=threads)
        chosen = [i for i, site in enumerate(sites) if not any(pattern.search(layer.node.name) for layer in layers_of(site) for pattern in kept)]
        while chosen:
            result, names = _turned(apart, feeds, chosen, threads)
            if largest_difference(model, result, checks) <= tolerance(model):
                return result, names
            # One at a time: what two of them share, or somebody else reads, is not seen from where they stand.
            alone = [i for i in chosen if len(chosen) > 1 and largest_difference(model, _turned(apart, feeds, [i], threads)[0], checks) <= tolerance(model)]
            chosen = alone if len(alone) < len(chosen) else []
    except (ModelError, DataError):  # what does not run here is found out, and told, where it is needed
        return unchanged
    return unchanged


def _turned(model: Model, feeds: Sequence[Feed], chosen: Sequence[int], threads: int | None) -> tuple[Model, frozenset[str]]:
    copy, _ = model.clone()
    sites = find_sites(copy, feeds[0], threads=threads)
    sites = [sites[i] for i in chosen]
    moments = _moments(copy, sites, feeds, threads)
    weights = _LayerNumbers()
    for site in sites:
        if isinstance(site, DotProduct):
            _turn_product(site, moments, weights)
        else:
            _turn_sum(site, moments, weights)
    weights.write(copy)
    outputs = output_ids(copy)
    changed = [t for t in dict.fromkeys(t for site in sites for t in tensors_between(site)) if t.name and id(t) not in outputs]
    for tensor in changed:
        tensor.name = copy.fresh(f"{tensor.name}.turned")
    return copy, frozenset(t.name for t in changed)


# --- moments ----------------------------------------------------------------------------------------------------------------------


class _HeadMoments:
    """Of the vectors of each head, over all places: `second` [heads, dims, dims] about 0, `centred` about the mean over the places of each input (keys: what all of them have in common changes no Softmax)."""

    def __init__(self, heads: int, dims: int) -> None:
        self.second = np.zeros((heads, dims, dims))
        self.centred = np.zeros((heads, dims, dims))
        self._sums = np.zeros((heads, dims))
        self._counts = np.zeros(heads)

    def update(self, vectors: Array, heads: Array) -> None:
        """Take in vectors [leading, places, dims] of `heads` [leading]; those of another number of heads are not looked at, nor what is not finite."""
        if len(vectors) != len(heads) or not np.isfinite(vectors).all():
            return
        x = vectors.astype(np.float64)
        np.add.at(self.second, heads, x.swapaxes(1, 2) @ x)
        np.add.at(self._sums, heads, x.sum(axis=1))
        np.add.at(self._counts, heads, x.shape[1])
        x -= x.mean(axis=1, keepdims=True)
        np.add.at(self.centred, heads, x.swapaxes(1, 2) @ x)

    def covariance(self, head: int) -> Array:
        """About the mean of all vectors of a head."""
        mean: Array = self._sums[head] / max(1.0, self._counts[head])
        result: Array = self.second[head] / max(1.0, self._counts[head]) - np.outer(mean, mean)
        return result


Moments = Mapping[tuple[Site, int], _HeadMoments]


def _moments(model: Model, sites: Sequence[Site], feeds: Sequence[Feed], threads: int | None) -> Moments:
    result: dict[tuple[Site, int], _HeadMoments] = {}
    asked = []
    for site in sites:
        if isinstance(site, DotProduct):
            places = [(site.left.tensor, site.left.of, site.heads[0]), (site.right.tensor, site.right.of, site.heads[1])]
        else:
            places = [(site.total, _last_two, site.heads[1])]
        for index, (tensor, view, heads) in enumerate(places):
            dims = site.left.columns.shape[1] if isinstance(site, DotProduct) else site.vectors.columns.shape[1]
            result[site, index] = _HeadMoments(int(max(h.max() for h in site.heads)) + 1, dims)
            asked.append((tensor, view, heads, result[site, index]))
    for values in Watch(model, [tensor for tensor, *_ in asked]).run(feeds, threads=threads, optimize="basic"):
        for tensor, view, heads, moments in asked:
            if tensor in values:
                moments.update(view(np.asarray(values[tensor])), heads)
    return result


def _last_two(value: Array) -> Array:
    return value.reshape(-1, *value.shape[-2:])


# --- bases ------------------------------------------------------------------------------------------------------------------------


class _LayerNumbers:
    """Weights and biases of layers, as they are to be."""

    def __init__(self) -> None:
        self._of: dict[Layer, tuple[Array, Array]] = {}

    def of(self, layer: Layer) -> tuple[Array, Array]:
        """(matrix [n, o], bias [o]), to be edited in place."""
        if layer not in self._of:
            self._of[layer] = layer.weight_matrix()[0].copy(), layer.bias_vector()[0].copy()
        return self._of[layer]

    def turn(self, layer: Layer, columns: Array, basis: Array) -> None:
        """Write the output channels `columns` [dims] in another basis [dims, dims]."""
        matrix, bias = self.of(layer)
        matrix[:, columns] = matrix[:, columns] @ basis
        bias[columns] = bias[columns] @ basis

    def write(self, model: Model) -> None:
        """Give the layers of `model` what they are to have."""
        with Edits(model) as edits:
            for layer, (matrix, bias) in self._of.items():
                edits.set_value(layer.weight, layer.weight_from_matrix(matrix[None]))
                if layer.bias is not None:
                    edits.set_value(layer.bias, layer.bias_from_vector(bias[None]).reshape(layer.bias.shape))


def _turn_product(site: DotProduct, moments: Moments, weights: _LayerNumbers) -> None:
    for head in np.unique(site.heads[0]).tolist():
        left, right = _root(moments[site, 0].second[head]), _root(moments[site, 1].centred[head])
        u, s, vt = np.linalg.svd(left[0] @ right[0])
        if not s[0] > 0 or not math.isfinite(s[0]):
            continue
        s = np.sqrt(np.maximum(s, LEAST_VARIANCE * s[0]))
        for side, heads, basis in ((site.left, site.heads[0], left[1] @ u * s), (site.right, site.heads[1], right[1] @ vt.T * s)):
            for columns in np.unique(side.columns[heads == head], axis=0):
                weights.turn(side.layer, columns, basis)


def _turn_sum(site: WeightedSum, moments: Moments, weights: _LayerNumbers) -> None:
    for head, rows in enumerate(site.rows):
        root, inverse = _root(moments[site, 0].covariance(head))
        matrix = weights.of(site.reader)[0]
        read = np.concatenate([matrix[copy] for copy in rows], axis=1)
        u, s, _ = np.linalg.svd(root @ read)
        if not s[0] > 0 or not math.isfinite(s[0]):
            continue
        s = np.sqrt(np.maximum(np.concatenate([s, np.zeros(len(u) - len(s))]), LEAST_VARIANCE * s[0]))
        for copy in rows:
            matrix[copy] = (u / s).T @ root @ matrix[copy]
        weights.turn(site.vectors.layer, site.vectors.columns[np.flatnonzero(site.heads[0] == head)[0]], inverse @ u * s)


def _root(moments: Array) -> tuple[Array, Array]:
    """The symmetric square root of a matrix of moments and its inverse."""
    values, vectors = np.linalg.eigh(moments)
    values = np.sqrt(np.maximum(values, LEAST_VARIANCE * values.mean())) if values.mean() > 0 else np.ones(len(values))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
