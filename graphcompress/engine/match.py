"""Where a rule's `before` occurs, and whether its clauses hold there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.engine import expression
from graphcompress.engine.functions import Binding
from graphcompress.engine.overlay import GraphOverlay
from graphcompress.engine.rulefile import Rule
from graphcompress.engine.values import Undetermined, Value
from graphcompress.ir import Node, Tensor
from graphcompress.ir.files.text import BodyNode
from graphcompress.ir.inline import calls
from graphcompress.ir.schemas.operators import operator_definition

COMMUTATIVE = frozenset(("Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "Mean", "BitwiseAnd", "BitwiseOr", "BitwiseXor"))
OTHER_OUTPUTS = "engine: another output of the last node is in use"
OUTPUT_NAME = "engine: a graph output would lose its name"


@dataclass(slots=True)
class Match:
    """One occurrence of `rule.before`. `tensors` binds its names (None: absent), `nodes` its nodes by index."""

    rule: Rule
    overlay: GraphOverlay
    tensors: dict[str, Tensor | None]
    nodes: dict[int, Node]
    bindings: _Names | None = None

    @property
    def root(self) -> Node:
        return self.nodes[self.rule.root]

    def names(self) -> Mapping[str, Any]:
        """What expressions may name: tensors and, calculated when asked for, the entries of `let`."""
        if self.bindings is None:
            self.bindings = _Names(self)
        return self.bindings

    def let(self, name: str) -> Any:
        """An entry of `let`. Raises Undetermined where it has no value."""
        return self.names()[name]

    def refused_by(self) -> str | None:
        """The first clause that does not hold; None where all do."""
        names = self.names()
        for clause in self.rule.clauses:
            try:
                held = expression.evaluate(clause, names, self.overlay)
            except Undetermined:
                return clause.text
            if not _holds(held):
                return clause.text
        root = self.rule.before.nodes[self.rule.root]
        for index, tensor in enumerate(self.root.outputs):
            listed = index < len(root.outputs) and root.outputs[index] in self.rule.before.outputs
            if tensor.name and not listed and self.overlay.uses(tensor):
                return OTHER_OUTPUTS
        return None


def _holds(result: Any) -> bool:
    """A clause holds where it is true, and nothing else: a number or a list is no answer."""
    if isinstance(result, Value):
        return result.dtype == "bool" and result.array.size == 1 and bool(result.array)
    return isinstance(result, bool | np.bool_) and bool(result)


class _Names(Mapping[str, Any]):
    """What a match binds, made when it is asked for."""

    def __init__(self, match: Match) -> None:
        self.cache: dict[str, Any] = {}
        self.match = match

    def __getitem__(self, name: str) -> Any:
        if name not in self.cache:
            self.cache[name] = self._evaluate(name)
        return self.cache[name]

    def _evaluate(self, name: str) -> Any:
        match = self.match
        if name in match.tensors:
            place = match.rule.makers.get(name)
            return Binding(name, match.tensors[name], None if place is None else match.nodes[place[0]])
        return expression.evaluate(match.rule.lets[name], self, match.overlay)

    def __iter__(self) -> Iterator[str]:
        return iter({**self.match.tensors, **self.match.rule.lets})

    def __len__(self) -> int:
        return len(self.match.tensors) + len(self.match.rule.lets)


class RuleIndex:
    """Rules by the operator of their last node; larger patterns first. Nothing is tried where an operator that must stand right above is not there."""

    def __init__(self, rules: Sequence[Rule], overlay: GraphOverlay) -> None:
        self._by_root: dict[tuple[str, str], list[tuple[Rule, frozenset[str]]]] = {}
        self.depth = max((_depth(r) for r in rules), default=0)
        for rule in sorted(rules, key=lambda r: (-r.size, r.id)):
            if rule.opsets[0] <= overlay.opset <= rule.opsets[1]:
                self._by_root.setdefault(rule.root_op, []).append((rule, _needed_above(rule)))

    def candidates(self, node: Node, overlay: GraphOverlay) -> Iterator[Rule]:
        """The rules that could match with `node` as their last node."""
        entries = self._by_root.get(("" if node.standard else node.domain or "", node.op), ())
        if not entries:
            return
        above: set[str] | None = None
        for rule, needed in entries:
            if needed and above is None:
                above = {m.op for t in overlay.inputs(node) if t is not None and (m := overlay.maker(t)) is not None}
            if not needed or (above is not None and needed <= above):
                yield rule


def matches(rule: Rule, root: Node, overlay: GraphOverlay) -> Iterator[Match]:
    """Every way in which `rule.before` ends in `root`; two where the operands of a commutative operator fit both ways."""
    for tensors, nodes in _Matcher(rule, overlay).node(rule.root, root, {}, {}):
        yield Match(rule, overlay, tensors, nodes)


class _Matcher:
    def __init__(self, rule: Rule, overlay: GraphOverlay) -> None:
        self.rule, self.overlay, self.makers = rule, overlay, rule.makers

    def node(
        self, index: int, node: Node, tensors: dict[str, Tensor | None], nodes: dict[int, Node]
    ) -> Iterator[tuple[dict[str, Tensor | None], dict[int, Node]]]:
        pattern = self.rule.before.nodes[index]
        if index in nodes:
            if nodes[index] is node:
                yield tensors, nodes
            return
        if not fits(pattern, node, self.overlay):
            return
        bound: dict[str, Tensor | None] = dict(tensors)
        for name, tensor in zip(pattern.outputs, node.outputs, strict=False):
            if name:
                if not tensor.name:
                    return
                bound[name] = tensor
        operands = self.overlay.inputs(node)
        if len(operands) > len(pattern.inputs):
            return
        operands += [None] * (len(pattern.inputs) - len(operands))
        for names in orders(pattern):
            yield from self.operands(list(zip(names, operands, strict=True)), bound, {**nodes, index: node}, node)

    def operands(
        self, pairs: list[tuple[str, Tensor | None]], tensors: dict[str, Tensor | None], nodes: dict[int, Node], reader: Node
    ) -> Iterator[tuple[dict[str, Tensor | None], dict[int, Node]]]:
        if not pairs:
            yield tensors, nodes
            return
        (name, tensor), rest = pairs[0], pairs[1:]
        for bound, matched in self.operand(name, tensor, tensors, nodes, reader):
            yield from self.operands(rest, bound, matched, reader)

    def operand(
        self, name: str, tensor: Tensor | None, tensors: dict[str, Tensor | None], nodes: dict[int, Node], reader: Node
    ) -> Iterator[tuple[dict[str, Tensor | None], dict[int, Node]]]:
        if not name:
            if tensor is None:
                yield tensors, nodes
            return
        if tensor is None and name not in self.rule.optional:
            return
        if name not in self.makers:
            if name not in tensors:
                yield {**tensors, name: tensor}, nodes
            elif tensors[name] is tensor:
                yield tensors, nodes
            return
        if tensor is None:
            return
        index, place = self.makers[name]
        maker = self.overlay.maker(tensor)
        # What is computed outside a Loop body once is not to be computed inside at every turn.
        if maker is None or self.overlay.graph(maker) is not self.overlay.graph(reader):
            return
        if place < len(maker.outputs) and maker.outputs[place] is tensor:
            yield from self.node(index, maker, tensors, nodes)


def fits(pattern: BodyNode, node: Node, overlay: GraphOverlay) -> bool:
    """Whether `node` is what the pattern has: operator, domain, written attributes (defaults counted)."""
    domain = "" if node.standard else node.domain or ""
    if node.op != pattern.op or domain != pattern.domain or calls(node, overlay.functions) or len(pattern.outputs) > len(node.outputs):
        return False
    for name, value in pattern.attrs.items():
        actual = node.attrs.get(name)
        if actual is None:
            definition = operator_definition(node.op, domain, overlay.opset) if not domain else None
            actual = definition.attributes[name].default if definition and name in definition.attributes else None
        if not _equal(actual, value):
            return False
    return True


def _equal(actual: Any, written: Any) -> bool:
    if isinstance(written, float) and isinstance(actual, int | float):
        return float(np.float32(written)) == float(np.float32(actual))
    return type(actual) is type(written) and not isinstance(actual, np.ndarray) and bool(actual == written)


def orders(pattern: BodyNode) -> Iterator[tuple[str, ...]]:
    """The inputs as written and, for two operands of a commutative operator, swapped."""
    yield pattern.inputs
    if pattern.op in COMMUTATIVE and not pattern.domain and len(pattern.inputs) == 2 and pattern.inputs[0] != pattern.inputs[1]:
        yield pattern.inputs[::-1]


def _needed_above(rule: Rule) -> frozenset[str]:
    root = rule.before.nodes[rule.root]
    return frozenset(n.op for n in rule.before.nodes if set(n.outputs) & set(root.inputs))


def _depth(rule: Rule) -> int:
    """Nodes on the longest way through `before`."""
    depth: dict[str, int] = {}
    for _, node in itertools.product(range(rule.size), rule.before.nodes):
        here = 1 + max((depth.get(t, 0) for t in node.inputs), default=0)
        depth.update(dict.fromkeys(node.outputs, here))
    return max(depth.values(), default=0)
