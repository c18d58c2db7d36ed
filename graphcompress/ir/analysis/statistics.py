"""What a model consists of and what one run of it costs: parameters, bytes, operators, multiply-accumulates.

MACs are those of Conv, ConvTranspose, Gemm, MatMul, Einsum, LSTM, GRU and Attention (design, section 7); everything else counts as free. A run is one of
batch 1: a free first axis of an input is 1, and so is every dimension of the same name; other free dimensions are those of `feed_shapes`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from graphcompress.ir.files import serialize
from graphcompress.ir.model import walk
from graphcompress.ir.model.dimensions import Dim
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.model.garbage import paused
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Graph, Node, Tensor, Variable
from graphcompress.ir.model.tensors import TensorData
from graphcompress.ir.shapes.infer import Shapes, infer

_WEIGHT_TYPES = frozenset(["float", "double", "float16", "bfloat16"])


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """One node. `parameters`: elements of the constants that it reads itself (a shared one counts at each reader, once in the model's sum). `macs`: of one
    execution, what its subgraphs cost included; 0 for an operator that has none, None where shapes are not known."""

    name: str
    op: str
    parameters: int
    macs: int | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """A model in numbers.

    parameters: elements of all initializers, and of Constant nodes of a floating-point type; bytes: the serialized message and the external data that it refers to;
    initializer_bytes: elements of initializers and Constant nodes as ONNX stores them; nodes: in all graphs; operators: name -> count, with the domain before it
    where it is not ai.onnx; macs: of one run, the more expensive branch of an If counted, None where some heavy operator's shapes are not known.
    """

    parameters: int
    bytes: int
    initializer_bytes: int
    nodes: int
    operators: dict[str, int]
    macs: int | None
    per_node: tuple[NodeStatistics, ...]


def run_shapes(model: Model, feed_shapes: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Shapes in a run of batch 1. `feed_shapes` are the shapes of one feed by input name; without them only the batch is assumed."""
    return infer(model, input_shapes(model, feed_shapes or {}))


@paused()
def statistics(model: Model, feed_shapes: Mapping[str, Sequence[int]] | None = None, *, shapes: Shapes | None = None, size: int | None = None) -> Statistics:
    """Count. `feed_shapes` are as for `run_shapes`; `shapes` are its answer where it was asked already; `size` is the bytes of the model on disk,
    where they are known: else its message is put together to count them."""
    costs = _Costs(run_shapes(model, feed_shapes) if shapes is None else shapes)
    total = costs.graph(model.graph)
    nodes = list(walk.nodes(model))
    parameters, stored = _constants(model, nodes)
    return Statistics(
        parameters=parameters,
        bytes=serialize.size_on_disk(model) if size is None else size,
        initializer_bytes=stored,
        nodes=len(nodes),
        operators=dict(Counter(_operator(n) for n in nodes)),
        macs=total,
        per_node=tuple(NodeStatistics(n.name, _operator(n), sum(_elements(t) for t in _distinct(n)), costs.nodes[n]) for n in nodes),
    )


def node_macs(model: Model, shapes: Shapes) -> dict[Node, int | None]:
    """Multiply-accumulates of each node in one run with `shapes`, as in `NodeStatistics`."""
    costs = _Costs(shapes)
    costs.graph(model.graph)
    return costs.nodes


def input_shapes(model: Model, feed_shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[Dim, ...]]:
    """The shapes of the inputs in a run of batch 1."""
    specs = [s for s in (*model.inputs, *model.overridable) if s.kind == "tensor"]
    batch = {s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], str)} - {"?"}
    found: dict[str, tuple[Dim, ...]] = {}
    for spec in specs:
        fed = feed_shapes.get(spec.name)
        stated: Sequence[Dim] | None = spec.shape if spec.shape is not None else None if fed is None else (None,) * len(fed)
        if stated is None:
            continue
        free: Sequence[Dim] = fed if fed is not None and len(fed) == len(stated) else stated
        found[spec.name] = tuple(
            dim
            if isinstance(dim, int) and dim >= 0
            else 1
            if axis == 0 or dim in batch
            else free[axis]
            if not isinstance(free[axis], str) or dim == free[axis]
            else None
            for axis, dim in enumerate(stated)
        )
    return found


# --- constants and bytes --------------------------------------------------------------------------------------------------------


def _operator(node: Node) -> str:
    return node.op if node.standard else f"{node.domain}.{node.op}"


def _distinct(node: Node) -> list[Tensor]:
    return list({id(t): t for t in node.inputs if isinstance(t, Constant)}.values())


def _elements(tensor: Tensor) -> int:
    data = walk.constant_data(tensor)
    return 0 if data is None else math.prod(data.shape)


def _constants(model: Model, nodes: Sequence[Node]) -> tuple[int, int]:
    """(parameters, bytes) of all constants, those that callers may override too."""
    parameters = stored = 0
    for graph in walk.graphs(model):
        for constant in graph.initializers.values():
            parameters += math.prod(constant.shape)
            stored += constant.nbytes
        for tensor in graph.inputs:
            if isinstance(tensor, Variable) and isinstance(tensor.default, onnx.TensorProto):
                parameters += math.prod(tensor.default.dims)
                stored += TensorData(tensor.default).nbytes
        for sparse in graph.shell.sparse_initializer:
            parameters += math.prod(sparse.values.dims)
            stored += TensorData(sparse.values).nbytes + TensorData(sparse.indices).nbytes
    for node in nodes:
        data = walk.constant_data(node.outputs[0]) if node.is_op("Constant") else None
        if data is not None:
            kind = data.dtype_name if isinstance(data, TensorData) else array_dtype_name(data)
            parameters += math.prod(data.shape) if kind in _WEIGHT_TYPES else 0
            stored += int(data.nbytes)
    return parameters, stored


# --- multiply-accumulates -------------------------------------------------------------------------------------------------------

Cost = Callable[["_Costs", Node], int | None]


class _Costs:
    """MACs of nodes and graphs at the shapes that `shapes` knows."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.nodes: dict[Node, int | None] = {}

    def graph(self, graph: Graph) -> int | None:
        """The sum over a graph; None where a summand is."""
        total: int | None = 0
        for node in graph.nodes:
            cost = self.nodes[node] = self.node(node)
            total = None if total is None or cost is None else total + cost
        return total

    def node(self, node: Node) -> int | None:
        below = [self.graph(g) for g in walk.subgraphs(node)]
        if below:
            return self.control(node, below)
        formula = _FORMULAS.get((node.domain if not node.standard else "", node.op))
        return 0 if formula is None else formula(self, node)

    def control(self, node: Node, below: list[int | None]) -> int | None:
        if all(cost == 0 for cost in below):
            return 0
        known = [cost for cost in below if cost is not None]
        if len(known) != len(below):
            return None
        if node.is_op("If"):
            return max(known)
        times = self.iterations(node)
        return None if times is None else times * sum(known)

    def iterations(self, node: Node) -> int | None:
        """How often the body of a Scan or a counted Loop runs."""
        if node.is_op("Scan"):
            count = int(node.attrs["num_scan_inputs"])
            axes = node.attrs.get("scan_input_axes")
            shape = self.shapes.shape(node.inputs[-count])
            length = shape[int(axes[0]) if isinstance(axes, list) else 0] if shape else None
            return length if isinstance(length, int) else None
        if node.is_op("Loop"):
            trips = walk.constant_value(node.input(0)) if node.input(0) is not None else None
            condition = node.input(1)
            if trips is not None and (condition is None or walk.constant_value(condition) is not None):
                return max(int(trips.reshape(-1)[0]), 0)
        return None

    def shape(self, node: Node, index: int) -> tuple[int, ...] | None:
        """The static shape of an input."""
        tensor = node.input(index)
        return None if tensor is None else self.shapes.static(tensor)

    def output(self, node: Node) -> tuple[int, ...] | None:
        return self.shapes.static(node.outputs[0])


def _conv(costs: _Costs, node: Node) -> int | None:
    """Every output element is a sum over the inner axes of the weight [M, C/group, ...]."""
    y, w = costs.output(node), costs.shape(node, 1)
    return None if y is None or w is None else math.prod(y) * math.prod(w[1:])


def _conv_transpose(costs: _Costs, node: Node) -> int | None:
    """Every input element goes into all inner entries of the weight [C, M/group, ...]."""
    x, w = costs.shape(node, 0), costs.shape(node, 1)
    return None if x is None or w is None else math.prod(x) * math.prod(w[1:])


def _gemm(costs: _Costs, node: Node) -> int | None:
    y, a = costs.output(node), costs.shape(node, 0)
    return None if y is None or a is None else math.prod(y) * a[0 if node.attrs.get("transA", 0) else 1]


def _matmul(costs: _Costs, node: Node) -> int | None:
    y, a = costs.output(node), costs.shape(node, 0)
    return None if y is None or a is None else math.prod(y) * a[-1]


def _recurrent(costs: _Costs, node: Node) -> int | None:
    """Each of the sequence * batch steps multiplies with all of W and R, whose first axis is the direction."""
    x, w, r = (costs.shape(node, i) for i in range(3))
    return None if x is None or w is None or r is None else x[0] * x[1] * (math.prod(w) + math.prod(r))


def _einsum(costs: _Costs, node: Node) -> int | None:
    """One multiplication less than there are operands for each point of the space that all labels span."""
    terms = str(node.attrs["equation"]).replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        shape = costs.shape(node, index)
        if shape is None:
            return None
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after) if dots else 0
        # Axes under the dots are aligned at the right end, and broadcast.
        labels = [*before, *(f"...{hidden - i}" for i in range(hidden)), *after]
        for label, size in zip(labels, shape, strict=False):
            sizes[label] = max(size, sizes.get(label, 0))
    return math.prod(sizes.values()) * (len(terms) - 1)


def _attention(costs: _Costs, node: Node) -> int | None:
    """Q K^T and P V of ai.onnx's Attention; Q, K, V are [batch, heads, length, size] or [batch, length, heads * size]."""
    q, k, v = (costs.shape(node, i) for i in range(3))
    if q is None or k is None or v is None:
        return None
    if len(q) == 4:
        batch, heads, length, size, value_size = q[0], q[1], q[2], q[3], v[3]
        keys = k[2]
    else:
        heads, key_heads = int(node.attrs["q_num_heads"]), int(node.attrs["kv_num_heads"])
        batch, length, size, value_size = q[0], q[1], q[2] // heads, v[2] // key_heads
        keys = k[1]
    if node.input(4) is not None:
        past = costs.shape(node, 4)
        if past is None:
            return None
        keys += past[2]
    return batch * heads * length * keys * (size + value_size)


def _packed_attention(costs: _Costs, node: Node) -> int | None:
    """com.microsoft's Attention: the projection of [batch, length, width] by [width, Q + K + V], then Q K^T and P V over the same length."""
    x, w = costs.shape(node, 0), costs.shape(node, 1)
    if x is None or w is None or len(x) != 3 or node.input(4) is not None:
        return None
    sizes = node.attrs.get("qkv_hidden_sizes")
    key, value = (int(sizes[1]), int(sizes[2])) if isinstance(sizes, list) else (w[1] // 3, w[1] // 3)
    batch, length, _ = x
    return batch * length * math.prod(w) + batch * length * length * (key + value)


_FORMULAS: dict[tuple[str, str], Cost] = {
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    ("", "Einsum"): _einsum,
    ("", "LSTM"): _recurrent,
    ("", "GRU"): _recurrent,
    ("", "Attention"): _attention,
    ("com.microsoft", "Attention"): _packed_attention,
    ("com.microsoft", "DynamicQuantizeLSTM"): _recurrent,
    ("com.microsoft", "FusedConv"): _conv,
    ("com.microsoft", "FusedGemm"): _gemm,
}
