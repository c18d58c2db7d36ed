"""An If whose condition is constant, or of which no run takes one branch: the branch that it takes stands in its place."""

from __future__ import annotations

from collections.abc import Callable, Collection

from graphcompress.ir import Graph, Model, Node, constant_data, constant_value, nodes, subgraphs
from graphcompress.ir.inline import defined_names, inline_branch, needs_identity
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.simplify.demanded_ranks import impossible_branches

STAGE = "simplify/if"


@paused()
def inline_constant_ifs(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Replace every If with a constant condition, or with a branch that is impossible, the outer ones first; how many. An If inside a branch that is inlined now has its turn in the next round."""
    decided = {n: "then_branch" if condition else "else_branch" for n in nodes(model) if n.is_op("If") and (condition := _condition(n)) is not None}
    learned = impossible_branches(model, shapes)
    decided = learned | decided
    places = [(graph, node, decided[node]) for graph, node in _outermost_ifs(model, decided) if _can_stand(node, decided[node], shapes)]
    if places:
        # What was unknown behind them because their branches differ is known now.
        shapes().forget([t for _, node, _ in places if node in learned for t in node.outputs])
        names = defined_names(model)
        with Edits(model) as edits:
            for graph, node, attribute in places:
                inline_branch(model, edits, graph, node, attribute, names)
    return len(places)


def _outermost_ifs(model: Model, decided: Collection[Node]) -> list[tuple[Graph, Node]]:
    """Those of `decided` that stand in no other one."""
    places: list[tuple[Graph, Node]] = []
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        for node in graph.nodes:
            if node in decided:
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


def _can_stand(node: Node, attribute: str, shapes: Callable[[], Shapes]) -> bool:
    """Whether the branch can be written out in the place of the If."""
    branch = node.attrs.get(attribute)
    if not isinstance(branch, Graph) or branch.inputs or branch.shell.sparse_initializer or len(branch.outputs) < len(node.outputs):
        return False
    # Below opset 14 Identity takes tensors only.
    return all(shapes().dtype(t) is not None for t in needs_identity(node, branch) if t.name)
