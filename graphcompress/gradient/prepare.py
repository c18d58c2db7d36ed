"""A model as its gradient is taken of: at an opset that the rules know, functions and branches with a known condition written out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from graphcompress.gradient.build import FLOATS
from graphcompress.gradient.unroll import unroll
from graphcompress.ir import Graph, Model, Node, Tensor, TensorData, constant_data, output_ids
from graphcompress.ir.inline import composed_operators, defined_names, expand_operators, inline_branch, inline_functions
from graphcompress.ir.lift import lift
from graphcompress.ir.model.dimensions import Dim
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.model.signature import with_values
from graphcompress.ir.shapes.infer import Shapes, infer

Array = np.ndarray[Any, Any]

OPSET = 18  # the rules are written for this one and those after it


def prepared(model: Model, inputs: Mapping[str, Sequence[Dim]] | None, fixed: Mapping[str, Array] | None, known: Collection[str]) -> tuple[Model, list[str]]:
    """A copy of `model`, which may be edited, with its floating-point Constant nodes as initializers, and the names of its weights. `inputs` are shapes of inputs by name, `fixed` values of inputs, which are
    constants then; operators among `known` are not written out in others.

    Raises ModelError where the model cannot be lifted.
    """
    work = lift(inline_functions(model), OPSET)
    if work is model:
        work = model.copy()
    if fixed:
        work = with_values(work, fixed)
    while branches := _known_branches(work, infer(work, inputs)):
        names = defined_names(work)
        with Edits(work) as edits:
            for node, attribute in branches:
                inline_branch(work, edits, work.graph, node, attribute, names)
    unroll(work, infer(work, inputs))
    while composed := composed_operators(work) - set(known):
        expanded = expand_operators(work, composed)
        if expanded is work:
            break
        work = expanded
    sources = weights(work)
    store_constants(work)
    return work, sources


def weights(model: Model) -> list[str]:
    """The names of what could be learned: float initializers of the main graph, and the outputs of its Constant nodes that hold more than one float."""
    return [
        *(name for name, c in model.graph.initializers.items() if _is_float(c)),
        *(node.outputs[0].name for node in _constants(model) if (d := constant_data(node.outputs[0])) is not None and d.size > 1),
    ]


def _constants(model: Model) -> list[Node]:
    return [n for n in model.graph.nodes if n.is_op("Constant") and _is_float(n.outputs[0])]


def _is_float(tensor: Tensor) -> bool:
    data = constant_data(tensor)
    return data is not None and (data.dtype_name if isinstance(data, TensorData) else array_dtype_name(data)) in FLOATS


def store_constants(model: Model) -> None:
    """Let the floating-point Constant nodes of the main graph be initializers of the same names."""
    outputs = output_ids(model)
    with Edits(model) as edits:
        for node in _constants(model):
            tensor = node.outputs[0]
            data = constant_data(tensor)
            if data is not None and id(tensor) not in outputs:
                edits.make_constant(tensor, data, model.graph, output=False)
                edits.remove([node])


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
