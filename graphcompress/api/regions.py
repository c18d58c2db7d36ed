"""What two models do differently, as small pieces of their graphs: nodes that went and came, with the nodes around them that are in both."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphcompress.api.html import Box, Sketch

if TYPE_CHECKING:
    from graphcompress.ir import Node
    from graphcompress.ir.analysis.matching import Matching

MOST_BOXES = 12
"""Nodes of one side that are drawn."""


@dataclass
class ChangedRegion:
    """Nodes that are connected and in one model only, `gone` from the first and `new` in the second, as they stand in their graphs. `places` are the names of all regions that look like this one."""

    gone: list[str]
    new: list[str]
    before: Sketch
    after: Sketch
    places: list[str]

    @property
    def look(self) -> Hashable:
        """Equal for regions that look alike."""
        return tuple((tuple((box.op, box.kind) for box in sketch.boxes), tuple(sketch.edges), sketch.left_out) for sketch in (self.before, self.after))


def changed_regions(matching: Matching) -> list[ChangedRegion]:
    """The regions in which two models differ, each look once, the most frequent first. Constants, and nodes whose inputs alone are others, are no difference of the graph."""
    kinds: dict[Hashable, ChangedRegion] = {}
    for gone, new in _components(matching):
        region = _region(matching, gone, new)
        kinds.setdefault(region.look, region).places.append((region.gone or region.new)[0])
    return sorted(kinds.values(), key=lambda region: -len(region.places))


def _components(matching: Matching) -> list[tuple[list[Node], list[Node]]]:
    """Nodes of one model only, put together where they are neighbours, or feed the same input of what is in both."""
    from graphcompress.ir import consumers, nodes

    sides = [
        [node for node in nodes(side.model) if node not in known and not node.is_op("Constant")]
        for side, known in ((matching.first, matching.pairs), (matching.second, matching.other))
    ]
    parent: dict[Node, Node] = {node: node for odd in sides for node in odd}

    def root(node: Node) -> Node:
        while parent[node] is not node:
            parent[node] = node = parent[parent[node]]
        return node

    places: dict[Hashable, Node] = {}
    for side, odd in zip((matching.first, matching.second), sides, strict=True):
        outputs = {id(tensor): index for index, tensor in enumerate(side.model.graph.outputs)}
        for node in odd:
            for tensor in node.outputs:
                ends: list[Hashable] = [outputs[id(tensor)]] if id(tensor) in outputs else []
                for reader in consumers(tensor):
                    if reader in parent:
                        parent[root(reader)] = root(node)
                    else:
                        twin = matching.pairs[reader] if side is matching.first else reader
                        ends += [(twin, place) for place, read in enumerate(reader.inputs) if read is tensor]
                for end in ends:
                    parent[root(places.setdefault(end, node))] = root(node)
    groups: dict[Node, tuple[list[Node], list[Node]]] = {}
    for number, odd in enumerate(sides):
        for node in odd:
            groups.setdefault(root(node), ([], []))[number].append(node)
    return list(groups.values())


def _region(matching: Matching, gone: Sequence[Node], new: Sequence[Node]) -> ChangedRegion:
    from graphcompress.ir import label

    around = {matching.pairs[node] for node in _neighbours(gone) if node in matching.pairs} | {node for node in _neighbours(new) if node in matching.other}
    twins = {matching.other[node] for node in around}
    return ChangedRegion([label(node) for node in gone], [label(node) for node in new], _sketch(gone, twins, "gone"), _sketch(new, around, "new"), [])


def _neighbours(region: Iterable[Node]) -> set[Node]:
    from graphcompress.ir import consumers, producer

    makers = {maker for node in region for tensor in node.inputs if (maker := producer(tensor)) is not None}
    return makers | {reader for node in region for tensor in node.outputs for reader in consumers(tensor)}


def _sketch(region: Sequence[Node], around: set[Node], kind: str) -> Sketch:
    """A side's nodes, makers before readers."""
    from graphcompress.ir import label, producer
    from graphcompress.ir.analysis.matching import operator

    members: Mapping[Node, str] = {**dict.fromkeys(around, "same"), **dict.fromkeys(region, kind)}
    depth: dict[Node, int] = {}

    def makers(node: Node) -> list[Node]:
        return [maker for tensor in node.inputs if (maker := producer(tensor)) is not None and maker in members and maker is not node]

    for _ in members:
        known = dict(depth)
        depth.update({node: 1 + max((known.get(maker, 0) for maker in makers(node)), default=-1) for node in members})
        if depth == known:
            break
    shown = sorted(members, key=lambda node: (depth[node], label(node)))[:MOST_BOXES]
    number = {node: index for index, node in enumerate(shown)}
    edges = sorted({(number[maker], number[node]) for node in shown for maker in makers(node) if maker in number})
    return Sketch([Box(operator(node), label(node), members[node], depth[node]) for node in shown], edges, len(members) - len(shown))
