"""Which nodes of two models do the same: by what they compute from the inputs, then by their names, then by who reads them, then by their weights' shapes in the order of the graph,
then by their neighbours. Linear in both graphs."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor
from graphcompress.ir.model.tensors import TensorData
from graphcompress.ir.model.walk import constant_data, consumers, graphs, label, nodes, producer, subgraphs, toposort

PAIR = ("QuantizeLinear", "DequantizeLinear")
STORING = ("DequantizeLinear", "Cast", "Mul")
"""What turns stored codes into weights."""


@dataclass(slots=True)
class Matching:
    """`pairs`: nodes of the first model -> those of the second; `other`: the same, backwards. `first` and `second` tell what each model's tensors are calculated from."""

    first: Computation
    second: Computation
    pairs: dict[Node, Node] = field(default_factory=dict)
    other: dict[Node, Node] = field(default_factory=dict)

    def same(self, a: Tensor, b: Tensor) -> bool:
        """Whether two tensors are one: equal constants, tensors of one name, the same output of matched nodes."""
        one, two = self.first.constant(a), self.second.constant(b)
        if one is not None or two is not None:
            return one == two
        maker, twin = producer(a), producer(b)
        if a.name == b.name or maker is None or twin is None:
            return bool(a.name == b.name)
        return self.pairs.get(maker) is twin and place_of(maker, a) == place_of(twin, b)

    def add(self, a: Node, b: Node) -> None:
        """Match two nodes."""
        self.pairs[a], self.other[b] = b, a


class Computation:
    """Numbers that stand for what a model's tensors are: two with one number, of either model, hold the same values. `numbers` is shared by both models."""

    def __init__(self, model: Model, numbers: dict[Hashable, int]) -> None:
        self.model = model
        self.numbers = numbers
        self.nodes: dict[Node, int] = {}
        self._constants: dict[Tensor, int] = {}
        self._inputs: dict[Tensor, int] = {t: self.number("input", t.name) for t in model.graph.inputs}
        for graph in graphs(model):
            for node in toposort(graph):
                self.nodes[node] = self.number("node", operation(node), *(self.tensor(t) for t in node.inputs))
                for inner in subgraphs(node):
                    self._inputs.update((t, self.number("body", self.nodes[node], i)) for i, t in enumerate(inner.inputs))

    def number(self, *key: Hashable) -> int:
        """The number of a key."""
        return self.numbers.setdefault(key, len(self.numbers))

    def constant(self, tensor: Tensor) -> int | None:
        """The number of a constant's content, None for what is no constant."""
        if tensor not in self._constants:
            data = constant_data(tensor) if tensor.name else None
            if data is None:
                return None
            self._constants[tensor] = self.number("constant", content(data))
        return self._constants[tensor]

    def tensor(self, tensor: Tensor) -> int:
        """The number of a tensor."""
        known = self.constant(tensor)
        if known is not None:
            return known
        maker = producer(tensor)
        if maker is None or maker not in self.nodes:
            return self._inputs.get(tensor) or self.number("outside", tensor.name)
        return self.number("output", self.nodes[maker], place_of(maker, tensor))


def match(first: Model, second: Model) -> Matching:
    """Match the nodes of two models, those of subgraphs too. Nodes are matched with nodes of the same operator only."""
    numbers: dict[Hashable, int] = {}
    matching = Matching(Computation(first, numbers), Computation(second, numbers))
    sides = (matching.first, matching.second)
    keys: list[Callable[[Computation, Node], Hashable]] = [
        lambda side, node: (side.nodes[node], label(node)),
        lambda side, node: side.nodes[node],
        lambda side, node: (operator(node), node.name) if node.name else None,
        lambda side, node: (operator(node), tuple(t.name for t in node.outputs)),
    ]
    for key in keys:
        _by_key(matching, *([(n, key(s, n)) for n in nodes(s.model)] for s in sides))
    readers = [_readers(side) for side in sides]
    _by_key(matching, *([(n, r[n]) for n in nodes(s.model)] for s, r in zip(sides, readers, strict=True)))
    _by_weights(matching)
    _by_neighbours(matching)
    return matching


def _by_key(matching: Matching, first: Iterable[tuple[Node, Hashable]], second: Iterable[tuple[Node, Hashable]]) -> None:
    """Match what is left and has one key, in order."""
    left: dict[Hashable, deque[Node]] = defaultdict(deque)
    for node, key in second:
        if node not in matching.other and key is not None:
            left[key].append(node)
    for node, key in first:
        if node not in matching.pairs and left.get(key):
            matching.add(node, left[key].popleft())


def _readers(side: Computation) -> dict[Node, int]:
    """A number for what becomes of each node's results: who reads them, down to the outputs."""
    made: dict[Node, int] = {}
    outputs = {t: t.name for t in side.model.graph.outputs}
    for graph in reversed(list(graphs(side.model))):
        for node in reversed(toposort(graph)):
            fate: list[Hashable] = []
            for place, tensor in enumerate(node.outputs):
                fate += [(place, "output", outputs[tensor])] if tensor in outputs else []
                fate += [(place, "read", made.get(r, -1), tuple(i for i, t in enumerate(r.inputs) if t is tensor)) for r in consumers(tensor)]
            made[node] = side.number("fate", operation(node), *sorted(fate, key=repr))
    return made


def _by_weights(matching: Matching) -> None:
    """Nodes of one operator whose weights have the same shapes, in the order in which they run, where as many are left on both sides: such layers keep their order when they lose their names."""
    left: tuple[dict[Hashable, list[Node]], ...] = ({}, {})
    for side, known, found in zip((matching.first, matching.second), (matching.pairs, matching.other), left, strict=True):
        for graph in graphs(side.model):
            for node in toposort(graph):
                shapes = tuple(shape for tensor in node.inputs if len(shape := _stored_shape(tensor)) > 1)
                if shapes and node not in known and not node.is_op(*STORING):
                    found.setdefault((operator(node), shapes), []).append(node)
    for key, first in left[0].items():
        second = left[1].get(key, [])
        if len(first) == len(second):
            for pair in zip(first, second, strict=True):
                matching.add(*pair)


def _stored_shape(tensor: Tensor) -> tuple[int, ...]:
    """Of a constant, or of the codes that it is unpacked from; () for what is computed."""
    while not is_constant(tensor) and (maker := producer(tensor)) is not None and maker.is_op(*STORING):
        tensor = maker.inputs[0]
    data = constant_data(tensor)
    return () if data is None else tuple(data.shape)


def _by_neighbours(matching: Matching) -> None:
    """Where two matched nodes read, or are read by, nodes of one operator at the same place, directly or with Q and DQ between, these are matched too."""
    work = deque(matching.pairs.items())

    def consider(a: Node | None, b: Node | None) -> None:
        if a is not None and b is not None and a not in matching.pairs and b not in matching.other and operator(a) == operator(b):
            matching.add(a, b)
            work.append((a, b))

    while work:
        one, two = work.popleft()
        for a, b in zip(one.inputs, two.inputs, strict=False):
            consider(producer(a), producer(b))
            consider(_maker(a), _maker(b))
        for a, b in zip(one.outputs, two.outputs, strict=False):
            for ends in (consumers, _reached):
                for x, y in zip(_unmatched(ends(a), matching.pairs), _unmatched(ends(b), matching.other), strict=False):
                    consider(x, y)


def _maker(tensor: Tensor) -> Node | None:
    """What makes a tensor, seen through Q and DQ."""
    node = producer(tensor)
    while node is not None and node.is_op(*PAIR):
        node = producer(node.inputs[0])
    return node


def _reached(tensor: Tensor) -> list[Node]:
    """What reads a tensor, seen through Q and DQ."""
    return [end for reader in consumers(tensor) for end in (_reached(reader.outputs[0]) if reader.is_op(*PAIR) else [reader])]


def _unmatched(candidates: Iterable[Node], matched: dict[Node, Node]) -> list[Node]:
    return [n for n in candidates if n not in matched]


def operator(node: Node) -> str:
    """The operator's name, with its domain unless that is ai.onnx."""
    return node.op if node.standard else f"{node.domain}.{node.op}"


def operation(node: Node) -> tuple[Hashable, ...]:
    """What a node does with its inputs: operator and attributes; of subgraphs how many of which operators they hold. What a Constant does is its value."""
    if node.is_op("Constant") and (data := constant_data(node.outputs[0])) is not None:
        return ("Constant", content(data))
    return (operator(node), *sorted((name, attribute_key(value)) for name, value in node.attrs.items()))


def attribute_key(value: Any) -> str:
    """An attribute as text; equal for equal values."""
    match value:
        case Graph():
            return repr(sorted(Counter(operator(n) for n in value.nodes).items()))
        case [Graph(), *_]:
            return repr([attribute_key(g) for g in value])
        case TensorData() | np.ndarray():
            return content(value)
        case onnx.AttributeProto():
            return hashlib.blake2b(value.SerializeToString(deterministic=True)).hexdigest()
    return repr(value)


def content(value: TensorData | np.ndarray[Any, Any]) -> str:
    """Type, shape and a hash of a tensor's elements."""
    if isinstance(value, TensorData) and value.dtype_name != "string":
        return f"{value.dtype_name}{tuple(value.shape)} {hashlib.blake2b(value.raw(), digest_size=16).hexdigest()}"
    array = value if isinstance(value, np.ndarray) else value.load()
    name = onnx.helper.tensor_dtype_to_string(onnx.helper.np_dtype_to_tensor_dtype(array.dtype)) if array.dtype != object else "string"
    raw = repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
    return f"{name.removeprefix('TensorProto.').lower()}{tuple(array.shape)} {hashlib.blake2b(raw, digest_size=16).hexdigest()}"


def place_of(node: Node, tensor: Tensor) -> int:
    """Which output of `node` a tensor is."""
    return next((i for i, t in enumerate(node.outputs) if t is tensor), -1)


def is_constant(tensor: Tensor) -> bool:
    """An initializer, or made by a Constant node."""
    return isinstance(tensor, Constant) or constant_data(tensor) is not None
