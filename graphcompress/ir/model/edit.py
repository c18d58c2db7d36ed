"""Edits of graphs: the one module that touches graphsurgeon's lists of producers and consumers.

One by one, those lists cost a walk over all readers of a tensor per edit. `Edits` collects what changes and brings the lists up to date once, at its end, in time
linear in the tensors that were touched and their readers. What was edited is entered in the model's `changes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from graphcompress.ir.model.objects import Changes, Constant, Graph, Node, Tensor, Variable
from graphcompress.ir.model.tensors import TensorData
from graphcompress.ir.model.walk import graphs, producer, subgraphs

Array = np.ndarray[Any, Any]
FIRST_IR_WITH_PLAIN_INITIALIZERS = 4


class Editable(Protocol):
    """What can be edited: a model."""

    graph: Graph
    changes: Changes

    @property
    def ir_version(self) -> int: ...

    def fresh(self, hint: str) -> str: ...


class Edits:
    """Edits of `model` that belong together: `with Edits(model) as edits: ...`.

    Inside the block (before `close`) the inputs and outputs of nodes are as edited, while `consumers` and `producer` of tensors, the nodes of graphs and replaced
    uses follow at its end. Graph outputs are the signature and never change: a tensor that is one is made by another node (`set_output`), not replaced.
    """

    def __init__(self, model: Editable) -> None:
        self.model = model
        self._nodes: dict[Node, None] = {}
        self._tensors: dict[Tensor, None] = {}
        self._uses: dict[Tensor, Tensor] = {}
        self._added: list[tuple[Node, Graph]] = []
        self._removed: dict[Node, None] = {}

    def __enter__(self) -> Edits:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Bring the whole model up to date. Nothing may be edited through this object afterwards."""
        self._replace()
        self._move()
        self._link()
        self.model.changes.nodes.extend(n for n in self._nodes if n not in self._removed)

    # --- edits --------------------------------------------------------------------------------------------------------------------

    def set_input(self, node: Node, index: int, tensor: Tensor) -> None:
        """Let `node` read `tensor` at `index`; inputs before it that are not there yet are absent ones."""
        self._set(node, node.inputs, index, tensor)

    def set_output(self, node: Node, index: int, tensor: Tensor) -> None:
        """Let `node` make `tensor` at `index`. Whatever made it before must be removed, or be given another output, in the same block."""
        self._set(node, node.outputs, index, tensor)

    def set_outputs(self, node: Node, tensors: Sequence[Tensor]) -> None:
        """As `set_output`, for all outputs of `node`."""
        self._touch(node)
        list.__setitem__(node.outputs, slice(None), tensors)
        self._touch(node)

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Read `new` wherever a node reads `old`, in subgraphs too."""
        self._uses[old] = new

    def add(self, node: Node, graph: Graph) -> None:
        """Put a new node into `graph`; its place in the file follows from its rank and what it reads."""
        self._touch(node)
        self._added.append((node, graph))

    def remove(self, nodes: Iterable[Node]) -> None:
        """Take nodes out of whichever graphs they stand in, and unlink them; what their subgraphs read loses those readers too."""
        pending = list(nodes)
        while pending:
            node = pending.pop()
            self._touch(node)
            self._removed[node] = None
            pending.extend(n for g in subgraphs(node) for n in g.nodes)

    def set_value(self, constant: Constant, values: Array) -> None:
        """Give an initializer other values; those of another shape change the shapes of what is calculated from it."""
        if tuple(constant.shape) != values.shape:
            self.reshape(constant)
        constant.values = values
        for node in constant.outputs:
            self._nodes[node] = None

    def reshape(self, tensor: Tensor) -> None:
        """Declare that `tensor` has another shape than before. What the file says of it, and of what is calculated from it, is not written."""
        self.model.changes.reshaped[tensor] = None
        for node in tensor.outputs:
            self._nodes[node] = None

    def make_constant(self, tensor: Tensor, value: TensorData | Array, graph: Graph, origin: tuple[str, ...] = (), *, output: bool) -> None:
        """Let `tensor`, which a node of `graph` makes that is removed in the same block, be a constant of its name.

        It becomes an initializer of `graph`; a Constant node where it is an `output` of a graph, and in subgraphs below IR 4, where an initializer has to be an input too.
        """
        if output or not takes_initializers(self.model, graph):
            maker = producer(tensor)
            name = "" if maker is None or not maker.name else self.model.fresh(maker.name)
            node = detached("Constant", name, {"value": value}, (), (tensor,))
            node.origin = origin
            if maker is not None:
                node.rank = maker.rank
            self.add(node, graph)
        else:
            constant = Constant(tensor.name, value)
            graph.initializers[tensor.name] = constant
            self.replace(tensor, constant)

    # --- at the end ---------------------------------------------------------------------------------------------------------------

    def _touch(self, node: Node) -> None:
        self._nodes[node] = None
        self._tensors.update(dict.fromkeys(node.inputs))
        self._tensors.update(dict.fromkeys(node.outputs))

    def _set(self, node: Node, side: list[Tensor], index: int, tensor: Tensor) -> None:
        while len(side) <= index:
            list.append(side, absent := Variable(""))
            self._tensors[absent] = None
        self._nodes[node] = None
        self._tensors[side[index]] = self._tensors[tensor] = None
        list.__setitem__(side, index, tensor)

    def _replace(self) -> None:
        uses = self._uses
        for old in uses:
            passed = [old]
            while (new := uses[passed[-1]]) in uses:
                passed.append(new)
            uses.update(dict.fromkeys(passed, new))
        readers = dict.fromkeys(n for t in uses for n in t.outputs)
        if uses:
            readers.update(self._nodes)
        for node in readers:
            for index, tensor in enumerate(node.inputs):
                if tensor in uses:
                    self._set(node, node.inputs, index, uses[tensor])

    def _move(self) -> None:
        for node, graph in self._added:
            if node not in self._removed:
                graph.nodes.append(node)
        if self._removed:
            for graph in graphs(self.model):
                if any(n in self._removed for n in graph.nodes):
                    graph.nodes = [n for n in graph.nodes if n not in self._removed]

    def _link(self) -> None:
        """Bring the lists of all touched tensors up to date, from the nodes that they name and those that were edited."""
        nodes = dict.fromkeys(n for t in self._tensors for n in (*t.inputs, *t.outputs))
        nodes.update(self._nodes)
        for tensor in self._tensors:
            list.clear(tensor.inputs)
            list.clear(tensor.outputs)
        for node in self._removed:
            list.clear(node.inputs)
            list.clear(node.outputs)
        for node in nodes:
            for tensor in node.inputs:
                if tensor in self._tensors:
                    list.append(tensor.outputs, node)
            for tensor in node.outputs:
                if tensor in self._tensors:
                    list.append(tensor.inputs, node)


def detached(op: str, name: str, attrs: Mapping[str, Any], inputs: Iterable[Tensor], outputs: Iterable[Tensor], domain: str = "") -> Node:
    """A node that its tensors do not know of before `Edits.add` puts it into a graph: its outputs may still have the node that made them so far."""
    node = Node(op, name, dict(attrs), (), (), domain)
    list.extend(node.inputs, inputs)
    list.extend(node.outputs, outputs)
    return node


def link(node: Node) -> None:
    """Tell the tensors of a detached node of it."""
    for tensor in node.inputs:
        list.append(tensor.outputs, node)
    for tensor in node.outputs:
        list.append(tensor.inputs, node)


def takes_initializers(model: Editable, graph: Graph) -> bool:
    """Whether a new initializer may stand in `graph`. Before IR 4 it must be an input too, which a subgraph cannot have."""
    return graph is model.graph or model.ir_version >= FIRST_IR_WITH_PLAIN_INITIALIZERS
