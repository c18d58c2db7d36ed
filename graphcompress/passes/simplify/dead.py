"""Dead code: nodes whose results nobody reads, and initializers that nobody reads. onnxruntime would run the former at every inference."""

from __future__ import annotations

from graphcompress.ir import Constant, Model, Node, Tensor, graphs, producer, subgraphs
from graphcompress.ir.check.functions import Key
from graphcompress.ir.inline import called_function, function_bodies
from graphcompress.ir.model.edit import Edits

STAGE = "simplify/dead"
# Operators of other domains may do something that their outputs do not tell; they stay.
PURE_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))


def remove_dead(model: Model) -> int:
    """Remove what no graph output depends on, in subgraphs too; how many nodes and initializers. Inputs and outputs of graphs stay."""
    dead = dead_nodes(model)
    if dead:
        with Edits(model) as edits:
            edits.remove(dead)
    used: set[int] = set()
    for graph in graphs(model):
        used.update(id(t) for n in graph.nodes for t in n.inputs)
        used.update(id(t) for t in graph.outputs)
    dropped = 0
    for graph in graphs(model):
        named = {entry.value for note in graph.shell.quantization_annotation for entry in note.quant_parameter_tensor_names}
        initializers = {name: c for name, c in graph.initializers.items() if _stays(c, name, used, named)}
        dropped += len(graph.initializers) - len(initializers)
        graph.initializers = initializers
    return len(dead) + dropped


def dead_nodes(model: Model) -> list[Node]:
    """The nodes that no graph output depends on, and that do nothing else, in subgraphs too."""
    live = _live(model, _pure_functions(model))
    return [n for g in graphs(model) for n in g.nodes if id(n) not in live]


def _stays(constant: Constant, name: str, used: set[int], named: set[str]) -> bool:
    return id(constant) in used or name in named


def _live(model: Model, pure: set[Key]) -> set[int]:
    """id() of the nodes that some output needs, or that must run whatever reads them."""
    live: set[int] = set()
    tensors: list[Tensor] = list(model.graph.outputs)
    nodes = [n for n in model.graph.nodes if not _removable(n, pure)]
    while tensors or nodes:
        node = nodes.pop() if nodes else producer(tensors.pop())
        if node is None or id(node) in live:
            continue
        live.add(id(node))
        tensors.extend(t for t in node.inputs if t.inputs)
        for graph in subgraphs(node):
            tensors.extend(graph.outputs)
            nodes.extend(n for n in graph.nodes if not _removable(n, pure))
    return live


def _removable(node: Node, pure: set[Key]) -> bool:
    if node.domain not in PURE_DOMAINS and node.domain is not None and called_function(node) not in pure:
        return False
    return all(_removable(n, pure) for g in subgraphs(node) for n in g.nodes)


def _pure_functions(model: Model) -> set[Key]:
    """The functions of the model whose bodies, and those of the functions that they call, hold nothing but pure operators."""
    bodies = function_bodies(model)
    pure = set(bodies)
    while True:
        left = {f for f in pure if all(n.domain in PURE_DOMAINS or called_function(n) in pure for n in bodies[f])}
        if left == pure:
            return pure
        pure = left
