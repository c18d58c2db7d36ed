"""A model's wiring while rules rewrite it: uses, makers and readers that stay true, in time that does not depend on how often a tensor is read.

Where a tensor stands for another (an Identity is gone), only a forwarding entry is made; `commit` writes all of it into the model in one pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from graphcompress.ir import Constant, Graph, Model, Node, Shape, Tensor, Variable, graphs, toposort
from graphcompress.ir.model.edit import relink, set_input, set_output
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.shapes.infer import Shapes


class Net:
    """What rules see of `model`. Nothing in it is changed before `commit`, but new nodes know their tensors at once."""

    def __init__(self, model: Model, shapes: Callable[[], Shapes]) -> None:
        self.model = model
        self.opset = model.opset
        self.functions = {(f.domain, f.name) for f in model.header.functions}
        self.changed = False
        self._shapes = shapes
        self._place: dict[int, Graph] = {}
        self._maker: dict[int, Node] = {}
        self._readers: dict[int, list[Node]] = {}
        self._uses: Counter[int] = Counter()
        self._stands_for: dict[int, Tensor] = {}
        self._added: list[Node] = []
        self._gone: list[Node] = []
        self._alive: dict[int, Node] = {}
        self.order: list[Node] = []
        names: Counter[str] = Counter()
        outputs: set[int] = set()
        for graph in graphs(model):
            for tensor in graph.outputs:
                self._uses[id(tensor)] += 1
                outputs.add(id(tensor))
            names.update(t.name for t in graph.inputs)
            names.update(list(graph.initializers))
            for node in toposort(graph):
                self.order.append(node)
                self._enter(node, graph)
                names.update(t.name for t in node.outputs if t.name)
        self._outputs = outputs
        self._twice = {name for name, count in names.items() if count > 1}

    # --- what rules ask -----------------------------------------------------------------------------------------------------------

    def uses(self, tensor: Tensor) -> int:
        """Inputs of nodes that are `tensor`, in subgraphs too, and outputs of graphs."""
        return self._uses[id(self.resolve(tensor))]

    def shape(self, tensor: Tensor) -> Shape | None:
        return tuple(tensor.shape) if isinstance(tensor, Constant) else self._shapes().shape(tensor)

    def dtype(self, tensor: Tensor) -> str | None:
        if isinstance(tensor, Constant):
            return tensor.data.dtype_name if tensor.data is not None else array_dtype_name(tensor.values)
        return self._shapes().dtype(tensor)

    def input(self, node: Node, index: int) -> Tensor | None:
        """The input at `index`, None where it is absent."""
        found = node.input(index)
        return None if found is None else self.resolve(found)

    def inputs(self, node: Node) -> list[Tensor | None]:
        """All inputs, None where absent, trailing absent ones left out."""
        found: list[Tensor | None] = [self.resolve(t) if t.name else None for t in node.inputs]
        while found and found[-1] is None:
            found.pop()
        return found

    def maker(self, tensor: Tensor) -> Node | None:
        return self._maker.get(id(tensor))

    def alive(self, node: Node) -> bool:
        return id(node) in self._alive

    def place(self, node: Node) -> Graph:
        """The graph that `node` stands in."""
        return self._place[id(node)]

    def is_output(self, tensor: Tensor) -> bool:
        """Whether `tensor` is an output of some graph."""
        return id(tensor) in self._outputs

    def readers(self, tensor: Tensor) -> list[Node]:
        """The nodes that read `tensor` now, each once."""
        tensor = self.resolve(tensor)
        found = {id(n): n for n in self._readers.get(id(tensor), ()) if id(n) in self._alive}
        self._readers[id(tensor)] = list(found.values())
        return list(found.values())

    def resolve(self, tensor: Tensor) -> Tensor:
        """The tensor that stands for `tensor` by now."""
        found = self._stands_for.get(id(tensor))
        if found is None:
            return tensor
        path = [tensor]
        while (further := self._stands_for.get(id(found))) is not None:
            path.append(found)
            found = further
        for passed in path:
            self._stands_for[id(passed)] = found
        return found

    def __len__(self) -> int:
        return len(self._alive)

    # --- edits --------------------------------------------------------------------------------------------------------------------

    def add(self, node: Node, graph: Graph) -> None:
        """Enter a new node; its outputs are new tensors, or those of nodes that were removed."""
        self._added.append(node)
        self._enter(node, graph)
        self.changed = True

    def remove(self, node: Node) -> list[Tensor]:
        """Take a node out; its inputs that are left with fewer uses."""
        del self._alive[id(node)]
        self._gone.append(node)
        self.changed = True
        left: list[Tensor] = []
        for tensor in node.inputs:
            if tensor.name:
                tensor = self.resolve(tensor)
                self._uses[id(tensor)] -= 1
                left.append(tensor)
        for tensor in node.outputs:
            if self._maker.get(id(tensor)) is node:
                del self._maker[id(tensor)]
        return left

    def can_forward(self, old: Tensor, new: Tensor, graph: Graph) -> bool:
        """Whether `forward` may let `new` stand for `old`, which is made in `graph`.

        An output keeps its name, so there the maker of `new` must be able to make `old` instead. Names that two scopes define are left alone:
        a subgraph might take one for the other.
        """
        if old.name in self._twice or new.name in self._twice:
            return False
        if not self.is_output(old):
            return True
        maker = self.maker(new)
        return maker is not None and self.place(maker) is graph and isinstance(new, Variable) and not self.is_output(new)

    def forward(self, old: Tensor, new: Tensor) -> Tensor:
        """Let `new` stand for `old`, whose maker is gone; where `old` is a graph output, the maker of `new` makes it from now on. The one that is left."""
        self.changed = True
        kept, lost = (old, new) if self.is_output(old) else (new, old)
        if kept is old:
            maker = self._maker.pop(id(new))
            set_output(maker, next(i for i, t in enumerate(maker.outputs) if t is new), old)
            self._maker[id(old)] = maker
        self._stands_for[id(lost)] = kept
        self._uses[id(kept)] += self._uses.pop(id(lost), 0)
        mine, others = self._readers.get(id(kept), []), self._readers.pop(id(lost), [])
        if len(mine) < len(others):
            mine, others = others, mine
        mine.extend(others)
        self._readers[id(kept)] = mine
        return kept

    def commit(self) -> None:
        """Write everything into the model."""
        if not self.changed:
            return
        for node in self._added:
            if id(node) in self._alive:
                self._place[id(node)].nodes.append(node)
        for graph in graphs(self.model):
            graph.nodes = [n for n in graph.nodes if id(n) in self._alive]
            for node in graph.nodes:
                for index, tensor in enumerate(node.inputs):
                    found = self._stands_for.get(id(tensor))
                    if found is not None:
                        set_input(node, index, self.resolve(tensor))
        relink(self.model, self._gone)

    def _enter(self, node: Node, graph: Graph) -> None:
        self._alive[id(node)] = node
        self._place[id(node)] = graph
        for tensor in node.inputs:
            if tensor.name:
                tensor = self.resolve(tensor)
                self._uses[id(tensor)] += 1
                self._readers.setdefault(id(tensor), []).append(node)
        for tensor in node.outputs:
            if tensor.name:
                self._maker[id(tensor)] = node


def distinct(nodes: Iterable[Node]) -> list[Node]:
    """Each node once, in order."""
    return list({id(n): n for n in nodes}.values())
