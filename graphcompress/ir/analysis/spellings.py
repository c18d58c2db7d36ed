"""Functions that a graph may spell in several ways, recognized at the node that ends them: Softmax, the logistic function, division by the Euclidean norm."""

from __future__ import annotations

from graphcompress.ir.model import walk
from graphcompress.ir.model.objects import Node, Tensor

AROUND = ("Identity", "Cast", "Reshape", "Expand", "Unsqueeze", "Squeeze", "Clip", "Max")
"""What stands between the parts of an open-coded function: a change of type or shape, a guard against division by zero."""
FIRST_SINGLE_AXIS_SOFTMAX = 13


def softmax_axis(node: Node, opset: int) -> int | None:
    """The axis along which the probabilities, or their logarithms, sum to one, as the graph states it; None where `node` ends no Softmax.

    Exp / ReduceSum / Div, Exp times Reciprocal, x - Log(ReduceSum(Exp)), x - ReduceLogSumExp and the Log of any of them count.
    """
    if node.is_op("Softmax", "LogSoftmax"):
        return int(node.attrs.get("axis", -1 if opset >= FIRST_SINGLE_AXIS_SOFTMAX else 1))
    if node.is_op("Log") and (inner := walk.producer(node.inputs[0])) is not None:
        return softmax_axis(inner, opset)
    if node.is_op("Div"):
        return _share(node.inputs[0], node.inputs[1])
    if node.is_op("Mul"):
        for part, rest in (node.inputs, node.inputs[::-1]):
            inverse = maker(rest)
            if inverse is not None and inverse.is_op("Reciprocal"):
                return _share(part, inverse.inputs[0])
    if node.is_op("Sub"):
        total = maker(node.inputs[1])
        if total is not None and total.is_op("ReduceLogSumExp"):
            return _axis(total)
        if total is not None and total.is_op("Log"):
            total = maker(total.inputs[0])
            exp = None if total is None or not total.is_op("ReduceSum") else maker(total.inputs[0])
            return _axis(total) if total is not None and exp is not None and exp.is_op("Exp") else None
    return None


def is_logistic(node: Node) -> bool:
    """Whether `node` ends a Sigmoid: the operator, HardSigmoid, c / (c + Exp(-x)), or Reciprocal(1 + Exp(-x))."""
    if node.is_op("Sigmoid", "HardSigmoid"):
        return True
    if node.is_op("Div") and walk.constant_data(node.inputs[0]) is not None:
        below = maker(node.inputs[1])
    elif node.is_op("Reciprocal"):
        below = maker(node.inputs[0])
    else:
        return False
    if below is None or not below.is_op("Add"):
        return False
    return any((part := maker(t)) is not None and part.is_op("Exp") for t in below.inputs)


def is_normalization(node: Node) -> bool:
    """Whether `node` divides vectors by their Euclidean norm: LpNormalization, Normalizer, or x / norm with the norm by ReduceL2 or the root of a sum of
    squares."""
    if node.is_op("LpNormalization"):
        return int(node.attrs.get("p", 2)) == 2
    if node.op == "Normalizer":
        return bool(node.attrs.get("norm") == "L2")
    if node.is_op("Div"):
        return _is_norm(node.inputs[1])
    if node.is_op("Mul"):
        return any((part := maker(t)) is not None and part.is_op("Reciprocal") and _is_norm(part.inputs[0]) for t in node.inputs)
    return False


def maker(tensor: Tensor) -> Node | None:
    """The node that computes a tensor, seen through what stands around the parts of a function."""
    while (node := walk.producer(tensor)) is not None and node.is_op(*AROUND):
        tensor = next((t for t in node.inputs if walk.constant_data(t) is None), node.inputs[0])
    return node


def _share(part: Tensor, whole: Tensor) -> int | None:
    """The axis where `part` is Exp(x) and `whole` its sum (a small constant may be added)."""
    exp, total = maker(part), maker(whole)
    if total is not None and total.is_op("Add"):
        total = next((m for t in total.inputs if (m := maker(t)) is not None and m.is_op("ReduceSum")), None)
    if exp is None or total is None or not exp.is_op("Exp") or not total.is_op("ReduceSum") or maker(total.inputs[0]) is not exp:
        return None
    return _axis(total)


def _axis(reduction: Node) -> int | None:
    """The only axis of a reduction."""
    second = reduction.input(1)
    axes = reduction.attrs.get("axes") if second is None else walk.constant_value(second)
    known = [] if axes is None else [int(a) for a in axes]
    return known[0] if len(known) == 1 else None


def _is_norm(tensor: Tensor) -> bool:
    node = maker(tensor)
    if node is not None and node.is_op("Add"):  # a small constant
        node = next((m for t in node.inputs if walk.constant_data(t) is None and (m := maker(t)) is not None), None)
    if node is None or node.is_op("ReduceL2"):
        return node is not None
    if not (node.is_op("Sqrt") or node.is_op("Pow")):
        return False
    total = maker(node.inputs[0])
    if total is not None and total.is_op("Add"):
        total = next((m for t in total.inputs if walk.constant_data(t) is None and (m := maker(t)) is not None), None)
    if total is None or not total.is_op("ReduceSum", "ReduceSumSquare"):
        return False
    squares = maker(total.inputs[0])
    return total.is_op("ReduceSumSquare") or (
        squares is not None and (squares.is_op("Pow") or (squares.is_op("Mul") and squares.inputs[0] is squares.inputs[1]))
    )
