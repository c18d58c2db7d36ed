"""Chains of nodes that only say otherwise what the axes of a tensor are (Reshape, Flatten, Squeeze, Unsqueeze, a Transpose of axes of size 1): one Reshape, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, graphs, nodes, output_ids, producer, toposort
from graphcompress.ir.inline import calls, defined_names, function_bodies
from graphcompress.ir.model.dimensions import Size
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.simplify.view_targets import reshape_target

STAGE = "simplify/view"
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
OPSET_OF_TARGETS = 5
"""From here on the target of a Reshape is an input."""


def join_views(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Let the last view of a chain look at the first one's input, where what lies between is read by nobody else, or by other views alone; how many nodes that concerns."""
    if model.opset < OPSET_OF_TARGETS or not any(n.is_op(*VIEWS) for n in nodes(model)):
        return 0
    search = _ViewJoiner(model, shapes())
    with Edits(model) as edits:
        for graph in graphs(model):
            for node in reversed(toposort(graph)):
                search.join(node, graph, edits)
    return search.count


class _ViewJoiner:
    def __init__(self, model: Model, shapes: Shapes) -> None:
        self.model, self.shapes = model, shapes
        self.functions = set(function_bodies(model))
        self.outputs = output_ids(model)
        self.names = defined_names(model)
        self.gone: set[Node] = set()
        self.count = 0

    def join(self, node: Node, graph: Graph, edits: Edits) -> None:
        """Write `node` and the views above it as one, the longest such chain that can be."""
        if node in self.gone or not self.is_view(node):
            return
        chain = [node]
        while (above := self.above(chain[-1])) is not None:
            chain.append(above)
        for length in range(len(chain), 0, -1):
            part = chain[:length]
            if self.write(part, graph, edits):
                self.gone.update(self.own(part)[1:])
                self.count += len(part)
                return

    def above(self, node: Node) -> Node | None:
        """The view that makes what `node` looks at, and that views alone look at."""
        source: Tensor = node.inputs[0]
        maker = producer(source)
        if maker is None or id(source) in self.outputs or not self.is_view(maker):
            return None
        return maker if all(r is node or (r.inputs[0] is source and self.is_view(r)) for r in source.outputs) else None

    @staticmethod
    def own(chain: list[Node]) -> list[Node]:
        """The last view of `chain` and those above it that nobody else looks at."""
        shared = next((i for i, n in enumerate(chain[1:], 1) if len(n.outputs[0].outputs) != 1), len(chain))
        return chain[:shared]

    def is_view(self, node: Node) -> bool:
        """Whether `node` leaves the elements in their order, as far as is known."""
        if not node.is_op(*VIEWS) or calls(node, self.functions):
            return False
        before, after = self.dims(node.inputs[0]), self.dims(node.outputs[0])
        if before is None or after is None:
            return False
        if node.op != "Transpose":
            return True
        perm = node.attrs.get("perm")
        order = [axis for axis in (perm if isinstance(perm, list) else range(len(before))[::-1]) if before[axis] != 1]
        return order == sorted(order)

    def dims(self, tensor: Tensor) -> tuple[Size, ...] | None:
        fact = self.shapes.fact(tensor)
        return None if fact is None or fact.kind != "tensor" else fact.shape

    def write(self, chain: list[Node], graph: Graph, edits: Edits) -> bool:
        """One Reshape, or none, for the views of `chain` (the last one first)."""
        last, source = chain[0], chain[-1].inputs[0]
        before, after = self.dims(source), self.dims(last.outputs[0])
        if before is None or after is None or (len(chain) == 1 and before != after):
            return False
        if before == after:
            return self.remove(chain, source, edits)
        entries = [-1 if self.must_not_vanish(after, axis) <= self.stated(chain) else 1 for axis in range(len(after))]
        target = reshape_target(before, after, entries)
        if target is None:
            return False
        constant = self.model.constant(f"{last.outputs[0].name}.shape", np.array(target, np.int64))
        node = detached("Reshape", last.name, {}, [source, constant], last.outputs)
        node.rank = last.rank
        node.origin = (STAGE, *(n.name or n.outputs[0].name for n in chain))
        edits.remove(self.own(chain))
        edits.add(node, graph)
        return True

    def remove(self, chain: list[Node], source: Tensor, edits: Edits) -> bool:
        """The chain leads back to where it began."""
        result = chain[0].outputs[0]
        if id(result) in self.outputs or self.names[result.name] > 1 or self.names[source.name] > 1:
            return False
        edits.replace(result, source)
        edits.remove(self.own(chain))
        self.gone.add(chain[0])
        return True

    def must_not_vanish(self, after: tuple[Size, ...], axis: int) -> set[Size]:
        """The sizes that must not be 0 where `axis` is -1."""
        return {size for place, size in enumerate(after) if place != axis and not isinstance(size, int)}

    def stated(self, chain: list[Node]) -> set[Size]:
        """The sizes that must not be 0 for the chain as it stands, because of a -1 beside them."""
        sizes: set[Size] = set()
        for node in chain:
            target = self.shapes.value(node.inputs[1]) if node.op == "Reshape" and len(node.inputs) > 1 else None
            after = self.dims(node.outputs[0])
            if target is not None and after is not None and -1 in target:
                sizes |= self.must_not_vanish(after, target.tolist().index(-1))
        return sizes
