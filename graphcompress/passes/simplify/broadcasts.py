"""An Expand in front of an operator that broadcasts by itself."""

from __future__ import annotations

from collections.abc import Callable

from graphcompress.ir import Model, Node, graphs, producer
from graphcompress.ir.inline import calls, function_bodies
from graphcompress.ir.model.dimensions import Size
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.shapes.elementwise import broadcasted
from graphcompress.ir.shapes.facts import Contradiction
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/broadcast"
_BROADCASTING = "Add Sub Mul Div Pow Mod And Or Xor BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterOrEqual Less LessOrEqual Min Max Sum Mean Where"
BROADCASTING = frozenset(_BROADCASTING.split())
OLDEST_OPSET = 8
"""Before, Min, Max, Sum and Mean wanted equal shapes."""


def skip_expands(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Let elementwise operators read what an Expand expands, where their results have the same shape in every run without it; how many inputs were changed."""
    if model.opset < OLDEST_OPSET:
        return 0
    functions = set(function_bodies(model))
    count = 0
    with Edits(model) as edits:
        for graph in graphs(model):
            for node in graph.nodes:
                if not node.standard or node.op not in BROADCASTING or calls(node, functions):
                    continue
                for index, tensor in enumerate(node.inputs):
                    maker = producer(tensor)
                    if maker is not None and maker.is_op("Expand") and not calls(maker, functions) and _fits(node, index, maker, shapes()):
                        edits.set_input(node, index, maker.inputs[0])
                        count += 1
    return count


def _fits(node: Node, index: int, expand: Node, shapes: Shapes) -> bool:
    """Whether `node` makes the same shape with the input of `expand` at `index`."""
    result = shapes.fact(node.outputs[0])
    operands: list[tuple[Size, ...] | None] = []
    for place, tensor in enumerate(node.inputs):
        fact = shapes.fact(expand.inputs[0] if place == index else tensor)
        operands.append(None if fact is None or fact.kind != "tensor" else fact.shape)
    if result is None or result.shape is None or any(o is None for o in operands):
        return False
    try:
        dims = broadcasted(operands)
    except Contradiction:
        return False
    return dims is not None and tuple(dims) == result.shape
