"""From a seed to a model and its feeds."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from differential import arrays, bodies, elementwise, idioms, movement, networks, shapearith
from differential.builder import Array, Builder, Input, Pair, Policy, Unsuitable, Value
from differential.elementwise import code
from differential.neutral import neutral

assert all((elementwise, idioms, movement, networks, shapearith))  # imported for their emitters

Feed = dict[str, Array]
KINDS = {"simplify": 1, "quantize": 2, "lift": 3, "prune": 4, "neutral": 5}
#: Kinds for which graphs are float32 and well conditioned: what they do is approximate.
APPROXIMATE = ("quantize", "prune")


@dataclass(slots=True)
class Case:
    """A model, and feeds under both bindings of its symbols (a third one overrides initializers that may be)."""

    kind: str
    seed: int
    model: onnx.ModelProto
    feeds: list[Feed]
    target: str | None = None
    rough: set[str] = field(default_factory=set)
    shapes: dict[str, Pair] = field(default_factory=dict)
    """Of the outputs, under both bindings, as the emitters count them."""


def generate(kind: str, seed: int) -> Case:
    """The case of a seed. `kind` is "simplify", "quantize" and "prune" (float32 graphs that are well conditioned) "lift" (as "simplify", older opsets) or "neutral" (as "simplify", with operators among them that change nothing and what `neutral` has beside them)."""
    rng = np.random.default_rng([KINDS[kind], seed])
    policy = _policy(kind, rng)
    b = Builder(rng, policy)
    wanted = int(rng.integers(6, 20)) if policy.int8 else int(rng.integers(3, 16))
    wanted *= 3 if kind == "neutral" else 1  # most of them are what `neutral` draws
    for _ in range(4 * wanted):
        bodies.fill(b, 1)
        if kind == "neutral":
            with contextlib.suppress(Unsuitable):
                neutral(b)
        if len(b.main.nodes) >= wanted:
            break
    outputs = _outputs(b)
    if kind == "prune":
        for index, value in enumerate(outputs):
            with contextlib.suppress(Unsuitable):
                outputs[index] = _summed(b, value)
    model = _model(b, outputs)
    feeds = [_feed(rng, b.inputs, binding) for binding in ([0] * 6 if kind == "quantize" else [0, 1])]
    if b.overridable and kind not in APPROXIMATE:
        feeds.append({**_feed(rng, b.inputs, 0), **{v.name: arrays.draw(rng, v.dtype, v.shapes[0], "positive") for v in b.overridable}})
    target = "cpu" if kind == "quantize" or (kind in ("simplify", "neutral") and rng.random() < 0.3) else None
    return Case(kind, seed, model, feeds, target, {v.name for v in outputs if v.rough}, {v.name: v.shapes for v in outputs})


def _policy(kind: str, rng: np.random.Generator) -> Policy:
    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    opset = int(rng.integers(7, 17)) if kind == "lift" else int(rng.integers(7, 24)) if chance(0.6) else int(rng.integers(13, 22))
    if kind in APPROXIMATE:
        opset = int(rng.integers(8, 24)) if chance(0.3) else int(rng.integers(13, 22))
    dynamic = 0.0 if chance(0.35) else 0.4
    sizes = [(2, 5), (3, 1), (1, 4), (4, 2), *([(3, 0)] if kind not in APPROXIMATE else [])]
    symbols = {name: sizes[int(rng.integers(len(sizes)))] for name in ("N", "M")[: int(rng.integers(1, 3))]}
    if kind in APPROXIMATE:
        return Policy(opset, symbols, dynamic, False, ("float32",), chance(0.05), False, 0.0, int8=True)
    dtypes: tuple[str, ...] = ("float32", "float32", "int64", "bool") if chance(0.5) else ("float32", "float64", "float16", "int32", "int64", "uint8", "bool")
    return Policy(opset, symbols, dynamic, chance(0.4), dtypes, chance(0.3), chance(0.3), 0.04 if chance(0.6) else 0.25)


def _outputs(b: Builder) -> list[Value]:
    """Most of what nobody reads, and something in the middle."""
    own = b.main.own
    unread = [v for v in own if v.name not in b.read]
    chosen = [v for v in unread if b.chance(0.85)] + [v for v in own if v.name in b.read and b.chance(0.05 if b.policy.int8 else 0.12)]
    if b.chance(0.03):
        chosen += [v for v in b.main.values if v not in own][:1]
    if not chosen:
        chosen = own[-1:]
    if not chosen:
        value = b.input("float32", [2])
        chosen = [b.emit("Relu", [value], value.shapes)]
    order = [int(i) for i in b.rng.permutation(len(chosen))][:6]
    return [chosen[i] for i in order]


def _summed(b: Builder, value: Value) -> Value:
    """A weighted sum over channels or columns of an output, where it has any: else all of its axes would be those of an output, and nothing could be cut."""
    if value.dtype != "float32" or value.rank < 2 or 0 in value.shapes[0] + value.shapes[1] or b.chance(0.1):
        return value
    value = networks.steady(b, value)
    channels, columns = value.dim_or_none(1), value.dim_or_none(-1)
    if channels is not None and 3 <= value.rank <= 5 and b.chance(0.6):
        weight = b.constant(arrays.weight(b.rng, "float32", (3, channels, *(1,) * (value.rank - 2)), channels), plain=True)
        first, second = ((s[0], 3, *s[2:]) for s in value.shapes)
        return b.emit("Conv", [value, weight], (first, second), reach=value.reach * 2 * channels, rough=True)
    if columns is None:
        return value
    weight = b.constant(arrays.weight(b.rng, "float32", (columns, 3), columns), plain=True)
    first, second = ((*s[:-1], 3) for s in value.shapes)
    return b.emit("MatMul", [value, weight], (first, second), reach=value.reach * 2 * columns, rough=True)


def _feed(rng: np.random.Generator, inputs: list[Input], binding: int) -> Feed:
    feed: Feed = {}
    for entry in inputs:
        if entry.style == "turns":
            feed[entry.name] = np.array(rng.integers(0, entry.limit), np.int64)
        else:
            feed[entry.name] = arrays.draw(rng, entry.dtype, entry.shapes[binding], entry.style, entry.limit)
    return feed


# --- the file -----------------------------------------------------------------------------------------------------------------------


def _model(b: Builder, outputs: list[Value]) -> onnx.ModelProto:
    nodes = list(b.main.nodes)
    if b.chance(0.15) and not b.policy.shadowing:  # an inner name may be that of a later node, so there the order counts
        nodes = [nodes[int(i)] for i in b.rng.permutation(len(nodes))]
    _name_nodes(b, nodes)
    inputs = [helper.make_tensor_value_info(e.name, code(e.dtype), e.declared) for e in b.inputs]
    inputs += [helper.make_tensor_value_info(v.name, code(v.dtype), v.shapes[0]) for v in b.overridable]
    ir_version = max(helper.find_min_ir_version_for([helper.make_opsetid("", b.opset)]), 4)
    if b.functions:
        ir_version = max(ir_version, 8)
    elif b.opset <= 8 and not b.overridable and b.chance(0.6):
        ir_version = 3
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in b.main.initializers]
    graph = helper.make_graph(nodes, "random", inputs, [_output(b, v) for v in outputs], b.main.initializers)
    if b.chance(0.2):
        graph.value_info.extend(_claim(b, v) for v in b.main.own if v not in outputs and b.chance(0.5))
    imports = [helper.make_opsetid("", b.opset), *([helper.make_opsetid("local", 1)] if b.functions else [])]
    return helper.make_model(graph, opset_imports=imports, functions=b.functions, ir_version=ir_version)


def _name_nodes(b: Builder, nodes: list[onnx.NodeProto]) -> None:
    """Names of nodes: none, all, or some; onnxruntime wants them different within a graph, and those inside subgraphs repeat the outer ones."""
    style = b.among(("none", "all", "some"))
    for i, node in enumerate(nodes):
        node.name = "" if style == "none" or (style == "some" and b.chance(0.5)) else f"n{i}"
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _name_nodes(b, list(attribute.g.node))


def _output(b: Builder, value: Value) -> onnx.ValueInfoProto:
    form = b.integer(0, 2)
    shape: Any = None if form == 0 else [d if d == e else None for d, e in zip(*value.shapes, strict=True)] if form == 1 else [None] * value.rank
    return helper.make_tensor_value_info(value.name, code(value.dtype), shape)


def _claim(b: Builder, value: Value) -> onnx.ValueInfoProto:
    """A value_info: true, or stale in one dimension."""
    shape = [d if d == e else None for d, e in zip(*value.shapes, strict=True)]
    if shape and b.chance(0.1):
        shape[b.integer(0, len(shape) - 1)] = 7
    return helper.make_tensor_value_info(value.name, code(value.dtype), shape)
