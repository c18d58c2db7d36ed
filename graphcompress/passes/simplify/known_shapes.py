"""Small integer and bool tensors that are the same in every run, because the signature fixes the sizes that they are computed from, become constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphcompress.ir import Graph, Model, Node, graphs, output_ids, subgraphs
from graphcompress.ir.inline import calls, defined_names, function_bodies
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.simplify.constants import keeps_its_maker, make_known

STAGE = "simplify/shape"
#: Larger ones stay computed, so that the file does not grow.
LARGEST_BYTES = 1024
# What other stages deal with, without a copy.
NOT_COMPUTED = frozenset(("Constant", "Identity"))

Array = np.ndarray[Any, Any]


def replace_known_shapes(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Replace nodes by constants where the values of all their results are known; how many nodes. Of a chain, only what other nodes read is written."""
    functions, names, outputs = set(function_bodies(model)), defined_names(model), output_ids(model)
    values: dict[int, Array] = {}
    replaced: list[Node] = []
    places: dict[int, Graph] = {}
    for graph in graphs(model):
        for node in graph.nodes:
            if node.op in NOT_COMPUTED or not node.standard or calls(node, functions) or subgraphs(node) or keeps_its_maker(node, outputs, names):
                continue
            results = _results(node, shapes)
            if results:
                values.update(results)
                places.update(dict.fromkeys(results, graph))
                replaced.append(node)
    if replaced:
        inside = {id(n) for n in replaced}
        known = {id(t): (t, values[id(t)]) for n in replaced for t in n.outputs if t.name and (id(t) in outputs or any(id(r) not in inside for r in t.outputs))}
        make_known(model, known, STAGE, replaced, places)
    return len(replaced)


def _results(node: Node, shapes: Callable[[], Shapes]) -> dict[int, Array]:
    """id() of each output -> its value; empty where one is not known, no integer or too large."""
    results: dict[int, Array] = {}
    for tensor in node.outputs:
        if not tensor.name:
            continue
        value = shapes().value(tensor)
        if value is None or value.dtype.kind not in "iub" or value.nbytes > LARGEST_BYTES:
            return {}
        results[id(tensor)] = value
    return results
