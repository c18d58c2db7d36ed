"""The target of a Reshape or Expand that is computed at run time becomes a constant, where 0, -1 and 1 say what was computed: "as in the input", "the rest", "as it is"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphcompress.ir import Graph, Model, Node, constant_data, graphs
from graphcompress.ir.inline import calls, function_bodies
from graphcompress.ir.model.dimensions import Size
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.objects import type_spec
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/target"


def write_targets(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Give Reshape and Expand constant targets where those make the same shape in every run; how many. What computed the old ones is dead then."""
    functions = set(function_bodies(model))
    count = 0
    with Edits(model) as edits:
        for graph in graphs(model):
            disputed = _disputed(graph, shapes)
            for node in graph.nodes:
                if not node.is_op("Reshape", "Expand") or len(node.inputs) < 2 or constant_data(node.inputs[1]) is not None or calls(node, functions):
                    continue
                if disputed and any(t.name in disputed for t in node.inputs):
                    continue
                target = _target(node, shapes())
                if target is not None:
                    edits.set_input(node, 1, model.constant(f"{node.outputs[0].name}.shape", np.array(target, np.int64)))
                    count += 1
    return count


def _disputed(graph: Graph, shapes: Callable[[], Shapes]) -> set[str]:
    """Tensors of which the file states another number than what follows from the signature. onnxruntime's own optimizer believes the one or the other, depending on how
    shapes are computed, so that is left as it is."""
    stated = {info.name: type_spec(info.name, info.type).shape for info in graph.shell.value_info if info.type.HasField("tensor_type")}
    names: set[str] = set()
    for node in graph.nodes if stated else ():
        for tensor in node.outputs:
            said = stated.get(tensor.name)
            known = None if said is None else shapes().shape(tensor)
            if said is not None and known is not None and any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(said, known, strict=False)):
                names.add(tensor.name)
    return names


def _target(node: Node, shapes: Shapes) -> list[int] | None:
    before, after, target = (shapes.fact(t) for t in (node.inputs[0], node.outputs[0], node.inputs[1]))
    if before is None or after is None or before.shape is None or after.shape is None:
        return None
    if node.op == "Expand":
        return expand_target(before.shape, after.shape)
    if node.attrs.get("allowzero", 0):
        return None
    entries = None if target is None or target.value is None else target.value.reshape(-1).tolist()
    return reshape_target(before.shape, after.shape, entries)


def reshape_target(before: Sequence[Size], after: Sequence[Size], entries: Sequence[object] | None = None) -> list[int] | None:
    """What a Reshape from `before` to `after` can be given: numbers, 0 for an axis that stays where it is, and at most one -1; None where there is no such list.

    A -1 fails at run time where another size is 0, so all others must be positive numbers, or `entries`, what is asked for now, has its -1 there too.
    """
    target: list[int] = []
    for axis, size in enumerate(after):
        if isinstance(size, int) and size > 0:
            target.append(size)
        else:
            target.append(0 if axis < len(before) and size == before[axis] else -1)
    if target.count(-1) > 1 or (-1 in target and any(isinstance(size, int) and size == 0 for size in (*before, *after))):
        return None
    if -1 in target and 0 in target and (entries is None or entries[target.index(-1)] != -1):
        return None
    return target


def expand_target(before: Sequence[Size], after: Sequence[Size]) -> list[int] | None:
    """What an Expand from `before` to `after` can be given: numbers, and 1 for an axis that keeps its size."""
    full = (1,) * (len(after) - len(before)) + tuple(before)
    target = [1 if size == old else size for size, old in zip(after, full, strict=True)]
    return [n for n in target if isinstance(n, int)] if all(isinstance(n, int) for n in target) else None
