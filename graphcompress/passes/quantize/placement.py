"""Where integers pay: a latency model from the target's table, minimized exactly by one minimum cut.

Every group is in float or in integers. Its cost is the table's; a tensor that crosses from float to integers costs a Q once, from integers to float a DQ per
float consumer. Two labels and no negative boundary: the cheapest labelling is a minimum cut (Kolmogorov and Zabih 2004). What the model cannot see (layout,
caches, kernels chosen by shape) is left to measuring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from graphcompress.ir import Model, Tensor, consumers, output_ids, producer
from graphcompress.passes.quantize.groups import Group, shape_of
from graphcompress.passes.quantize.noise import Noise, quantized
from graphcompress.passes.quantize.observe import Observed
from graphcompress.targets import Boundary, Target

WHOLE = 2**29  # what all finite capacities of a cut add up to at most; they are whole numbers
ENDLESS = 2**30
SOURCE, SINK = 0, 1
BYTE_PRICES = tuple(0.001 * 2**i for i in range(14))  # ns


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of one run in ns, in float and in integers."""

    floating: float
    integer: float


Costs = Mapping[Group, Cost]
NOTHING: Costs = MappingProxyType({})


def cost(group: Group, observed: Mapping[Tensor, Observed], boundary: Boundary) -> Cost:
    """What the table says of a group at the sizes seen in calibration."""
    figures = figures_of(group, observed)
    units = figures["macs"] if group.row.unit == "mac" else figures["elements"]
    price = next(p for p in group.row.price if all(figures.get(k, 0.0) < v for k, v in p.below.items()))
    floating = units * price.float_ns
    return Cost(floating, floating * price.ratio * boundary.margin)


def borders(group: Group, observed: Mapping[Tensor, Observed], prices: Boundary) -> float:
    """What the Q and DQ cost, in ns, that a group needs which is in integers alone: a Q of each input, and a DQ for each reader where it hands out codes."""
    quantize = sum(_crossing(tensor, observed, prices) + observed[tensor].size * prices.quantize for tensor in {id(t): t for t in group.inputs}.values())
    dequantize = sum(
        max(1, len(consumers(tensor))) * (_crossing(tensor, observed, prices) + observed[tensor].size * prices.dequantize)
        for tensor in (group.outputs if group.needs_q else ())
    )
    return quantize + dequantize


def _crossing(tensor: Tensor, observed: Mapping[Tensor, Observed], prices: Boundary) -> float:
    """What each Q or DQ of a tensor costs beside its elements."""
    return prices.floor + observed[tensor].size * (prices.layout if touches(tensor, prices.layout_of) else 0.0)


def saved_bytes(group: Group) -> float:
    """What the file loses when the group goes to integers."""
    return 3.0 * math.prod(shape_of(group.weight)) if group.weight is not None else 0.0


def figures_of(group: Group, observed: Mapping[Tensor, Observed]) -> dict[str, float]:
    """The figures that prices ask for; sizes are means over the feeds."""
    tensors = [*group.inputs, *group.outputs]
    figures = {"elements": max(observed[t].size for t in tensors)}
    out = observed[group.outputs[0]].size
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
    elif group.row.unit == "mac":
        inner = observed[group.inputs[0]].shape[-1:] or (1,)
        figures |= {"macs": out * inner[0], "reduction": inner[0]}
    return figures


class Network:
    """The cut problem of a set of groups: vertices 0 (integers) and 1 (float), one per group, one per tensor that integers may read; edges with their
    capacity in ns."""

    def __init__(
        self, model: Model, groups: Sequence[Group], every: Sequence[Group], observed: Mapping[Tensor, Observed], boundary: Boundary, measured: Costs = NOTHING
    ) -> None:
        """`groups` are to be labelled; `every` are these and those that are float already. What is not `measured` costs what the table says."""
        self.groups = groups
        self.costs = {g: measured.get(g) or cost(g, observed, boundary) for g in groups}
        self.vertex = {id(g.node): i + 2 for i, g in enumerate(groups)}
        self.edges: dict[tuple[int, int], float] = {}
        self.size = len(groups) + 2
        self._boundaries(model, observed, boundary)
        self._pulls(every, observed, boundary)

    def capacities(self, forced: Set[Group] = frozenset(), byte: float = 0.0, price: NoisePrice | None = None) -> dict[tuple[int, int], float]:
        """All edges, those from the source and to the sink among them: what each group gains or loses, `byte` ns being gained for each byte that the file
        loses, and noise costing its `price`; `forced` gain endlessly."""
        edges = dict(self.edges)
        if price is not None:
            edges |= self._noises(price)
        for group, times in self.costs.items():
            # Only the difference counts, and capacities are not negative.
            gain = math.inf if group in forced else times.floating - times.integer + byte * saved_bytes(group)
            edge = (SOURCE, self.vertex[id(group.node)]) if gain > 0 else (self.vertex[id(group.node)], SINK)
            if gain != 0:
                edges[edge] = edges.get(edge, 0.0) + abs(gain)
        return edges

    def _edge(self, a: int, b: int, weight: float) -> None:
        if a != b and weight > 0:
            self.edges[a, b] = self.edges.get((a, b), 0.0) + weight

    def _boundaries(self, model: Model, observed: Mapping[Tensor, Observed], prices: Boundary) -> None:
        """What Q and DQ cost."""
        makers = {id(t): g for g in self.groups for t in g.outputs}
        signature = {id(t) for t in model.graph.outputs}
        handed_out = output_ids(model) - signature
        for key, tensor in {id(t): t for g in self.groups for t in (*g.inputs, *g.outputs)}.items():
            elements = observed[tensor].size
            maker = makers.get(key)
            start = SINK if maker is None else self.vertex[id(maker.node)]
            made_of_codes = maker is not None and maker.needs_q
            readers = [self.vertex.get(id(n), SINK) for n in consumers(tensor)] + [SINK] * (key in handed_out or (key in signature and made_of_codes))
            fixed = _crossing(tensor, observed, prices)
            integer = [v for v in readers if v != SINK]
            if integer:
                # One Q, whoever many read it: an auxiliary vertex that is on the integer side as soon as one reader is.
                for v in integer:
                    self._edge(v, self.size, math.inf)
                self._edge(self.size, start, fixed + elements * prices.quantize)
                self.size += 1
            # An operator that can hand out float has no DQ behind it while nobody reads integers; with one reader both are never needed.
            if maker is not None and (made_of_codes or (len(readers) > 1 and integer and key not in signature)):
                for v in readers:
                    self._edge(start, v, fixed + elements * prices.dequantize)

    def _pulls(self, every: Sequence[Group], observed: Mapping[Tensor, Observed], prices: Boundary) -> None:
        """What a group costs that the provider draws into integers from behind while its maker is float."""
        makers = {id(t): self.vertex[id(g.node)] for g in self.groups for t in g.outputs}
        for group in every:
            if group.row.pulled is not None:
                extra = cost(group, observed, prices).floating * (group.row.pulled - 1)
                for reader in {self.vertex[id(n)] for n in consumers(group.outputs[0]) if id(n) in self.vertex}:
                    self._edge(reader, makers.get(id(group.inputs[0]), SINK), extra)

    def _noises(self, price: NoisePrice) -> dict[tuple[int, int], float]:
        """What noise costs: that of a Q once, as soon as one group of its unit is in integers."""
        edges: dict[tuple[int, int], float] = {}
        for group in self.groups:
            vertex = self.vertex[id(group.node)]
            for tensor in quantized(group):
                unit = price.noise.units.get(tensor)
                if unit is not None:
                    edges[vertex, self.size + unit] = math.inf
                    edges[self.size + unit, SINK] = price.ns * price.noise.tensors[unit]
            weight = price.ns * price.noise.weights.get(group, 0.0)
            if weight > 0:
                edges[vertex, SINK] = edges.get((vertex, SINK), 0.0) + weight
        return {edge: capacity for edge, capacity in edges.items() if capacity > 0}

    def cheapest(self, forced: Set[Group] = frozenset(), byte: float = 0.0, price: NoisePrice | None = None) -> set[Group]:
        """The groups on the integer side of the least cut; of equal cuts the one with less in integers."""
        size = self.size + (0 if price is None else len(price.noise.tensors))
        reached = source_side(self.capacities(forced, byte, price), size)
        return {g for g in self.groups if self.vertex[id(g.node)] in reached}

    def value(self, chosen: Set[Group], forced: Set[Group] = frozenset()) -> float:
        """The cut's capacity with `chosen` on the integer side: ns above what no labelling goes below."""
        edges = self.capacities(forced)
        side = {SOURCE} | {self.vertex[id(g.node)] for g in self.groups if g in chosen}
        side |= {b for (a, b), w in edges.items() if w == math.inf and a in side}
        return sum(w for (a, b), w in edges.items() if a in side and b not in side)


@dataclass(frozen=True, slots=True)
class NoisePrice:
    """What noise at the outputs costs: `ns` for as much of it as there is signal."""

    noise: Noise
    ns: float


def decide(
    model: Model,
    groups: Sequence[Group],
    observed: Mapping[Tensor, Observed],
    target: Target,
    forced: Set[Group] = frozenset(),
    price: NoisePrice | None = None,
    measured: Costs = NOTHING,
) -> set[Group]:
    """The groups that go to integers; those of `forced` do whatever it costs.

    First the fastest labelling. Then bytes get a price, as high as the share of the gained time allows that the table grants to smaller files; not where noise has one: bytes can be had
    without it.
    """
    if not groups:
        return set()
    placement = Placement(model, groups, observed, target.boundary, forced, measured)
    best = placement.settle(0.0, price)
    if price is not None:
        return best
    plain = placement.network(frozenset())
    least = plain.value(best, forced)
    limit = least + target.boundary.size_share * max(0.0, plain.value(forced, forced) - least)
    affordable, dear = 0, len(BYTE_PRICES)
    while affordable < dear:  # the higher the price of a byte, the more time is spent on it
        middle = (affordable + dear) // 2
        bolder = placement.settle(BYTE_PRICES[middle])
        if plain.value(bolder, forced) > limit:
            dear = middle
        else:
            affordable, best = middle + 1, bolder
    return best


def gain(model: Model, groups: Sequence[Group], observed: Mapping[Tensor, Observed], target: Target, measured: Costs = NOTHING) -> float:
    """What a run is expected to gain, in ns, when just these groups go to integers."""
    network = Network(model, groups, groups, observed, target.boundary, measured)
    return network.value(frozenset()) - network.value(frozenset(groups))


class Placement:
    """One decision: the cut under two rules that it does not know."""

    def __init__(
        self, model: Model, groups: Sequence[Group], observed: Mapping[Tensor, Observed], boundary: Boundary, forced: Set[Group], measured: Costs = NOTHING
    ) -> None:
        self.model = model
        self.measured = measured
        self.groups = groups
        self.observed = observed
        self.boundary = boundary
        self.forced = forced
        self._networks: dict[frozenset[Group], Network] = {}

    def network(self, stay: frozenset[Group]) -> Network:
        """The cut problem of all groups but those that stay float."""
        if stay not in self._networks:
            rest = [g for g in self.groups if g not in stay]
            self._networks[stay] = Network(self.model, rest, self.groups, self.observed, self.boundary, self.measured)
        return self._networks[stay]

    def settle(self, byte: float, price: NoisePrice | None = None) -> set[Group]:
        """The least cut in which a group whose row says `follows` is in integers only where all that it reads is made, and all that it makes is read, by
        groups in integers, and no island is without a heavy operator. Found by cutting again without those that break a rule."""
        stay: frozenset[Group] = frozenset()
        while True:
            network = self.network(stay)
            chosen = network.cheapest(self.forced, byte, price)
            wrong = (at_borders(network.groups, chosen) | light_islands(network.groups, chosen)) - self.forced
            if not wrong:
                return chosen
            stay |= wrong


def light_islands(groups: Sequence[Group], chosen: Set[Group]) -> set[Group]:
    """The groups in integers that are joined to no heavy one: they would cost accuracy for next to nothing."""
    maker: dict[int, Group] = {id(t): g for g in groups if g in chosen for t in g.outputs}
    joined: dict[Group, list[Group]] = {}
    for group in groups:
        if group in chosen:
            for before in (maker[id(t)] for t in group.inputs if id(t) in maker):
                joined.setdefault(group, []).append(before)
                joined.setdefault(before, []).append(group)
    queue = [g for g in groups if g in chosen and g.row.heavy]
    reached = set(queue)
    while queue:
        for group in joined.get(queue.pop(), ()):
            if group not in reached:
                reached.add(group)
                queue.append(group)
    return set(chosen) - reached


def at_borders(groups: Sequence[Group], chosen: Set[Group]) -> set[Group]:
    """The groups in integers whose row says `follows` and that have a neighbour in float."""
    integer = {id(t) for g in groups if g in chosen for t in g.outputs}
    heads = {id(g.node) for g in groups if g in chosen}

    def inside(group: Group) -> bool:
        return all(id(t) in integer for t in group.inputs) and all(t.outputs and all(id(n) in heads for n in t.outputs) for t in group.outputs)

    return {g for g in groups if g in chosen and g.row.follows and not inside(g)}


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


def touches(tensor: Tensor, operators: tuple[str, ...]) -> bool:
    """Whether one of `operators` makes the tensor (an activation behind it belongs to it) or reads it."""
    before = producer(tensor)
    if before is not None and before.is_op("Relu", "Clip"):
        before = producer(before.inputs[0])
    return (before is not None and before.is_op(*operators)) or any(n.is_op(*operators) for n in consumers(tensor))
