"""An If whose condition is constant: the branch that it takes stands in its place."""

from __future__ import annotations

from collections.abc import Callable

from graphcompress.ir import Graph, Model, Node, constant_data, constant_value, subgraphs
from graphcompress.ir.inline import defined_names, inline_branch, needs_identity
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/if"


def inline_constant_ifs(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Replace every If with a constant condition, the outer ones first; how many. An If inside a branch that is inlined now has its turn in the next round."""
    places = [(graph, node, attribute) for graph, node in _outermost_ifs(model) if (attribute := _taken(node, shapes)) is not None]
    if places:
        names = defined_names(model)
        with Edits(model) as edits:
            for graph, node, attribute in places:
                inline_branch(model, edits, graph, node, attribute, names)
    return len(places)


def _outermost_ifs(model: Model) -> list[tuple[Graph, Node]]:
    """The Ifs with a constant condition that stand in no other one."""
    places: list[tuple[Graph, Node]] = []
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        for node in graph.nodes:
            if node.is_op("If") and _condition(node) is not None:
                places.append((graph, node))
            else:
                pending.extend(subgraphs(node))
    return places


def _condition(node: Node) -> bool | None:
    data = constant_data(node.input(0))
    if data is None or data.size != 1:
        return None
    value = constant_value(node.input(0))
    return None if value is None or value.dtype.kind != "b" else bool(value.reshape(()))


def _taken(node: Node, shapes: Callable[[], Shapes]) -> str | None:
    """The attribute that holds the branch, None where it cannot be written out."""
    attribute = "then_branch" if _condition(node) else "else_branch"
    branch = node.attrs.get(attribute)
    if not isinstance(branch, Graph) or branch.inputs or branch.shell.sparse_initializer or len(branch.outputs) < len(node.outputs):
        return None
    if all(shapes().dtype(t) is not None for t in needs_identity(node, branch) if t.name):  # below opset 14 Identity takes tensors only
        return attribute
    return None
