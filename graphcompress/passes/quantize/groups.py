"""Which operators of a model fit a row of the target table: the groups that could compute in integers, and why the others cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, TensorData, constant_data, constant_value, nodes, output_ids, producer, sole_consumer, subgraphs
from graphcompress.ir.model.scopes import node_homes, owners
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.quantize.feedback import fed_back
from graphcompress.step import Refusal
from graphcompress.targets import Operator, Target

INF = math.inf
# Operators whose subgraphs run as part of the model, so that what stands in them can be observed and fused.
WITH_BODIES = ("If", "Loop", "Scan")


@dataclass(eq=False, slots=True)
class Group:
    """One operator with what belongs to it: `chain` is the operator, then perhaps an Add of a bias, then perhaps an activation that the Q behind makes
    redundant.

    `data` and `constants` are input indices of the operator; `bounds` are those of the activation: the range of the Q must lie inside. Compared by identity.
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
        assert self.weight is not None
        return channel_axis(self.row, self.node, len(shape_of(self.weight)))

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
class Candidates:
    """The groups in the order of the graph, and the reasons of the heavy operators (and excluded ones) that are in none."""

    groups: list[Group] = field(default_factory=list)
    refusals: dict[Node, Refusal] = field(default_factory=dict)


class Unfit(Exception):
    """Why an operator is no group: an id and a sentence."""

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


def find(model: Model, target: Target, shapes: Shapes, excluded: Callable[[Node], bool] = lambda node: False) -> Candidates:
    """All groups that fit a row of `target`, those in subgraphs too, before any thought of cost."""
    return Finder(model, target, shapes, excluded).run()


class Finder:
    """One search through a model."""

    def __init__(self, model: Model, target: Target, shapes: Shapes, excluded: Callable[[Node], bool]) -> None:
        self.model = model
        self.target = target
        self.shapes = shapes
        self.excluded = excluded
        self.outputs = output_ids(model)
        self.signature = set(model.graph.outputs)
        self.homes = node_homes(model)
        self.members: set[Node] = set()
        self._closed = closed_graphs(model)
        self._fed_back = fed_back(model)

    def run(self) -> Candidates:
        result = Candidates()
        for node in nodes(self.model):
            if node in self.members:
                continue
            heavy = node.op in self.target.heavy
            try:
                if self.excluded(node):
                    heavy = True
                    raise Unfit("excluded", "it was excluded")
                if not node.standard or subgraphs(node):
                    raise Unfit("no-int8-kernel", f"{node.domain}.{node.op} has no row in the table of target '{self.target.name}'")
                owner = self._closed.get(self.homes[node])
                if owner is not None:
                    raise Unfit("in-subgraph", f"it stands in a subgraph of {owner.op}, where ranges cannot be observed")
                if node in self._fed_back:
                    raise Unfit("fed-back", "a Loop or Scan feeds its result back, so that its error would grow with each iteration")
                group = self._by_rows(node)
                self.members.update(group.chain)
                result.groups.append(group)
            except Unfit as unfit:
                if heavy:
                    result.refusals[node] = Refusal(unfit.identifier, unfit.reason, node_name(node))
        return result

    def _by_rows(self, node: Node) -> Group:
        """The group of `node` by the first row that fits; raises Unfit with the reason of the row that came closest."""
        rows = self.target.rows(node.op)
        if not rows:
            raise Unfit("no-int8-kernel", self.target.float_only.get(node.op, f"target '{self.target.name}' has no INT8 form of {node.op}"))
        problems: list[Unfit] = []
        for row in rows:
            try:
                return self._by_row(row, node)
            except Unfit as unfit:
                problems.append(unfit)
        # A row for another kind of operand says less than the row that nearly fitted.
        wrong_row = ("quantize/not-constant", "quantize/constant-input")
        raise next((p for p in problems if p.identifier not in wrong_row), problems[-1])

    def _by_row(self, row: Operator, node: Node) -> Group:
        for name, value in row.require.items():
            actual = node.attrs.get(name, value)
            if actual != value:
                raise Unfit("attribute", f"{node.op} with {name} = {actual} does not fuse (only {value})")
        if any(n.is_op("QuantizeLinear") for t in node.outputs for n in t.outputs):
            raise Unfit("already-quantized", "it is quantized already")
        if row.clipped:
            _check_clipped(row, node)
        inside = self.homes[node] is not self.model.graph
        data, constants = _slots(row, node, self.shapes, inside=inside)
        group = Group(row, (node,), data, constants, tuple(node.outputs))
        _check_weight(group, node)
        used = [t for t in node.outputs if t.name and (t.outputs or id(t) in self.outputs)]
        if row.every_output:
            if not used:
                raise Unfit("unused", "nobody reads its output")
            if len(used) != len(node.outputs):
                raise Unfit("outputs", "one of its outputs is not used")
        elif used != list(node.outputs[:1]):
            raise Unfit("outputs", "it has outputs without an INT8 form" if used else "nobody reads its output")
        else:
            group.outputs = (node.outputs[0],)
            self._extend(group)
        if row.output == "required" and not row.heavy and any(t in self.signature for t in group.outputs):
            raise Unfit("graph-output", "it makes an output of the model, which only what computes much makes of codes")
        if any(n.is_op("QuantizeLinear") for t in group.outputs for n in t.outputs):
            raise Unfit("already-quantized", "it is quantized already")
        return group

    def _following(self, group: Group) -> Node | None:
        """The only reader of the group's output where it may join the group."""
        after = sole_consumer(group.outputs[0], self.outputs)
        if after is None or not after.standard or subgraphs(after) or self.excluded(after) or after in self.members:
            return None
        return after if self.homes[after] is self.homes[group.node] else None

    def _extend(self, group: Group) -> None:
        """Take in the Add of a bias and the activation behind."""
        after = self._following(group)
        if after is not None and unfolded(after, group.node):
            raise Unfit(
                "unfolded-batchnorm",
                f"BatchNormalization '{node_name(after)}' stands unfolded behind it. Run `graphcompress simplify` first (`compress` does it by itself)",
            )
        if group.row.bias_add and after is not None and after.op == "Add" and self._adds_bias(group, after):
            group.chain += (after,)
            group.outputs = (after.outputs[0],)
            after = self._following(group)
        if after is not None and after.op in group.row.absorbs and after.inputs[0] is group.outputs[0]:
            bounds = activation_bounds(after)
            handed_out = id(after.outputs[0]) in self.outputs and not (group.row.output == "required" and after.outputs[0] in self.signature)
            if bounds is not None and not handed_out:
                group.chain += (after,)
                group.outputs = (after.outputs[0],)
                group.bounds = bounds

    def _adds_bias(self, group: Group, add: Node) -> bool:
        """The other operand is a constant with one value per output channel, which broadcasting to the last axis does not widen."""
        assert group.weight is not None
        other = add.inputs[1] if add.inputs[0] is group.outputs[0] else add.inputs[0]
        if constant_data(other) is None or not is_float(other):
            return False
        shape = shape_of(other)
        rank = self.shapes.rank(group.outputs[0])
        if len(shape) > 1 and (rank is None or rank < len(shape)):
            return False
        after = sole_consumer(add.outputs[0], self.outputs)
        if rank != 2 and after is not None and after.op in group.row.absorbs:
            # In more than two dimensions the provider makes a Gemm between Reshapes of the two, and then sees no Q behind the activation. Apart both fuse.
            return False
        values = constant_value(other)
        columns = shape_of(group.weight)[group.weight_axis]
        return bool(shape) and shape[-1] == columns and columnwise(shape, columns) and values is not None and bool(np.isfinite(values).all())


def closed_graphs(model: Model) -> dict[Graph, Node]:
    """The subgraphs of other operators than If, Loop and Scan, with that operator; and all below them."""
    closed: dict[Graph, Node] = {}
    for graph, (node, outer) in owners(model).items():  # outer graphs come first
        if not node.is_op(*WITH_BODIES):
            closed[graph] = node
        elif outer in closed:
            closed[graph] = closed[outer]
    return closed


def columnwise(shape: Sequence[int], columns: int) -> bool:
    """Whether a constant of `shape`, added to a matrix of any number of rows with `columns` columns, adds one value to each column."""
    return not shape or (shape[-1] in (1, columns) and all(d == 1 for d in shape[:-1]))


def _slots(row: Operator, node: Node, shapes: Shapes, *, inside: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices of the computed inputs and of the constant ones in the activation's type. `inside` a subgraph, types must be known."""
    data: list[int] = []
    constants: list[int] = []
    for index, tensor in enumerate(node.inputs):
        slot = row.slots[index] if index < len(row.slots) else row.rest
        present = tensor.name != ""
        constant = present and constant_data(tensor) is not None
        match slot:
            case None:
                raise Unfit("inputs", f"{node.op} with input {index} has no INT8 form")
            case "keep":
                continue
            case "bias" if not present:
                continue
            case "bias" | "weight":
                if slot == "weight" and quantized_weight(row, node, tensor):
                    raise Unfit("already-quantized", "its weight is quantized already, and the provider computes it in INT8 where it can")
                if not constant:
                    raise Unfit("not-constant", f"its {slot} is not a constant")
                if not is_float(tensor):
                    raise Unfit("not-float32", f"its {slot} is not float32")
                continue
            case _:
                if not present:
                    raise Unfit("inputs", f"{node.op} without input {index} has no INT8 form")
        if constant and slot == "operand":
            if not is_float(tensor):
                raise Unfit("not-float32", "it does not compute in float32")
            values = constant_value(tensor)
            if values is None or not np.isfinite(values).all():
                raise Unfit("not-finite", f"its constant input {index} has NaN or infinite values")
            constants.append(index)
            continue
        if constant:
            raise Unfit("constant-input", f"input {index} is a constant, which has no INT8 form there")
        if shapes.dtype(tensor) not in (None, "float"):
            raise Unfit("not-float32", "it does not compute in float32")
        if inside and shapes.dtype(tensor) is None:
            raise Unfit("unknown-type", "it stands in a subgraph, and the type of its input is not known")
        before = producer(tensor)
        if before is not None and before.is_op("DequantizeLinear"):
            raise Unfit("already-quantized", "it is quantized already")
        data.append(index)
    missing = [s for s in row.slots[len(node.inputs) :] if s not in ("keep", "bias")]
    if missing or not data:
        raise Unfit("inputs", f"{node.op} without a computed input has no INT8 form")
    return tuple(data), tuple(constants)


def quantized_weight(row: Operator, node: Node, weight: Tensor) -> bool:
    """Whether `weight` is integer codes behind a DequantizeLinear, with one scale or one per output channel."""
    before = producer(weight)
    if before is None or not before.is_op("DequantizeLinear") or constant_data(before.inputs[0]) is None or constant_data(before.inputs[1]) is None:
        return False
    rank = len(shape_of(before.inputs[0]))
    return math.prod(shape_of(before.inputs[1])) == 1 or int(before.attrs.get("axis", 1)) % max(rank, 1) == channel_axis(row, node, rank)


def channel_axis(row: Operator, node: Node, rank: int) -> int:
    """The output channels' axis, not negative, of a weight of this rank."""
    assert row.axis is not None
    axis = row.axis % rank
    return 1 - axis if row.flip and rank == 2 and node.attrs.get(row.flip, 0) else axis


def hard_sigmoid(node: Node) -> tuple[float, float]:
    """(alpha, beta) of a HardSigmoid, which is alpha * x + beta between 0 and 1."""
    return float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))


def _check_clipped(row: Operator, node: Node) -> None:
    if min(hard_sigmoid(node)) <= 0:
        raise Unfit("attribute", f"{node.op} that falls, or rises from 0 on, is no clipping of codes")
    before = producer(node.inputs[0])
    if before is not None and before.is_op(row.op):
        raise Unfit("inputs", f"it reads what another {row.op} makes, whose codes are given")


def _check_weight(group: Group, node: Node) -> None:
    weight, row = group.weight, group.row
    if weight is None:
        return
    shape = shape_of(weight)
    if len(shape) not in row.rank:
        raise Unfit("rank", f"its weight has rank {len(shape)}, which does not fuse")
    if 0 in shape:
        raise Unfit("empty", "its weight is empty")
    bias = group.bias
    if bias is not None:
        channels, bias_shape = shape[group.weight_axis], shape_of(bias)
        if bias_shape != (channels,) and not (node.op == "Gemm" and columnwise(bias_shape, channels)):
            raise Unfit("bias-shape", f"its bias has shape {list(bias_shape)}, not one value per output channel")
    for part in (weight, bias):
        values = None if part is None else constant_value(part)
        if values is not None and not np.isfinite(values).all():
            raise Unfit("not-finite", "its weight or bias has NaN or infinite values")


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


def unfolded(node: Node, before: Node) -> bool:
    """Whether `node`, the only reader of `before`, is a BatchNormalization that `simplify` would fold into it.

    One that it cannot fold (computed or float16 parameters, per-activation statistics, folded weights that overflow) is a float operator like any other.
    """
    if not node.is_op("BatchNormalization") or not before.is_op("Conv", "Gemm") or node.attrs.get("training_mode", 0) or not node.attrs.get("spatial", 1):
        return False
    parts = [constant_value(t) for t in (*node.inputs[1:5], before.input(1), before.input(2)) if t is not None]
    if len(parts) < 5 or any(p is None or p.dtype != np.float32 or not np.isfinite(p).all() for p in parts):
        return False
    scale, _, _, variance, weight, *_ = (p for p in parts if p is not None)
    with np.errstate(all="ignore"):
        factor = np.abs(scale) / np.sqrt(variance + np.float32(node.attrs.get("epsilon", 1e-5)))
        return bool(np.isfinite(factor.max(initial=0.0) * np.abs(weight).max(initial=0.0)))
