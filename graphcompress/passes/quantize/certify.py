"""What the provider makes of a quantized graph, and the certificate of it.

Optimized graphs keep the names of nodes: while a model is loaded, its nodes are numbered, and each node of the optimized graph says by its name what it
stands for.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.ir import Model, Node, Tensor, constant_data, constant_value, consumers, nodes, producer
from graphcompress.ir.check.functions import Key
from graphcompress.ir.files.numbered import numbered, numbers_in
from graphcompress.ir.inline import called_function, function_bodies
from graphcompress.ir.model.objects import DEFAULT_DOMAINS
from graphcompress.passes.quantize.groups import Group, channel_axis, node_name
from graphcompress.runtime import profile
from graphcompress.runtime.evaluate import run_once
from graphcompress.runtime.place import LocalPlace, Place
from graphcompress.runtime.session import Feed
from graphcompress.step import Certificate, CertifiedOperator, Refusal
from graphcompress.targets import Operator, Target

# Where onnxruntime keeps what it fuses or lays out in another way.
RUNTIME_DOMAINS = ("com.microsoft", "com.microsoft.nchwc")
UNKNOWN = Refusal("quantize/unknown", "no reason was recorded")


@dataclass(slots=True)
class Fusion:
    """What became of an attempt: the groups that stayed float though they are written in integers, and the other operators that the provider made integer by
    itself."""

    not_fused: list[Group] = field(default_factory=list)
    fused_by_provider: list[Node] = field(default_factory=list)


class ShapeCheck:
    """Whether outputs on `feed` have the shapes that they have in `base`: where optimizers take Q and DQ to other places they have been seen to change them. What was inferred is `known`; only where
    that does not fit `base` is run."""

    def __init__(self, base: Model, feed: Feed, known: Mapping[str, tuple[int, ...]]) -> None:
        self._known = known
        self._right = functools.cache(lambda: {name: np.shape(value) for name, value in run_once(base, feed).items() if isinstance(value, np.ndarray)})

    def __call__(self, outputs: Mapping[str, Any]) -> None:
        """Raise ModelError where a shape is another."""
        for name, shape in self._known.items():
            value = outputs.get(name)
            if isinstance(value, np.ndarray) and value.shape != shape and value.shape != self._right().get(name, value.shape):
                raise ModelError(f"its output '{name}' would have the shape {list(value.shape)} and not {list(self._right()[name])}")


def check_fusion(
    model: Model, groups: Sequence[Group], target: Target, feed: Feed, place: Place | None = None, check: Callable[[Mapping[str, Any]], None] | None = None
) -> Fusion:
    """Load `model`, run it on `feed`, and compare what the provider made of it with `groups`, which are those of this model that are written in integers: by
    its optimized graph, made in this process, or by the nodes that it took at `place` (default: this process), as the target's table says. `check` gets what comes out.

    Raises ModelError or DataError where the provider cannot load or run it.
    """
    if target.certificate != "optimized-graph":
        return _by_assignment(model, groups, target, feed, check, place or LocalPlace(target.provider, tuple(sorted(target.session_options.items()))))
    with numbered(model) as everything:
        optimized = profile.optimized_model(model, target.provider, feed=feed, config=target.session_options, check=check)
    stands_for: dict[Node, list[Node]] = {}
    for kernel in nodes(optimized):
        for number in numbers_in(kernel.name):
            stands_for.setdefault(everything[number], []).append(kernel)
    integer_ops = {op for row in target.operator for op in row.becomes if op != row.op}
    result = Fusion()
    members = {n for g in groups for n in g.chain}
    for group in groups:
        kernels = [k for n in group.chain for k in stands_for.get(n, ())]
        if not fused(group.row, kernels):
            result.not_fused.append(group)
    for node in everything:
        if node in members or not (node.op in target.heavy or any(row.scalar_only for row in target.rows(node.op))):
            continue
        if node.standard and any(k.op in integer_ops for k in stands_for.get(node, ())):
            result.fused_by_provider.append(node)
    return result


def _by_assignment(
    model: Model, groups: Sequence[Group], target: Target, feed: Feed, check: Callable[[Mapping[str, Any]], None] | None, place: Place
) -> Fusion:
    """For providers that compile what they take: a group of which no node was taken stayed float. With the certificate "none" all that is known is that the
    model runs."""
    with numbered(model) as everything:
        names = profile.nodes_taken(model, place, feed=feed, check=check)
    if target.certificate == "none" or names is None:
        return Fusion()
    taken_nodes = {everything[number] for name in names for number in numbers_in(name)}
    return Fusion(not_fused=[g for g in groups if not taken_nodes.intersection(g.chain)])


def fused(row: Operator, kernels: Sequence[Node]) -> bool:
    """True where the nodes of the optimized graph that stand for a group compute in integers and none of them reads a constant that is dequantized at each
    run."""
    dequantized = [(k, before) for k in kernels for t in k.inputs if (before := producer(t)) is not None and before.is_op("DequantizeLinear")]
    if any(constant_data(before.inputs[0]) is not None for _, before in dequantized):
        return False
    if row.tied:
        # What moves data may vanish, or become another operator that moves data (a few Slices become a Split): it must only not read floats.
        return not dequantized
    integer = {k for k in kernels if k.op in row.becomes}
    return bool(integer) and not any(k in integer for k, _ in dequantized)


def check_constants(groups: Iterable[Group]) -> None:
    """Raise ModelError where a weight's scales lie along another axis than the output channels, or a bias has another scale than that of the accumulator: the
    provider would take both without a word and compute something else (quantization notes, A.3)."""
    for group in groups:
        node = group.node
        if "weight" not in group.row.slots:
            continue
        weight = producer(node.inputs[group.row.slots.index("weight")])
        x = producer(node.inputs[group.data[0]])
        assert weight is not None and x is not None
        scales, codes = constant_value(weight.inputs[1]), constant_value(weight.inputs[0])
        x_scale = constant_value(x.inputs[1])
        assert scales is not None and codes is not None and x_scale is not None
        axis = int(weight.attrs.get("axis", 1)) % codes.ndim
        if axis != channel_axis(group.row, node, codes.ndim) or scales.shape != (codes.shape[axis],):
            raise ModelError(
                f"Node '{node_name(node)}': the scales of its weight lie along axis {axis}, which is not that of its output channels. This is a fault of graphcompress."
            )
        bias = node.input(group.row.slots.index("bias")) if "bias" in group.row.slots else None
        behind = producer(bias) if bias is not None else None
        if behind is not None and behind.is_op("DequantizeLinear"):
            bias_scales = constant_value(behind.inputs[1])
            if bias_scales is None or not np.array_equal(bias_scales, np.float32(x_scale) * scales):
                raise ModelError(
                    f"Node '{node_name(node)}': the scale of its bias is not float32(activation scale * weight scale). This is a fault of graphcompress."
                )


def certificate(model: Model, integer: Mapping[Node, object], refusals: Mapping[Node, Refusal], target: Target) -> Certificate:
    """Every heavy operator of `model`, those of subgraphs and functions too, in INT8 (`integer`) or in float with the reason."""
    operators: list[CertifiedOperator] = []
    for node in nodes(model):
        if node.op not in target.heavy or not node.standard:
            continue
        if node in integer:
            operators.append(CertifiedOperator(node_name(node), str(node.op), "int8"))
        else:
            refusal = refusals.get(node, UNKNOWN)
            operators.append(CertifiedOperator(node_name(node), str(node.op), "float", refusal.id, refusal.reason))
    for node in nodes(model):
        if node.domain in RUNTIME_DOMAINS and node.op.removeprefix("Fused") in target.heavy:
            reason = f"{node.op} of {node.domain} is what onnxruntime makes when it optimizes a model; it has no INT8 form. Give the model as it was exported"
            operators.append(CertifiedOperator(node_name(node), str(node.op), "float", "quantize/runtime-operator", reason))
    for function, name, op in function_operators(model):
        if op in target.heavy:
            reason = f"it stands in the model-local function '{function}', and functions that cannot be written out stay float"
            operators.append(CertifiedOperator(f"{function}/{name}", op, "float", "quantize/in-function", reason))
    return Certificate(target.name, tuple(operators))


def neighbours(groups: Sequence[Group], node: Node) -> list[Group]:
    """The integer groups whose outputs reach `node` through operators that only move data; those behind it where there are none."""
    makers = {id(t): g for g in groups for t in g.outputs}
    readers: dict[int, list[Group]] = {}
    for group in groups:
        for tensor in group.inputs:
            readers.setdefault(id(tensor), []).append(group)
    before = _reach(node.inputs, lambda t: [makers[id(t)]] if id(t) in makers else [], lambda t: [x for n in t.inputs for x in n.inputs])
    return before or _reach(node.outputs, lambda t: readers.get(id(t), []), lambda t: [x for n in consumers(t) for x in n.outputs])


def _reach(start: Iterable[Tensor], groups_at: Callable[[Tensor], list[Group]], step: Callable[[Tensor], list[Tensor]]) -> list[Group]:
    """The first groups met on every way from `start`."""
    met: dict[Group, None] = {}
    queue = deque(start)
    visited: set[int] = set()
    while queue:
        tensor = queue.popleft()
        if id(tensor) in visited or not tensor.name:
            continue
        visited.add(id(tensor))
        if here := groups_at(tensor):
            met.update(dict.fromkeys(here))
        else:
            queue.extend(step(tensor))
    return list(met)


def function_operators(model: Model) -> Iterator[tuple[str, str, str]]:
    """Function, node and operator of every node of ai.onnx in the model-local functions that the model calls, however deep; each function once."""
    bodies = function_bodies(model)
    pending = list(dict.fromkeys(called_function(n) for n in nodes(model)))
    visited: set[Key] = set()
    while pending:
        function = pending.pop()
        if function not in bodies or function in visited:
            continue
        visited.add(function)
        for node in bodies[function]:
            pending.append(called_function(node))
            if node.domain in DEFAULT_DOMAINS:
                yield function[1], node.name or next(iter(node.output), node.op_type), node.op_type
