"""A model as its gradient is taken of: at an opset that the rules know, functions and branches with a known condition written out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from graphcompress.ir import Graph, Model, Node
from graphcompress.ir.inline import composed_operators, defined_names, expand_operators, inline_branch, inline_functions
from graphcompress.ir.lift import lift
from graphcompress.ir.model.dimensions import Dim
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.shapes.infer import Shapes, infer

OPSET = 18  # the rules are written for this one and those after it


def prepared(model: Model, inputs: Mapping[str, Sequence[Dim]] | None, known: Collection[str]) -> Model:
    """A copy of `model`, which may be edited. `inputs` are shapes of inputs by name; operators among `known` are not written out in others.

    Raises ModelError where the model cannot be lifted.
    """
    work = lift(inline_functions(model), OPSET)
    if work is model:
        work = model.copy()
    while branches := _known_branches(work, infer(work, inputs)):
        names = defined_names(work)
        with Edits(work) as edits:
            for node, attribute in branches:
                inline_branch(work, edits, work.graph, node, attribute, names)
    while composed := composed_operators(work) - set(known):
        expanded = expand_operators(work, composed)
        if expanded is work:
            break
        work = expanded
    return work


def _known_branches(model: Model, shapes: Shapes) -> list[tuple[Node, str]]:
    """The Ifs of the main graph whose condition is the same in every run, each with the attribute of its branch."""
    branches = []
    for node in model.graph.nodes:
        if not node.is_op("If"):
            continue
        value = shapes.value(node.inputs[0])
        if value is None or value.size != 1:
            continue
        attribute = "then_branch" if bool(value.reshape(())) else "else_branch"
        branch = node.attrs.get(attribute)
        if isinstance(branch, Graph) and not branch.inputs and not branch.shell.sparse_initializer:
            branches.append((node, attribute))
    return branches
