"""Reading back what the provider makes of a quantized graph.

Optimized graphs keep the names of nodes: a copy whose nodes are numbered is loaded, and each node of the optimized graph says by its name what it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.ir import Model, Tensor, constant_value, nodes, producer
from graphcompress.passes.quantize.groups import Group, node_name
from graphcompress.runtime import profile
from graphcompress.step import Certificate, CertifiedOperator, Refusal
from graphcompress.targets import Operator, Target

TAG = re.compile(r"gc(\d+)x")
UNKNOWN = Refusal("quantize/unknown", "no reason was recorded")


@dataclass(slots=True)
class Reading:
    """What the optimized graph says, by name of the first output: `missed` groups that stayed float though written in integers, `silent` heavy operators that the provider made integer by itself."""

    missed: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)


def read_back(model: Model, groups: Sequence[Group], target: Target) -> Reading:
    """Load a numbered copy of `model` and compare what came of it with `groups`, which are those of this model that are written in integers."""
    tags = {n.outputs[0].name: i for i, n in enumerate(model.graph.nodes) if n.outputs and not n.is_op("QuantizeLinear", "DequantizeLinear")}
    numbered = model.copy()
    for node in numbered.graph.nodes:
        if node.outputs and node.outputs[0].name in tags:
            node.name = f"gc{tags[node.outputs[0].name]}x"
    optimized = list(profile.optimized_nodes(numbered, target.provider))
    by_tag: dict[int, list[Any]] = {}
    for entry in optimized:
        for tag in TAG.findall(entry.name):
            by_tag.setdefault(int(tag), []).append(entry)
    computed = {name for entry in optimized for name in entry.outputs} | {s.name for s in (*model.inputs, *model.overridable)}
    dequantized = {name for entry in optimized if entry.op == "DequantizeLinear" for name in entry.outputs}
    constants = {name for entry in optimized if entry.op == "DequantizeLinear" and entry.inputs[0] not in computed for name in entry.outputs}
    integer_ops = {op for row in target.operator for op in row.becomes if op != row.op}
    heads = {id(g.node): g for g in groups}
    result = Reading()
    for node in model.graph.nodes:
        if not node.outputs:
            continue
        group = heads.get(id(node))
        if group is None:
            if node.op in target.heavy and any(e.op in integer_ops for e in by_tag.get(tags.get(node.outputs[0].name, -1), ())):
                result.silent.add(node.outputs[0].name)
        else:
            entries = [e for n in group.chain for e in by_tag.get(tags[n.outputs[0].name], ())]
            if not fused(group.row, entries, dequantized, constants):
                result.missed.add(group.key)
    return result


def fused(row: Operator, entries: Sequence[Any], dequantized: set[str], constants: set[str]) -> bool:
    """True where the nodes of the optimized graph that stand for a group compute in integers and none of them reads a constant that is dequantized at each run."""
    if any(name in constants for e in entries for name in e.inputs):
        return False
    if row.tied:
        # What moves data may vanish, or become another operator that moves data (a few Slices become a Split): it must only not read floats.
        return not any(name in dequantized for e in entries for name in e.inputs)
    integer = [e for e in entries if e.op in row.becomes]
    return bool(integer) and not any(name in dequantized for e in integer for name in e.inputs)


def check_constants(model: Model, groups: Iterable[Group]) -> None:
    """Raise ModelError where a weight's scales lie along another axis than the output channels, or a bias has another scale than that of the accumulator: the provider
    would take both without a word and compute something else (quantization notes, A.3)."""
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
        if axis != channel_axis(group, codes.ndim) or scales.shape != (codes.shape[axis],):
            raise ModelError(
                f"Node '{node_name(node)}': the scales of its weight lie along axis {axis}, which is not that of its output channels. This is a fault of graphcompress."
            )
        bias = node.input(group.row.slots.index("bias")) if "bias" in group.row.slots else None
        behind = producer(bias) if bias is not None else None
        if behind is not None and behind.is_op("DequantizeLinear"):
            given = constant_value(behind.inputs[1])
            if given is None or not np.array_equal(given, np.float32(x_scale) * scales):
                raise ModelError(
                    f"Node '{node_name(node)}': the scale of its bias is not float32(activation scale * weight scale). This is a fault of graphcompress."
                )


def channel_axis(group: Group, rank: int) -> int:
    """The output channels' axis by the table."""
    assert group.row.axis is not None
    axis = group.row.axis % rank
    return 1 - axis if group.row.flip and rank == 2 and group.node.attrs.get(group.row.flip, 0) else axis


def certificate(model: Model, integer: set[str], refusals: Mapping[str, Refusal], target: Target) -> Certificate:
    """Every heavy operator, those of subgraphs too, in INT8 or in float with the reason. `integer` and `refusals` go by the name of the operator's first output."""
    operators: list[CertifiedOperator] = []
    for node in nodes(model):
        if node.op not in target.heavy or not node.standard:
            continue
        first = str(node.outputs[0].name)
        if first in integer:
            operators.append(CertifiedOperator(node_name(node), str(node.op), "int8"))
        else:
            refusal = refusals.get(first, UNKNOWN)
            operators.append(CertifiedOperator(node_name(node), str(node.op), "float", refusal.id, refusal.reason))
    return Certificate(target.name, tuple(operators))


def neighbours(model: Model, groups: Sequence[Group], first: str) -> set[str]:
    """Keys of the integer groups whose outputs reach the operator with first output `first` through operators that only move data; those behind it where there are none."""
    node = next(n for n in model.graph.nodes if n.outputs and n.outputs[0].name == first)
    made = {id(t): g.key for g in groups for t in g.outputs}
    return _reach(node.inputs, made, lambda t: [x for n in t.inputs for x in n.inputs]) or _reach(
        node.outputs, {id(g.node): g.key for g in groups}, lambda t: [x for n in t.outputs for x in n.outputs], heads=True
    )


def _reach(start: Iterable[Tensor], keys: Mapping[int, str], step: Callable[[Tensor], list[Tensor]], *, heads: bool = False, limit: int = 64) -> set[str]:
    """The first keys met on every way from `start`, at most `limit` tensors far."""
    found: set[str] = set()
    queue, seen = list(start), set[int]()
    while queue and len(seen) < limit:
        tensor = queue.pop(0)
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        hits = {keys[id(n)] for n in tensor.outputs if id(n) in keys} if heads else {keys[id(tensor)]} if id(tensor) in keys else set()
        if hits:
            found |= hits
        else:
            queue.extend(step(tensor))
    return found
