"""Reverse-mode differentiation of a graph into a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from graphcompress.errors import ModelError, UsageError, suggestion
from graphcompress.gradient.apply import apply_rule, rule_of
from graphcompress.gradient.build import FLOATS, GradientBuilder, NodeGradient, NoGradient
from graphcompress.gradient.prepare import Array, prepared
from graphcompress.gradient.rulefile import GradientRule, load_gradient_rules
from graphcompress.ir import Constant, Model, Node, Tensor, toposort
from graphcompress.ir.model.dimensions import Dim
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.signature import with_signature
from graphcompress.ir.model.walk import needs
from graphcompress.ir.shapes.infer import infer
from graphcompress.step import Refusal
from graphcompress.targets import rules_root

# Constant wherever they have a derivative: nothing flows back through them.
STEPS = frozenset(("Ceil", "Floor", "Round", "Sign", "OneHot", "Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike", "EyeLike"))
# What may lie between a QuantizeLinear and what makes floats of its codes. Elsewhere codes are numbers in a calculation, which nothing flows back through.
MOVES_OF_CODES = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"))
# Element types of shapes, indices and conditions, which are no codes.
COUNTS = frozenset(("int64", "bool"))


def causes(node: Node) -> Iterable[Tensor]:
    """The tensors that the values of a node's outputs hang on, so that a small change of one changes them."""
    if node.standard and node.op in STEPS:
        return ()
    moving = 1 if node.is_op("CastLike") else 2 if node.is_op("QuantizeLinear", "DequantizeLinear") else None
    return needs(node)[:moving]


@dataclass(frozen=True, slots=True)
class Gradient:
    """A model that computes gradients beside the outputs of another.

    `model` has the inputs of the original, then those of `cotangents` (and the differentiated initializers, where they are fed); its outputs are those that were differentiated,
    then the gradients. `gradients` has the output's name for each differentiated tensor, `cotangents` the input's name for each differentiated output that is no scalar.
    `frozen` has the reason for every tensor whose gradient cannot be had in full.
    """

    model: Model
    gradients: Mapping[str, str]
    cotangents: Mapping[str, str]
    frozen: Mapping[str, Refusal]


@cache
def gradient_rules() -> Mapping[str, GradientRule]:
    """The rules of rules/gradient by operator. Raises RuleError."""
    return load_gradient_rules(rules_root() / "gradient")


@paused()
def gradient(
    model: Model,
    outputs: Sequence[str] | None = None,
    tensors: Iterable[str] | None = None,
    *,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
    fixed: Mapping[str, Array] | None = None,
    fed: bool = False,
    rules: Mapping[str, GradientRule] | None = None,
) -> Gradient:
    """A model that computes, beside `outputs` (tensors of the main graph; default: the float outputs), the gradients of their sum with respect to `tensors` (initializers,
    inputs and other tensors of the main graph; default: all `weights`).

    An output that is no scalar is weighed by a cotangent of its shape, which becomes an input: the result is a vector-Jacobian product. `shapes` states the shapes of inputs; rules that
    need numbers have them then. `fixed` has values of inputs that are no longer inputs, so that branches that hang on them can be differentiated. `fed`: the initializers among `tensors` become inputs, so that one session serves while they change. `rules` default to rules/gradient.

    A tensor of which some path to the outputs leads through what has no rule has no gradient, with the reason in `frozen`.
    Raises UsageError for a name that the main graph does not have, ModelError where the model cannot be lifted to the rules' opset.
    """
    known = gradient_rules() if rules is None else rules
    work, names = prepared(model, shapes, fixed, known)
    return _Reverse(work, known, shapes).run(outputs, names if tensors is None else tensors, fed=fed)


class _Reverse:
    """One differentiation of `model`, which is edited."""

    def __init__(self, model: Model, rules: Mapping[str, GradientRule], inputs: Mapping[str, Sequence[Dim]] | None) -> None:
        self.model, self.rules, self.inputs = model, rules, inputs
        self.shapes = infer(model, inputs)
        self.build = GradientBuilder(model, self.shapes)
        self.parts: dict[Tensor, list[Tensor]] = {}
        self.blocked: dict[Tensor, Refusal] = {}

    def run(self, outputs: Sequence[str] | None, tensors: Iterable[str], *, fed: bool) -> Gradient:
        graph = self.model.graph
        named: dict[str, Tensor] = {t.name: t for n in graph.nodes for t in n.outputs if t.name}
        named |= {t.name: t for t in graph.inputs} | dict(graph.initializers)
        chosen = [o.name for o in self.model.outputs if self.is_float(named[o.name])] if outputs is None else list(outputs)
        sources = list(dict.fromkeys(tensors))
        for name in (*chosen, *sources):
            if name not in named:
                raise UsageError(f"{self.model.path or 'The model'} has no tensor '{name}' in its main graph. {suggestion(name, named)}")
        targets = {name: named[name] for name in sources if self.is_float(named[name])}
        stated = {
            name: Refusal("gradient/no-float", f"'{name}' holds no floating-point numbers", name)
            for name in sources
            if tensors is not None and name not in targets
        }
        roots = [named[name] for name in chosen]
        if not roots:
            raise ModelError(f"{self.model.path or 'The model'} has no output of floating-point numbers, so nothing can be differentiated.")
        order = toposort(graph)
        live = self.live(order, targets.values())
        cotangents = self.seed(roots, live)
        for node in reversed(order):
            self.step_back(node, live)
        frozen = {**stated, **self.frozen(targets)}
        results = {
            name: self.build.add("Identity", self.build.total(self.parts[t]), hint=f"gradient.{name}") for name, t in targets.items() if name not in frozen
        }
        return self.finish(roots, results, cotangents, frozen, targets if fed else {})

    def is_float(self, tensor: Tensor) -> bool:
        """An unknown type may be a float: what is learned through it must not be lost in silence."""
        dtype = self.shapes.dtype(tensor)
        return dtype in FLOATS or (dtype is None and not isinstance(tensor, Constant))

    def is_code(self, tensor: Tensor) -> bool:
        """Integers that may stand for floats."""
        return not self.is_float(tensor) and self.shapes.dtype(tensor) not in COUNTS

    def live(self, order: Sequence[Node], targets: Iterable[Tensor]) -> set[Tensor]:
        """The float tensors that change with one of `targets`, and those of codes that floats are made of again."""
        live = set(targets)
        for node in order:
            moving = [t for t in causes(node) if t in live]
            if moving:
                codes = node.is_op("QuantizeLinear") or any(self.is_code(t) for t in moving)
                live.update(t for t in node.outputs if t.name and (self.is_float(t) or (codes and self.is_code(t))))
        return live

    def seed(self, roots: Sequence[Tensor], live: set[Tensor]) -> dict[Tensor, Tensor]:
        """The gradients of `roots`: one for scalars, an input for others; the latter are returned by root."""
        inputs: dict[Tensor, Tensor] = {}
        for root in dict.fromkeys(roots):
            if root not in live:
                continue
            if self.shapes.static(root) == ():
                self.parts[root] = [self.build.number(1.0, self.shapes.dtype(root) or "float")]
            else:
                inputs[root] = self.model.variable(f"cotangent.{root.name}")
                self.shapes.same_as(inputs[root], root)
                self.parts[root] = [inputs[root]]
        return inputs

    def step_back(self, node: Node, live: set[Tensor]) -> None:
        """From the gradients of a node's outputs to those of its inputs."""
        moving = [t for t in causes(node) if t in live]
        if not moving:
            return
        sources = {i for i, t in enumerate(node.inputs) if t in moving}
        captured = [t for t in moving if t not in node.inputs]
        refusal = next((self.blocked[t] for t in node.outputs if t in self.blocked), None)
        if refusal is None and not any(t in self.parts for t in node.outputs):
            return
        gradients: dict[int, Tensor] = {}
        if refusal is None:
            try:
                gradients = self.gradients_of(node, frozenset(sources))
            except NoGradient as problem:
                refusal = Refusal(problem.id, f"{problem.reason} (node '{node.name or node.outputs[0].name}')", node.name)
        for tensor in captured:
            self.blocked.setdefault(tensor, refusal or Refusal("gradient/subgraph", f"a subgraph of {node.op} reads it", node.name))
        for index in sources:
            tensor = node.inputs[index]
            if index in gradients:
                self.parts.setdefault(tensor, []).append(gradients[index])
            else:
                self.blocked.setdefault(
                    tensor,
                    refusal or Refusal("gradient/input", f"input {index} of {node.op} has no gradient (node '{node.name or node.outputs[0].name}')", node.name),
                )

    def gradients_of(self, node: Node, targets: frozenset[int]) -> dict[int, Tensor]:
        rule = rule_of(self.rules, node, self.model.opset)
        if rule is None:
            domain = "" if node.standard else f"{node.domain}."
            raise NoGradient("no-rule", f"{domain}{node.op} has no gradient rule")
        if any(self.is_code(node.inputs[i]) for i in targets) and not node.is_op("DequantizeLinear", "Cast", *MOVES_OF_CODES):
            raise NoGradient("codes", f"{node.op} of integers has no gradient")
        for tensor in node.outputs:
            if len(self.parts.get(tensor, ())) > 1:
                self.parts[tensor] = [self.build.total(self.parts[tensor])]
        cotangents = [self.parts[t][0] if t in self.parts else None for t in node.outputs]
        return apply_rule(rule, NodeGradient(self.build, node, cotangents, targets))

    def frozen(self, targets: Mapping[str, Tensor]) -> dict[str, Refusal]:
        reasons = {name: self.blocked[t] for name, t in targets.items() if t in self.blocked}
        for name, tensor in targets.items():
            if name not in reasons and tensor not in self.parts:
                reasons[name] = Refusal("gradient/unused", "the outputs do not change with it", name)
        return reasons

    def finish(
        self,
        roots: Sequence[Tensor],
        results: Mapping[str, Tensor],
        cotangents: Mapping[Tensor, Tensor],
        frozen: Mapping[str, Refusal],
        fed: Mapping[str, Tensor],
    ) -> Gradient:
        graph = self.model.graph
        outputs = [*dict.fromkeys(roots), *results.values()]
        reached = set(outputs)
        dead = []
        for node in reversed(toposort(graph)):
            if any(t in reached for t in node.outputs):
                reached.update(needs(node))
            else:
                dead.append(node)
        inputs = [(new, self.shapes.dtype(root) or "float", self.shapes.shape(root) or ()) for root, new in cotangents.items()]
        inputs += [(t, self.shapes.dtype(t) or "float", tuple(t.shape)) for name, t in fed.items() if name in results and isinstance(t, Constant)]
        with Edits(self.model) as edits:
            edits.remove(dead)
        for name in [n for n, c in graph.initializers.items() if c not in reached and not any(c is t for t in graph.inputs)]:
            del graph.initializers[name]
        model = with_signature(self.model, inputs, outputs, self.inputs)
        return Gradient(model, {n: t.name for n, t in results.items()}, {root.name: new.name for root, new in cotangents.items()}, frozen)
