"""Types, shapes and values of the tensors of a model, as far as the signature and the constants decide them.

One pass in an order that runs: each node has a rule (`elementwise`, `layout`, `slicing`, `compute`, `contrib`, `control`) or goes to onnx's inference of single nodes
(`fallback`), and an evaluator (`values`, `moves`) where its result is small. What is asked for later, because a step made it, is inferred when it is asked for.

- Sources are the signature (`Model.input_protos`) and the constants. value_info, the shapes that graph outputs claim and the types of subgraph inputs are not
  believed: exporters leave stale ones behind. Only where nothing else is known, an output has the type and the rank that the model states.
- A number holds in every run, a symbol or a polynomial of symbols as well, whatever the symbols stand for (0 and 1 included), given that the run succeeds.
- Sizes without a name are told apart inside (`Unknown`) and handed out as None: two of them are not the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from graphcompress.ir.model import walk
from graphcompress.ir.model.dimensions import Dim, Polynomial, Size, named, unknown
from graphcompress.ir.model.element_types import dtype_name
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Shape, Tensor, TensorSpec
from graphcompress.ir.schemas.operators import operator_definition
from graphcompress.ir.shapes import compute, contrib, control, elementwise, layout, moves, slicing, values
from graphcompress.ir.shapes.facts import REFUSALS, VALUE_TYPES, Array, Call, Evaluator, Fact, Rule, data_fact, open_fact, packed
from graphcompress.ir.shapes.fallback import SizeNames, infer_by_onnx
from graphcompress.ir.shapes.functions import FunctionBodies

# What exporters write where they know no name: two of these are not the same dimension.
_NO_NAME = frozenset(["", "?"])
_RULES: dict[str, Rule] = {**elementwise.RULES, **layout.RULES, **slicing.RULES, **compute.RULES}
_EVALUATORS: dict[str, Evaluator] = {**values.EVALUATORS, **moves.EVALUATORS}
_NOTHING = Fact(None, None)


@paused()
def infer(model: Model, inputs: Mapping[str, Sequence[Dim]] | None = None) -> Shapes:
    """Types, shapes and values of all tensors in all graphs of `model`. Linear in the graph; never raises for a model that onnxruntime runs.

    `inputs` replaces the shapes of inputs by name, for example by those of a feed: the answers then hold for such feeds.
    """
    shapes = Shapes(model, inputs or {})
    shapes.infer_graph(model.graph)
    return shapes


class Shapes:
    """What is known of the tensors of a model; None where nothing is. Answers stay while the model is edited, as long as each tensor keeps its value;
    `forget` is for those that do not. Tensors that are made later are inferred when they are asked for."""

    def __init__(self, model: Model, inputs: Mapping[str, Sequence[Dim]]) -> None:
        self._facts: dict[Tensor, Fact] = {}
        self._constants: dict[Constant, tuple[object, Fact]] = {}
        self._specs: dict[Tensor, TensorSpec] = {}
        # What graphsurgeon's lists do not say: the node whose body has a tensor as an input, or that is about to make it; and the one whose body returns it.
        self._makers: dict[Tensor, Node] = {}
        self._returned_by: dict[Tensor, Node] = {}
        self._open: set[Node] = set()
        self._numbers = itertools.count()
        self._names = SizeNames()
        self.opsets = model.opsets
        self.ir_version = model.ir_version
        self.depth = 0
        self.calls: set[tuple[str, str]] = set()
        self._functions = FunctionBodies(model.header.functions)
        self._stated = {t: s for t, s in zip(model.graph.outputs, model.outputs, strict=True) if s.kind == "tensor"}
        self._enter_signature(model, inputs)

    # --- answers ----------------------------------------------------------------------------------------------------------------

    def spec(self, tensor: Tensor) -> TensorSpec | None:
        """Type, shape and kind of `tensor`; the kind is "tensor", "sequence", "map", "optional" or "sparse_tensor"."""
        spec = self._specs.get(tensor)
        if spec is None:
            fact = self.fact(tensor)
            if fact is None:
                return None
            shape = None if fact.shape is None or fact.kind != "tensor" else tuple(d if isinstance(d, int) else named(d) for d in fact.shape)
            spec = TensorSpec(tensor.name, fact.dtype, shape, fact.kind)
            if not isinstance(tensor, Constant):
                self._specs[tensor] = spec
        return spec

    def dtype(self, tensor: Tensor) -> str | None:
        """Element type by ONNX's name ("float", "int64", ...), None where unknown or no tensor."""
        spec = self.spec(tensor)
        return spec.dtype if spec is not None and spec.kind == "tensor" else None

    def shape(self, tensor: Tensor) -> Shape | None:
        """A number, a symbol of the signature, a polynomial of symbols or None per axis; None where the rank is unknown. A symbol may turn out to be 0 or 1."""
        spec = self.spec(tensor)
        return spec.shape if spec is not None and spec.kind == "tensor" else None

    def rank(self, tensor: Tensor) -> int | None:
        """Number of axes."""
        shape = self.shape(tensor)
        return None if shape is None else len(shape)

    def static(self, tensor: Tensor) -> tuple[int, ...] | None:
        """The shape where every dimension is a number."""
        shape = self.shape(tensor)
        numbers = tuple(d for d in shape or () if isinstance(d, int))
        return numbers if shape is not None and len(numbers) == len(shape) else None

    def value(self, tensor: Tensor) -> Array | None:
        """The value where it is fully known, the same in every run, and small (`facts.LARGEST_VALUE` elements)."""
        fact = self.fact(tensor)
        return None if fact is None or fact.value is None or fact.value.dtype == object else fact.value

    def entries(self, tensor: Tensor) -> Array | None:
        """The value where it is known in part: an object array of numbers, symbols, polynomials and None."""
        fact = self.fact(tensor)
        if fact is None or fact.value is None:
            return None
        result = np.empty(fact.value.shape, object)
        result.reshape(-1)[:] = [named(v) if isinstance(v, Polynomial) else v for v in fact.value.reshape(-1).tolist()]
        return result

    def enter(self, node: Node) -> None:
        """Tell of a new node before its outputs know of it."""
        self._makers.update((t, node) for t in node.outputs if t not in self._facts)

    def same_as(self, tensor: Tensor, other: Tensor) -> None:
        """Tell of a tensor that no node makes: it has the type and shape of `other`."""
        fact = self.fact(other)
        if fact is not None:
            self._record(tensor, Fact(fact.dtype, fact.shape, None, fact.kind, fact.proto))

    def same_shape(self, a: Tensor, b: Tensor) -> bool:
        """Whether both have one shape in every run, sizes without a name included."""
        first, second = self.fact(a), self.fact(b)
        return first is not None and second is not None and first.shape is not None and first.shape == second.shape

    def agrees(self, other: Shapes, model: Model) -> bool:
        """Whether both say the same of all tensors that nodes of `model` make; sizes without a name may have other numbers."""
        pairs: dict[Size, Size] = {}
        back: dict[Size, Size] = {}

        def same(a: Any, b: Any) -> bool:
            if isinstance(a, Polynomial) and isinstance(b, Polynomial) and a.anonymous and b.anonymous:
                return pairs.setdefault(a, b) == b and back.setdefault(b, a) == a
            return bool(a == b or (a != a and b != b))

        def equal(a: Fact | None, b: Fact | None) -> bool:
            if a is None or b is None:
                return a is b
            return a.dtype == b.dtype and _same_entries(a.shape, b.shape, same) and _same_entries(_flat(a.value), _flat(b.value), same)

        return all(equal(self.fact(t), other.fact(t)) for n in walk.nodes(model) for t in n.outputs if t.name)

    def forget(self, tensors: Iterable[Tensor]) -> None:
        """Infer again what hangs on `tensors`, whose shape or value was changed, when it is asked for. The tensors themselves too, if a node makes them."""
        pending = list(tensors)
        seen = set(pending)
        while pending:
            tensor = pending.pop()
            if walk.producer(tensor) is not None or tensor in self._makers:
                self._facts.pop(tensor, None)
            self._specs.pop(tensor, None)
            hanging = [t for node in walk.consumers(tensor) for t in (*node.outputs, *(i for g in walk.subgraphs(node) for i in g.inputs))]
            if tensor in self._returned_by:
                hanging += self._returned_by[tensor].outputs
            for other in hanging:
                if other.name and other not in seen:
                    seen.add(other)
                    pending.append(other)

    # --- for the rules of control flow ------------------------------------------------------------------------------------------

    def fact(self, tensor: Tensor) -> Fact | None:
        """What is known of `tensor`, inferred now where it was not asked for before; None for a tensor that nothing makes."""
        if isinstance(tensor, Constant):
            return self._constant(tensor)
        fact = self._facts.get(tensor)
        if fact is None:
            node = self._maker(tensor)
            if node is None or node in self._open:
                return None
            self._infer(node)
            fact = self._facts.get(tensor)
        return fact

    def infer_graph(self, graph: Graph, owner: Node | None = None) -> None:
        """All nodes of `graph`; `owner` is the node whose body it is."""
        if owner is not None:
            self._returned_by.update((t, owner) for t in graph.outputs)
        for sparse in graph.shell.sparse_initializer:
            self._sparse(graph, sparse)
        self._infer(*reversed(graph.nodes))

    def bind(self, tensor: Tensor, fact: Fact, owner: Node) -> None:
        """Say what an input of a body of `owner` is."""
        self._makers[tensor] = owner
        self._record(tensor, fact)

    def clear_graph(self, graph: Graph) -> None:
        """Drop what was inferred inside `graph`, to infer it from other inputs."""
        for node in graph.nodes:
            for tensor in node.outputs:
                self._facts.pop(tensor, None)
                self._specs.pop(tensor, None)
            for below in walk.subgraphs(node):
                self.clear_graph(below)

    def next_unknown(self) -> int:
        """A number above those of all sizes without a name so far."""
        return next(self._numbers)

    # --- inside -----------------------------------------------------------------------------------------------------------------

    def _enter_signature(self, model: Model, inputs: Mapping[str, Sequence[Dim]]) -> None:
        protos = {p.name: p for p in model.input_protos}
        tensors = {t.name: t for t in model.graph.inputs}
        for spec in (*model.inputs, *model.overridable):
            shape: Sequence[Dim] | None = inputs.get(spec.name, spec.shape)
            dims = None if shape is None else [None if isinstance(d, str) and d in _NO_NAME else d for d in shape]
            self._record(tensors[spec.name], open_fact(spec.dtype, dims, spec.kind, None if spec.kind == "tensor" else protos[spec.name].type))

    def _sparse(self, graph: Graph, sparse: onnx.SparseTensorProto) -> None:
        """A sparse initializer is read as a dense tensor."""
        for node in graph.nodes:
            for tensor in node.inputs:
                if tensor.name == sparse.values.name and not tensor.inputs and tensor not in self._facts and not isinstance(tensor, Constant):
                    self._record(tensor, Fact(dtype_name(sparse.values.data_type), tuple(sparse.dims)))

    def _constant(self, tensor: Constant) -> Fact:
        data = walk.constant_data(tensor)
        assert data is not None
        cached = self._constants.get(tensor)
        if cached is None or cached[0] is not data:
            cached = self._constants[tensor] = (data, data_fact(data))
        return cached[1]

    def _maker(self, tensor: Tensor) -> Node | None:
        return walk.producer(tensor) or self._makers.get(tensor)

    def _infer(self, *roots: Node) -> None:
        """Infer `roots`, the last one first, and before each what it needs and was not inferred yet."""
        stack = list(roots)
        facts, opened = self._facts, self._open
        with np.errstate(all="ignore"):
            while stack:
                node = stack[-1]
                if node not in opened:
                    opened.add(node)
                    before = [
                        m for t in node.inputs if t not in facts and not isinstance(t, Constant) and (m := self._maker(t)) is not None and m not in opened
                    ]
                    if before:
                        stack.extend(before)
                        continue
                stack.pop()
                if any(t not in facts for t in node.outputs if t.name):
                    self._run(node)
                opened.discard(node)

    def _run(self, node: Node) -> None:
        inputs = [self.fact(t) or _NOTHING if t.name else None for t in node.inputs]
        call = Call(node, inputs, self.opsets.get("", 1))
        results = self._outputs(node, call)
        for tensor, fact in itertools.zip_longest(node.outputs, results[: len(node.outputs)]):
            if tensor.name:
                self._record(tensor, _NOTHING if fact is None else fact)

    def _outputs(self, node: Node, call: Call) -> Sequence[Fact]:
        """Facts about the outputs, in which sizes may be None."""
        domain = "" if node.standard else node.domain or ""
        body = self._functions.body(node)
        try:
            if body is not None:
                return control.infer_function(self, node, call, body)
            results = self._by_rule(node, call, domain)
        except REFUSALS:
            results = None
        if results is None:
            results = [] if body is not None else self._types_of_definition(node, call, domain)
        return self._with_values(node, call, results) if domain == "" and body is None else results

    def _by_rule(self, node: Node, call: Call, domain: str) -> Sequence[Fact] | None:
        """What the rule of the operator says, or onnx. Raises one of REFUSALS for a node that is not valid; None where nothing is known of the operator."""
        if domain == "" and node.op in control.RULES:
            return control.RULES[node.op](self, node, call)
        if domain == "" and node.op == "Identity" and call.inputs and (source := call.inputs[0]) is not None:
            return [Fact(source.dtype, source.shape, source.value, source.kind, source.proto)]
        rule = _RULES.get(node.op) if domain == "" else contrib.RULES.get((domain, node.op))
        if rule is not None:
            return [open_fact(*output) for output in rule(call)]
        return infer_by_onnx(node, call.inputs, self.opsets, self.ir_version, self._names)

    def _with_values(self, node: Node, call: Call, results: Sequence[Fact]) -> Sequence[Fact]:
        evaluator = moves.SHAPE_EVALUATORS.get(node.op)
        if evaluator is None and any(f is not None and f.value is not None for f in call.inputs):
            evaluator = _EVALUATORS.get(node.op)
        if evaluator is None:
            return results
        try:
            evaluated = evaluator(call)
        except REFUSALS:
            return results
        for fact, value in zip(results, evaluated, strict=False):
            if value is not None and fact.dtype is not None and fact.dtype in VALUE_TYPES and _fits(fact, value):
                try:
                    fact.value = packed(value, fact.dtype)
                except REFUSALS:
                    continue
                if fact.value is not None:
                    fact.shape = fact.value.shape
        return results

    def _types_of_definition(self, node: Node, call: Call, domain: str) -> Sequence[Fact]:
        """Element types, where the definition says that an output has the type of an input, or always the same."""
        definition = operator_definition(node.op, domain, self.opsets.get(domain, 1))
        if definition is None or not definition.output_types:
            return []
        types: dict[str, str] = {}
        for index, fact in enumerate(call.inputs):
            if fact is not None and fact.dtype is not None and fact.kind == "tensor" and definition.input_types:
                types.setdefault(definition.input_types[min(index, len(definition.input_types) - 1)], fact.dtype)
        facts: list[Fact] = []
        for index in range(len(node.outputs)):
            place = min(index, len(definition.output_types) - 1)
            name = definition.output_types[place]
            dtype = types.get(name) or (name[len("tensor(") : -1] if name.startswith("tensor(") else None)
            kind = definition.output_kinds[place]
            facts.append(Fact(dtype if kind == "tensor" else None, None, None, kind))
        return facts

    def _record(self, tensor: Tensor, fact: Fact) -> None:
        stated = self._stated.get(tensor)
        if stated is not None and fact.kind == "tensor" and (fact.dtype is None or fact.shape is None):
            rank = len(stated.shape) if stated.shape is not None else None
            fact = open_fact(fact.dtype or stated.dtype, fact.shape if fact.shape is not None or rank is None else [None] * rank)
        if fact.shape is not None and any(not isinstance(d, int) or d < 0 for d in fact.shape):
            dims = tuple(unknown(next(self._numbers)) if d is None or (isinstance(d, int) and d < 0) else d for d in fact.shape)
            fact = Fact(fact.dtype, dims, fact.value, fact.kind, fact.proto)
        self._facts[tensor] = fact
        self._specs.pop(tensor, None)


def _flat(value: Array | None) -> Sequence[Any] | None:
    return None if value is None else value.ravel().tolist()


def _same_entries(a: Sequence[Any] | None, b: Sequence[Any] | None, same: Callable[[Any, Any], bool]) -> bool:
    if a is None or b is None:
        return a is b
    return len(a) == len(b) and all(map(same, a, b))


def _fits(fact: Fact, value: Array) -> bool:
    """Whether the shape of a value is the one that was inferred."""
    return fact.shape is None or (len(fact.shape) == value.ndim and all(not isinstance(d, int) or d == n for d, n in zip(fact.shape, value.shape, strict=True)))
