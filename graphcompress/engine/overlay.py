"""What rules see of a model while they rewrite it: makers, readers and numbers of uses that stay true after every rewrite.

Where one tensor replaces another (a removed Identity hands its input on), the readers are not edited one by one: the overlay notes old -> new, and answers every
question about the old tensor with the new one. A rewrite therefore costs the same however often a tensor is read, and `commit` edits each reader once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from graphcompress.ir import Constant, Graph, Model, Node, Shape, Tensor, Variable, graphs, toposort
from graphcompress.ir.inline import function_bodies
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.shapes.infer import Shapes


class GraphOverlay:
    """A view of `model` with the rewrites so far. New outputs of nodes are set at once; everything else reaches the model with `commit`."""

    def __init__(self, model: Model, shapes: Callable[[], Shapes]) -> None:
        self.model = model
        self.opset = model.opset
        self.functions = set(function_bodies(model))
        self.order: list[Node] = []
        self._edits = Edits(model)
        self._shapes = shapes
        self._graph: dict[Node, Graph] = {}
        self._alive: set[Node] = set()
        self._maker: dict[Tensor, Node] = {}
        self._readers: dict[Tensor, list[Node]] = {}
        self._uses: Counter[Tensor] = Counter()
        self._replaced_by: dict[Tensor, Tensor] = {}
        self._outputs: set[Tensor] = set()
        names: Counter[str] = Counter()
        for graph in graphs(model):
            self._uses.update(graph.outputs)
            self._outputs.update(graph.outputs)
            names.update(t.name for t in graph.inputs)
            names.update(list(graph.initializers))
            for node in toposort(graph):
                self.order.append(node)
                self._enter(node, graph)
                names.update(t.name for t in node.outputs if t.name)
        self._ambiguous = {name for name, count in names.items() if count > 1}

    # --- what rules ask -----------------------------------------------------------------------------------------------------------

    def uses(self, tensor: Tensor) -> int:
        """Inputs of nodes that are `tensor`, in subgraphs too, and outputs of graphs."""
        return self._uses[self.resolve(tensor)]

    def shape(self, tensor: Tensor) -> Shape | None:
        """The dimensions as far as they are known, None where the rank is not."""
        return tuple(tensor.shape) if isinstance(tensor, Constant) else self._shapes().shape(tensor)

    def dtype(self, tensor: Tensor) -> str | None:
        """The element type by ONNX's name, None where it is not known."""
        if isinstance(tensor, Constant):
            return tensor.data.dtype_name if tensor.data is not None else array_dtype_name(tensor.values)
        return self._shapes().dtype(tensor)

    def input(self, node: Node, index: int) -> Tensor | None:
        """The input at `index`, None where it is absent."""
        tensor = node.input(index)
        return None if tensor is None else self.resolve(tensor)

    def inputs(self, node: Node) -> list[Tensor | None]:
        """All inputs, None where absent, trailing absent ones left out."""
        tensors: list[Tensor | None] = [self.resolve(t) if t.name else None for t in node.inputs]
        while tensors and tensors[-1] is None:
            tensors.pop()
        return tensors

    def maker(self, tensor: Tensor) -> Node | None:
        """The node that makes `tensor` now."""
        return self._maker.get(tensor)

    def alive(self, node: Node) -> bool:
        """Whether `node` is still part of the model."""
        return node in self._alive

    def graph(self, node: Node) -> Graph:
        """The graph that `node` stands in."""
        return self._graph[node]

    def is_output(self, tensor: Tensor) -> bool:
        """Whether `tensor` is an output of some graph."""
        return tensor in self._outputs

    def readers(self, tensor: Tensor) -> list[Node]:
        """The nodes that read `tensor` now, each once."""
        tensor = self.resolve(tensor)
        nodes = [n for n in distinct(self._readers.get(tensor, ())) if n in self._alive]
        self._readers[tensor] = nodes
        return list(nodes)

    def resolve(self, tensor: Tensor) -> Tensor:
        """The tensor that has replaced `tensor` by now; `tensor` itself where none has."""
        passed: list[Tensor] = []
        while (new := self._replaced_by.get(tensor)) is not None:
            passed.append(tensor)
            tensor = new
        for old in passed[:-1]:
            self._replaced_by[old] = tensor
        return tensor

    def __len__(self) -> int:
        return len(self._alive)

    # --- edits --------------------------------------------------------------------------------------------------------------------

    def add(self, node: Node, graph: Graph) -> None:
        """Enter a new node; its outputs are new tensors, or those of nodes that were removed."""
        self._edits.add(node, graph)
        self._shapes().enter(node)
        self._enter(node, graph)

    def remove(self, node: Node) -> list[Tensor]:
        """Take a node out; its inputs, which have fewer uses now."""
        self._edits.remove((node,))
        self._alive.discard(node)
        inputs = [self.resolve(t) for t in node.inputs if t.name]
        self._uses.subtract(inputs)
        for tensor in node.outputs:
            if self._maker.get(tensor) is node:
                del self._maker[tensor]
        return inputs

    def can_replace(self, old: Tensor, new: Tensor, graph: Graph) -> bool:
        """Whether `replace` may let `new` be read instead of `old`, which is made in `graph`.

        An output keeps its name, so there the maker of `new` must be able to make `old` instead: it must stand in the same graph, since what a subgraph hands out
        is made inside. Names that two scopes define are left alone: a subgraph might take one for the other.
        """
        if old.name in self._ambiguous or new.name in self._ambiguous:
            return False
        if not self.is_output(old):
            return True
        maker = self.maker(new)
        return maker is not None and self.graph(maker) is graph and isinstance(new, Variable) and not self.is_output(new)

    def replace(self, old: Tensor, new: Tensor) -> Tensor:
        """Let `new` be read instead of `old`, whose maker is removed; where `old` is a graph output, the maker of `new` makes `old` instead. The tensor that is left."""
        if self.is_output(old):
            maker = self._maker.pop(new)
            self._edits.set_output(maker, next(i for i, t in enumerate(maker.outputs) if t is new), old)
            self._maker[old] = maker
            old, new = new, old
        self._replaced_by[old] = new
        self._edits.replace(old, new)
        self._uses[new] += self._uses.pop(old, 0)
        fewer, more = sorted((self._readers.pop(old, []), self._readers.get(new, [])), key=len)
        more.extend(fewer)
        self._readers[new] = more
        return new

    def commit(self) -> None:
        """Write everything into the model."""
        self._edits.close()

    def _enter(self, node: Node, graph: Graph) -> None:
        self._alive.add(node)
        self._graph[node] = graph
        for tensor in node.inputs:
            if tensor.name:
                tensor = self.resolve(tensor)
                self._uses[tensor] += 1
                self._readers.setdefault(tensor, []).append(node)
        for tensor in node.outputs:
            if tensor.name:
                self._maker[tensor] = node


def distinct(nodes: Iterable[Node]) -> list[Node]:
    """Each node once, in order."""
    return list(dict.fromkeys(nodes))
