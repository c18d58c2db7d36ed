"""Initial states of recurrent operators that are zeros, as exporters compute them from the size of the batch: left out they are zeros too."""

from __future__ import annotations

from collections.abc import Callable

from graphcompress.ir import Constant, Model, Tensor, TensorData, constant_data, constant_value, graphs, producer
from graphcompress.ir.inline import calls, function_bodies
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.objects import Variable
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/state"
STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
DEEPEST = 12
"""Nodes above a state that are looked at."""
LARGEST = 1 << 20
"""Elements of a constant that are looked at."""
# Of zeros these make zeros; what the other inputs are does not matter.
KEEPING = frozenset(("Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"))


def leave_out_zero_states(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Leave out initial states that are +0 throughout; how many."""
    found = [n for g in graphs(model) for n in g.nodes if n.is_op(*STATES)]
    if not found:
        return 0
    functions = set(function_bodies(model))
    count = 0
    with Edits(model) as edits:
        for node in found:
            if calls(node, functions):
                continue
            for index in STATES[node.op]:
                state = node.input(index)
                if state is not None and _zeros(state, DEEPEST):
                    edits.set_input(node, index, Variable(""))
                    count += 1
    return count


def _zeros(tensor: Tensor, depth: int) -> bool:
    """Whether all elements of `tensor` are +0, whatever its shape turns out to be."""
    data = constant_data(tensor)
    if data is not None or isinstance(tensor, Constant):
        value = constant_value(tensor) if data is None or data.size <= LARGEST else None
        return value is not None and value.dtype.kind in "fiu" and not value.tobytes().strip(b"\0")
    node = producer(tensor)
    if node is None or not node.standard or depth == 0:
        return False
    if node.op == "ConstantOfShape":
        filling = node.attrs.get("value")
        return filling is None or (isinstance(filling, TensorData) and filling.dtype_name != "string" and not bytes(filling.raw()).strip(b"\0"))
    if node.op == "Concat":
        return all(_zeros(t, depth - 1) for t in node.inputs)
    return node.op in KEEPING and _zeros(node.inputs[0], depth - 1)
