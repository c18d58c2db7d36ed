"""Types and shapes of If, Loop, Scan and calls of model-local functions: what goes into their bodies, and what comes out.

A size without a name that arises inside the body of a loop is another one in each iteration, so it does not leave the loop. What is carried from one iteration to
the next keeps a dimension only where the body is shown to keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import onnx

from graphcompress.ir.model import walk
from graphcompress.ir.model.dimensions import Dim, newest_unknown
from graphcompress.ir.model.objects import Graph, Node, Tensor, type_spec
from graphcompress.ir.shapes.facts import Call, Fact, axis_in, open_fact


class Inference(Protocol):
    """What goes through the bodies: `infer.Shapes`. `depth` counts the loops around, `calls` names the functions that are being looked into."""

    depth: int
    calls: set[tuple[str, str]]
    opsets: dict[str, int]

    def fact(self, tensor: Tensor) -> Fact | None: ...

    def bind(self, tensor: Tensor, fact: Fact, owner: Node) -> None: ...

    def infer_graph(self, graph: Graph, owner: Node | None = None) -> None: ...

    def clear_graph(self, graph: Graph) -> None: ...

    def next_unknown(self) -> int: ...


ControlRule = Callable[[Inference, Node, Call], Sequence[Fact]]
#: Deeper in loops, nothing is assumed of what is carried: each level would go through its body several times.
DEEPEST_ASSUMPTION = 2
ATTEMPTS = 3
FIRST_SCAN_WITHOUT_BATCH = 9


def _if(shapes: Inference, node: Node, call: Call) -> Sequence[Fact]:
    """The branch that is taken where the condition is known, else what both agree on."""
    for graph in walk.subgraphs(node):
        shapes.infer_graph(graph, node)
    branches = [g for g in (node.attrs.get("then_branch"), node.attrs.get("else_branch")) if isinstance(g, Graph)]
    condition = call.value(0) if call.has(0) and call.fact(0).kind == "tensor" else None
    if condition is not None and condition.size == 1 and len(branches) == 2:
        branches = [branches[0 if condition.reshape(-1)[0] else 1]]
    return [_common([_of(shapes, g.outputs[place]) for g in branches if place < len(g.outputs)]) for place in range(len(node.outputs))]


def _of(shapes: Inference, tensor: Tensor) -> Fact:
    return shapes.fact(tensor) or Fact(None, None)


def _common(facts: Sequence[Fact]) -> Fact:
    """What holds for each of `facts`."""
    if not facts:
        return Fact(None, None)
    first, *others = facts
    if not others:
        return Fact(first.dtype, first.shape, first.value, first.kind, first.proto)
    if any(f.kind != first.kind for f in others):
        return Fact(None, None)
    if first.kind != "tensor":
        return Fact(None, None, kind=first.kind, proto=without_shapes(first.proto))
    dtype = first.dtype if all(f.dtype == first.dtype for f in others) else None
    shape: Sequence[Dim] | None = first.shape
    for fact in others:
        shape = _common_shape(shape, fact.shape)
    return open_fact(dtype, shape)


def _common_shape(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> list[Dim] | None:
    if a is None or b is None or len(a) != len(b):
        return None
    return [d if d == e else None for d, e in zip(a, b, strict=True)]


def _loop(shapes: Inference, node: Node, call: Call) -> Sequence[Fact]:
    """Inputs M, condition, carried; the body has (iteration, condition, carried) and returns (condition, carried, scanned).

    Where there may be no iteration, onnxruntime hands out 0 for what it does not know of a scanned tensor, so its symbols do not hold.
    """
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return []
    first = shapes.next_unknown()
    initial = [_NOTHING if f is None else f for f in call.inputs[2:]]
    scalars = [_scalar(body, 0, "int64"), _scalar(body, 1, "bool")]
    carried = _carried(shapes, node, body, scalars, initial, body.outputs[1 : 1 + len(initial)])
    scanned = [_of(shapes, t) for t in body.outputs[1 + len(initial) :]]
    certain = _runs(call)
    outputs: list[Fact] = []
    for fact in scanned:
        dims = None if fact.shape is None else [d if certain or isinstance(d, int) else None for d in _outside(fact.shape, first)]
        outputs.append(open_fact(fact.dtype, None if dims is None else [None, *dims]))
    return [*carried, *outputs]


def _runs(call: Call) -> bool:
    """Whether a Loop has at least one iteration for certain."""
    limits = [call.value(i) if call.has(i) else np.ones(1) for i in (0, 1)]
    return all(v is not None and v.size == 1 and v.reshape(-1)[0] >= 1 for v in limits)


_NOTHING = Fact(None, None)


def _scalar(body: Graph, index: int, dtype: str) -> Fact:
    """The iteration number and the condition: scalars, or of shape [1] where the body says so, which the runtime follows."""
    if index < len(body.input_protos):
        stated = type_spec("", body.input_protos[index].type).shape
        return Fact(dtype, (1,) * len(stated) if stated is not None and len(stated) <= 1 else ())
    return Fact(dtype, ())


def _carried(shapes: Inference, node: Node, body: Graph, before: Sequence[Fact], initial: Sequence[Fact], returned: Sequence[Tensor]) -> list[Fact]:
    """Infer `body` from `before` (other inputs), then the carried ones; what holds for the carried tensors in every iteration, and after the last one."""
    assumed = [_assumption(f) for f in initial]
    for attempt in range(ATTEMPTS + 1):
        if attempt == ATTEMPTS or shapes.depth >= DEEPEST_ASSUMPTION:
            assumed = [Fact(f.dtype, None, None, f.kind, f.proto) for f in assumed]
        shapes.clear_graph(body)
        for tensor, fact in zip(body.inputs, [*before, *assumed], strict=False):
            shapes.bind(tensor, Fact(fact.dtype, fact.shape, None, fact.kind, fact.proto), node)
        bound = [_of(shapes, t) for t in body.inputs[len(before) :]]
        shapes.depth += 1
        shapes.infer_graph(body, node)
        shapes.depth -= 1
        results = [_of(shapes, t) for t in returned]
        kept = [_kept(a, b, r) for a, b, r in zip(assumed, bound, results, strict=False)]
        if all(k.shape == a.shape for k, a in zip(kept, assumed, strict=False)):
            break
        assumed = [*kept, *assumed[len(kept) :]]
    return [a if a.kind == "tensor" else Fact(None, None, None, r.kind, without_shapes(r.proto)) for a, r in zip(assumed, results, strict=False)]


def _assumption(fact: Fact) -> Fact:
    return Fact(fact.dtype, fact.shape, None, fact.kind, without_shapes(fact.proto))


def _kept(assumed: Fact, bound: Fact, result: Fact) -> Fact:
    """`assumed` with None for the sizes that the body does not hand back as it was given them (`bound`)."""
    if assumed.shape is None or bound.shape is None or result.shape is None or len(result.shape) != len(assumed.shape):
        return Fact(assumed.dtype, None, None, assumed.kind, assumed.proto)
    dims = [a if a is not None and b == r else None for a, b, r in zip(assumed.shape, bound.shape, result.shape, strict=True)]
    return open_fact(assumed.dtype, dims, assumed.kind, assumed.proto)


def _outside(shape: Sequence[Dim], first: int) -> list[Dim]:
    """Without the sizes that arose inside: those from the number `first` on."""
    return [None if newest_unknown(d) >= first else d for d in shape]


def _scan(shapes: Inference, node: Node, call: Call) -> Sequence[Fact]:
    """Inputs: state, then scanned tensors, which the body sees entry by entry."""
    body = node.attrs.get("body")
    count = call.number("num_scan_inputs", 0)
    if not isinstance(body, Graph) or not 0 < count <= len(call.inputs):
        return []
    facts = [_NOTHING if f is None else f for f in call.inputs]
    if call.opset < FIRST_SCAN_WITHOUT_BATCH:
        for tensor in body.inputs:
            shapes.bind(tensor, _NOTHING, node)
        shapes.infer_graph(body, node)
        return []
    states, scanned = facts[: len(facts) - count], facts[len(facts) - count :]
    axes = call.numbers("scan_input_axes") or [0] * count
    first = shapes.next_unknown()
    length: Dim = None
    entries: list[Fact] = []
    for fact, axis in zip(scanned, axes, strict=True):
        shape = fact.shape
        if shape:
            place = axis_in(axis, len(shape))
            length = shape[place] if length is None or isinstance(shape[place], int) else length
            shape = (*shape[:place], *shape[place + 1 :])
        entries.append(Fact(fact.dtype, shape))
    carried = _carried_state(shapes, node, body, states, entries)
    results = [_of(shapes, t) for t in body.outputs[len(states) :]]
    outer_axes = call.numbers("scan_output_axes") or [0] * len(results)
    outputs: list[Fact] = []
    for fact, axis in zip(results, outer_axes, strict=True):
        dims = None if fact.shape is None else _outside(fact.shape, first)
        if dims is not None:
            dims.insert(axis_in(axis, len(dims) + 1), length)
        outputs.append(open_fact(fact.dtype, dims))
    return [*carried, *outputs]


def _carried_state(shapes: Inference, node: Node, body: Graph, states: Sequence[Fact], entries: Sequence[Fact]) -> list[Fact]:
    """As `_carried`, for a body whose other inputs come last."""
    for tensor, fact in zip(body.inputs[len(states) :], entries, strict=False):
        shapes.bind(tensor, Fact(fact.dtype, fact.shape), node)
    return _carried(shapes, node, body, (), states, body.outputs[: len(states)])


def infer_function(shapes: Inference, node: Node, call: Call, body: tuple[Graph, dict[str, int]]) -> Sequence[Fact]:
    """Infer the body of a function for one call of it. Of a function that calls itself, which no runtime takes, nothing is known."""
    graph, opsets = body
    name = (node.domain or "", node.op)
    if name in shapes.calls:
        return []
    shapes.calls.add(name)
    outer, shapes.opsets = shapes.opsets, opsets
    shapes.clear_graph(graph)
    for index, tensor in enumerate(graph.inputs):
        fact = call.inputs[index] if index < len(call.inputs) else None
        shapes.bind(tensor, fact or _NOTHING, node)
    shapes.infer_graph(graph)
    facts = [_of(shapes, t) for t in graph.outputs]
    shapes.clear_graph(graph)
    shapes.opsets = outer
    shapes.calls.discard(name)
    return [Fact(f.dtype, f.shape, f.value, f.kind, f.proto) for f in facts]


def without_shapes(proto: onnx.TypeProto | None) -> onnx.TypeProto | None:
    """The type of a sequence or an optional, for tensors of any shape."""
    if proto is None:
        return None
    result = onnx.TypeProto()
    result.CopyFrom(proto)
    inner = result
    while (which := inner.WhichOneof("value")) in ("sequence_type", "optional_type"):
        inner = getattr(inner, which).elem_type
    if which in ("tensor_type", "sparse_tensor_type"):
        getattr(inner, which).ClearField("shape")
    return result


RULES: dict[str, ControlRule] = {"If": _if, "Loop": _loop, "Scan": _scan}
