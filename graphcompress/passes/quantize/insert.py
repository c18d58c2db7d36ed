"""Writing Q and DQ into a graph: one Q per tensor, one DQ per consumer, constants as integers behind a DQ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphcompress.ir import Constant, Model, Node, Shape, Tensor, Variable, constant_value, consumers, output_ids
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.quantize.groups import Group, node_name
from graphcompress.passes.quantize.parameters import (
    Array,
    QuantizedWeight,
    Scale,
    activation_scale,
    bias_scale,
    quantize_bias,
    quantize_weight,
    to_codes,
)
from graphcompress.passes.quantize.ranges import Range
from graphcompress.targets import Target

ORIGIN = "quantize"
LONGEST = 40  # characters: a tensor's name goes into those of its Q and DQs and their outputs, and some exporters write hundreds


def short(name: str) -> str:
    """The end of a long name, which says most."""
    return name if len(name) <= LONGEST else name[-LONGEST:].lstrip("/;:._")


@dataclass(slots=True)
class Inserted:
    """What was written: the quantized tensors with their scales, and of each the name of the integer tensor."""

    scales: dict[str, Scale] = field(default_factory=dict)
    integers: dict[str, str] = field(default_factory=dict)
    protected: int = 0


class Inserter:
    """Edits `model` in place. `groups` are those of this model that go to integers, `scales` has one for every tensor that they make or read, by name."""

    def __init__(self, model: Model, groups: Sequence[Group], scales: Mapping[str, Scale], target: Target, shapes: Mapping[str, Shape]) -> None:
        self.model = model
        self.groups = groups
        self.scales = scales
        self.target = target
        self.shapes = shapes
        self.done = Inserted()
        self._edits = Edits(model)
        self._constants: dict[tuple[str, str, bytes], Constant] = {}
        self._replaced: dict[int, Tensor] = {}
        self._with_q: set[str] = set()
        self._main = {id(n) for n in model.graph.nodes}

    def run(self) -> Inserted:
        outputs = output_ids(self.model)
        read = {id(t) for g in self.groups for t in g.inputs}
        self._with_q = {g.key for g in self.groups if g.needs_q or id(g.outputs[0]) in read}
        for group in self.groups:
            self._weights(group)
            self._operands(group)
        uses: dict[int, list[tuple[Node, int]]] = {}
        tensors: dict[int, Tensor] = {}
        for group in self.groups:
            for index in group.data:
                tensor = group.node.inputs[index]
                uses.setdefault(id(tensor), []).append((group.node, index))
                tensors[id(tensor)] = tensor
        made = {id(t): g for g in self.groups for t in g.outputs}
        for group in self.groups:
            for tensor in group.outputs:
                if group.needs_q or id(tensor) in uses:
                    tensors[id(tensor)] = tensor
        readers = {key: [(n, i) for n in consumers(t) for i, x in enumerate(n.inputs) if x is t] for key, t in tensors.items()}
        for key, tensor in tensors.items():
            own = uses.get(key, [])
            mine = {(id(n), i) for n, i in own}
            others = [(n, i) for n, i in readers[key] if (id(n), i) not in mine] if key in made and id(tensor) not in outputs else []
            self._activation(tensor, own, others, made.get(key))
        self._edits.close()
        self._sweep()
        return self.done

    # --- activations --------------------------------------------------------------------------------------------------------------

    def _activation(self, tensor: Tensor, own: list[tuple[Node, int]], others: list[tuple[Node, int]], maker: Group | None) -> None:
        scale = self.scales[tensor.name]
        parameters: Sequence[Tensor] = [self._scalar(scale), self._zero(scale)]
        near = maker.chain[-1] if maker is not None else own[0][0]
        name = short(tensor.name)
        q = self.model.variable(f"{name}_q")
        self.model.add("QuantizeLinear", [tensor, *parameters], [q], name=f"{name}_quantize", near=near, origin=(ORIGIN,))
        self.done.scales[tensor.name] = scale
        self.done.integers[tensor.name] = q.name
        for node, index in own:
            self._edits.set_input(node, index, self._dequantize(q, parameters, node, name))
        by_node: dict[int, Tensor] = {}
        for node, index in others:
            if id(node) not in by_node:
                vector = self._vector(tensor, node, scale)
                axis, arrays = vector or (None, parameters)
                self.done.protected += vector is not None
                by_node[id(node)] = self._dequantize(q, arrays, node if id(node) in self._main else near, name, axis)
            self._edits.set_input(node, index, by_node[id(node)])

    def _dequantize(self, q: Tensor, parameters: Sequence[Tensor], near: Node, name: str, axis: int | None = None) -> Variable:
        out = self.model.variable(f"{name}_dq")
        self.model.add(
            "DequantizeLinear", [q, *parameters], [out], None if axis is None else {"axis": axis}, name=f"{name}_dequantize", near=near, origin=(ORIGIN,)
        )
        return out

    def _vector(self, tensor: Tensor, node: Node, scale: Scale) -> tuple[int, list[Constant]] | None:
        """The scale once per channel, for a float consumer that the provider would otherwise turn into integers by itself (and a Conv's or Gemm's weights with it, per tensor).

        The provider fuses and moves only scalar Q/DQ; numbers and cost of a vector are those of the scalar. None where there is no such danger, or no axis of a known size.
        """
        if not (self.target.rows(node.op) or node.op in self.target.heavy):
            return None
        found = self._axis(tensor, node)
        if found is None or self.model.opset < self.target.opsets.per_channel:
            return None
        axis, size = found
        zeros = np.full(size, scale.zero, self.target.activation.type)
        return axis, [self._constant("scale", np.full(size, scale.scale, np.float32)), self._constant("zero_point", zeros)]

    def _axis(self, tensor: Tensor, node: Node) -> tuple[int, int] | None:
        """An axis of `tensor` whose size is certain: by inference, else from the weight that reads it."""
        shape = self.shapes.get(tensor.name)
        for axis in (1, *reversed(range(len(shape or ())))):
            if shape is not None and axis < len(shape):
                size = shape[axis]
                if isinstance(size, int) and size > 0:
                    return axis, size
        weight = constant_value(node.input(1)) if node.is_op("Conv", "ConvTranspose") and tensor is node.input(0) else None
        if weight is not None and weight.ndim >= 2:
            return 1, weight.shape[1] * int(node.attrs.get("group", 1)) if node.op == "Conv" else weight.shape[0]
        return None

    def _scalar(self, scale: Scale) -> Constant:
        return self._constant("scale", np.asarray(scale.scale, np.float32))

    def _zero(self, scale: Scale) -> Constant:
        return self._constant("zero_point", np.asarray(scale.zero, self.target.activation.type))

    def _constant(self, hint: str, values: Array) -> Constant:
        """An initializer; equal ones are one."""
        key = (hint, f"{values.dtype}{values.shape}", values.tobytes())
        if key not in self._constants:
            self._constants[key] = self.model.constant(hint, values)
        return self._constants[key]

    # --- constants ----------------------------------------------------------------------------------------------------------------

    def _weights(self, group: Group) -> None:
        weight = group.weight
        if weight is None:
            return
        node, axis, rules = group.node, group.weight_axis, self.target.weight
        values = constant_value(weight)
        assert values is not None
        x_scale = self.scales[group.inputs[0].name].scale
        bias, added = group.bias, group.added
        bias_tensor = bias if bias is not None else added[0].inputs[added[1]] if added is not None else None
        bias_values = constant_value(bias_tensor) if bias_tensor is not None else None
        made = quantize_weight(values, axis, rules, groups=int(node.attrs.get("group", 1)), bias=bias_values, x_scale=x_scale, limit=self.target.bias.limit)
        name = short(weight.name or node_name(node))
        index = group.row.slots.index("weight")
        self._forget(node.inputs[index])
        self._edits.set_input(node, index, self._constant_dequantize(name, made.codes, made.scales, axis, node))
        if bias is not None and bias_values is not None:
            slot = group.row.slots.index("bias")
            self._forget(bias)
            self._edits.set_input(node, slot, self._bias(short(bias.name or f"{name}_bias"), bias_values, x_scale, made, node))
        elif added is not None and bias_values is not None:
            operand = added[0].inputs[added[1]]
            self._forget(operand)
            self._edits.set_input(added[0], added[1], self._added_bias(group, short(operand.name or f"{name}_bias"), bias_values, x_scale, made))

    def _bias(self, name: str, values: Array, x_scale: float, weight: QuantizedWeight, node: Node) -> Tensor:
        if self.target.bias.form == "float":
            return self._constant(f"{name}_vector", values.reshape(-1))
        scale = bias_scale(x_scale, weight.scales)
        return self._constant_dequantize(name, quantize_bias(values, scale), scale, 0, node)

    def _added_bias(self, group: Group, name: str, values: Array, x_scale: float, weight: QuantizedWeight) -> Tensor:
        """The operand of an Add behind a MatMul, in the one form that fuses.

        With a Q behind: a float vector, which makes the two a Gemm whose bias the provider quantizes itself. Without: an int32 vector for a Gemm of matrices; in more
        dimensions one of full rank, so that the provider does not take the two for a Gemm (it would stay float) and adds in float.
        """
        rank = len(self.shapes.get(group.inputs[0].name) or ())
        if group.key in self._with_q:
            return self._constant(f"{name}_vector", values.reshape(-1))
        if rank == 2:
            return self._bias(name, values, x_scale, weight, group.chain[1])
        return self._constant(f"{name}_row", values.reshape((1,) * max(rank - 1, 0) + (-1,)))

    def _operands(self, group: Group) -> None:
        """Constants in the activation's type: the other side of an Add, a part of a Concat."""
        for index in group.constants:
            tensor = group.node.inputs[index]
            values = constant_value(tensor)
            assert values is not None
            seen = Range(float(values.min(initial=0.0)), float(values.max(initial=0.0)))
            scale = activation_scale(seen, self.target.activation)
            codes = self._constant(f"{short(tensor.name)}_codes", to_codes(values, scale, self.target.activation))
            self._forget(tensor)
            self._edits.set_input(group.node, index, self._dequantize(codes, [self._scalar(scale), self._zero(scale)], group.node, short(tensor.name)))

    def _constant_dequantize(self, name: str, codes: Array, scales: Array, axis: int, node: Node) -> Variable:
        parts = [
            self._constant(f"{name}_codes", codes),
            self._constant(f"{name}_scales", scales),
            self._constant("zero_points", np.zeros(scales.shape, codes.dtype)),
        ]
        return self._dequantize(parts[0], parts[1:], node, name, axis)

    def _forget(self, tensor: Tensor) -> None:
        self._replaced[id(tensor)] = tensor

    def _sweep(self) -> None:
        """Take away the float constants that nobody reads any more, the Constant nodes that made them too."""
        outputs = output_ids(self.model)
        gone: list[Node] = []
        for tensor in self._replaced.values():
            if tensor.outputs or id(tensor) in outputs:
                continue
            if isinstance(tensor, Constant):
                if self.model.graph.initializers.get(tensor.name) is tensor:
                    del self.model.graph.initializers[tensor.name]
            else:
                gone.extend(tensor.inputs)
        with Edits(self.model) as edits:
            edits.remove(gone)


def insert(model: Model, groups: Sequence[Group], scales: Mapping[str, Scale], target: Target, shapes: Mapping[str, Shape]) -> Inserted:
    """Write the Q and DQ of `groups` into `model`, whose opset must have them. `shapes` are what inference knows of the tensors, by name."""
    return Inserter(model, groups, scales, target, shapes).run()
