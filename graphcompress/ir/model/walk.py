"""Going through a model: graphs below graphs, uses, order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx

from graphcompress.errors import ModelError
from graphcompress.ir.model.objects import Constant, Graph, Node, Rooted, Tensor
from graphcompress.ir.model.tensors import TensorData, text

Array = np.ndarray[Any, Any]


def subgraphs(node: Node) -> list[Graph]:
    """The graphs in a node's attributes, not those below them."""
    inner: list[Graph] = []
    if not node.attrs:  # most nodes
        return inner
    for value in node.attrs.values():
        if isinstance(value, Graph):
            inner.append(value)
        elif isinstance(value, list) and value and isinstance(value[0], Graph):
            inner.extend(value)
    return inner


def graphs(model: Rooted) -> Iterator[Graph]:
    """The main graph and every graph below it, outer before inner."""
    stack = [model.graph]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.nodes:
            if node.attrs:
                stack.extend(subgraphs(node))


def nodes(model: Rooted) -> Iterator[Node]:
    """The nodes of all graphs; those of functions are not among them."""
    for graph in graphs(model):
        yield from graph.nodes


def values(model: Rooted) -> list[Tensor]:
    """Every tensor that a caller or a node gives a value, in an order that a copy and the model's file share."""
    return [t for graph in graphs(model) for t in (*graph.inputs, *(output for node in graph.nodes for output in node.outputs))]


def label(node: Node) -> str:
    """How a node is called in messages and records: its name, else that of its first output."""
    return str(node.name or next((t.name for t in node.outputs if t.name), node.op))


def producer(tensor: Tensor) -> Node | None:
    """The node that makes `tensor`."""
    node: Node | None = tensor.inputs[0] if tensor.inputs else None
    return node


def consumers(tensor: Tensor) -> list[Node]:
    """The nodes that read `tensor`, each once, those in subgraphs too."""
    return list({id(n): n for n in tensor.outputs}.values())


def output_ids(model: Rooted) -> set[int]:
    """id() of every tensor that is an output of some graph of the model."""
    return {id(t) for graph in graphs(model) for t in graph.outputs}


def sole_consumer(tensor: Tensor, outputs: set[int]) -> Node | None:
    """The node that reads `tensor` where there is exactly one use of it and it is no graph output (`outputs` as `output_ids` gives it)."""
    if len(tensor.outputs) != 1 or id(tensor) in outputs:
        return None
    reader: Node = tensor.outputs[0]
    return reader


def constant_value(tensor: Tensor | None) -> Array | None:
    """The value of an initializer or of a Constant node's output; None for anything that callers may override or that is computed. Decodes: ask for the size first."""
    data = constant_data(tensor)
    return data.load() if isinstance(data, TensorData) else data


def constant_data(tensor: Tensor | None) -> TensorData | Array | None:
    """As `constant_value`, but what the file holds is not decoded."""
    if tensor is None:
        return None
    if isinstance(tensor, Constant):
        return tensor.data or tensor.values
    node = producer(tensor)
    if node is None or not node.is_op("Constant"):
        return None
    for name, value in node.attrs.items():
        match name:
            case "value" if isinstance(value, TensorData | np.ndarray):
                return value
            case "value_float" | "value_floats":
                return _array(value, np.float32)
            case "value_int" | "value_ints":
                return _array(value, np.int64)
            case "value_string" | "value_strings" if isinstance(value, str | list | onnx.AttributeProto):
                return _array(value, object)
    return None


def _array(value: Any, dtype: Any) -> Array:
    """Numbers or texts of an attribute; lists that are long or empty are held as the message that they were read from."""
    if not isinstance(value, onnx.AttributeProto):
        return np.asarray(value, dtype)
    if dtype is not object:
        return np.asarray(value.ints if dtype is np.int64 else value.floats, dtype)
    return np.array([text(s) for s in value.strings], object)


def captured(node: Node) -> list[Tensor]:
    """The tensors from outside that the graphs below `node` read or return, each once, in order of appearance."""
    outside: dict[Tensor, None] = {}
    stack = [(g, frozenset[Tensor]()) for g in subgraphs(node)]
    while stack:
        graph, around = stack.pop()
        inside = around.union(graph.inputs, graph.initializers.values(), *(n.outputs for n in graph.nodes))
        outside.update((t, None) for t in (*(t for n in graph.nodes for t in n.inputs), *graph.outputs) if t.name and t not in inside)
        stack.extend((g, inside) for n in graph.nodes for g in subgraphs(n))
    return list(outside)


def downstream(model: Rooted, tensors: Iterable[Tensor]) -> set[Tensor]:
    """`tensors` and everything that is calculated from them: what a node with subgraphs makes counts where anything inside does."""
    owners = {g: n for n in nodes(model) for g in subgraphs(n)}
    home = {n: g for g in owners for n in g.nodes}
    reached: set[Tensor] = set()
    pending = list(tensors)
    while pending:
        tensor = pending.pop()
        if tensor in reached:
            continue
        reached.add(tensor)
        for node in tensor.outputs:
            pending.extend(node.outputs)
            pending.extend(t for g in subgraphs(node) for t in g.inputs)
            while node in home:
                node = owners[home[node]]
                pending.extend(node.outputs)
                pending.extend(t for g in subgraphs(node) for t in g.inputs)
    return reached


def needs(node: Node) -> list[Tensor]:
    """Every tensor that must exist before `node` runs: its inputs and what its subgraphs capture."""
    inputs: list[Tensor] = node.inputs
    return [*inputs, *captured(node)] if subgraphs(node) else inputs


def _runs(order: Sequence[Node]) -> bool:
    """Whether every node stands behind those that make what it needs."""
    coming = {id(t) for n in order for t in n.outputs if t.name}
    for node in order:
        if any(id(t) in coming for t in needs(node)):
            return False
        coming.difference_update([id(t) for t in node.outputs])
    return True


def toposort(graph: Graph) -> list[Node]:
    """The nodes of `graph` in an order that runs: their ranks' order where it is valid, else a node right before the first that needs it.

    Iterative and linear. Raises ModelError where the graph has a cycle.
    """
    order = sorted(graph.nodes, key=lambda n: n.rank)
    if _runs(order):
        return order
    here = {id(t): n for n in graph.nodes for t in n.outputs if t.name}
    done: set[int] = set()
    open_: set[int] = set()
    result: list[Node] = []
    for root in order:
        stack: list[tuple[Node, Iterator[Tensor]]] = [] if id(root) in done else [(root, iter(needs(root)))]
        open_.update(id(n) for n, _ in stack)
        while stack:
            node, rest = stack[-1]
            for tensor in rest:
                before = here.get(id(tensor))
                if before is None or id(before) in done:
                    continue
                if id(before) in open_:
                    raise ModelError(f"The graph has a cycle through node '{before.name or before.op}' and tensor '{tensor.name}'.")
                open_.add(id(before))
                stack.append((before, iter(needs(before))))
                break
            else:
                stack.pop()
                open_.discard(id(node))
                done.add(id(node))
                result.append(node)
    return result
