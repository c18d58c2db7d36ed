"""A rule applied to one node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphcompress.engine.expression import Expression, evaluate
from graphcompress.engine.functions import Binding
from graphcompress.engine.values import Undetermined, Value
from graphcompress.gradient.build import GradientBuilder, NodeGradient, NoGradient
from graphcompress.gradient.mappers import MAPPERS
from graphcompress.gradient.rulefile import GradientRule
from graphcompress.ir import Node, Shape, Tensor, Variable, consumers, producer


def apply_rule(rule: GradientRule, call: NodeGradient) -> dict[int, Tensor]:
    """The gradients of the node's inputs by index; those that have none are left out. Raises NoGradient where the rule does not hold for the node."""
    if rule.mapper is not None:
        return dict(MAPPERS[rule.mapper](call))
    return _Text(rule, call).run()


class _Questions:
    """What expressions may ask about the graph."""

    def __init__(self, build: GradientBuilder) -> None:
        self.opset = build.model.opset
        self._shapes = build.shapes

    def uses(self, tensor: Tensor) -> int:
        return len(tensor.outputs)

    def readers(self, tensor: Tensor) -> list[Node]:
        return consumers(tensor)

    def maker(self, tensor: Tensor) -> Node | None:
        return producer(tensor)

    def shape(self, tensor: Tensor) -> Shape | None:
        return self._shapes.shape(tensor)

    def dtype(self, tensor: Tensor) -> str | None:
        return self._shapes.dtype(tensor)

    def input(self, node: Node, index: int) -> Tensor | None:
        return node.input(index)


class _Text:
    """One rule with `forward` and `backward` at one node."""

    def __init__(self, rule: GradientRule, call: NodeGradient) -> None:
        assert rule.forward is not None and rule.backward is not None
        self.rule, self.call, self.forward, self.backward = rule, call, rule.forward, rule.backward
        self.questions = _Questions(call.build)
        self.names: dict[str, Any] = {}
        self.tensors: dict[str, Tensor | None] = {}

    def run(self) -> dict[int, Tensor]:
        self.bind()
        for name, expression in self.rule.lets.items():
            self.names[name] = self.value_of(expression)
        for clause in self.rule.clauses:
            if not self.value_of(clause):
                raise NoGradient("where", f"{self.rule.op}: the rule asks for {clause.text}")
        for node in self.backward.nodes:
            outputs = [self.call.build.model.variable("gradient") if n else Variable("") for n in node.outputs]
            attrs = {**node.attrs, **{name: self.plain(self.names[ref]) for name, ref in node.refs.items()}}
            self.call.build.model.add(node.op, [self.operand(n) for n in node.inputs], outputs, attrs)
            self.tensors.update(zip(node.outputs, outputs, strict=True))
        places = {f"d{name}": index for index, name in enumerate(self.forward.inputs)}
        results = {places[name]: self.tensors[name] for name in self.backward.outputs}
        several = len(self.forward.inputs) > 1
        return {
            index: self.call.build.reduced_to(tensor, self.call.input(index)) if several else tensor
            for index, tensor in results.items()
            if tensor is not None and self.call.has(index) and index in self.call.targets
        }

    def bind(self) -> None:
        node = self.call.node
        if len([t for t in node.inputs if t.name]) > len(self.forward.inputs):
            raise NoGradient("inputs", f"{node.op} has more inputs than its rule knows")
        for index, name in enumerate(self.forward.inputs):
            tensor = node.input(index)
            if tensor is None and name not in self.rule.optional:
                raise NoGradient("inputs", f"{node.op} has no input {index}")
            self.tensors[name] = tensor
            self.names[name] = Binding(name, tensor, None)
        for index, tensor in enumerate(node.outputs):
            if index >= len(self.forward.outputs):
                if self.call.cotangents[index] is not None:
                    raise NoGradient("other-output", f"output {index} of {node.op} is used")
                continue
            name = self.forward.outputs[index]
            self.tensors[name] = tensor
            self.names[name] = Binding(name, tensor, node)
            self.tensors[f"d{name}"] = self.call.cotangents[index]
        if any(f"d{name}" in self.backward.inputs and self.tensors.get(f"d{name}") is None for name in self.forward.outputs):
            raise NoGradient("other-output", f"an output of {node.op} beside the first is used")

    def value_of(self, expression: Expression) -> Any:
        try:
            return evaluate(expression, self.names, self.questions)
        except Undetermined as problem:
            raise NoGradient("undetermined", f"{self.rule.op}: {problem}") from problem

    def operand(self, name: str) -> Tensor:
        if not name:
            return Variable("")
        if name not in self.tensors:
            self.tensors[name] = self.constant(self.names[name])
        tensor = self.tensors[name]
        return Variable("") if tensor is None else tensor

    def constant(self, value: Any) -> Tensor:
        if isinstance(value, list):
            return self.call.ints(value)
        if isinstance(value, Value):
            return self.call.build.array(value.array, self.call.dtype(self.call.y))
        return self.call.number(float(value))

    @staticmethod
    def plain(value: Any) -> Any:
        return int(value) if isinstance(value, bool | np.bool_) else value


def rule_of(rules: Mapping[str, GradientRule], node: Node, opset: int) -> GradientRule | None:
    """The rule for `node`, None where there is none."""
    rule = rules.get(node.op) if node.standard else None
    return rule if rule is not None and rule.opsets[0] <= opset <= rule.opsets[1] else None
