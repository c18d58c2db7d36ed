"""Small integer tensors whose entries are sizes of the signature: equal ones become one, and what can be read off a tensor's shape is read there instead of being computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, nodes, output_ids, producer, subgraphs, toposort
from graphcompress.ir.inline import calls, defined_names, function_bodies
from graphcompress.ir.model.dimensions import Size
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/size"
OPSET_OF_RANGES = 15
"""From here on Shape takes `start` and `end`."""
LARGEST_RANK = 8

Entries: TypeAlias = tuple[Size, ...]
# Of these a rule or another stage makes nothing at all.
LEFT_ALONE = frozenset(("Constant", "Identity"))


@dataclass
class _Known:
    """What is there before a node: tensors by their entries (with type and rank), tensors by stretches of their shapes, and what Shape nodes read."""

    values: dict[tuple[str, int, Entries], Tensor] = field(default_factory=dict)
    stretches: dict[Entries, tuple[Tensor, int]] = field(default_factory=dict)
    axes: dict[Size, list[tuple[Tensor, int]]] = field(default_factory=dict)
    shapes: dict[Tensor, Tensor] = field(default_factory=dict)


def read_sizes(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Replace tensors of sizes by equal ones that are there before, or by a Shape (and a Gather) of a tensor that is; how many were replaced."""
    if not any(n.is_op("Shape", "Size") for n in nodes(model)):
        return 0
    search = _SizeReader(model, shapes())
    with Edits(model) as edits:
        search.graph(model.graph, (), edits)
    return search.replaced


class _SizeReader:
    def __init__(self, model: Model, shapes: Shapes) -> None:
        self.model, self.shapes = model, shapes
        self.functions = set(function_bodies(model))
        self.outputs = output_ids(model)
        self.names: Counter[str] = defined_names(model)
        self.replaced = 0

    def graph(self, graph: Graph, around: tuple[_Known, ...], edits: Edits) -> None:
        """Go through `graph` and those below it; `around` has what the graphs around it had made when their nodes were reached, the outermost first."""
        here = _Known()
        scopes = (*around, here)
        for tensor in graph.inputs:
            self.enter_shape(tensor, here)
        for node in toposort(graph):
            for inner in subgraphs(node):
                self.graph(inner, scopes, edits)
            for tensor in node.outputs:
                if not tensor.name or not (tensor.outputs or id(tensor) in self.outputs):  # what nothing reads is not for others either: it goes
                    continue
                entries = self.entries(tensor)
                if entries is not None and not self.settled(node, tensor, entries, scopes, graph, edits):
                    here.values.setdefault((self.dtype(tensor), len(self.shape(tensor)), entries), tensor)
                if node.is_op("Shape") and not node.attrs.get("start", 0) and "end" not in node.attrs:
                    here.shapes.setdefault(node.inputs[0], tensor)
            for tensor in node.outputs:
                self.enter_shape(tensor, here)

    # --- what is known ----------------------------------------------------------------------------------------------------------

    def dtype(self, tensor: Tensor) -> str:
        return self.shapes.dtype(tensor) or ""

    def shape(self, tensor: Tensor) -> Entries:
        fact = self.shapes.fact(tensor)
        assert fact is not None
        return fact.shape or ()

    def entries(self, tensor: Tensor) -> Entries | None:
        """The entries of a scalar or a vector of integers that are all known, but not all numbers."""
        fact = self.shapes.fact(tensor)
        if fact is None or fact.value is None or fact.value.dtype != object or fact.value.ndim > 1 or fact.dtype not in ("int64", "int32"):
            return None
        entries = tuple(fact.value.reshape(-1).tolist())
        return None if any(e is None for e in entries) else entries

    def enter_shape(self, tensor: Tensor, scope: _Known) -> None:
        """Enter the dynamic stretches of a tensor's shape; the tensors that are made first stand for all."""
        if not tensor.name or self.names[tensor.name] > 1:
            return
        fact = self.shapes.fact(tensor)
        if fact is None or fact.kind != "tensor" or fact.shape is None or len(fact.shape) > LARGEST_RANK:
            return
        dims = fact.shape
        dynamic = [i for i, d in enumerate(dims) if not isinstance(d, int)]
        if not dynamic:
            return
        for start in range(dynamic[-1] + 1):
            for end in range(start + 1, len(dims) + 1):
                scope.stretches.setdefault(dims[start:end], (tensor, start))
        for axis in dynamic:
            scope.axes.setdefault(dims[axis], []).append((tensor, axis))

    # --- replacing --------------------------------------------------------------------------------------------------------------

    def settled(self, node: Node, tensor: Tensor, entries: Entries, scopes: tuple[_Known, ...], graph: Graph, edits: Edits) -> bool:
        """Replace `tensor`, which `node` makes, where something simpler has its entries."""
        if id(tensor) in self.outputs or self.names[tensor.name] > 1 or node.op in LEFT_ALONE or not node.standard or calls(node, self.functions):
            return False
        if len(node.outputs) > 1 or subgraphs(node):
            return False
        rank = len(self.shape(tensor))
        equal = next((s.values[key] for s in scopes if (key := (self.dtype(tensor), rank, entries)) in s.values), None)
        if equal is None:
            equal = self.read(node, entries, rank, scopes, graph, edits) if self.dtype(tensor) == "int64" else None
        if equal is None:
            return False
        edits.replace(tensor, equal)
        self.replaced += 1
        return True

    def read(self, node: Node, entries: Entries, rank: int, scopes: tuple[_Known, ...], graph: Graph, edits: Edits) -> Tensor | None:
        """A new tensor that is read off a shape, where that takes no more nodes than what it replaces."""
        if node.op == "Shape":
            return None
        if rank == 1 and self.model.opset >= OPSET_OF_RANGES:
            place = next((s.stretches[entries] for s in scopes if entries in s.stretches), None)
            if place is not None:
                source, start = place
                end = start + len(entries)
                attrs = {} if start == 0 and end == len(self.shape(source)) else {"start": start, "end": end}
                return self.add("Shape", [source], attrs, node, scopes[-1], (self.dtype(node.outputs[0]), rank, entries), graph, edits)
        return self.gather(node, entries, rank, scopes, graph, edits)

    def gather(self, node: Node, entries: Entries, rank: int, scopes: tuple[_Known, ...], graph: Graph, edits: Edits) -> Tensor | None:
        """A Gather of the shape of a tensor that has all entries among its axes."""
        if any(isinstance(e, int) for e in entries):
            return None
        for scope in scopes:
            for source, _ in scope.axes.get(entries[0], ())[:4]:
                dims = self.shape(source)
                if not all(e in dims for e in entries):
                    continue
                shape = next((s.shapes[source] for s in scopes if source in s.shapes), None)
                if dying(node, self.outputs, None if shape is None else producer(shape)) <= (1 if shape is not None else 2):
                    return None
                if shape is None:
                    shape = self.add("Shape", [source], {}, node, scopes[-1], ("int64", 1, dims), graph, edits)
                    scopes[-1].shapes[source] = shape
                indices = np.array([dims.index(e) for e in entries], np.int64)
                constant = self.model.constant(f"{node.outputs[0].name}.axes", indices if rank else indices.reshape(()))
                return self.add("Gather", [shape, constant], {"axis": 0}, node, scopes[-1], ("int64", rank, entries), graph, edits)
        return None

    def add(
        self, op: str, inputs: list[Tensor], attrs: dict[str, int], node: Node, scope: _Known, key: tuple[str, int, Entries], graph: Graph, edits: Edits
    ) -> Tensor:
        """A new node in `node`'s place."""
        output = self.model.variable(f"{node.outputs[0].name}.{op}")
        new = detached(op, self.model.fresh(f"{node.name}.{op}") if node.name else "", attrs, inputs, [output])
        new.rank = node.rank
        new.origin = (STAGE, node.name or node.outputs[0].name)
        edits.add(new, graph)
        self.shapes.enter(new)
        scope.values.setdefault(key, output)
        return output


def dying(node: Node, outputs: set[int], spared: Node | None) -> int:
    """How many nodes are dead without `node`, itself included, where `spared` is not."""
    dead = {node}
    pending = [node]
    while pending:
        for tensor in pending.pop().inputs:
            maker = producer(tensor)
            if maker is None or maker is spared or maker in dead or subgraphs(maker):
                continue
            if all(id(t) not in outputs and all(r in dead for r in t.outputs) for t in maker.outputs):
                dead.add(maker)
                pending.append(maker)
    return len(dead)
