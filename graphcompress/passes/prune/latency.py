"""Time as a cost of widths: a table of what nodes take in cuts of a few uniform widths, and the time of a cut beside the original."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.ir import Model, Node
from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.costs import Factor, WidthCost, places_of
from graphcompress.passes.prune.cut import Cut
from graphcompress.passes.prune.groups import Groups
from graphcompress.reconstruction.rows import Layer
from graphcompress.runtime.measure import measure
from graphcompress.runtime.node_times import node_times
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.session import Feed
from graphcompress.step import Context

PROFILED = (0.75, 0.5, 0.25)
"""Parts of every group that the profiled cuts keep, beside the whole model."""
TIMED_FEEDS = 4
BUDGET_S = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class LatencyCost:
    """Seconds of a node by the product of the shares of its `factors`: `points` [count, 2] of (share, seconds), the least share first, between which it is linear."""

    owner: Node
    factors: tuple[Factor, ...]
    points: Array

    def at(self, sizes: Array) -> float:
        share = math.prod(factor.share(sizes) for factor in self.factors)
        shares, seconds = self.points.T
        if share < shares[0] and len(shares) > 1:
            slope = (seconds[1] - seconds[0]) / (shares[1] - shares[0])
            return max(0.0, float(seconds[0] - slope * (shares[0] - share)))
        return float(np.interp(share, shares, seconds))

    def places(self) -> set[int]:
        return places_of(self.factors)


def measured_time(groups: Groups, cuts: Sequence[tuple[Array, Cut]], feed: Feed, context: Context) -> WidthCost:
    """Seconds of a run on `feed` by widths, from profiles of the model and of `cuts`, each with its widths [groups]. Raises ModelError where one does not run."""
    judging = context.judging_place()
    place = judging if isinstance(judging, LocalPlace) else LocalPlace()  # of a place elsewhere, `time_share` tells how far this is off
    model = groups.algebra.model
    whole = node_times(model, feed, place, threads=context.threads or 1)
    columns = [(groups.widths, whole)]
    for index, (widths, attempt) in enumerate(cuts):
        context.progress("timing widths", index + 1, len(cuts))
        original = {attempt.twins.node(node): node for node in model.graph.nodes}
        times = node_times(attempt.model, feed, place, threads=context.threads or 1)
        columns.append((widths, {original[node]: seconds for node, seconds in times.items() if node in original}))
    products = []
    for node, seconds in whole.items():
        factors = groups.factors(node)
        if not factors:
            products.append(LatencyCost(node, (), np.array([[1.0, seconds]])))
        else:
            points = {math.prod(f.share(widths) for f in factors): times.get(node, 0.0) for widths, times in columns}
            shares = np.array(sorted(points))
            # A narrower node is no slower: what looks like it is noise.
            values = np.minimum.accumulate([min(points[s], seconds) for s in shares[::-1]])[::-1]
            products.append(LatencyCost(node, factors, np.stack([shares, values], axis=1)))
    return WidthCost(products, 0.0, len(groups.groups))


def slowness_of_two(cost: WidthCost, groups: Groups, model: Model, ranks: Mapping[Layer, int], feed: Feed, context: Context) -> dict[Node, float]:
    """For layers of the original that are two of a rank in `model`: the time of both by that of the one in `cost`, as a multiple of what they multiply and accumulate by what it does."""
    if not ranks:
        return {}
    judging = context.judging_place()
    place = judging if isinstance(judging, LocalPlace) else LocalPlace()
    times = node_times(model, feed, place, threads=context.threads or 1)
    makers = {tensor.name: node for node in model.graph.nodes for tensor in node.outputs}
    whole = {product.owner: product.at(groups.widths) for product in cost.products}
    result = {}
    for layer, rank in ranks.items():
        second = makers[layer.node.outputs[0].name]
        both = [second, *(makers[t.name] for t in second.inputs if t.name in makers)]
        _, n, o = layer.form.shape
        if whole.get(layer.node):
            result[layer.node] = sum(times.get(node, 0.0) for node in both) / whole[layer.node] / (rank * (n + o) / (n * o))
    return result


def time_share(original: Model, candidate: Model, feeds: Sequence[Feed], context: Context) -> float:
    """Time of `candidate` as a part of that of `original`, measured in turns where the result is judged. Raises ModelError where one does not run."""
    place, threads = context.judging_place(), context.threads or 1
    sessions = [place.open(model, threads=threads) for model in (original, original, candidate)]
    try:
        return 1 / measure(sessions[0], sessions[1], sessions[2], feeds[:TIMED_FEEDS], threads=threads, budget_s=BUDGET_S).speedup
    finally:
        for session in sessions:
            session.close()
