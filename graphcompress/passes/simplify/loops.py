"""A Loop that runs once, or not at all: its body stands in its place, or what it was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, graphs
from graphcompress.ir.inline import add_beside, defined_names, inline_body
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/loop"
BODY = "body"
CARRIED = 2
"""Inputs of a Loop and of its body before the values that are carried: trips or iteration, and condition."""
FIRST_OPSET_WITH_AXES_AS_INPUT = 13


def inline_single_trips(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Write out every Loop whose constants say that it runs at most once; how many. One inside another has its turn in the next round."""
    places: list[tuple[Graph, Node, int]] = []
    inside: set[Graph] = set()
    for graph in graphs(model):  # outer ones first
        for node in graph.nodes if graph not in inside else ():
            if node.is_op("Loop") and (trips := _trips(node, shapes())) is not None and _can_be_written_out(node, trips, shapes()):
                places.append((graph, node, trips))
                inside.update(_below(node.attrs[BODY]))
    if places:
        # What is said of them holds in any number of runs of a body; more is known of one.
        shapes().forget([t for _, node, _ in places for t in (*node.outputs, *node.attrs[BODY].inputs)])
        names = defined_names(model)
        with Edits(model) as edits:
            for graph, node, trips in places:
                _write_out(model, edits, graph, node, trips, names)
    return len(places)


def _below(graph: Graph) -> list[Graph]:
    below, pending = [graph], [graph]
    while pending:
        inner = [g for n in pending.pop().nodes for v in n.attrs.values() for g in (v if isinstance(v, list) else (v,)) if isinstance(g, Graph)]
        below += inner
        pending += inner
    return below


def _trips(node: Node, shapes: Shapes) -> int | None:
    """How often the body runs, 0 or 1; None where it may run more often or the model does not say."""
    limit, going = node.input(0), node.input(1)
    most, start = _number(limit, shapes), _number(going, shapes)
    if (most is not None and most <= 0) or (start is not None and not start):
        return 0
    if going is not None and start is None:
        return None
    body = node.attrs.get(BODY)
    if most == 1:
        return 1
    if (
        isinstance(body, Graph)
        and body.outputs
        and (after := _number(body.outputs[0], shapes)) is not None
        and not after
        and (limit is None or most is not None)
    ):
        return 1
    return None


def _number(tensor: Tensor | None, shapes: Shapes) -> Any:
    """The one element of a tensor that is the same in every run."""
    value = shapes.value(tensor) if tensor is not None else None
    return None if value is None or value.size != 1 else value.reshape(()).item()


def _can_be_written_out(node: Node, trips: int, shapes: Shapes) -> bool:
    body = node.attrs.get(BODY)
    carried = len(node.inputs) - CARRIED
    if not isinstance(body, Graph) or body.shell.sparse_initializer or len(body.inputs) != len(node.inputs) or len(body.outputs) < len(node.outputs) + 1:
        return False
    if any(not t.name or shapes.dtype(t) is None for t in node.inputs[CARRIED:]):  # below opset 14 Identity takes tensors only
        return False
    if trips == 0:  # what is collected would be empty, with sizes that only the body knows
        return not any(t.name for t in node.outputs[carried:])
    return all(_declared_rank(body, i) in (0, 1) or not body.inputs[i].outputs for i in range(CARRIED))


def _declared_rank(body: Graph, index: int) -> int | None:
    """The rank that the runtime gives the iteration's number, or the condition: the one that the body states."""
    kind = body.input_protos[index].type.tensor_type
    return len(kind.shape.dim) if kind.HasField("shape") else None


def _write_out(model: Model, edits: Edits, graph: Graph, node: Node, trips: int, names: Counter[str]) -> None:
    body: Graph = node.attrs[BODY]
    carried = len(node.inputs) - CARRIED
    if trips == 0:
        for start, result in zip(node.inputs[CARRIED:], node.outputs, strict=False):
            if result.name:
                add_beside(edits, graph, node, "Identity", (start,), result)
        edits.remove([node])
        return
    numbers = (np.zeros((1,) * (_declared_rank(body, 0) or 0), np.int64), np.ones((1,) * (_declared_rank(body, 1) or 0), np.bool_))
    given = [*(model.constant(t.name, v) for t, v in zip(body.inputs, numbers, strict=False)), *node.inputs[CARRIED:]]
    inputs, collected = list(body.inputs), list(zip(node.outputs[carried:], body.outputs[1 + carried :], strict=False))
    results = list(zip(node.outputs[:carried], body.outputs[1:], strict=False))
    inline_body(model, edits, graph, node, BODY, names, results)
    for value, tensor in zip(given, inputs, strict=True):
        add_beside(edits, graph, node, "Identity", (value,), tensor)
    for result, part in collected:
        if result.name and model.opset >= FIRST_OPSET_WITH_AXES_AS_INPUT:
            add_beside(edits, graph, node, "Unsqueeze", (part, model.constant(result.name, np.zeros(1, np.int64))), result)
        elif result.name:
            add_beside(edits, graph, node, "Unsqueeze", (part,), result, axes=[0])
