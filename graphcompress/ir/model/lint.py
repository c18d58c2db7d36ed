"""Whether a graph in memory can be written: every tensor has one maker, and the signature is the one that was read."""

from __future__ import annotations

from collections.abc import Iterable

from graphcompress.errors import ModelError
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Graph, Tensor, Variable
from graphcompress.ir.model.walk import subgraphs, toposort


def lint(model: Model) -> None:
    """Raise ModelError where the graph is not what a file may hold: a tensor made twice or by nobody, names that clash, a changed signature."""
    check_signature(model)
    stack: list[tuple[Graph, frozenset[int], frozenset[str]]] = [(model.graph, frozenset(), frozenset())]
    while stack:
        graph, outer, outer_sparse = stack.pop()
        made: dict[str, Tensor] = {}
        for tensor in _defined(graph):
            if tensor.name in made:
                raise ModelError(f"Tensor '{tensor.name}' is defined twice in graph '{graph.name}'.")
            made[tensor.name] = tensor
        visible = outer | {id(t) for t in made.values()}
        sparse = outer_sparse | {s.values.name for s in graph.shell.sparse_initializer}  # these have no object
        for node in graph.nodes:
            for tensor in node.inputs:
                if tensor.name and id(tensor) not in visible and not (isinstance(tensor, Variable) and tensor.name in sparse):
                    raise ModelError(f"Node '{node.name or node.op}' reads tensor '{tensor.name}', which nothing makes.")
            stack.extend((g, visible, sparse) for g in subgraphs(node))
        toposort(graph)


def check_signature(model: Model) -> None:
    """Raise ModelError where inputs or outputs of the main graph are not those that were read."""
    expected = [v.name for v in model.output_protos]
    if [t.name for t in model.graph.outputs] != expected:
        raise ModelError(f"The outputs of the graph are {[t.name for t in model.graph.outputs]}, the model's are {expected}: a step changed the signature.")
    kept = {v.name for v in model.input_protos}
    missing = [t.name for t in model.graph.inputs if t.name not in kept]
    lost = [s.name for s in (*model.inputs, *model.overridable)]
    if missing or [t.name for t in model.graph.inputs] != [n for n in (v.name for v in model.input_protos) if n in set(lost)]:
        raise ModelError(f"The inputs of the graph are {[t.name for t in model.graph.inputs]}, the model's are {sorted(kept)}: a step changed the signature.")


def _defined(graph: Graph) -> Iterable[Tensor]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.nodes:
        yield from (t for t in node.outputs if t.name)
