"""Weights that the file stores small, as float constants while INT8 is decided: what goes to integers gets codes of its own, the others stay stored as they were."""

from __future__ import annotations

from collections.abc import Mapping

from graphcompress.ir import Constant, Model, Node, Tensor, nodes, output_ids, producer
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.stored import StoredWeight, stored_weight
from graphcompress.ir.model.twins import Twins
from graphcompress.ir.model.unread import drop_unread
from graphcompress.targets import Target

Stored = Mapping[Constant, tuple[Tensor, StoredWeight]]


def expand(model: Model, target: Target) -> tuple[Model, Stored]:
    """A copy of `model` in which the operators of `target` read float constants in the place of weights that are stored small, and for each such constant the tensor that they
    read before; `model` itself where there are none. Operators that are quantized already are left alone."""
    ops = {row.op for row in target.operator}
    if not any(n.op in ops and any(stored_weight(t) is not None for t in n.inputs) for n in nodes(model)):
        return model, {}
    copy = model.copy()
    floats: dict[Tensor, Constant] = {}
    stored: dict[Constant, tuple[Tensor, StoredWeight]] = {}
    with Edits(copy) as edits:
        for node in list(nodes(copy)):
            if node.op not in ops or not node.standard or _quantized(node) or any(stored_weight(t) is not None for t in node.outputs):
                continue
            for index, tensor in enumerate(node.inputs):
                if tensor not in floats:
                    weight = stored_weight(tensor)
                    if weight is None:
                        continue
                    floats[tensor] = copy.constant("w", weight.value)
                    stored[floats[tensor]] = tensor, weight
                edits.set_input(node, index, floats[tensor])
    return copy, stored


def restore(model: Model, twins: Twins, stored: Stored) -> None:
    """Let what still reads the floats in `model`, a copy, read the stored weights again, and take away those that nobody reads any more. Edits the model."""
    with Edits(model) as edits:
        for constant, (tensor, _) in stored.items():
            edits.replace(twins.tensor(constant), twins.tensor(tensor))
            model.graph.initializers.pop(twins.tensor(constant).name, None)
    outputs = output_ids(model)
    removed: set[Node] = set()
    for _, weight in stored.values():
        for node in (twins.node(n) for n in reversed(weight.nodes)):
            if all(id(t) not in outputs and removed.issuperset(t.outputs) for t in node.outputs):
                removed.add(node)
    read = {t for node in removed for t in node.inputs}
    with Edits(model) as edits:
        edits.remove(removed)
    drop_unread(model, read)


def _quantized(node: Node) -> bool:
    """Whether it computes on quantized values, or makes them."""
    computed = [t for t in node.inputs if stored_weight(t) is None]
    before = any((maker := producer(t)) is not None and maker.is_op("DequantizeLinear") for t in computed)
    return before or any(n.is_op("QuantizeLinear") for t in node.outputs for n in t.outputs)
