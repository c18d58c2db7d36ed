"""onnx's own evaluator: every operator by its definition, in numpy, in double precision where a runtime has no kernel for it. Slow; for checks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from graphcompress.errors import ModelError
from graphcompress.ir.files.build import to_proto
from graphcompress.ir.inline import composed_operators, expand_operators
from graphcompress.ir.model.model import Model

Array = np.ndarray[Any, Any]


class ConvTranspose(OpRun):
    """The operator with groups, which onnx's evaluator (1.23) mixes up. Pads are explicit, as gradients write them."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        rank, groups = x.ndim - 2, group or 1
        stride, dilation = strides or [1] * rank, dilations or [1] * rank
        pad, extra = list(pads or [0] * (2 * rank)), output_padding or [0] * rank
        reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
        whole = [(n - 1) * s + r + e for n, s, r, e in zip(x.shape[2:], stride, reach, extra, strict=True)]
        if output_shape:
            total = [size - int(o) for size, o in zip(whole, output_shape, strict=True)]
            half = [t // 2 for t in total]
            other = [t - h for t, h in zip(total, half, strict=True)]
            pad = [*half, *other] if auto_pad == "SAME_UPPER" else [*other, *half]
        y = np.zeros((x.shape[0], w.shape[1] * groups, *whole), x.dtype)
        parts = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
        weights = w.reshape(groups, -1, *w.shape[1:])
        target = y.reshape(x.shape[0], groups, -1, *whole)
        for tap in itertools.product(*(range(k) for k in w.shape[2:])):
            places = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilation, x.shape[2:], stride, strict=True))
            taps: tuple[Any, ...] = (..., *tap)
            target[(slice(None), slice(None), slice(None), *places)] += np.einsum("ngi...,gio->ngo...", parts, weights[taps])
        y = y[(slice(None), slice(None), *(slice(pad[i], whole[i] - pad[rank + i]) for i in range(rank)))]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class BatchNormalization(OpRun):
    """The operator with its statistics as they are given; before opset 14 onnx's evaluator (1.23) mixes those of the input in. Without training mode."""

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        mean: Array,
        var: Array,
        epsilon: float | None = None,
        momentum: float | None = None,
        training_mode: int | None = None,
    ) -> tuple[Array]:
        if training_mode:
            raise RuntimeError("BatchNormalization in training mode")
        s, b, m, v = (a.reshape(-1, *[1] * (x.ndim - 2)) for a in (scale, bias, mean, var))
        return (((x - m) / np.sqrt(v + (1e-5 if epsilon is None else epsilon)) * s + b).astype(x.dtype),)


class Erf(OpRun):
    """The operator in the precision of its input; onnx's evaluator (1.23) has it in single precision only."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class GlobalMaxPool(OpRun):
    """The operator for any rank; onnx's evaluator (1.23) leaves two axes whatever the rank."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class Reference:
    """A model that runs on onnx's reference evaluator."""

    def __init__(self, model: Model) -> None:
        proto = to_proto(expand_operators(model, composed_operators(model)))
        self._names = [o.name for o in proto.graph.output]
        for info in proto.graph.output:  # types that are not known cannot be written
            info.type.Clear()
        self._evaluator = ReferenceEvaluator(proto, new_ops=[BatchNormalization, ConvTranspose, Erf, GlobalMaxPool])

    def run(self, feed: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs by name. Raises ModelError where the evaluator fails."""
        try:
            with np.errstate(all="ignore"):
                values = self._evaluator.run(None, dict(feed))
        except (ValueError, TypeError, IndexError, KeyError, ArithmeticError, RuntimeError, AttributeError) as problem:
            raise ModelError(f"onnx's reference evaluator cannot run the model: {problem}") from problem
        return dict(zip(self._names, values, strict=True))
