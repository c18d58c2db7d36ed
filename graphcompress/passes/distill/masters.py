"""A quantized student as it learns: its integer weights are floats that a QuantizeLinear rounds, their masters; afterwards the codes are made of them again.

What runs while the student learns has the rounding and the clipping of what is written, so that its losses are those of the result. A bias in int32 is so fine that it learns as a float; its scale is the product
of those of its layer's input and weight, as integer kernels take it to be, and follows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphcompress.ir import Constant, Model, Node, Tensor, constant_value, consumers, output_ids, producer, toposort
from graphcompress.ir.analysis.code_pairs import as_pairs, as_rows, from_pairs, from_rows, pair_sums, shortened
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.element_types import array_dtype_name, integer_limits
from graphcompress.passes.distill.weights import with_weights

Array: TypeAlias = np.ndarray[Any, Any]

CODES = {"int8": 10, "uint8": 10, "int16": 21, "uint16": 21, "int4": 21, "uint4": 21}  # the opset from which on a QuantizeLinear makes them
FLOAT = 1  # ONNX's enum of the element type
CODES_PER_RATE = 20  # a master moves by so many codes where a float of a layer moves by 1, at most
SAME = 1e-5  # relative: how far the scale of a bias may be from the product of the two others


@dataclass(frozen=True, slots=True)
class Rounding:
    """How codes follow from floats: clip(round(x / scale) + zero). `scale` is the name of an initializer, or the number that stands for the scales behind a Cast; `zero` is [] or [size of `axis`]."""

    scale: str | float
    zero: Array
    axis: int

    def along_axis(self, parameter: Array, rank: int) -> Array:
        """A parameter so that it broadcasts over codes of `rank` axes."""
        return parameter.reshape([-1 if i == self.axis else 1 for i in range(rank)]) if parameter.size > 1 else parameter.reshape(())

    def codes(self, floats: Array, scale: Array, dtype: np.dtype[Any]) -> Array:
        quotient = np.rint(floats / self.along_axis(scale, floats.ndim)) + self.along_axis(self.zero, floats.ndim).astype(np.float32)
        codes: Array = np.clip(quotient, *_limits(dtype))
        return codes.astype(dtype)

    def floats(self, codes: Array, scale: Array) -> Array:
        shifted = codes.astype(np.float32) - self.along_axis(self.zero, codes.ndim).astype(np.float32)
        floats: Array = shifted * self.along_axis(scale, codes.ndim)
        return floats.astype(np.float32)


class Masters:
    """`model` is the student with masters: initializers with the names of the codes and of the int32 biases; the student itself where it has none of either.

    `scales` are names of float initializers that QuantizeLinear and DequantizeLinear read, `factors` those that multiply codes behind a Cast. `fixed` are scales that cannot learn: that of a bias which is no product,
    and those of weights whose codes keep a bound, since the slope of a scale does not know of it.
    """

    def __init__(self, student: Model) -> None:
        self.student = student
        outputs, inputs, initializers = output_ids(student), {id(t) for t in student.graph.inputs}, student.graph.initializers
        constants = [c for c in initializers.values() if id(c) not in outputs | inputs]
        self._weights = {c.name: r for c in constants if (r := _rounding(c, student)) is not None}
        self._pairs = {name: p for name in self._weights if (p := _longest_pair(initializers[name])) is not None}
        self._biases = {c.name: s for c in constants if (s := _layer_scales(c, student)) is not None}
        pairs = [n for n in student.graph.nodes if n.is_op("QuantizeLinear", "DequantizeLinear") and isinstance(n.inputs[1], Constant)]
        codes = [(n.inputs[0], n.inputs[1].name) for n in pairs if isinstance(n.inputs[0], Constant)]
        tied = {scale for constant, scale in codes if _dtype(constant) == "int32" and constant.name not in self._biases}
        bounded = {scale for constant, scale in codes if constant.name in self._pairs} | {
            r.scale for name, r in self._weights.items() if name in self._pairs and isinstance(r.scale, str)
        }
        self.fixed = frozenset(tied | bounded)
        self.scales = frozenset(n.inputs[1].name for n in pairs) - self.fixed
        self.factors = frozenset(_factors(student))
        self.model = self._with_masters() if self._weights or self._biases else student

    def sizes(self) -> dict[str, Array]:
        """What a step of learning is relative to: for scales and factors their own size, for masters that of a code."""
        initializers = self.student.graph.initializers
        sizes = {name: np.abs(initializers[name].values) for name in self.scales | self.factors}
        for name, rounding in self._weights.items():
            scale = rounding.along_axis(_scale(self.student, rounding), len(initializers[name].shape))
            sizes[name] = np.minimum(1, CODES_PER_RATE * np.abs(scale))
        return sizes

    def keep_bounds(self, values: dict[str, Array]) -> None:
        """Move masters among `values`, in place, to where no two neighbours get longer codes than the longest pair of the student's weight: processors that add two products in 16 bits saturate beyond a bound."""
        for name, (axis, limit) in self._pairs.items():
            if name in values:
                rounding, master = self._weights[name], values[name]
                unit = rounding.along_axis(_scale(self.student, rounding), master.ndim)  # such a scale is fixed
                exact = master / unit
                pairs = as_pairs(as_rows(exact, axis))
                if pair_sums(np.rint(pairs)).max(initial=0.0) > limit:
                    codes = from_rows(from_pairs(shortened(pairs, limit), master.size // master.shape[axis]), master.shape, axis)
                    np.copyto(master, codes * unit, where=codes != np.rint(exact), casting="same_kind")

    def written(self, values: Mapping[str, Array]) -> Model:
        """A copy of the student with learned `values`, by name, of masters, scales and floats."""
        result = with_weights(self.student, {name: value for name, value in values.items() if name not in self._weights and name not in self._biases})
        with Edits(result) as edits:
            for name, rounding in self._weights.items():
                codes, scale = result.graph.initializers[name], _scale(result, rounding)
                floats = values[name] if name in values else rounding.floats(codes.values, _scale(self.student, rounding))
                edits.set_value(codes, rounding.codes(floats, scale, codes.values.dtype))
            for name, pair in self._biases.items():
                codes, old = result.graph.initializers[name], _dequantizer_scale(self.student.graph.initializers[name]).values
                first, second = (result.graph.initializers[scale].values for scale in pair)
                scale = np.broadcast_to(first.reshape(-1) * second.reshape(-1), old.size).reshape(old.shape).astype(np.float32)
                floats = values[name] if name in values else codes.values * old
                edits.set_value(codes, np.clip(np.rint(floats / scale), *_limits(codes.values.dtype)).astype(np.int32))
                (reader,), stated = consumers(codes), _dequantizer_scale(codes)
                if len(stated.outputs) == 1:
                    edits.set_value(stated, scale)
                elif not np.array_equal(stated.values, scale):  # others, whose scale it was too, have another now
                    edits.set_input(reader, 1, result.constant(stated.name, scale))
        self._drop_unread(result)
        return result

    def _with_masters(self) -> Model:
        model = self.student.copy()
        with Edits(model) as edits:
            for name, rounding in self._weights.items():
                codes = model.graph.initializers[name]
                values, readers = codes.values, consumers(codes)
                scale = (
                    model.constant("scale", np.array(rounding.scale, np.float32))
                    if isinstance(rounding.scale, float)
                    else model.graph.initializers[rounding.scale]
                )
                attrs = {"axis": rounding.axis} if scale.values.ndim else {}
                zero = model.constant("zero", np.broadcast_to(rounding.zero, scale.values.shape).astype(values.dtype))
                edits.set_value(codes, rounding.floats(values, scale.values))
                rounded = model.add("QuantizeLinear", [codes, scale, zero], [model.variable("codes")], attrs, near=readers[0]).outputs[0]
                for reader in readers:
                    edits.set_input(reader, 0, rounded)
            for name in self._biases:
                codes, (reader,) = model.graph.initializers[name], consumers(model.graph.initializers[name])
                edits.set_value(codes, (codes.values * _dequantizer_scale(codes).values).astype(np.float32))
                edits.replace(reader.outputs[0], codes)
                edits.remove([reader])
        self._drop_unread(model)
        return model

    def _drop_unread(self, copy: Model) -> None:
        """Take the initializers out of a copy of the student that something reads there, and nothing here."""
        outputs, before = output_ids(copy), self.student.graph.initializers
        unread = [name for name, c in copy.graph.initializers.items() if not c.outputs and id(c) not in outputs and name in before and before[name].outputs]
        for name in unread:
            del copy.graph.initializers[name]


def _rounding(constant: Constant, model: Model) -> Rounding | None:
    """How the codes of a weight are made; None for a constant that is no codes, or whose readers do more than make floats of it."""
    readers, dtype = consumers(constant), _dtype(constant)
    if not readers or model.opset < CODES.get(dtype, model.opset + 1) or any(i for n in readers for i, t in enumerate(n.inputs) if t is constant):
        return None
    dequantized = [n for n in readers if n.is_op("DequantizeLinear")]
    if any(not _is_scale(n.inputs[1], model) or len(n.inputs[1].shape) > 1 or n.attrs.get("block_size") for n in dequantized):
        return None
    if not all(n.is_op("DequantizeLinear") or (n.is_op("Cast") and n.attrs.get("to") == FLOAT) for n in readers):
        return None
    if not dequantized:
        return Rounding(_factor(readers[0].outputs[0]), np.zeros(()), 0)
    node = dequantized[0]
    zero = constant_value(node.input(2)) if node.input(2) is not None else np.zeros(())
    axis = int(node.attrs.get("axis", 1))
    return None if zero is None else Rounding(node.inputs[1].name, zero, axis + len(constant.shape) if axis < 0 else axis)


def _is_scale(tensor: Tensor, model: Model) -> bool:
    """Whether a tensor is an initializer of floats of the main graph."""
    return isinstance(tensor, Constant) and model.graph.initializers.get(tensor.name) is tensor and _dtype(tensor) == "float"


def _dequantizer_scale(codes: Constant) -> Constant:
    """The scale of the one DequantizeLinear that reads `codes`."""
    (reader,) = consumers(codes)
    scale = reader.inputs[1]
    assert isinstance(scale, Constant)
    return scale


def _layer_scales(constant: Constant, model: Model) -> tuple[str, str] | None:
    """The names of the scales of a layer's input and weight, whose product is that of its int32 bias `constant`; None where it is something else."""
    readers = consumers(constant)
    if _dtype(constant) != "int32" or len(readers) != 1 or not readers[0].is_op("DequantizeLinear") or readers[0].inputs[0] is not constant:
        return None
    scale, layers = readers[0].inputs[1], consumers(readers[0].outputs[0])
    if len(layers) != 1 or not _is_scale(scale, model):
        return None
    layer: Node | None = layers[0]
    assert layer is not None
    if layer.is_op("Add"):
        layer = producer(next(t for t in layer.inputs if t is not readers[0].outputs[0]))
    if layer is None or len(layer.inputs) < 2:
        return None
    makers = [producer(t) for t in layer.inputs[:2]]
    scales = [m.inputs[1] for m in makers if m is not None and m.is_op("DequantizeLinear")]
    if len(scales) < 2 or not all(_is_scale(s, model) for s in scales):
        return None
    first, second = (s.values.reshape(-1) for s in scales)
    if 1 not in (first.size, second.size) or max(first.size, second.size) not in (1, scale.values.size):
        return None
    return (scales[0].name, scales[1].name) if np.allclose(first * second, scale.values.reshape(-1), rtol=SAME, atol=0) else None


def _factors(model: Model) -> Iterator[str]:
    """The names of the float initializers that multiply codes behind a Cast, however the codes were unpacked before it."""
    made: dict[Tensor, str] = {}  # what is calculated from initializers alone: "codes", or "floats" of codes, or ""
    for node in toposort(model.graph):
        inputs = [t for t in node.inputs if t.name]
        if not inputs or not all(isinstance(t, Constant) or t in made for t in inputs):
            continue
        kinds = {made[t] if t in made else "codes" if integer_limits(_dtype(t)) is not None else "" for t in inputs}
        if node.is_op("Mul") and "floats" in kinds:
            yield from (t.name for t in inputs if _is_scale(t, model))
        unpacked = "floats" if node.is_op("Cast") and node.attrs.get("to") == FLOAT else "codes"
        kind = "floats" if "floats" in kinds else unpacked if "codes" in kinds else ""
        made.update(dict.fromkeys(node.outputs, kind))


def _factor(tensor: Tensor) -> float:
    """About what a code stands for: the mean of the numbers that it is multiplied with."""
    factor, readers = 1.0, consumers(tensor)
    while len(readers) == 1 and readers[0].is_op("Mul"):
        values = [v for t in readers[0].inputs if t is not tensor and (v := constant_value(t)) is not None]
        if not values:
            break
        factor *= float(np.abs(values[0]).mean())
        tensor = readers[0].outputs[0]
        readers = consumers(tensor)
    return factor or 1.0


def _longest_pair(constant: Constant) -> tuple[int, int] | None:
    """The axis of a weight's output channels, and what two neighbouring codes of one sign add up to at most; None where nothing adds its products two by two, or any two codes keep the bound."""
    layers = [r for n in consumers(constant) if n.is_op("DequantizeLinear") for r in consumers(n.outputs[0])]
    if not layers or _dtype(constant) != "int8" or len(constant.shape) < 2:
        return None
    layer, codes = layers[0], constant.values
    axis = codes.ndim - 1 if layer.is_op("MatMul") else int(layer.is_op("ConvTranspose") or (layer.is_op("Gemm") and not layer.attrs.get("transB", 0)))
    longest = int(pair_sums(as_pairs(as_rows(codes, axis))).max(initial=0.0))
    return (axis, max(longest, 2)) if longest < 2 * np.iinfo(codes.dtype).max else None


def _scale(model: Model, rounding: Rounding) -> Array:
    return np.array(rounding.scale, np.float32) if isinstance(rounding.scale, float) else model.graph.initializers[rounding.scale].values


def _dtype(constant: Constant) -> str:
    return constant.data.dtype_name if constant.data is not None else array_dtype_name(constant.values)


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    limits = integer_limits(array_dtype_name(np.empty(0, dtype)))
    assert limits is not None
    return limits
