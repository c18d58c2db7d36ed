"""HardSwish as its input times its HardSigmoid: onnxruntime takes it apart like that when it loads a model, and both have INT8 forms."""

from __future__ import annotations

import numpy as np

from graphcompress.ir import Model, nodes
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.scopes import node_homes
from graphcompress.targets import Target

SIXTH = float(np.float32(1 / 6))


def split_gates(model: Model, target: Target) -> tuple[Model, int]:
    """A copy of `model` without HardSwish, and how many there were; `model` itself where there are none, or where `target` clips no codes."""
    count = sum(node.is_op("HardSwish") for node in nodes(model))
    if not count or not any(row.clipped for row in target.operator):
        return model, 0
    copy = model.copy()
    homes = node_homes(copy)
    with Edits(copy) as edits:
        for node in [n for n in nodes(copy) if n.is_op("HardSwish")]:
            x, home = node.inputs[0], homes[node]
            edits.remove([node])
            gate = detached("HardSigmoid", "", {"alpha": SIXTH, "beta": 0.5}, (x,), (copy.variable("g"),))
            product = detached("Mul", node.name, {}, (x, gate.outputs[0]), node.outputs)
            for new in (gate, product):
                new.rank, new.origin = node.rank, node.origin
                edits.add(new, home)
    return copy, count
