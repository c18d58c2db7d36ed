"""Types and shapes of operators of ai.onnx.ml and com.microsoft for which onnx has no inference, or one that copies large attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from graphcompress.ir.model.dimensions import Dim
from graphcompress.ir.shapes import compute, elementwise
from graphcompress.ir.shapes.compute import convolved
from graphcompress.ir.shapes.facts import Call, Output, Rule

#: (domain, operator) -> rule.
RULES: dict[tuple[str, str], Rule] = {}
_LIKE_FIRST_ML = "Binarizer Imputer"
_LIKE_FIRST_MICROSOFT = "BiasGelu FastGelu Gelu QuickGelu SkipLayerNormalization SkipSimplifiedLayerNormalization"


def _like_first(call: Call) -> list[Output]:
    return [(call.dtype(), call.shape())]


def _float_like_first(call: Call) -> list[Output]:
    return [("float", call.shape())]


def _fused_conv(call: Call) -> list[Output]:
    return [(call.dtype() or call.dtype(1), convolved(call, call.shape(), call.shape(1)))]


def _count(value: Any) -> int:
    """Number of entries of a list attribute, however it is held."""
    if isinstance(value, onnx.AttributeProto):
        return max(len(value.ints), len(value.strings), len(value.floats))
    return 0 if value is None else len(value)


def _rows(call: Call) -> Dim:
    """The first axis of [N, C]; a vector is one row."""
    shape = call.shape()
    return None if shape is None or not shape else 1 if len(shape) == 1 else shape[0]


def _ensemble_regressor(call: Call) -> list[Output]:
    return [("float", [_rows(call), call.number("n_targets", 1)])]


def _classifier(call: Call) -> list[Output]:
    """Labels [N] and scores [N, classes]."""
    texts, *numbers = (_count(call.attrs.get(name)) for name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"))
    classes = max(texts, *numbers)
    # A support vector machine without probabilities scores pairs of classes.
    scores: Sequence[Dim] = [_rows(call), classes if classes >= 2 and call.op != "SVMClassifier" else None]
    return [("string" if texts else "int64", [_rows(call)]), ("float", scores)]


RULES.update({("ai.onnx.ml", op): _like_first for op in _LIKE_FIRST_ML.split()})
RULES.update({("com.microsoft", op): _like_first for op in _LIKE_FIRST_MICROSOFT.split()})
RULES.update({("ai.onnx.ml", op): _float_like_first for op in ("Normalizer", "Scaler")})
RULES.update({("ai.onnx.ml", op): _classifier for op in ("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")})
RULES.update(
    {
        ("ai.onnx.ml", "TreeEnsembleRegressor"): _ensemble_regressor,
        ("com.microsoft", "DynamicQuantizeLSTM"): compute.RULES["LSTM"],
        ("com.microsoft", "FusedConv"): _fused_conv,
        ("com.microsoft", "FusedGemm"): compute.RULES["Gemm"],
        ("com.microsoft", "QuantizeLinear"): elementwise.RULES["QuantizeLinear"],
        ("com.microsoft", "DequantizeLinear"): elementwise.RULES["DequantizeLinear"],
    }
)
