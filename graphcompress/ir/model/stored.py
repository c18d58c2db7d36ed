"""Weights that a file stores small and a runtime makes floats of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.model.objects import Node, Tensor
from graphcompress.ir.model.tensors import TensorData
from graphcompress.ir.model.walk import constant_data, constant_value, producer

Array = np.ndarray[Any, Any]

CODES = ("int8", "uint8")


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A float32 tensor that `nodes`, the first of them first, make of constants alone: a Cast of 16-bit floats or 8-bit codes, perhaps with a Mul by scales behind it, or a
    DequantizeLinear of 8-bit codes; or a Concat of such, or of float constants, each with zeros around it (Pad)."""

    nodes: tuple[Node, ...]

    @property
    def value(self) -> Array:
        """The floats; decodes."""
        first, last = self.nodes[0], self.nodes[-1]
        if last.op == "Concat":
            return np.concatenate([_padded(producer(t)) for t in last.inputs], int(last.attrs["axis"]))
        codes = _value(first.inputs[0])
        if first.op == "DequantizeLinear":
            scale, zero = _value(first.inputs[1]), first.input(2)
            shape = [1] * codes.ndim
            if scale.size > 1:
                shape[int(first.attrs.get("axis", 1))] = scale.size
            offset = 0 if zero is None else _value(zero).astype(np.int32).reshape(shape)
            return ((codes.astype(np.int32) - offset) * scale.reshape(shape)).astype(np.float32)
        wide = codes.astype(np.float32)
        if last is first:
            return wide
        product: Array = wide * _value(last.inputs[1 if last.inputs[0] is first.outputs[0] else 0])
        return product


def stored_weight(tensor: Tensor) -> StoredWeight | None:
    """How `tensor` is stored; None where it is no such weight. Decodes nothing."""
    node = producer(tensor)
    if node is None:
        return None
    if node.is_op("DequantizeLinear"):
        parts = [_dtype(t) for t in node.inputs if t.name]
        vector = all(t.name == "" or len(_shape(t)) <= 1 for t in node.inputs[1:]) if None not in parts else False
        plain = vector and parts[0] in CODES and parts[1] == "float" and not node.attrs.get("block_size", 0)
        return StoredWeight((node,)) if plain else None
    if node.is_op("Cast"):
        return StoredWeight((node,)) if _widens(node) else None
    if node.is_op("Concat"):
        return _joined(node)
    if node.is_op("Mul"):
        for cast, scale in ((producer(node.inputs[0]), node.inputs[1]), (producer(node.inputs[1]), node.inputs[0])):
            if cast is not None and cast.is_op("Cast") and _widens(cast) and _dtype(scale) == "float":
                return StoredWeight((cast, node))
    return None


def _joined(concat: Node) -> StoredWeight | None:
    """A Concat of Pads of stored weights or float constants."""
    pads = [producer(t) for t in concat.inputs]
    nodes: dict[Node, None] = {}
    for pad in pads:
        if pad is None or not pad.is_op("Pad") or _zeros_around(pad) is None:
            return None
        inner = stored_weight(pad.inputs[0])
        if inner is None and _dtype(pad.inputs[0]) != "float":
            return None
        nodes |= dict.fromkeys(() if inner is None else inner.nodes)
    return StoredWeight((*nodes, *dict.fromkeys(pad for pad in pads if pad is not None), concat))


def _zeros_around(pad: Node) -> list[tuple[int, int]] | None:
    """How many zeros a Pad puts before and behind each axis; None where it does something else."""
    stated = pad.attrs.get("pads") if len(pad.inputs) < 2 else constant_value(pad.inputs[1])
    if stated is None or pad.attrs.get("mode", "constant") != "constant" or pad.attrs.get("value", 0.0) != 0.0 or any(t.name for t in pad.inputs[2:]):
        return None
    sizes = [int(d) for d in stated]
    half = len(sizes) // 2
    return None if min(sizes, default=0) < 0 else list(zip(sizes[:half], sizes[half:], strict=True))


def _padded(pad: Node | None) -> Array:
    assert pad is not None
    inner, around = stored_weight(pad.inputs[0]), _zeros_around(pad)
    assert around is not None
    return np.pad(_value(pad.inputs[0]) if inner is None else inner.value, around)


def _widens(cast: Node) -> bool:
    return cast.attrs.get("to") == TensorProto.FLOAT and _dtype(cast.inputs[0]) in (*CODES, "float16")


def _dtype(tensor: Tensor) -> str | None:
    """The element type of a constant, None for what is none."""
    data = constant_data(tensor)
    if data is None:
        return None
    return data.dtype_name if isinstance(data, TensorData) else array_dtype_name(data)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    data = constant_data(tensor)
    return () if data is None else tuple(data.shape)


def _value(tensor: Tensor) -> Array:
    value = constant_value(tensor)
    assert value is not None
    return value
