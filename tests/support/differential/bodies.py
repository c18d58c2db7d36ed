"""Subgraphs (If, Loop, Scan) and model-local functions."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from differential.builder import UNKNOWN, Builder, Frame, Unsuitable, Value
from differential.elementwise import code, nothing
from differential.registry import ENTRIES, emitter

DEEPEST = 3


def fill(b: Builder, count: int) -> None:
    """Some emitters inside the current scope; those that open scopes only where there is depth left."""
    if b.weights is None:  # each graph has its own taste: an emitter is left out, rare, or frequent
        taste = b.rng.choice([0.0, 0.3, 1.0, 3.0], len(ENTRIES), p=[0.25, 0.25, 0.3, 0.2])
        base = np.array([(e.int8 if b.policy.int8 else e.weight) * (e.since <= b.opset) for e in ENTRIES])
        if b.chance(0.3):  # a network: what has weights, pools and reduces
            taste = taste + [3.0 * e.emit.__module__.endswith("networks") for e in ENTRIES]
        b.weights = base * taste if (base * taste).any() else base
    weights = b.weights
    if len(b.frames) >= DEEPEST:
        weights = np.where([e.emit in NESTING for e in ENTRIES], 0.0, weights)
    for _ in range(count if weights.any() else 0):
        entry = ENTRIES[int(b.rng.choice(len(ENTRIES), p=weights / weights.sum()))]
        try:
            entry.emit(b)
        except Unsuitable:
            continue


def info(value: Value, name: str | None = None, *, shaped: bool = False) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name or value.name, code(value.dtype), value.shapes[0] if shaped and value.static else None)


def graph(b: Builder, frame: Frame, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[Value]) -> onnx.GraphProto:
    shaped = b.chance(0.3)
    return helper.make_graph(frame.nodes, name, inputs, [info(v, shaped=shaped) for v in outputs], frame.initializers)


def handed_out(b: Builder, frame: Frame, value: Value, taken: list[Value]) -> Value:
    """A tensor of the frame's own nodes with the type of `value`: one that is there, `value` behind a node that does nothing, or an Identity of it."""
    fitting = [v for v in frame.own if v.type == value.type and v not in taken]
    if fitting and b.chance(0.75):
        return fitting[-1] if b.chance(0.6) else b.among(fitting)  # type: ignore[no-any-return]
    result = nothing(b, value) if b.chance(0.5) else value
    if result not in frame.own or result in taken:
        result = b.emit("Identity", [value], value.shapes, reach=value.reach)
    return result


def condition(b: Builder) -> Value:
    existing = [v for v in b.frame.values if v.dtype == "bool" and v.shapes == ((), ())]
    if existing and b.chance(0.4):
        return b.among(existing)  # type: ignore[no-any-return]
    if b.chance(0.3) or len(b.inputs) > 4 or any(f.isolated for f in b.frames):
        return b.constant(b.chance(0.5), "bool")
    return b.input("bool", [])


@emitter(1.5)
def if_(b: Builder) -> None:
    """Both branches hand out tensors of one type, often a captured one behind an Identity."""
    if any(f.isolated for f in b.frames):
        raise Unsuitable
    choice = condition(b)
    outer = list(b.frame.values)
    targets = [b.pick(where=lambda v: v.reach < UNKNOWN or not v.rough) for _ in range(b.among((1, 1, 2)))]
    graphs, rough, reach = [], False, 0.0
    for _ in range(2):
        with b.scope([*outer, *targets]) as frame:
            fill(b, b.integer(0, 3))
            outputs: list[Value] = []
            for target in targets:
                outputs.append(handed_out(b, frame, target, outputs))
            graphs.append(graph(b, frame, f"branch{len(graphs)}", [], outputs))
            rough, reach = rough or any(v.rough for v in outputs), max(reach, *(v.reach for v in outputs))
    shapes, dtypes = [v.shapes for v in targets], [v.dtype for v in targets]
    b.emit_many("If", [choice], shapes, dtypes, reach=reach, rough=rough, then_branch=graphs[0], else_branch=graphs[1])


def body_inputs(b: Builder, frame: Frame, values: list[tuple[str, Value]]) -> list[Value]:
    """Inputs of a body; where names may be shadowed they take those of outer tensors, which the body then cannot see."""
    result = []
    for hint, value in values:
        name = b.name(hint)
        if b.policy.shadowing and b.chance(0.4):
            hidden = b.among([v for v in frame.values if v.name not in {r.name for r in result}])
            name = hidden.name
            frame.values[:] = [v for v in frame.values if v.name != name]
        result.append(
            Value(name, value.dtype, value.shapes, reach=UNKNOWN if value.dtype != "bool" else 1.0, rough=value.dtype in ("float32", "float64", "float16"))
        )
    frame.values += result
    return result


@emitter(0.8)
def loop(b: Builder) -> None:
    """One or two carried tensors, up to three turns, sometimes a scan output."""
    carried = [b.pick(("float32", "int64", "float64")) for _ in range(b.among((1, 1, 2)))]
    turns = b.constant(b.integer(0, 3), "int64", plain=True) if b.chance(0.8) or any(f.isolated for f in b.frames) else b.input("int64", [], "turns", 4)
    start = b.constant(True, "bool", plain=True) if b.chance(0.6) else None
    scalar, flag = Value("", "int64", ((), ())), Value("", "bool", ((), ()))
    with b.scope(b.frame.values) as frame:
        index, more, *inner = body_inputs(b, frame, [("i", scalar), ("k", flag), *(("s", v) for v in carried)])
        fill(b, b.integer(0, 3))
        outputs = [b.emit("Identity", [more], more.shapes, reach=1.0)]
        for value in inner:
            outputs.append(handed_out(b, frame, value, outputs))
        collected = (
            [v for v in frame.own if v.static and v.dtype in ("float32", "int64") and v not in outputs and v.rank < 4][:1]
            if turns.known is not None and turns.known[0] > 0
            else []
        )
        body = graph(b, frame, "body", [info(index, shaped=True), info(more, shaped=True), *(info(v) for v in inner)], [*outputs, *collected])
    shapes = [v.shapes for v in carried]
    for value in collected:
        assert turns.known is not None
        whole = (int(turns.known[0]), *value.shapes[0])
        shapes.append((whole, whole))
    b.emit_many("Loop", [turns, start, *carried], shapes, [v.dtype for v in (*carried, *collected)], rough=True, body=body)


@emitter(0.6, since=9)
def scan(b: Builder) -> None:
    """Over the first axis of one tensor, with or without a state."""
    x = b.pick(("float32", "int64"), where=lambda v: v.rank > 0 and v.shapes[0][0] > 0 and v.shapes[1][0] > 0)
    element = Value("", x.dtype, (x.shapes[0][1:], x.shapes[1][1:]))
    states = [b.pick(("float32", "int64"))] if b.chance(0.5) else []
    with b.scope(b.frame.values) as frame:
        *state, one = body_inputs(b, frame, [*(("s", v) for v in states), ("e", element)])
        fill(b, b.integer(0, 3))
        outputs: list[Value] = []
        for value in (*state, one):
            outputs.append(handed_out(b, frame, value, outputs))
        body = graph(b, frame, "body", [*(info(v) for v in state), info(one)], outputs)
    b.emit_many("Scan", [*states, x], [*(v.shapes for v in states), x.shapes], [*(v.dtype for v in states), x.dtype], rough=True, body=body, num_scan_inputs=1)


@emitter(0.8, since=8)
def function(b: Builder) -> None:
    """A call of a new model-local function of one or two tensors; its body sees nothing else, and its constants are nodes."""
    if any(f.isolated for f in b.frames):
        raise Unsuitable
    arguments = [b.pick(("float32", "float64", "int64")) for _ in range(b.among((1, 1, 2)))]
    with b.scope([], isolated=True) as frame:
        inner = [Value(b.name("a"), v.dtype, v.shapes, reach=v.reach, rough=v.rough) for v in arguments]
        frame.values += inner
        fill(b, b.integer(1, 4))
        if not frame.own:
            b.emit("Identity", [inner[0]], inner[0].shapes, reach=inner[0].reach)
        outputs = [frame.own[-1]]
        if len(frame.own) > 2 and b.chance(0.4):
            outputs.append(frame.own[0])
    name = f"f{len(b.functions)}"
    imports = [helper.make_opsetid("", b.opset)]
    if any(n.domain == "local" for n in frame.nodes):
        imports.append(helper.make_opsetid("local", 1))
    b.functions.append(helper.make_function("local", name, [v.name for v in inner], [v.name for v in outputs], frame.nodes, imports))
    for _ in range(b.among((1, 1, 2))):
        rough, reach = any(v.rough for v in outputs), max(v.reach for v in outputs)
        b.emit_many(name, arguments, [v.shapes for v in outputs], [v.dtype for v in outputs], domain="local", reach=reach, rough=rough)


NESTING = (if_, loop, scan, function)
