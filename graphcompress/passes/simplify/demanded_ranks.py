"""Branches that no run takes: with what they give, an operator behind the If would be handed a tensor of another rank than it can take.

Exporters write a Squeeze whose effect depends on a size as an If between it and Identity. Where an operator behind, which runs whenever the If does, takes one rank only (a Conv that of its weight, an
LSTM three axes), one of the branches leads to an error in any run, so that the other one can stand in the If's place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, constant_value, consumers, graphs
from graphcompress.ir.check.functions import Key
from graphcompress.ir.inline import calls, function_bodies
from graphcompress.ir.model.scopes import owners
from graphcompress.ir.shapes.infer import Shapes

DEEPEST = 12
"""Operators behind an If that are looked at, one behind the other."""
SAME_RANK = frozenset(
    [
        "Abs",
        "Cast",
        "Clip",
        "Dropout",
        "Elu",
        "Exp",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Log",
        "LogSoftmax",
        "Neg",
        "Relu",
        "Sigmoid",
        "Softmax",
        "Softplus",
        "Sqrt",
        "Tanh",
    ]
)
RECURRENT = ("GRU", "LSTM", "RNN")
RECURRENT_RANKS = {0: 3, 5: 3, 6: 3}
"""Of the inputs that are read by their shape: X, initial_h, initial_c."""
LEAST_IMAGE_RANK = 3


def impossible_branches(model: Model, shapes: Callable[[], Shapes]) -> dict[Node, str]:
    """Of each If of which just one branch can be taken in a run that ends well, the name of that branch's attribute."""
    candidates = [(graph, node) for graph in graphs(model) for node in graph.nodes if _differ(node, shapes)]
    if not candidates:
        return {}
    search = _DemandedRanks(model, shapes())
    result = {}
    for graph, node in candidates:
        possible = [name for name in ("then_branch", "else_branch") if search.possible(graph, node, node.attrs[name], {}, DEEPEST)]
        if len(possible) == 1:
            result[node] = possible[0]
    return result


def _differ(node: Node, shapes: Callable[[], Shapes]) -> bool:
    """Whether `node` is an If with branches that give tensors of different known ranks."""
    if not node.is_op("If"):
        return False
    branches = [node.attrs.get("then_branch"), node.attrs.get("else_branch")]
    if not all(isinstance(b, Graph) and len(b.outputs) >= len(node.outputs) for b in branches):
        return False
    ranks = [[shapes().rank(t) for t in b.outputs[: len(node.outputs)]] for b in branches if isinstance(b, Graph)]
    return any(a is not None and b is not None and a != b for a, b in zip(*ranks, strict=True))


class _DemandedRanks:
    def __init__(self, model: Model, shapes: Shapes) -> None:
        self.shapes = shapes
        self.functions: Collection[Key] = set(function_bodies(model))
        self.owners = owners(model)
        self.homes = {n: g for g in graphs(model) for n in g.nodes}

    def possible(self, graph: Graph, node: Node, branch: Graph, given: Mapping[Tensor, int], depth: int) -> bool:
        """Whether what `branch` of the If `node` of `graph` returns can be read by all that reads it, where the tensors of `given` have these ranks."""
        return all(self.fits(graph, out, self.rank(inner, given), depth) for out, inner in zip(node.outputs, branch.outputs, strict=False))

    def rank(self, tensor: Tensor, given: Mapping[Tensor, int]) -> int | None:
        """The rank of a tensor of a branch that is made of one of `given`, else the known one."""
        if tensor in given:
            return given[tensor]
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is not None and maker.inputs and maker.inputs[0] in given:
            return self.passed(maker, given[maker.inputs[0]])
        return self.shapes.rank(tensor)

    def passed(self, node: Node, rank: int) -> int | None:
        """The rank of what `node` makes of a tensor of `rank`; None where that is not known."""
        if not node.standard or calls(node, self.functions):
            return None
        if node.op in SAME_RANK:
            return rank
        if node.op in ("Squeeze", "Unsqueeze"):
            axes = constant_value(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else node.attrs.get("axes")
            count = None if axes is None else np.asarray(axes).size
            return None if not count else rank - count if node.op == "Squeeze" else rank + count
        return None

    def fits(self, graph: Graph, tensor: Tensor, rank: int | None, depth: int) -> bool:
        """Whether every reader of `tensor`, made in `graph`, can take it with `rank` axes."""
        if rank is None or depth == 0:
            return True
        if rank < 0:
            return False
        for reader in dict.fromkeys(consumers(tensor)):
            home = self.homes.get(reader)
            if home is graph:
                if not self.takes(reader, tensor, rank):
                    return False
                if (
                    reader.inputs[0] is tensor
                    and (after := self.passed(reader, rank)) is not None
                    and not self.fits(graph, reader.outputs[0], after, depth - 1)
                ):
                    return False
            elif home in self.owners and self.owners[home][1] is graph and self.owners[home][0].is_op("If"):
                branching = self.owners[home][0]
                branches = [branching.attrs.get(name) for name in ("then_branch", "else_branch")]
                if not any(not isinstance(b, Graph) or self.possible(graph, branching, b, {tensor: rank}, depth - 1) for b in branches):
                    return False
        return True

    def takes(self, node: Node, tensor: Tensor, rank: int) -> bool:
        """Whether onnxruntime runs `node` with `tensor` of that rank."""
        if not node.standard or calls(node, self.functions):
            return True
        places = [i for i, t in enumerate(node.inputs) if t is tensor]
        if node.is_op(*RECURRENT):
            return all(RECURRENT_RANKS.get(i, rank) == rank for i in places)
        if node.is_op("Conv", "ConvTranspose") and places == [0]:
            weight = self.shapes.rank(node.inputs[1])
            return weight is None or weight < LEAST_IMAGE_RANK or weight == rank
        if node.is_op("Transpose") and isinstance(node.attrs.get("perm"), list):
            return len(node.attrs["perm"]) == rank
        return True
