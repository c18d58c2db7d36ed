"""Queries, keys and values that are taken from one transposed tensor: they are taken first, and each is transposed by itself.

Exporters write `x.permute(2, 0, 3, 4, 1).unbind(0)` as a Transpose, a Split into pieces of size 1 and a Squeeze of each. What is transposed then has an axis more than it needs, and onnxruntime, which moves the Split before the
Transpose, keeps it: its Transpose of five axes that moves the innermost one takes an element at a time, ten times as long as that of four.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphcompress.ir import Graph, Model, Node, constant_value, graphs, output_ids, producer, sole_consumer
from graphcompress.ir.inline import calls, function_bodies
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.scopes import node_homes
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/pieces"
FIRST_AXES_AS_INPUT = 13


def take_pieces_first(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Move Splits into pieces of size 1, each of which is squeezed, before Transposes that move the innermost axis; how many that concerns."""
    splits = [(graph, node) for graph in graphs(model) for node in graph.nodes if node.is_op("Split") and _permutation(node) is not None]
    if not splits:
        return 0
    functions, outputs, homes, count = set(function_bodies(model)), output_ids(model), node_homes(model), 0
    for graph, split in splits:
        transpose = producer(split.inputs[0])
        assert transpose is not None
        if calls(split, functions) or sole_consumer(split.inputs[0], outputs) is not split or homes[transpose] is not graph:
            continue
        squeezes = _squeezes(split, outputs, shapes())
        if squeezes:
            _move(model, graph, transpose, split, squeezes)
            count += 1
    return count


def _permutation(split: Node) -> list[int] | None:
    """The order of axes of the Transpose before `split`, where it moves the innermost one."""
    transpose = producer(split.inputs[0])
    if transpose is None or not transpose.is_op("Transpose"):
        return None
    order = transpose.attrs.get("perm")
    return list(order) if isinstance(order, list) and order and order[-1] != len(order) - 1 else None


def _squeezes(split: Node, outputs: set[int], shapes: Shapes) -> list[Node]:
    """The Squeezes that take the axis of `split` away, one for each of its outputs; none where something else reads a piece, or one has another size than 1."""
    rank = len(_permutation(split) or ())
    axis = int(split.attrs.get("axis", 0)) % rank
    squeezes = []
    for piece in split.outputs:
        squeeze, shape = sole_consumer(piece, outputs), shapes.shape(piece)
        if squeeze is None or not squeeze.is_op("Squeeze") or shape is None or shape[axis] != 1:
            return []
        axes = squeeze.attrs.get("axes") if len(squeeze.inputs) < 2 else constant_value(squeeze.inputs[1])
        if axes is None or [int(a) % rank for a in np.asarray(axes).reshape(-1)] != [axis]:
            return []
        squeezes.append(squeeze)
    return squeezes


def _move(model: Model, graph: Graph, transpose: Node, split: Node, squeezes: list[Node]) -> None:
    order = _permutation(split) or []
    axis = order[int(split.attrs.get("axis", 0)) % len(order)]
    rest = [a - (a > axis) for a in order if a != axis]
    axes = None if model.opset < FIRST_AXES_AS_INPUT else model.constant("axes", np.array([axis], np.int64))
    names = tuple(n.name or n.outputs[0].name for n in (transpose, split))
    with Edits(model) as edits:
        edits.set_input(split, 0, transpose.inputs[0])
        split.attrs = {**split.attrs, "axis": axis}
        for squeeze in squeezes:
            edits.reshape(squeeze.inputs[0])
            result, flat = squeeze.outputs[0], model.variable(squeeze.outputs[0].name)
            if axes is None:
                squeeze.attrs = {"axes": [axis]}
            else:
                edits.set_input(squeeze, 1, axes)
            edits.set_output(squeeze, 0, flat)
            turned = detached("Transpose", model.fresh(transpose.name) if transpose.name else "", {"perm": rest}, (flat,), (result,))
            turned.rank, turned.origin = squeeze.rank, (STAGE, *names)
            edits.add(turned, graph)
        edits.remove([transpose])
