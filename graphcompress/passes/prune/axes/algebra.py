"""The axes of all tensors of a model: which indices go together, and which stay.

The graph is gone through once, in an order that runs. Each operator has a signature (rules/axes), or a mapper where shapes and values decide; anything else is a barrier: the axes
of what it reads and makes are frozen, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from graphcompress.ir import Model, Node, Shape, Tensor, captured, subgraphs, toposort
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.prune.axes import signature
from graphcompress.passes.prune.axes.forms import AxisForm
from graphcompress.passes.prune.axes.labels import Components, Reason
from graphcompress.passes.prune.axes.state import AxisStore, Pattern
from graphcompress.passes.prune.axes.table import FOLLOWED, MAPPERS


class Algebra(AxisStore):
    """The axes of all tensors of the main graph, and `components` of what is tied."""

    def __init__(self, model: Model, shapes: Shapes, sample: Shapes, modes: Mapping[Pattern, int]) -> None:
        super().__init__(model, shapes, sample, modes)
        for tensor in model.graph.inputs:
            self.freeze_new(tensor, Reason("input", "it is an input of the model", tensor.name))
        for node in toposort(model.graph):
            self._visit(node)
        for tensor in model.graph.outputs:
            reason = Reason("output", "it is an output of the model", tensor.name)
            self.freeze(tensor, reason)
            self.pin_lengths(tensor, self.labels.reason(reason))
        self.components: Components = self._balanced()

    def _balanced(self) -> Components:
        """The components, in which balances that cannot hold are ties: where an index is frozen or tied to another of them, where the indices live in different axes, or where
        another balance divides them in another way."""
        while True:
            components = self.labels.solve()
            if not self.labels.balances:
                return components
            marks = components.marks(self.axes)
            held, wrong = [], []
            blocks_of: dict[int, frozenset[int]] = {}
            for balance in self.labels.balances:
                units = components.unit[balance]
                here = {int(u): frozenset(row) for row in units.tolist() for u in row}
                alike = len(here) == units.size and components.free[units].all() and len(np.unique(marks[units])) == 1
                if alike and all(blocks_of.get(u, block) == block for u, block in here.items()):
                    blocks_of |= here
                    held.append(balance)
                else:
                    wrong.append(balance)
            self.labels.balances = held
            if not wrong:
                return components
            for balance in wrong:
                self.labels.tie(np.broadcast_to(balance[0], balance.shape).reshape(-1), balance.reshape(-1))

    def _visit(self, node: Node) -> None:
        if node.is_op("Constant"):
            return
        if subgraphs(node):
            self._barrier(node, "subgraph", f"{node.op} has subgraphs, into which axes are not followed", captured(node))
            return
        domain = "" if node.standard else node.domain or ""
        mapper = MAPPERS.get((domain, node.op))
        followed = None if mapper is None else FOLLOWED.get(mapper)
        self._use_lengths(node, [t for i, t in enumerate(node.inputs) if followed is None or (followed and i not in followed)])
        try:
            form = mapper(self, node) if mapper is not None else self._signature(node, domain)
        except (ValueError, IndexError, KeyError, TypeError):
            form = False  # attributes or values that are not what the operator takes
        if isinstance(form, AxisForm):
            self.bind(form)
        elif form is False:
            known = mapper is not None or (domain, node.op) in signature.signatures()
            self._barrier(
                node,
                "barrier",
                f"the shapes of {node.op} are not known, or not those that its axes are followed through" if known else f"{node.op} has no signature",
                (),
            )

    def _signature(self, node: Node, domain: str) -> AxisForm | bool:
        row = signature.signatures().get((domain, node.op))
        form = None if row is None else signature.form(row, node, _ShapesOf(self.shapes))
        if row is None or form is None:
            return False
        self.bind(form, tuple(x for x in form.sizes if x in row.costs or (signature.REST in row.costs and signature.REST in x)))
        return True

    def _barrier(self, node: Node, id: str, text: str, more: Iterable[Tensor]) -> None:
        reason = Reason(id, text, node.name or (node.outputs[0].name if node.outputs else ""))
        tensors = (*node.inputs, *more)
        self._use_lengths(node, tensors)
        for tensor in tensors:
            if tensor.name:
                self.freeze(tensor, reason)
        for tensor in node.outputs:
            if tensor.name:
                self.freeze_new(tensor, reason)

    def _use_lengths(self, node: Node, tensors: Iterable[Tensor]) -> None:
        """`node` calculates with `tensors`: what they are the sizes of must keep them."""
        for tensor in tensors:
            self.use_lengths(node, tensor)


class _ShapesOf(Mapping[Tensor, "Shape | None"]):
    """`Shapes` as a mapping."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes

    def __getitem__(self, tensor: Tensor) -> Shape | None:
        return self._shapes.shape(tensor)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(())

    def __len__(self) -> int:
        return 0
