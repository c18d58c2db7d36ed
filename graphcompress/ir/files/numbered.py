"""Names that tell a node's number: they survive in what a runtime makes of a model. It names what it fuses or lays out anew after a node or after a tensor of the model."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import onnx

from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Node
from graphcompress.ir.model.walk import nodes

_NUMBER = re.compile(r"gc(\d+)x")


@contextlib.contextmanager
def numbered(model: Model) -> Iterator[list[Node]]:
    """Inside, each node of all graphs is named after its index in the list that is returned."""
    everything = list(nodes(model))
    names = [n.name for n in everything]
    for index, node in enumerate(everything):
        node.name = f"gc{index}x"
    try:
        yield everything
    finally:
        for node, name in zip(everything, names, strict=True):
            node.name = name


def numbers_in(name: str) -> list[int]:
    """The numbers of the nodes after which a runtime named something."""
    return [int(number) for number in _NUMBER.findall(name)]


def name_tensors(graph: onnx.GraphProto, outside: Mapping[str, str] = MappingProxyType({})) -> None:
    """Rename what nodes make after the nodes, outputs of the graph included, in the graphs below too. `outside`: new names of what a graph reads from around it, by the old ones."""
    fixed = {value.name for value in graph.input} | {t.name for t in graph.initializer} | {""}
    names = {old: new for old, new in outside.items() if old not in fixed}
    names |= {name: f"{node.name}{index}" for node in graph.node for index, name in enumerate(node.output) if name not in fixed}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                name_tensors(body, names)
    for value in (*graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
