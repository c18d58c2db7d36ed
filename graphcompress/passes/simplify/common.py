"""Common subexpressions: of nodes that compute the same from the same tensors, one stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Graph, Model, Node, Tensor, TensorData, nodes, output_ids, subgraphs, toposort
from graphcompress.ir.inline import calls, defined_names, function_bodies
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.schemas.operators import operator_definition
from graphcompress.passes.simplify.duplicates import Digests, kind_of
from graphcompress.passes.simplify.fold import QUANTIZED, RANDOM

STAGE = "simplify/common"
# Q and DQ stand where a runtime looks for them, beside each operator; an Identity is a rule's business and a Constant that of another stage.
LEFT_ALONE = RANDOM | QUANTIZED | {"QuantizeLinear", "Identity", "Constant"}
COMMUTATIVE = frozenset(("Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"))
LONGEST = 256
"""Bytes of a tensor in an attribute that are compared; a longer one is equal to itself alone."""

Key = tuple[Hashable, ...]


def merge_equal_nodes(model: Model, digests: Digests) -> int:
    """Let the first of equal nodes stand for those behind it in its graph and the graphs below; how many went.

    Equal are operator, inputs (constants by type, shape and bytes) and attributes, defaults counted. Random operators, those of unknown domains, calls of functions
    and nodes with subgraphs are never merged, nor what has a name that two scopes define. An output of a graph keeps its name.
    """
    if not _promising(model):
        return 0
    search = _Merger(model, digests)
    with Edits(model) as edits:
        search.graph(model.graph, (), edits)
    return search.merged


def _promising(model: Model) -> bool:
    """Whether two nodes of one operator read the same tensors at all: without such a pair there is no other one."""
    seen: set[tuple[str, frozenset[Tensor]]] = set()
    for node in nodes(model):
        key = node.op, frozenset(t for t in node.inputs if not isinstance(t, Constant))
        if node.op not in LEFT_ALONE and key in seen:
            return True
        seen.add(key)
    return False


class _Merger:
    def __init__(self, model: Model, digests: Digests) -> None:
        self.opset = model.opset
        self.digests = digests
        self.functions = set(function_bodies(model))
        self.outputs = output_ids(model)
        self.names: Counter[str] = defined_names(model)
        self.replaced: dict[Tensor, Tensor] = {}
        self.merged = 0

    def graph(self, graph: Graph, around: tuple[dict[Key, list[Node]], ...], edits: Edits) -> None:
        """Go through `graph` and those below it; `around` has the nodes of the graphs that it stands in, the outermost first."""
        here: dict[Key, list[Node]] = {}
        for node in toposort(graph):
            for inner in subgraphs(node):
                self.graph(inner, (*around, here), edits)
            key = self.key(node)
            if key is None:
                continue
            for scope in (*around, here):
                first = next((n for n in scope.get(key, ()) if self.same_constants(n, node)), None)
                if first is not None and self.merge(first, node, scope is here, edits):
                    break
            else:
                here.setdefault(key, []).append(node)

    def merge(self, first: Node, node: Node, beside: bool, edits: Edits) -> bool:
        """Let one of two equal nodes go; False where both have to stay. Outer ones are never replaced by inner ones."""
        if any(id(t) in self.outputs for t in node.outputs):
            if not beside or any(id(t) in self.outputs for t in first.outputs):
                return False
            # The first node takes over the names of the other one.
            for index, (old, new) in enumerate(zip(first.outputs, node.outputs, strict=True)):
                self.replace(old, new, edits)
                edits.set_output(first, index, new)
        else:
            for old, new in zip(node.outputs, first.outputs, strict=True):
                self.replace(old, new, edits)
        edits.remove((node,))
        self.merged += 1
        return True

    def replace(self, old: Tensor, new: Tensor, edits: Edits) -> None:
        if old.name:
            edits.replace(old, new)
            self.replaced[old] = new

    def key(self, node: Node) -> Key | None:
        """What equal nodes have in common, constants by type and shape; None for a node that is left alone."""
        if not node.standard or node.op in LEFT_ALONE or calls(node, self.functions) or subgraphs(node):
            return None
        if not any(t.name for t in node.inputs) or any(self.names[t.name] > 1 for t in node.outputs if t.name):
            return None
        attributes = self.attributes(node)
        if attributes is None:
            return None
        operands: list[Hashable] = [kind_of(t) if isinstance(t, Constant) else self.resolve(t) if t.name else None for t in node.inputs]
        if node.op in COMMUTATIVE and not any(isinstance(t, Constant) for t in node.inputs):
            operands.sort(key=id)
        return node.op, *operands, *attributes, tuple(bool(t.name) for t in node.outputs)

    def attributes(self, node: Node) -> Key | None:
        """Name and value of each attribute that is not at its default."""
        definition = operator_definition(node.op, "", self.opset)
        values: list[Hashable] = []
        for name, value in sorted(node.attrs.items()):
            plain = _plain(value)
            if plain is None:
                return None
            if definition is None or name not in definition.attributes or plain != _plain(definition.attributes[name].default):
                values.append((name, plain))
        return tuple(values)

    def same_constants(self, a: Node, b: Node) -> bool:
        """Whether constants at the same place have the same bytes. Large ones are read here alone: everything else about the nodes is equal."""
        pairs = [(x, y) for x, y in zip(a.inputs, b.inputs, strict=True) if isinstance(x, Constant) and isinstance(y, Constant)]
        return all(x is y or self.digests.of(x) == self.digests.of(y) for x, y in pairs)

    def resolve(self, tensor: Tensor) -> Tensor:
        while (new := self.replaced.get(tensor)) is not None:
            tensor = new
        return tensor


def _plain(value: Any) -> Hashable | None:
    """An attribute's value as something that compares by content; None where that costs too much."""
    if isinstance(value, TensorData):
        return (value.dtype_name, tuple(value.shape), bytes(value.raw())) if value.nbytes <= LONGEST and value.dtype_name != "string" else None
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes()) if value.nbytes <= LONGEST and value.dtype != object else None
    simple = all(isinstance(v, int | float | str) for v in value) if isinstance(value, list) else isinstance(value, int | float | str)
    return repr(value) if simple else None  # 0.0 and -0.0 are equal, their texts are not
