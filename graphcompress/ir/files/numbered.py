"""Names that tell a node's number: they survive in what a runtime makes of a message."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx

PREFIX = "gcnode"
_NUMBER = re.compile(PREFIX + r"(\d+)_")


def number_in(name: str) -> int | None:
    """The number of the node that a name was given for, None where there is none in it."""
    match = _NUMBER.search(name)
    return None if match is None else int(match[1])


def name_by_number(graph: onnx.GraphProto) -> None:
    """Rename nodes and what they make, outputs of the graph included; not what subgraphs read."""
    fixed = {value.name for value in graph.input} | {t.name for t in graph.initializer} | set(_captured(graph)) | {""}
    names: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        node.name = f"{PREFIX}{number}_"
        names |= {name: f"{PREFIX}{number}_{index}" for index, name in enumerate(node.output) if name not in fixed}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in graph.output:
        value.name = names.get(value.name, value.name)
    del graph.value_info[:]


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that subgraphs mention."""
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                for inner in body.node:
                    yield from (*inner.input, *inner.output)
                yield from (value.name for value in body.output)
                yield from _captured(body)
