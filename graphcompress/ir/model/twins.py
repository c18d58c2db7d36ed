"""Copies of graphs: the same wiring over the same tensor bytes, and what each object of the original is in the copy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable


class Twins:
    """Old -> new, by identity: names are no keys, since scopes may share them. The originals stay alive as long as this does."""

    def __init__(self) -> None:
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        self._nodes: dict[int, tuple[Node, Node]] = {}
        self._graphs: dict[int, tuple[Graph, Graph]] = {}

    def node(self, node: Node) -> Node:
        """The copy of `node`. Raises KeyError for a node that was not part of the model."""
        return self._nodes[id(node)][1]

    def tensor(self, tensor: Tensor) -> Tensor:
        """The copy of `tensor`. Raises KeyError for a tensor that was not part of the model."""
        return self._tensors[id(tensor)][1]

    def graph(self, graph: Graph) -> Graph:
        """The copy of `graph`. Raises KeyError for a graph that was not part of the model."""
        return self._graphs[id(graph)][1]

    @paused()
    def graph_of(self, graph: Graph) -> Graph:
        """Copy `graph` and everything below it. Tensors of graphs around it that were not copied before are shared between original and copy."""
        twin = Graph(graph.name)
        self._graphs[id(graph)] = (graph, twin)
        twin.shell, twin.input_protos, twin.output_protos = graph.shell, graph.input_protos, graph.output_protos
        twin.file_order, twin.read_names = graph.file_order, graph.read_names
        defined = [*graph.inputs, *graph.initializers.values(), *(t for n in graph.nodes for t in n.outputs)]
        for tensor in defined:
            self._copied(tensor)
        # What no node makes although nodes of this graph read it (sparse initializers) belongs to the scope as well.
        twin.initializers = {name: self._constant(c) for name, c in graph.initializers.items()}
        twin.nodes = [self._node(n) for n in graph.nodes]
        twin.inputs = [self._copied(t) for t in graph.inputs]
        twin.outputs = [self._copied(t) for t in graph.outputs]
        twin.order = [self._nodes[id(n)][1] if id(n) in self._nodes else n for n in graph.order]
        return twin

    def _node(self, node: Node) -> Node:
        twin = Node(node.op, node.name, None, (), (), node.domain)
        self._nodes[id(node)] = (node, twin)
        _link(twin.inputs, (self._copied(t) for t in node.inputs), "outputs", twin)
        _link(twin.outputs, (self._copied(t) for t in node.outputs), "inputs", twin)
        twin.attrs = {name: self._attribute(value) for name, value in node.attrs.items()}
        twin.proto, twin.read_attrs, twin.origin, twin.rank = node.proto, node.read_attrs, node.origin, node.rank
        if any(isinstance(v, Graph | list) for v in node.attrs.values()):
            # `write` compares a subgraph with what was read by identity: the copy's is the copied one.
            twin.read_attrs = {name: self._twin_graphs(value) for name, value in node.read_attrs.items()}
        return twin

    def _attribute(self, value: Any) -> Any:
        if isinstance(value, Graph):
            return self.graph_of(value)
        if isinstance(value, list):
            return [self.graph_of(v) if isinstance(v, Graph) else v for v in value]
        return value

    def _twin_graphs(self, value: Any) -> Any:
        if isinstance(value, Graph):
            return self._graphs[id(value)][1] if id(value) in self._graphs else value
        if isinstance(value, list) and value and isinstance(value[0], Graph):
            return [self._twin_graphs(v) for v in value]
        return value

    def _constant(self, constant: Constant) -> Constant:
        twin = self._copied(constant)
        assert isinstance(twin, Constant)
        return twin

    def _copied(self, tensor: Tensor) -> Tensor:
        """The twin of `tensor`, made at the first call."""
        pair = self._tensors.get(id(tensor))
        if pair is not None:
            return pair[1]
        twin: Tensor
        if isinstance(tensor, Constant):
            twin = Constant(tensor.name, tensor.data if tensor.data is not None else tensor.values)
        else:
            twin = Variable(tensor.name, tensor.dtype, tensor.shape)
            twin.default = tensor.default
        self._tensors[id(tensor)] = (tensor, twin)
        return twin


def _link(side: list[Tensor], tensors: Iterable[Tensor], field: str, node: Node) -> None:
    """Fill one side of a new node, past graphsurgeon's lists, which call back for every element."""
    for tensor in tensors:
        list.append(side, tensor)
        list.append(getattr(tensor, field), node)
