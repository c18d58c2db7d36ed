"""Types and shapes of operators that work element by element, and of those whose result has the shape of their first input."""

from __future__ import annotations

from collections.abc import Sequence

from graphcompress.ir.model.dimensions import Dim, Size, broadcast
from graphcompress.ir.model.element_types import dtype_name
from graphcompress.ir.shapes.facts import Call, Contradiction, Output, Rule

#: Operator of ai.onnx -> rule.
RULES: dict[str, Rule] = {}

_LIKE_FIRST = """
Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh CumProd CumSum Elu Erf Exp Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax
InstanceNormalization LRN LeakyRelu Log LogSoftmax LpNormalization MeanVarianceNormalization Mish Neg Not PRelu RMSNormalization Reciprocal Relu
ReverseSequence RotaryEmbedding Round Scatter ScatterElements ScatterND Selu Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh Softmax Softplus
Softsign Sqrt Swish Tan Tanh TensorScatter ThresholdedRelu Trilu
"""
_BROADCASTING = "Add BitShift BitwiseAnd BitwiseOr BitwiseXor Div Max Mean Min Mod Mul Pow Sub Sum"
_COMPARING = "And Equal Greater GreaterOrEqual Less LessOrEqual Or Xor"
FIRST_OPSET_WITH_NUMPY_BROADCAST = 7


def broadcasted(shapes: Sequence[tuple[Size, ...] | None]) -> list[Dim] | None:
    """The common shape of operands; None where a rank is unknown. Raises Contradiction where two numbers contradict one another."""
    known = [s for s in shapes if s is not None]
    if not known or len(known) < len(shapes):
        return None
    result: list[Dim] = [1] * max(map(len, known))
    for shape in known:
        offset = len(result) - len(shape)
        for axis, dim in enumerate(shape, offset):
            other = result[axis]
            if other is dim or other == dim:
                continue
            if isinstance(other, int) and isinstance(dim, int) and other != 1 and dim != 1:
                raise Contradiction(f"sizes {other} and {dim}")
            result[axis] = (dim if isinstance(dim, int) and dim != 1 else None) if other is None else broadcast(other, dim)
    return result


def _like_first(call: Call) -> list[Output]:
    first = call.fact(0)
    return [(first.dtype, first.shape)]


def _binary(call: Call) -> list[Output]:
    facts = [call.fact(i) for i in range(len(call.inputs))]
    dtype = facts[0].dtype
    if dtype is None and call.op != "Pow":
        dtype = next((f.dtype for f in facts if f.dtype is not None), None)
    if call.opset < FIRST_OPSET_WITH_NUMPY_BROADCAST and call.op not in ("Max", "Mean", "Min", "Sum"):
        return [(dtype, facts[0].shape)]
    return [(dtype, broadcasted([f.shape for f in facts]))]


def _comparison(call: Call) -> list[Output]:
    first = call.shape()
    return [("bool", first if call.opset < FIRST_OPSET_WITH_NUMPY_BROADCAST else broadcasted([first, call.shape(1)]))]


def _test(call: Call) -> list[Output]:
    return [("bool", call.shape())]


def _where(call: Call) -> list[Output]:
    return [(call.dtype(1) or call.dtype(2), broadcasted([call.shape(i) for i in range(3)]))]


def _cast(call: Call) -> list[Output]:
    to = call.attrs.get("to")
    dtype = dtype_name(to) if isinstance(to, int) else to.lower() if isinstance(to, str) else None  # a text before opset 6
    return [(dtype, call.shape())]


def _cast_like(call: Call) -> list[Output]:
    return [(call.dtype(1), call.shape())]


def _dropout(call: Call) -> list[Output]:
    first = call.fact(0)
    return [(first.dtype, first.shape), ("bool" if call.opset >= 10 else first.dtype, first.shape)]


def _quantize(call: Call) -> list[Output]:
    if call.has(2):
        dtype = call.dtype(2)
    else:
        code = call.number("output_dtype", 0)
        dtype = dtype_name(code) if code else "uint8"
    return [(dtype, call.shape())]


def _dequantize(call: Call) -> list[Output]:
    code = call.number("output_dtype", 0)
    return [(dtype_name(code) if code else call.dtype(1), call.shape())]


def _dynamic_quantize(call: Call) -> Sequence[Output]:
    return [("uint8", call.shape()), ("float", ()), ("uint8", ())]


def _batch_normalization(call: Call) -> list[Output]:
    """In training mode further outputs have the shape of the channels."""
    first = call.fact(0)
    return [(first.dtype, first.shape), *[(call.dtype(3), call.shape(3))] * (call.outputs - 1)]


def _layer_normalization(call: Call) -> Sequence[Output]:
    first = call.fact(0)
    if call.outputs == 1 or first.shape is None:
        return [(first.dtype, first.shape), *[("float", None)] * (call.outputs - 1)]
    axis = call.number("axis", -1) % len(first.shape)
    reduced = (*first.shape[:axis], *(1 for _ in first.shape[axis:]))
    return [(first.dtype, first.shape), *[(dtype_name(call.number("stash_type", 1)), reduced)] * (call.outputs - 1)]


RULES.update(dict.fromkeys(_LIKE_FIRST.split(), _like_first))
RULES.update(dict.fromkeys(_BROADCASTING.split(), _binary))
RULES.update(dict.fromkeys(_COMPARING.split(), _comparison))
RULES.update(
    {
        "BatchNormalization": _batch_normalization,
        "Cast": _cast,
        "CastLike": _cast_like,
        "DequantizeLinear": _dequantize,
        "Dropout": _dropout,
        "DynamicQuantizeLinear": _dynamic_quantize,
        "IsInf": _test,
        "IsNaN": _test,
        "LayerNormalization": _layer_normalization,
        "QuantizeLinear": _quantize,
        "Where": _where,
    }
)
