"""LSTM layers with int8 weights per column, whose inputs and states are quantized at each run: onnxruntime's DynamicQuantizeLSTM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphcompress.ir import Model, Node, Tensor, Variable, constant_data, constant_value
from graphcompress.ir.model.edit import detached
from graphcompress.passes.quantize.groups import is_float, shape_of
from graphcompress.passes.quantize.parameters import quantize_weight
from graphcompress.targets import Target

RUNTIME_DOMAIN = "com.microsoft"
WEIGHTS = (1, 2)
"""The inputs W and R."""
INPUTS = 8
"""X, W, R, B, the lengths of sequences, the first states, the peepholes; scales and zero points come behind them."""


@dataclass(frozen=True, slots=True)
class RecurrentLayer:
    """An LSTM with constant weights."""

    node: Node

    @property
    def weights(self) -> list[Tensor]:
        """W and R."""
        return [self.node.inputs[i] for i in WEIGHTS]


def layer_unfit(node: Node, excluded: Callable[[Node], bool]) -> str | None:
    """Why an LSTM has no such form; None where it has."""
    if excluded(node):
        return "it was excluded"
    if node.attrs.get("layout", 0):
        return "its batch comes first"
    for weight in (node.inputs[i] for i in WEIGHTS):
        if constant_data(weight) is None or not is_float(weight) or len(shape_of(weight)) != 3:
            return "its weights are no constants in float32"
        values = constant_value(weight)
        if values is None or not np.isfinite(values).all():
            return "its weights have NaN or infinite values"
    return None


def integer_layer(model: Model, node: Node, target: Target, zeros: dict[tuple[int, ...], Tensor]) -> Node:
    """A node that computes what the LSTM `node` of `model` does, from the same inputs, to the same outputs; scales are one per direction and column of W^T and R^T. `zeros` are the zero points
    that other layers have, by shape."""
    model.import_opset(RUNTIME_DOMAIN, 1)
    parts: list[Tensor] = []
    inputs = [node.input(i) or Variable("") for i in range(INPUTS)]
    for place, hint in zip(WEIGHTS, "wr", strict=True):
        values = constant_value(node.inputs[place])
        assert values is not None
        directions = [quantize_weight(direction.T, 1, target.weight) for direction in values]
        inputs[place] = model.constant(hint, np.stack([d.codes for d in directions]))
        scales = np.stack([d.scales for d in directions])
        if scales.shape not in zeros:
            zeros[scales.shape] = model.constant("z", np.zeros(scales.shape, np.int8))
        parts += [model.constant("s", scales), zeros[scales.shape]]
    attrs = dict(node.attrs) | {"hidden_size": int(shape_of(node.inputs[2])[2])}
    attrs.pop("layout", None)
    new = detached("DynamicQuantizeLSTM", node.name, attrs, [*inputs, *parts], node.outputs, RUNTIME_DOMAIN)
    new.rank = node.rank
    return new
