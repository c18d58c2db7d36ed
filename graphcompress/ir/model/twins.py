"""Copies of graphs: the same wiring over the same tensor bytes, and what each object of the original is in the copy."""

from __future__ import annotations

from typing import Any

from graphcompress.ir.model.edit import detached, link
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable


class Twins:
    """Old -> new, by identity: names are no keys, since scopes may share them. The originals stay alive as long as this does."""

    def __init__(self) -> None:
        self._tensors: dict[Tensor, Tensor] = {}
        self._nodes: dict[Node, Node] = {}
        self._graphs: dict[Graph, Graph] = {}

    def node(self, node: Node) -> Node:
        """The copy of `node`. Raises KeyError for a node that was not part of the model."""
        return self._nodes[node]

    def tensor(self, tensor: Tensor) -> Tensor:
        """The copy of `tensor`. Raises KeyError for a tensor that was not part of the model."""
        return self._tensors[tensor]

    def graph(self, graph: Graph) -> Graph:
        """The copy of `graph`. Raises KeyError for a graph that was not part of the model."""
        return self._graphs[graph]

    def __contains__(self, item: Node | Tensor | Graph) -> bool:
        return item in self._tensors or item in self._nodes or item in self._graphs

    @paused()
    def graph_of(self, graph: Graph) -> Graph:
        """Copy `graph` and everything below it, outer graphs before inner ones."""
        twin = Graph(graph.name)
        self._graphs[graph] = twin
        twin.shell, twin.input_protos, twin.output_protos = graph.shell, graph.input_protos, graph.output_protos
        twin.file_order, twin.read_names = graph.file_order, graph.read_names
        for tensor in (*graph.inputs, *graph.initializers.values(), *(t for n in graph.nodes for t in n.outputs)):
            self._copied(tensor)
        twin.initializers = {name: self._constant(c) for name, c in graph.initializers.items()}
        twin.nodes = [self._node(n) for n in graph.nodes]
        twin.inputs = [self._copied(t) for t in graph.inputs]
        twin.outputs = [self._copied(t) for t in graph.outputs]
        twin.order = [self._nodes.get(n, n) for n in graph.order]
        return twin

    def _node(self, node: Node) -> Node:
        twin = detached(node.op, node.name, {}, map(self._copied, node.inputs), map(self._copied, node.outputs), node.domain)
        link(twin)
        self._nodes[node] = twin
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
            return self._graphs.get(value, value)
        if isinstance(value, list) and value and isinstance(value[0], Graph):
            return [self._twin_graphs(v) for v in value]
        return value

    def _constant(self, constant: Constant) -> Constant:
        twin = self._copied(constant)
        assert isinstance(twin, Constant)
        return twin

    def _copied(self, tensor: Tensor) -> Tensor:
        """The twin of `tensor`, made at the first call."""
        twin = self._tensors.get(tensor)
        if twin is not None:
            return twin
        if isinstance(tensor, Constant):
            twin = Constant(tensor.name, tensor.data if tensor.data is not None else tensor.values)
        else:
            twin = Variable(tensor.name, tensor.dtype, tensor.shape)
            twin.default = tensor.default
        self._tensors[tensor] = twin
        return twin
