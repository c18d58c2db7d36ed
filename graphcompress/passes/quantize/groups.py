"""Which operators of a model fit a row of the target table: the groups that could compute in integers, and why the others cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.ir import Model, Node, Tensor, TensorData, constant_data, constant_value, nodes, output_ids, producer, sole_consumer, subgraphs
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.step import Refusal
from graphcompress.targets import Operator, Target

INF = math.inf
NO_NODES: frozenset[int] = frozenset()


@dataclass(eq=False, slots=True)
class Group:
    """One operator with what belongs to it: `chain` is the operator, then perhaps an Add of a bias, then perhaps an activation that the Q behind makes redundant.

    `data` and `constants` are input indices of the operator; `bounds` are those of the activation: the range of the Q must lie inside.
    """

    row: Operator
    chain: tuple[Node, ...]
    data: tuple[int, ...]
    constants: tuple[int, ...]
    outputs: tuple[Tensor, ...]
    bounds: tuple[float, float] = (-INF, INF)

    @property
    def node(self) -> Node:
        return self.chain[0]

    @property
    def key(self) -> str:
        """The name of the first output: the same in every copy of the model."""
        return str(self.outputs[0].name)

    @property
    def name(self) -> str:
        return node_name(self.node)

    @property
    def needs_q(self) -> bool:
        """True where it fuses only with a Q behind it. An activation that no Q makes redundant would be fused into the float operator first."""
        return self.row.output == "required" or self.bounds != (-INF, INF)

    @property
    def inputs(self) -> list[Tensor]:
        """The computed inputs."""
        return [self.node.inputs[i] for i in self.data]

    @property
    def weight(self) -> Tensor | None:
        slots = self.row.slots
        return self.node.inputs[slots.index("weight")] if "weight" in slots else None

    @property
    def weight_axis(self) -> int:
        """The output channels' axis of the weight, not negative."""
        assert self.weight is not None and self.row.axis is not None
        rank = len(shape_of(self.weight))
        axis = self.row.axis % rank
        return 1 - axis if self.row.flip and rank == 2 and self.node.attrs.get(self.row.flip, 0) else axis

    @property
    def bias(self) -> Tensor | None:
        """The bias that is an input of the operator itself."""
        slots = self.row.slots
        return self.node.input(slots.index("bias")) if "bias" in slots else None

    @property
    def added(self) -> tuple[Node, int] | None:
        """The Add that belongs to the group, and the index of its constant operand."""
        if len(self.chain) > 1 and self.row.bias_add and self.chain[1].is_op("Add"):
            return self.chain[1], 1 if self.chain[1].inputs[0] is self.node.outputs[0] else 0
        return None


@dataclass(slots=True)
class Found:
    """The groups in the order of the graph, and the reasons of the heavy operators (and excluded ones) that are in none, by node."""

    groups: list[Group] = field(default_factory=list)
    refusals: dict[int, Refusal] = field(default_factory=dict)


class Refused(Exception):
    """An id and a sentence."""

    def __init__(self, identifier: str, reason: str) -> None:
        super().__init__(reason)
        self.identifier = f"quantize/{identifier}"
        self.reason = reason


def node_name(node: Node) -> str:
    """What a node is called in messages: its name, else its first output's."""
    return str(node.name or next((t.name for t in node.outputs if t.name), node.op))


def shape_of(constant: Tensor) -> tuple[int, ...]:
    """The shape of a constant, without decoding it."""
    data = constant_data(constant)
    assert data is not None
    return tuple(data.shape)


def is_float(constant: Tensor) -> bool:
    """True for a constant of type float32."""
    data = constant_data(constant)
    return data is not None and (data.dtype_name == "float" if isinstance(data, TensorData) else data.dtype == np.float32)


def find(model: Model, target: Target, shapes: Shapes, excluded: Callable[[Node], bool] = lambda node: False) -> Found:
    """All groups of the main graph that fit a row of `target`, before any thought of cost.

    Raises ModelError for a BatchNormalization that could be folded into the layer before it: quantizing around it would leave that layer in float.
    """
    found = Found()
    outputs = output_ids(model)
    taken: set[int] = set()
    main = {id(n) for n in model.graph.nodes}
    for node in nodes(model):
        if id(node) in taken:
            continue
        heavy = node.op in target.heavy
        try:
            if id(node) not in main:
                raise Refused("in-subgraph", "it stands in a subgraph (If, Loop, Scan), which stays float")
            unfolded(node, model, outputs)
            if excluded(node):
                heavy = True
                raise Refused("excluded", "it was excluded")
            if not node.standard or subgraphs(node):
                raise Refused("no-int8-kernel", f"{node.domain}.{node.op} has no row in the table of target '{target.name}'")
            group = fit(node, model, target, shapes, outputs, excluded, taken)
            taken.update(id(n) for n in group.chain)
            found.groups.append(group)
        except Refused as refused:
            if heavy:
                found.refusals[id(node)] = Refusal(refused.identifier, refused.reason, node_name(node))
    return found


def fit(node: Node, model: Model, target: Target, shapes: Shapes, outputs: set[int], excluded: Callable[[Node], bool], taken: set[int]) -> Group:
    """The group of `node` by the first row that fits; raises Refused with the reason of the row that came closest."""
    rows = target.rows(node.op)
    if not rows:
        raise Refused("no-int8-kernel", target.float_only.get(node.op, f"target '{target.name}' has no INT8 form of {node.op}"))
    problems: list[Refused] = []
    for row in rows:
        try:
            return _fit(row, node, shapes, outputs, excluded, taken)
        except Refused as refused:
            problems.append(refused)
    # A row for another kind of operand says less than the row that nearly fitted.
    wrong_row = ("quantize/not-constant", "quantize/constant-input")
    raise next((p for p in problems if p.identifier not in wrong_row), problems[-1])


def _fit(row: Operator, node: Node, shapes: Shapes, outputs: set[int], excluded: Callable[[Node], bool], taken: set[int]) -> Group:
    for name, value in row.require.items():
        got = node.attrs.get(name, value)
        if got != value:
            raise Refused("attribute", f"{node.op} with {name} = {got} does not fuse (only {value})")
    if any(n.is_op("QuantizeLinear") for t in node.outputs for n in t.outputs):
        raise Refused("already-quantized", "it is quantized already")
    data, constants = _slots(row, node, shapes)
    group = Group(row, (node,), data, constants, tuple(node.outputs))
    _check_weight(group, node, shapes)
    used = [t for t in node.outputs if t.name and (t.outputs or id(t) in outputs)]
    if row.every_output:
        if not used:
            raise Refused("unused", "nobody reads its output")
        if len(used) != len(node.outputs):
            raise Refused("outputs", "one of its outputs is not used")
    elif used != list(node.outputs[:1]):
        raise Refused("outputs", "it has outputs without an INT8 form" if used else "nobody reads its output")
    else:
        group.outputs = (node.outputs[0],)
        _extend(group, shapes, outputs, excluded, taken)
    if row.output == "required" and any(id(t) in outputs for t in group.outputs):
        raise Refused("graph-output", "it makes an output of the model, and outputs stay float")
    if any(n.is_op("QuantizeLinear") for t in group.outputs for n in t.outputs):
        raise Refused("already-quantized", "it is quantized already")
    return group


def _slots(row: Operator, node: Node, shapes: Shapes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices of the computed inputs and of the constant ones in the activation's type."""
    data: list[int] = []
    constants: list[int] = []
    for index, tensor in enumerate(node.inputs):
        slot = row.slots[index] if index < len(row.slots) else row.rest
        present = tensor.name != ""
        constant = present and constant_data(tensor) is not None
        match slot:
            case None:
                raise Refused("inputs", f"{node.op} with input {index} has no INT8 form")
            case "keep":
                continue
            case "bias" if not present:
                continue
            case "bias" | "weight":
                if not constant:
                    raise Refused("not-constant", f"its {slot} is not a constant")
                if not is_float(tensor):
                    raise Refused("not-float32", f"its {slot} is not float32")
                continue
            case _:
                if not present:
                    raise Refused("inputs", f"{node.op} without input {index} has no INT8 form")
        if constant and slot == "operand":
            if not is_float(tensor):
                raise Refused("not-float32", "it does not compute in float32")
            values = constant_value(tensor)
            if values is None or not np.isfinite(values).all():
                raise Refused("not-finite", f"its constant input {index} has NaN or infinite values")
            constants.append(index)
            continue
        if constant:
            raise Refused("constant-input", f"input {index} is a constant, which has no INT8 form there")
        if shapes.dtype(tensor) not in (None, "float"):
            raise Refused("not-float32", "it does not compute in float32")
        before = producer(tensor)
        if before is not None and before.is_op("DequantizeLinear"):
            raise Refused("already-quantized", "it is quantized already")
        data.append(index)
    missing = [s for s in row.slots[len(node.inputs) :] if s not in ("keep", "bias")]
    if missing or not data:
        raise Refused("inputs", f"{node.op} without a computed input has no INT8 form")
    return tuple(data), tuple(constants)


def _check_weight(group: Group, node: Node, shapes: Shapes) -> None:
    weight, row = group.weight, group.row
    if weight is None:
        return
    shape = shape_of(weight)
    if len(shape) not in row.rank:
        raise Refused("rank", f"its weight has rank {len(shape)}, which does not fuse")
    if 0 in shape:
        raise Refused("empty", "its weight is empty")
    bias = group.bias
    if bias is not None and (math.prod(shape_of(bias)) != shape[group.weight_axis] or max(shape_of(bias), default=1) != shape[group.weight_axis]):
        raise Refused("bias-shape", f"its bias has shape {list(shape_of(bias))}, not one value per output channel")
    for part in (weight, bias):
        values = None if part is None else constant_value(part)
        if values is not None and not np.isfinite(values).all():
            raise Refused("not-finite", "its weight or bias has NaN or infinite values")


def _extend(group: Group, shapes: Shapes, outputs: set[int], excluded: Callable[[Node], bool], taken: set[int]) -> None:
    """Take in the Add of a bias and the activation behind."""

    def following() -> Node | None:
        after = sole_consumer(group.outputs[0], outputs)
        return None if after is None or not after.standard or subgraphs(after) or excluded(after) or id(after) in taken else after

    after = following()
    if group.row.bias_add and after is not None and after.op == "Add" and _adds_bias(group, after, shapes, outputs):
        group.chain += (after,)
        group.outputs = (after.outputs[0],)
        after = following()
    if after is not None and after.op in group.row.absorbs and after.inputs[0] is group.outputs[0]:
        bounds = activation_bounds(after)
        if bounds is not None and id(after.outputs[0]) not in outputs:
            group.chain += (after,)
            group.outputs = (after.outputs[0],)
            group.bounds = bounds


def _adds_bias(group: Group, add: Node, shapes: Shapes, outputs: set[int]) -> bool:
    """The other operand is a constant with one value per output channel, which broadcasting to the last axis does not widen."""
    assert group.weight is not None
    other = add.inputs[1] if add.inputs[0] is group.outputs[0] else add.inputs[0]
    if constant_data(other) is None or not is_float(other):
        return False
    shape = shape_of(other)
    rank = shapes.rank(group.outputs[0])
    if len(shape) > 1 and (rank is None or rank < len(shape)):
        return False
    after = sole_consumer(add.outputs[0], outputs)
    if rank != 2 and after is not None and after.op in group.row.absorbs:
        # In more than two dimensions the provider makes a Gemm between Reshapes of the two, and then sees no Q behind the activation. Apart both fuse.
        return False
    values = constant_value(other)
    return bool(shape) and shape[-1] == math.prod(shape) == shape_of(group.weight)[group.weight_axis] and values is not None and bool(np.isfinite(values).all())


def activation_bounds(node: Node) -> tuple[float, float] | None:
    """What a Relu or Clip limits its output to; None where that is not a constant interval with 0 in it."""
    if node.op == "Relu":
        return 0.0, INF
    low, high = -INF, INF
    if len(node.inputs) == 1 and ("min" in node.attrs or "max" in node.attrs):
        low, high = float(node.attrs.get("min", -INF)), float(node.attrs.get("max", INF))
    else:
        for index, default in ((1, low), (2, high)):
            tensor = node.input(index)
            if tensor is None:
                continue
            value = constant_value(tensor)
            if value is None or value.size != 1:
                return None
            low, high = (float(value.reshape(())), high) if default < 0 else (low, float(value.reshape(())))
    return (low, high) if low <= 0.0 <= high and low < high else None


def unfolded(node: Node, model: Model, outputs: set[int]) -> None:
    """Raise ModelError for a BatchNormalization that `simplify` would fold into the layer before it.

    One that it cannot fold (computed or float16 parameters, per-activation statistics, folded weights that overflow) is a float operator like any other.
    """
    if not node.is_op("BatchNormalization") or node.attrs.get("training_mode", 0) or not node.attrs.get("spatial", 1):
        return
    before = producer(node.inputs[0])
    if before is None or not before.is_op("Conv", "Gemm") or sole_consumer(node.inputs[0], outputs) is not node:
        return
    parts = [constant_value(t) for t in (*node.inputs[1:5], before.input(1), before.input(2)) if t is not None]
    if len(parts) < 5 or any(p is None or p.dtype != np.float32 or not np.isfinite(p).all() for p in parts):
        return
    scale, _, _, variance, weight, *bias = (p for p in parts if p is not None)
    with np.errstate(all="ignore"):
        factor = np.abs(scale) / np.sqrt(variance + np.float32(node.attrs.get("epsilon", 1e-5)))
        folds = np.isfinite(factor.max(initial=0.0) * np.abs(weight).max(initial=0.0))
    if not folds or any(max(b.shape, default=1) != b.size or b.shape[-1:] == (1,) for b in bias):
        return
    raise ModelError(
        f"{model.path or 'The model'}: BatchNormalization '{node_name(node)}' stands unfolded behind {before.op} '{node_name(before)}', which then could not run in INT8. "
        "Run `graphcompress simplify` first (`compress` does it by itself)."
    )
