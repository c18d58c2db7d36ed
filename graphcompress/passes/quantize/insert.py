"""Writing Q and DQ into a graph: one Q per tensor, one DQ per consumer, constants as integers behind a DQ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphcompress.ir import Constant, Graph, Model, Node, Shape, Tensor, Variable, constant_value, consumers, output_ids, producer
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.scopes import node_homes, tensor_homes
from graphcompress.ir.model.unread import drop_unread
from graphcompress.passes.quantize.groups import Group
from graphcompress.passes.quantize.parameters import (
    Array,
    QuantizationParameters,
    QuantizedWeight,
    activation_scale,
    bias_scale,
    quantize_bias,
    quantize_weight,
    to_codes,
)
from graphcompress.passes.quantize.ranges import Range
from graphcompress.passes.quantize.scales import clipped_codes
from graphcompress.targets import Target

FLOAT = 1  # ONNX's enum of the element type
SMALLEST_SHARED = 256
"""Codes from which on two more nodes are less than the floats that they are instead of."""


@dataclass(slots=True)
class Insertion:
    """What was written: the quantized tensors with their scales, and how many float readers got a DQ that the provider does not fuse."""

    scales: dict[Tensor, QuantizationParameters] = field(default_factory=dict)
    protected: int = 0


class Weights:
    """Integer weights of a model, each made once however many attempts are written: attempts differ in what is in integers, seldom in the codes."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._cache: dict[tuple[int, int, int, int, float], QuantizedWeight] = {}
        self._tensors: list[Tensor | None] = []  # alive, so that an id stays theirs

    def of(self, group: Group, x_scale: float) -> QuantizedWeight:
        """Codes and scales of the weight of a group of the base model, with the bias that goes with it."""
        weight, axis, added, groups = group.weight, group.weight_axis, group.added, int(group.node.attrs.get("group", 1))
        assert weight is not None
        bias = group.bias or (added[0].inputs[added[1]] if added is not None else None)
        key = (id(weight), axis, id(bias), groups, x_scale if bias is not None else 1.0)
        if key not in self._cache:
            values = constant_value(weight)
            assert values is not None
            self._tensors += [weight, bias]
            self._cache[key] = quantize_weight(
                values, axis, self.target.weight, groups=groups, bias=vector(bias, values.shape[axis]), x_scale=x_scale, limit=self.target.bias.limit
            )
        return self._cache[key]

    def noise(self, group: Group, x_scale: float) -> float:
        """Mean square error of the weight of a group of the base model in integers, relative to its mean square."""
        quantized = self.of(group, x_scale)
        other = tuple(i for i in range(quantized.codes.ndim) if i != quantized.axis)
        per_channel = np.square(quantized.codes, dtype=np.float64).mean(axis=other)
        squares = np.square(quantized.scales, dtype=np.float64)
        return float(squares.sum() / 12 / max(np.dot(squares, per_channel), 1e-300))


def vector(bias: Tensor | None, channels: int) -> Array | None:
    """A bias as one value per output channel."""
    values = constant_value(bias)
    return None if values is None else np.broadcast_to(values.reshape(-1), (channels,))


class Inserter:
    """Edits `model` in place. `groups` are those of this model that go to integers, each with its twin in the model that weights are cached for; `scales` has
    one for every tensor that they make or read. A Q stands in the graph of its tensor, a DQ in that of its reader (elsewhere nothing fuses), constants in the
    main graph, where all see them."""

    def __init__(
        self,
        model: Model,
        groups: Sequence[tuple[Group, Group]],
        scales: Mapping[Tensor, QuantizationParameters],
        target: Target,
        shapes: Mapping[Tensor, Shape],
        weights: Weights,
    ) -> None:
        self.model = model
        self.groups = [g for g, _ in groups]
        self.scales = scales
        self.target = target
        self.shapes = shapes
        self.insertion = Insertion()
        self._edits = Edits(model)
        self._weights_of = weights
        self._originals = dict(groups)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Constant] = {}
        self._replaced: dict[int, Tensor] = {}
        self._codes: dict[Tensor, tuple[QuantizedWeight, Constant]] = {}
        self._with_q: set[Group] = set()
        self._quantized: dict[Tensor, Tensor] = {}
        self._signature = set(model.graph.outputs)
        self._node_homes = node_homes(model)
        self._tensor_homes = tensor_homes(model)
        self._clipped: dict[Node, Group] = {g.node: g for g in self.groups if g.row.clipped}
        self._integer_already = {n for n in self._node_homes if any((b := producer(t)) is not None and b.is_op("DequantizeLinear") for t in n.inputs)}

    def run(self) -> Insertion:
        read = {id(t) for g in self.groups for t in g.inputs}
        self._with_q = {g for g in self.groups if g.needs_q or id(g.outputs[0]) in read}
        for group in self.groups:
            self._weights(group)
            self._operands(group)
        uses: dict[Tensor, list[tuple[Node, int]]] = {}
        for group in self.groups:
            for index in group.data:
                uses.setdefault(group.node.inputs[index], []).append((group.node, index))
        makers = {t: g for g in self.groups for t in g.outputs}
        tensors = [*uses, *(t for g in self.groups for t in g.outputs if g.needs_q and t not in uses)]
        readers = {t: [(n, i) for n in consumers(t) for i, x in enumerate(n.inputs) if x is t] for t in tensors}
        for tensor in tensors:
            integer = uses.get(tensor, [])
            mine = {(id(n), i) for n, i in integer}
            others = (
                [(n, i) for n, i in readers[tensor] if (id(n), i) not in mine] if tensor in makers and not self._stays_float(tensor, makers[tensor]) else []
            )
            self._activation(tensor, integer, others, makers.get(tensor))
        self._edits.remove(self._clipped)
        self._edits.close()
        if self.target.certificate == "optimized-graph":
            self._share_codes()
        self._sweep()
        return self.insertion

    # --- activations --------------------------------------------------------------------------------------------------------------

    def _activation(self, tensor: Tensor, integer: list[tuple[Node, int]], others: list[tuple[Node, int]], maker: Group | None) -> None:
        scale = self.scales[tensor]
        parameters: Sequence[Tensor] = [self._scalar(scale), self._zero(scale)]
        home = self._tensor_homes.get(tensor, self.model.graph)
        near = maker.chain[-1] if maker is not None else integer[0][0]
        q = self.model.variable("q")
        handed_out = maker is not None and tensor in self._signature and not self._stays_float(tensor, maker)
        source: Tensor = self.model.variable("y") if handed_out else tensor
        if maker is not None and maker.row.clipped:
            self._clip(maker, q, home)
        else:
            self.model.add("QuantizeLinear", [source, *parameters], [q], graph=home, near=near)
        self._quantized[tensor] = q
        if handed_out:
            # The signature's tensor is made of the codes; a second reader of the group's own result would keep it from fusing.
            self._edits.set_output(near, list(near.outputs).index(tensor), source)
            back = detached("DequantizeLinear", "", {}, (q, *parameters), (tensor,))
            back.rank = near.rank
            self._edits.add(back, home)
        self.insertion.scales[tensor] = scale
        for node, index in integer:
            if node not in self._clipped:
                self._edits.set_input(node, index, self._dequantize(q, parameters, node))
        if maker is not None and home is not self.model.graph and any(t is tensor for t in home.outputs):
            # What a branch or body hands out is no signature: its readers outside get the float of the codes.
            out = self._dequantize(q, parameters, near)
            home.outputs = [out if t is tensor else t for t in home.outputs]
        by_node: dict[int, Tensor] = {}
        for node, index in others:
            if id(node) not in by_node:
                channels = self._vector(tensor, node, scale)
                axis, arrays = channels or (None, parameters)
                self.insertion.protected += channels is not None
                # What stays float needs no DQ in its own graph, and in a body it would run in each iteration.
                outside = maker is not None and self._node_homes[node] is not home
                by_node[id(node)] = self._dequantize(q, arrays, near if outside else node, axis)
            self._edits.set_input(node, index, by_node[id(node)])

    def _clip(self, group: Group, q: Tensor, home: Graph) -> None:
        """Make the codes `q` of the result of a clipped group, and the node that does it the group's own."""
        read = group.inputs[0]
        kind = self.target.activation.type
        last = self.target.activation.codes[1]
        low, high = clipped_codes(group.node, self.scales[read])
        ends = [self._constant("c", np.asarray(code, kind)) for code in (low, min(high, last))]
        group.chain = (self.model.add("Clip", [self._quantized[read], *ends], [q], graph=home, near=group.node),)

    def _stays_float(self, tensor: Tensor, maker: Group) -> bool:
        """Whether an output of the model is what an operator hands out in float, beside a Q for other readers."""
        return tensor in self._signature and not maker.needs_q

    def _dequantize(self, q: Tensor, parameters: Sequence[Tensor], reader: Node, axis: int | None = None) -> Variable:
        out = self.model.variable("d")
        attrs = None if axis is None else {"axis": axis}
        home = self._node_homes[reader]
        self.model.add("DequantizeLinear", [q, *parameters], [out], attrs, graph=home, near=reader)
        return out

    def _vector(self, tensor: Tensor, node: Node, scale: QuantizationParameters) -> tuple[int, list[Constant]] | None:
        """The scale once per channel, for a float consumer that the provider would otherwise turn into integers by itself (and a Conv's or Gemm's weights
        with it, per tensor).

        The provider fuses and moves only scalar Q/DQ; numbers and cost of a vector are those of the scalar. None where there is no such danger, or no axis of
        a known size; and for the operators that are fused whatever the scales are and then fail (those with integer weights of their own among them): with
        integers on all sides these compute in integers.
        """
        rows = self.target.rows(node.op)
        if not (rows or node.op in self.target.heavy) or any(row.scalar_only for row in rows) or node in self._integer_already:
            return None
        place = self._axis(tensor, node)
        if place is None or self.model.opset < self.target.opsets.per_channel:
            return None
        axis, size = place
        zeros = np.full(size, scale.zero, self.target.activation.type)
        return axis, [self._constant("s", np.full(size, scale.scale, np.float32)), self._constant("z", zeros)]

    def _axis(self, tensor: Tensor, node: Node) -> tuple[int, int] | None:
        """An axis of `tensor` whose size is certain: by inference, else from the weight that reads it."""
        shape = self.shapes.get(tensor)
        for axis in (1, *reversed(range(len(shape or ())))):
            if shape is not None and axis < len(shape):
                size = shape[axis]
                if isinstance(size, int) and size > 0:
                    return axis, size
        weight = constant_value(node.input(1)) if node.is_op("Conv", "ConvTranspose") and tensor is node.input(0) else None
        if weight is not None and weight.ndim >= 2:
            return 1, weight.shape[1] * int(node.attrs.get("group", 1)) if node.op == "Conv" else weight.shape[0]
        return None

    def _scalar(self, scale: QuantizationParameters) -> Constant:
        return self._constant("s", np.asarray(scale.scale, np.float32))

    def _zero(self, scale: QuantizationParameters) -> Constant:
        return self._constant("z", np.asarray(scale.zero, self.target.activation.type))

    def _constant(self, hint: str, values: Array) -> Constant:
        """An initializer; equal ones are one."""
        key = (str(values.dtype), values.shape, hashlib.sha256(np.ascontiguousarray(values).data).digest())
        if key not in self._constants:
            self._constants[key] = self.model.constant(hint, values)
        return self._constants[key]

    # --- constants ----------------------------------------------------------------------------------------------------------------

    def _weights(self, group: Group) -> None:
        weight = group.weight
        if weight is None:
            return
        node, axis = group.node, group.weight_axis
        x_scale = self.scales[group.inputs[0]].scale
        bias, added = group.bias, group.added
        operand = added[0].inputs[added[1]] if added is not None else None
        quantized = self._weights_of.of(self._originals[group], x_scale)
        values = vector(bias or operand, quantized.scales.size)
        index = group.row.slots.index("weight")
        self._forget(weight)
        dequantized = self._constant_dequantize(quantized.codes, quantized.scales, axis, node)
        pair = producer(dequantized)
        assert pair is not None
        self._codes.setdefault(weight, (quantized, pair.inputs[0]))
        self._edits.set_input(node, index, dequantized)
        if bias is not None and values is not None:
            slot = group.row.slots.index("bias")
            self._forget(bias)
            self._edits.set_input(node, slot, self._bias(values, x_scale, quantized, node))
        elif added is not None and operand is not None and values is not None:
            self._forget(operand)
            self._edits.set_input(added[0], added[1], self._added_bias(group, values, x_scale, quantized))

    def _bias(self, values: Array, x_scale: float, weight: QuantizedWeight, node: Node) -> Tensor:
        if self.target.bias.form == "float":
            return self._constant("b", values)
        scale = bias_scale(x_scale, weight.scales)
        return self._constant_dequantize(quantize_bias(values, scale), scale, 0, node)

    def _added_bias(self, group: Group, values: Array, x_scale: float, weight: QuantizedWeight) -> Tensor:
        """The operand of an Add behind a MatMul, in the one form that fuses.

        With a Q behind: a float vector, which makes the two a Gemm whose bias the provider quantizes itself. Without: an int32 vector for a Gemm of matrices;
        in more dimensions one of full rank, so that the provider does not take the two for a Gemm (it would stay float) and adds in float.
        """
        rank = len(self.shapes.get(group.inputs[0]) or ())
        if group in self._with_q:
            return self._constant("b", values)
        if rank == 2:
            return self._bias(values, x_scale, weight, group.chain[1])
        return self._constant("b", values.reshape((1,) * max(rank - 1, 0) + (-1,)))

    def _operands(self, group: Group) -> None:
        """Constants in the activation's type: the other side of an Add, a part of a Concat."""
        for index in group.constants:
            tensor = group.node.inputs[index]
            values = constant_value(tensor)
            assert values is not None
            seen = Range(float(values.min(initial=0.0)), float(values.max(initial=0.0)))
            scale = activation_scale(seen, self.target.activation)
            codes = self._constant("w", to_codes(values, scale, self.target.activation))
            self._forget(tensor)
            self._edits.set_input(group.node, index, self._dequantize(codes, [self._scalar(scale), self._zero(scale)], group.node))

    def _constant_dequantize(self, codes: Array, scales: Array, axis: int, node: Node) -> Variable:
        parts = [self._constant("w", codes), self._constant("s", scales)]
        if codes.dtype == np.int8:  # without a zero point the provider does not fuse; that of a bias, which is 0 in any case, costs as much as the bias
            parts.append(self._constant("z", np.zeros(scales.shape, codes.dtype)))
        return self._dequantize(parts[0], parts[1:], node, axis)

    def _share_codes(self) -> None:
        """Let float readers of a weight that is in integers elsewhere read the same codes, so that it is not in the file twice: behind a Cast and a Mul, which the provider
        computes once, when it loads the model (a DQ there would run each time)."""
        outputs = output_ids(self.model)
        with Edits(self.model) as edits:
            for weight, (quantized, codes) in self._codes.items():
                if not weight.outputs or id(weight) in outputs or codes.nbytes < SMALLEST_SHARED:
                    continue
                near = min(consumers(weight), key=lambda n: n.rank)
                shape = [-1 if axis == quantized.axis else 1 for axis in range(quantized.codes.ndim)]
                wide = self.model.add("Cast", [codes], [self.model.variable("c")], {"to": FLOAT}, near=near).outputs[0]
                scales = self._constant("s", quantized.scales.reshape(shape))
                edits.replace(weight, self.model.add("Mul", [wide, scales], [self.model.variable("c")], near=near).outputs[0])

    def _forget(self, tensor: Tensor) -> None:
        self._replaced[id(tensor)] = tensor

    def _sweep(self) -> None:
        """Take away the float constants that nobody reads any more, the Constant nodes that make them too."""
        drop_unread(self.model, self._replaced.values())
