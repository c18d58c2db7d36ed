"""Which nodes compute what a Loop or a Scan feeds back: their quantization error would be multiplied at each iteration, which ranges and costs cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from graphcompress.ir import Graph, Model, Node, Tensor, consumers, graphs, producer, subgraphs


def fed_back(model: Model) -> set[Node]:
    """The nodes between a state that a body reads and a state that it returns, those of graphs nested in it included."""
    result: set[Node] = set()
    for graph in graphs(model):
        for node in graph.nodes:
            for body in subgraphs(node) if node.is_op("Loop", "Scan") else ():
                states = _states(node, body)
                if states is not None:
                    result |= _between(body, *states)
    return result


def _states(node: Node, body: Graph) -> tuple[list[Tensor], list[Tensor]] | None:
    """The states that a body reads and returns; None for a body that is not what its operator asks for."""
    if node.op == "Loop":  # iteration number and condition, states -> condition, states, scan outputs
        return body.inputs[2:], body.outputs[1 : len(body.inputs) - 1]
    scanned = node.attrs.get("num_scan_inputs")
    if not isinstance(scanned, int):
        return None
    count = len(body.inputs) - scanned  # states, scan inputs -> states, scan outputs
    return body.inputs[:count], body.outputs[:count]


def _between(body: Graph, first: Iterable[Tensor], last: Iterable[Tensor]) -> set[Node]:
    owners: dict[Tensor, list[Node]] = {}
    inside: set[Node] = set()
    pending = [body]
    while pending:
        for node in pending.pop().nodes:
            inside.add(node)
            for graph in subgraphs(node):
                pending.append(graph)
                for tensor in graph.outputs:
                    owners.setdefault(tensor, []).append(node)
    after = _reached(first, inside, lambda tensor: [*consumers(tensor), *owners.get(tensor, ())], lambda node: node.outputs)
    before = _reached(
        last,
        inside,
        lambda tensor: [node] if (node := producer(tensor)) is not None else [],
        lambda node: [*node.inputs, *(t for g in subgraphs(node) for t in g.outputs)],
    )
    return after & before


def _reached(start: Iterable[Tensor], inside: set[Node], nodes: Callable[[Tensor], Iterable[Node]], tensors: Callable[[Node], Iterable[Tensor]]) -> set[Node]:
    """The nodes of `inside` that are met from `start`, going from tensors to `nodes` and on to their `tensors`."""
    result: set[Node] = set()
    pending = list(start)
    while pending:
        for node in nodes(pending.pop()):
            if node in inside and node not in result:
                result.add(node)
                pending.extend(tensors(node))
    return result
