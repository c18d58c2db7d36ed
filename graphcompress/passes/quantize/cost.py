"""Where integers pay: a latency model from the target's table, minimized exactly by one minimum cut.

Every group is in float or in integers. Its cost is the table's; a tensor that crosses from float to integers costs a Q once, from integers to float a DQ per float consumer. Two labels and
no negative boundary: the cheapest labelling is a minimum cut (Kolmogorov and Zabih 2004). What the model cannot see (layout, caches, kernels chosen by shape) is left to measuring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from graphcompress.ir import Model, Tensor, consumers, output_ids, producer
from graphcompress.passes.quantize.groups import Group, shape_of
from graphcompress.passes.quantize.observe import Observed
from graphcompress.targets import Boundary, Target

WHOLE = 2**29  # what all finite capacities of a cut add up to at most; they are whole numbers
ENDLESS = 2**30
SOURCE, SINK = 0, 1


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of one run in ns, in float and in integers."""

    floating: float
    integer: float


def cost(group: Group, seen: Mapping[str, Observed], boundary: Boundary) -> Cost:
    """What the table says of a group at the sizes seen in calibration; the integer side is credited for the bytes that the file loses."""
    figures = figures_of(group, seen)
    units = figures["macs"] if group.row.unit == "mac" else figures["elements"]
    price = next(p for p in group.row.price if all(figures.get(k, 0.0) < v for k, v in p.below.items()))
    floating = units * price.float_ns
    saved = 3.0 * math.prod(shape_of(group.weight)) if group.weight is not None else 0.0
    return Cost(floating, floating * price.ratio * boundary.margin - saved * boundary.byte)


def figures_of(group: Group, seen: Mapping[str, Observed]) -> dict[str, float]:
    """The figures that prices ask for; sizes are means over the feeds."""
    tensors = [*group.inputs, *group.outputs]
    figures = {"elements": max((seen[t.name].size for t in tensors if t.name in seen), default=0.0)}
    out = seen[group.key].size if group.key in seen else 0.0
    if group.weight is not None:
        shape, axis = shape_of(group.weight), group.weight_axis
        reduction = math.prod(shape) / shape[axis]
        groups = int(group.node.attrs.get("group", 1)) if group.node.op == "Conv" else 1
        depth = shape[1] if group.node.op == "Conv" else reduction
        figures |= {
            "macs": out * reduction,
            "reduction": reduction,
            "depth": depth,
            "groups": groups,
            "channels": depth * groups,
            "width": shape[axis] / groups,
        }
    elif group.row.unit == "mac" and group.inputs[0].name in seen:
        inner = seen[group.inputs[0].name].shape[-1:] or (1,)
        figures |= {"macs": out * inner[0], "reduction": inner[0]}
    return figures


def decide(model: Model, groups: Sequence[Group], seen: Mapping[str, Observed], target: Target, forced: Set[str] = frozenset()) -> set[str]:
    """The keys of the groups that go to integers; those of `forced` do whatever it costs.

    A group whose row says `follows` stays float unless all that it reads is made, and all that it makes is read, by groups in integers: found by cutting again without those that stand at a border,
    until none does.
    """
    stay: set[str] = set()
    while True:
        chosen = cut(model, [g for g in groups if g.key not in stay], seen, target, forced)
        border = {g.key for g in groups if g.key in chosen - forced and g.row.follows and not inside(g, groups, chosen)}
        if not border:
            return chosen
        stay |= border


def inside(group: Group, groups: Sequence[Group], chosen: set[str]) -> bool:
    """True where every neighbour of `group` is in `chosen`."""
    made = {id(t): g for g in groups for t in g.outputs}
    head = {id(g.node) for g in groups if g.key in chosen}
    reads = all(id(t) in made and made[id(t)].key in chosen for t in group.inputs)
    return reads and all(t.outputs and all(id(n) in head for n in t.outputs) for t in group.outputs)


def cut(model: Model, groups: Sequence[Group], seen: Mapping[str, Observed], target: Target, forced: Set[str] = frozenset()) -> set[str]:
    """The cheapest labelling: keys of the groups on the integer side."""
    if not groups:
        return set()
    vertex = {id(g.node): i + 2 for i, g in enumerate(groups)}
    edges: dict[tuple[int, int], float] = {}

    def edge(a: int, b: int, weight: float) -> None:
        if a != b and weight > 0:
            edges[a, b] = edges.get((a, b), 0.0) + weight

    for group in groups:
        price = cost(group, seen, target.boundary)
        # Only the difference counts, and capacities are not negative.
        gain = math.inf if group.key in forced else price.floating - price.integer
        if gain > 0:
            edge(SOURCE, vertex[id(group.node)], gain)
        else:
            edge(vertex[id(group.node)], SINK, -gain)
    size = boundaries(model, groups, vertex, seen, target.boundary, edge)
    reached = source_side(edges, size)
    return {g.key for g in groups if vertex[id(g.node)] in reached}


def boundaries(
    model: Model, groups: Sequence[Group], vertex: Mapping[int, int], seen: Mapping[str, Observed], prices: Boundary, edge: Callable[[int, int, float], None]
) -> int:
    """Add what Q and DQ cost to the graph of the cut; the number of its vertices."""
    made = {id(t): g for g in groups for t in g.outputs}
    outputs = output_ids(model)
    size = len(groups) + 2
    for key, tensor in {id(t): t for g in groups for t in (*g.inputs, *g.outputs)}.items():
        elements = seen[tensor.name].size if tensor.name in seen else 0.0
        maker = made.get(key)
        start = SINK if maker is None else vertex[id(maker.node)]
        readers = [vertex.get(id(n), SINK) for n in consumers(tensor)]
        fixed = prices.floor + elements * (prices.layout if touches_conv(tensor) else 0.0)
        integer = [v for v in readers if v != SINK]
        if integer:
            # One Q, whoever many read it: an auxiliary vertex that is on the integer side as soon as one reader is.
            for v in integer:
                edge(v, size, math.inf)
            edge(size, start, fixed + elements * prices.quantize)
            size += 1
        # An operator that can hand out float has no DQ behind it while nobody reads integers; with one reader both are never needed.
        if maker is not None and id(tensor) not in outputs and not (maker.row.output == "optional" and (len(readers) == 1 or not integer)):
            for v in readers:
                edge(start, v, fixed + elements * prices.dequantize)
    return size


def source_side(edges: Mapping[tuple[int, int], float], size: int) -> set[int]:
    """The vertices on the source's side of a minimum cut, the smallest such set: of equal cuts the one with less in integers."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    total = sum(w for w in edges.values() if w < math.inf)
    unit = max(1.0, total / WHOLE)  # ns, unless the model is so large that the sum would not fit
    weights = np.array([ENDLESS if w == math.inf else max(1, math.ceil(w / unit)) for w in edges.values()], np.int32)
    ends = np.array(list(edges), np.int32).reshape(-1, 2)
    graph = csr_array((weights, (ends[:, 0], ends[:, 1])), shape=(size, size))
    rest = csr_array(graph - maximum_flow(graph, SOURCE, SINK).flow)
    rest.data = np.maximum(rest.data, 0)
    rest.eliminate_zeros()
    return set(breadth_first_order(rest, SOURCE, return_predecessors=False).tolist())


def touches_conv(tensor: Tensor) -> bool:
    """A Conv on either side works in another layout in integers than in float."""
    before = producer(tensor)
    if before is not None and before.is_op("Relu", "Clip"):
        before = producer(before.inputs[0])
    return (before is not None and before.is_op("Conv")) or any(n.is_op("Conv") for n in consumers(tensor))
