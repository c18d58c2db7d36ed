"""The addition of +0, which turns -0 into +0 and does nothing else: it goes where no one can tell the two zeros apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Model, Node, Tensor, constant_data, constant_value, graphs, output_ids, toposort
from graphcompress.ir.check.functions import Key
from graphcompress.ir.inline import calls, defined_names, function_bodies
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/zero"
LARGEST = 1 << 16
"""Elements of a constant that are looked at."""
# Results that are the same for both zeros.
_BLIND = (
    "Abs And ArgMax ArgMin Cos Cosh Equal Exp GlobalLpPool Greater GreaterOrEqual HardSigmoid IsInf IsNaN Less LessOrEqual LogSoftmax LpPool NonZero QuantizeLinear "
    "ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare Shape Sigmoid Size Softmax Softplus"
)
# Results that are the same but for the sign of zeros.
_PASSING = (
    "Add AveragePool BatchNormalization Ceil Clip Concat Conv ConvTranspose DepthToSpace Div Einsum Elu Erf Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm "
    "GlobalAveragePool GlobalMaxPool GroupNormalization HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu MatMul Max MaxPool Mean Min Mish Mul Neg PRelu Pad "
    "ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize RMSNormalization Round Selu Sign Sin Slice SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh Tile Transpose Unsqueeze "
    "Where"
)
BLIND, PASSING = frozenset(_BLIND.split()), frozenset(_PASSING.split())
PRODUCTS = ("Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul")
FLOATS = frozenset(("float", "double", "float16", "bfloat16"))


def remove_zeros(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Remove additions of +0 in the main graph where the sign of a zero does not show behind them; how many."""
    functions = set(function_bodies(model))
    candidates = [n for n in model.graph.nodes if n.is_op("Add", "Sub") and not calls(n, functions) and _operand(n, shapes()) is not None]
    if not candidates:
        return 0
    outputs, names = output_ids(model), defined_names(model)
    exposed = _exposed(model, shapes(), functions)
    count = 0
    with Edits(model) as edits:
        for node in candidates:
            result, operand = node.outputs[0], _operand(node, shapes())
            if operand is None or id(result) in outputs or result in exposed or names[result.name] > 1 or names[operand.name] > 1:
                continue
            edits.replace(result, operand)
            edits.remove((node,))
            count += 1
    return count


def _operand(node: Node, shapes: Shapes) -> Tensor | None:
    """What zeros are added to, in place and shape."""
    for index in (0, 1) if node.op == "Add" else (1,):
        zero, other = node.inputs[index], node.inputs[1 - index]
        if not _is_zero(zero):
            continue
        result, operand = shapes.fact(node.outputs[0]), shapes.fact(other)
        if result is not None and operand is not None and operand.shape is not None and result.shape == operand.shape and operand.dtype in FLOATS:
            operand_: Tensor = other
            return operand_
    return None


def _is_zero(tensor: Tensor) -> bool:
    value = _small(tensor)
    return value is not None and value.dtype.kind == "f" and not value.any()


def _small(tensor: Tensor) -> np.ndarray[Any, Any] | None:
    data = constant_data(tensor)
    return constant_value(tensor) if data is not None and 0 < data.size <= LARGEST else None


def _exposed(model: Model, shapes: Shapes, functions: set[Key]) -> set[Tensor]:
    """The tensors the sign of whose zeros may show: in a number, because of a division, of an operator that is not known or of a graph below; or in a graph output.

    In an output it does not show behind a product: the sign of a sum of products that is 0 is the kernel's business.
    """
    inner = [g for g in graphs(model) if g is not model.graph]
    in_numbers: set[Tensor] = {t for g in inner for n in g.nodes for t in n.inputs} | {t for g in inner for t in g.outputs}
    in_outputs: set[Tensor] = set(model.graph.outputs)
    for node in reversed(toposort(model.graph)):
        called = calls(node, functions)
        if not called and _blind(node, shapes):
            continue
        if node.is_op("Div"):
            in_numbers.add(node.inputs[1])
        if called or not node.is_op(*PASSING, "Cast") or any(t in in_numbers for t in node.outputs):
            in_numbers.update(node.inputs)
        if not node.is_op(*PRODUCTS) and any(t in in_outputs for t in node.outputs):
            in_outputs.update(node.inputs)
    return in_numbers | in_outputs


def _blind(node: Node, shapes: Shapes) -> bool:
    """Whether the results are the same for both zeros."""
    if node.is_op(*BLIND) or _shifts(node):
        return True
    if node.is_op("Cast"):
        return shapes.dtype(node.outputs[0]) not in FLOATS
    if node.is_op("Pow"):
        exponent = _small(node.inputs[1])
        return exponent is not None and bool((exponent == 2).all())
    return node.is_op("Mul") and node.inputs[0] is node.inputs[1]


def _shifts(node: Node) -> bool:
    """An addition after which neither zero is left."""
    if not node.is_op("Add", "Sub"):
        return False
    return any(isinstance(t, Constant) and (value := _small(t)) is not None and bool(value.all()) for t in node.inputs)
