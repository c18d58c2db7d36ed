"""Whether a graph in memory can be written: every tensor has one maker, and the signature is the one that was read."""

from __future__ import annotations

from collections.abc import Iterable

from graphcompress.errors import ModelError, quoted
from graphcompress.ir.check.faults import Fault, raise_faults
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Graph, Tensor, Variable
from graphcompress.ir.model.walk import subgraphs, toposort


def lint(model: Model) -> None:
    """Raise ModelError where a graph is not what a file may hold, or the signature has changed."""
    raise_faults(graph_faults(model), str(model.path or "The model"))


def graph_faults(model: Model) -> list[Fault]:
    """What keeps a model in memory from being written: a changed signature, a tensor with two makers or none, a cycle."""
    faults = signature_faults(model)
    stack: list[tuple[Graph, frozenset[Tensor], frozenset[str]]] = [(model.graph, frozenset(), frozenset())]
    while stack:
        graph, outer, outer_sparse = stack.pop()
        defined: dict[str, Tensor] = {}
        for tensor in _defined(graph):
            if tensor.name in defined:
                faults.append(Fault("tensor-twice", f"tensor {quoted(tensor.name)} is defined twice in graph {quoted(graph.name)}.", tensor=tensor.name))
            defined[tensor.name] = tensor
        visible = outer.union(defined.values())
        sparse = outer_sparse | {s.values.name for s in graph.shell.sparse_initializer}  # these have no object
        for node in graph.nodes:
            for tensor in node.inputs:
                if tensor.name and tensor not in visible and not (isinstance(tensor, Variable) and tensor.name in sparse):
                    what = f"node {quoted(node.name or node.op)} reads tensor {quoted(tensor.name)}, which nothing makes."
                    faults.append(Fault("tensor-missing", what, node=node.name, tensor=tensor.name))
            stack.extend((g, visible, sparse) for g in subgraphs(node))
        try:
            toposort(graph)
        except ModelError as error:
            faults.append(Fault("cycle", str(error)))
    return faults


def signature_faults(model: Model) -> list[Fault]:
    """Inputs or outputs of the main graph that are not those that were read."""
    faults: list[Fault] = []
    expected = [v.name for v in model.output_protos]
    outputs = [t.name for t in model.graph.outputs]
    if outputs != expected:
        faults.append(Fault("signature", f"the outputs of the graph are {outputs}, the model's are {expected}: a step changed the signature."))
    declared = [v.name for v in model.input_protos]
    inputs = [t.name for t in model.graph.inputs]
    specified = {s.name for s in (*model.inputs, *model.overridable)}
    if inputs != [name for name in declared if name in specified]:
        faults.append(Fault("signature", f"the inputs of the graph are {inputs}, the model's are {sorted(declared)}: a step changed the signature."))
    return faults


def check_signature(model: Model) -> None:
    """Raise ModelError where inputs or outputs of the main graph are not those that were read."""
    raise_faults(signature_faults(model), str(model.path or "The model"))


def _defined(graph: Graph) -> Iterable[Tensor]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.nodes:
        yield from (t for t in node.outputs if t.name)
