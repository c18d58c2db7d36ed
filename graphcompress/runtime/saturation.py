"""What x86 processors without VNNI make of an INT8 model, on any processor: a model that computes it in float operators.

They multiply unsigned codes of activations with signed ones of weights and add two neighbouring products in 16 bits, with saturation (vpmaddubsw). The neighbours are positions 2j and 2j + 1 of the
reduction: channels last in a Conv. Layers whose weights cannot saturate, whatever the activations, stay as they are; so do Convs in groups, which have kernels of their own that
add in 32 bits (checked on an emulated Haswell). Everything is exact while sums stay below 2^24.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Node, Tensor
from graphcompress.ir.model.walk import constant_value, consumers, producer

LOWEST, HIGHEST, LARGEST_CODE = -(2**15), 2**15 - 1, 255
FLOAT = 1  # the code of the element type

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """A Conv, Gemm or MatMul in integers: the `codes` of its input with their scale and zero point, both for codes of 0 to 255 (`shift` makes them so), `weights` with a row of codes for each output
    channel in the order in which they are added, the `scales` of these rows, the bias in float."""

    node: Node
    codes: Tensor
    scale: float
    zero: float
    shift: float
    weights: Array
    scales: Array
    bias: Array | None

    def saturates(self) -> bool:
        """Whether two products can leave 16 bits for some codes of the input."""
        pairs = self.pairs()
        positive, negative = (LARGEST_CODE * np.maximum(sign * pairs, 0).sum(-1) for sign in (1, -1))
        return bool(positive.max(initial=0) > HIGHEST or negative.max(initial=0) > -LOWEST)

    def pairs(self) -> Array:
        """The weights two by two: output channels, pairs, 2."""
        rows = self.weights.astype(np.int64)
        padded = np.pad(rows, [(0, 0), (0, rows.shape[1] % 2)])
        return padded.reshape(len(rows), -1, 2)


def saturating(model: Model) -> tuple[Model, list[str]]:
    """A copy of `model` in which layers of the main graph that can saturate do so, and their names."""
    copy = model.copy()
    layers = [layer for node in copy.graph.nodes if (layer := integer_layer(node)) is not None and layer.saturates()]
    with Edits(copy) as edits:
        for layer in layers:
            result = _conv(copy, layer) if layer.node.op == "Conv" else _product(copy, layer)
            (output,) = layer.node.outputs
            edits.remove([layer.node])
            edits.set_output(result, 0, output)
    return copy, [layer.node.name or layer.node.outputs[0].name for layer in layers]


def integer_layer(node: Node) -> IntegerLayer | None:
    """What a node computes in integers, None where it does not: its input and weight are dequantized, and where it is a Conv its output is quantized."""
    if not node.is_op("Conv", "Gemm", "MatMul") or int(node.attrs.get("group", 1)) != 1:
        return None
    if node.op == "Gemm" and (node.attrs.get("transA", 0), node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)) != (0, 1.0, 1.0):
        return None
    if node.op == "Conv" and not _quantized(node):
        return None
    x, w = (producer(tensor) for tensor in node.inputs[:2])
    if x is None or w is None or not (x.is_op("DequantizeLinear") and w.is_op("DequantizeLinear")):
        return None
    weights, scales, scale = constant_value(w.inputs[0]), constant_value(w.inputs[1]), constant_value(x.inputs[1])
    zero = constant_value(x.inputs[2]) if len(x.inputs) > 2 else np.uint8(0)
    if weights is None or scales is None or scale is None or zero is None or weights.dtype != np.int8 or np.size(scale) != 1 or np.size(zero) != 1:
        return None
    if node.op == "Conv":
        rows = np.moveaxis(weights, 1, -1).reshape(len(weights), -1)
    elif weights.ndim == 2:
        rows = weights if node.op == "Gemm" and node.attrs.get("transB", 0) else weights.T
    else:
        return None
    shift = 128.0 if zero.dtype == np.int8 else 0.0  # what the runtime adds to signed codes
    bias = _float_value(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
    return IntegerLayer(node, x.inputs[0], float(scale), float(zero) + shift, shift, rows, np.broadcast_to(scales.ravel(), len(rows)), bias)


def _quantized(node: Node) -> bool:
    readers = consumers(node.outputs[0])
    while len(readers) == 1 and readers[0].is_op("Relu", "Clip"):
        readers = consumers(readers[0].outputs[0])
    return bool(readers) and all(reader.is_op("QuantizeLinear") for reader in readers)


def _float_value(tensor: Tensor) -> Array | None:
    maker = producer(tensor)
    if maker is not None and maker.is_op("DequantizeLinear"):
        codes, scale = constant_value(maker.inputs[0]), constant_value(maker.inputs[1])
        return None if codes is None or scale is None else (codes * scale).astype(np.float32)
    return constant_value(tensor)


# --- operators ----------------------------------------------------------------------------------------------------------------------------


def _conv(model: Model, layer: IntegerLayer) -> Node:
    """im2col by Convs with ones in the kernel, one for each half of the pairs; what lies outside the picture has the zero point, as in the kernel."""
    shape = constant_value(producer(layer.node.inputs[1]).inputs[0]).shape  # type: ignore[union-attr]
    taps = [(c, *place) for place in np.ndindex(*shape[2:]) for c in range(shape[1])]
    attrs = {key: value for key, value in layer.node.attrs.items() if key != "group"}
    centred = _apply(model, "Sub", _raw(model, layer), _scalar(model, layer.zero))
    halves = []
    for half in (0, 1):
        kernel = np.zeros((len(taps[0::2]), *shape[1:]), np.float32)
        for row, tap in enumerate(taps[half::2]):
            kernel[(row, *tap)] = 1
        columns = model.add("Conv", [centred, model.constant("taps", kernel)], attrs=attrs).outputs[0]
        halves.append(_apply(model, "Add", columns, _scalar(model, layer.zero)))
    size = _apply(model, "Shape", halves[0])
    spatial = model.add("Gather", [size, _numbers(model, range(2, len(shape)))]).outputs[0]
    batch = model.add("Gather", [size, _numbers(model, [0])]).outputs[0]
    flat = [_reshaped(model, half, [0, 0, 1, -1]) for half in halves]
    summed = _summed(model, layer, flat, (1, len(taps[0::2]), len(layer.weights), 1))  # batch, 1, outputs, positions
    full = model.add("Concat", [batch, _numbers(model, [len(layer.weights)]), spatial], attrs={"axis": 0}).outputs[0]
    return _scaled(model, layer, _apply(model, "Reshape", summed, full), (1, -1, *[1] * (len(shape) - 2)))


def _product(model: Model, layer: IntegerLayer) -> Node:
    raw = _raw(model, layer)
    rows, length = layer.weights.shape
    size = _apply(model, "Shape", raw)
    lead = model.add("Slice", [size, _numbers(model, [0]), _numbers(model, [-1])]).outputs[0]
    flat = _reshaped(model, raw, [-1, length])
    halves = []
    for half in (0, 1):
        places = [min(k, length - 1) for k in range(half, length + length % 2, 2)]  # the odd one out has a partner of weight 0
        picked = model.add("Gather", [flat, _numbers(model, places)], attrs={"axis": 1}).outputs[0]
        halves.append(_reshaped(model, picked, [-1, len(places), 1]))
    summed = _summed(model, layer, halves, (1, (length + 1) // 2, rows))
    full = model.add("Concat", [lead, _numbers(model, [rows])], attrs={"axis": 0}).outputs[0]
    return _scaled(model, layer, _apply(model, "Reshape", summed, full), (-1,))


def _summed(model: Model, layer: IntegerLayer, halves: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """The products two by two, each pair kept within 16 bits, then all of them added: over axis 1 of `halves`."""
    pairs = layer.pairs()
    products = [
        _apply(model, "Mul", half, model.constant("pair", np.ascontiguousarray(pairs[:, :, side].T.reshape(shape), np.float32)))
        for side, half in enumerate(halves)
    ]
    kept = _apply(model, "Max", _apply(model, "Min", _apply(model, "Add", *products), _scalar(model, HIGHEST)), _scalar(model, LOWEST))
    together = _reshaped(model, kept, [0, pairs.shape[1], -1])
    return _apply(model, "MatMul", model.constant("ones", np.ones((1, pairs.shape[1]), np.float32)), together)


def _scaled(model: Model, layer: IntegerLayer, sums: Tensor, shape: tuple[int, ...]) -> Node:
    """The zero point taken out, the scales and the bias put on."""
    surplus = layer.zero * layer.weights.astype(np.float64).sum(1)
    centred = _apply(model, "Sub", sums, model.constant("surplus", surplus.astype(np.float32).reshape(shape)))
    scales = (np.float32(layer.scale) * layer.scales.astype(np.float32)).reshape(shape)
    bias = np.zeros(len(layer.weights), np.float32) if layer.bias is None else layer.bias.astype(np.float32)
    return model.add(
        "Add",
        [_apply(model, "Mul", centred, model.constant("scales", scales)), model.constant("bias", np.broadcast_to(bias, len(layer.weights)).reshape(shape))],
    )


def _raw(model: Model, layer: IntegerLayer) -> Tensor:
    """The codes of the input, 0 to 255, as floats."""
    codes = model.add("Cast", [layer.codes], attrs={"to": FLOAT}).outputs[0]
    return _apply(model, "Add", codes, _scalar(model, layer.shift)) if layer.shift else codes


def _apply(model: Model, op: str, *inputs: Tensor) -> Tensor:
    result: Tensor = model.add(op, list(inputs)).outputs[0]
    return result


def _reshaped(model: Model, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    return _apply(model, "Reshape", tensor, _numbers(model, shape))


def _scalar(model: Model, value: float) -> Tensor:
    return model.constant("scalar", np.asarray(value, np.float32))


def _numbers(model: Model, values: Sequence[int] | range) -> Tensor:
    return model.constant("numbers", np.array(list(values), np.int64))
