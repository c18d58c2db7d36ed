"""Rows looked up in a constant table: products with one-hot vectors are written as Gather, and what is computed from each row alone is computed from the table.

A product with a vector of one 1 and zeros is a row of the matrix, no row at all gives zeros. What works element by element on rows gives the same for every index, so it needs to be done once per row of
the table, which folding then does: a table of 257 bytes' embeddings instead of 2048 positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Graph, Model, Node, Tensor, constant_data, constant_value, graphs, output_ids, producer, sole_consumer, toposort
from graphcompress.ir.inline import calls, function_bodies
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/lookup"
FIRST_INTEGER_CLIP = 12
FIRST_AXES_AS_INPUT = 13
FLOATS = ("double", "float", "float16")
INDEX_TYPES = {"int32": np.int32, "int64": np.int64}
LARGEST = 1 << 24
"""Elements of a matrix that are looked at."""
ONE_INPUT = frozenset(
    ["Abs", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Neg", "Relu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh"]
)
TWO_INPUTS = frozenset(["Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"])

Array = np.ndarray[Any, Any]


def write_lookups(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Write products with one-hot vectors as lookups, and move what is computed from looked-up rows to the table; how many nodes that concerns."""
    products = [(g, n) for g in graphs(model) for n in g.nodes if n.is_op("MatMul") and model.opset >= FIRST_INTEGER_CLIP and _is_product(n)]
    gathers = [(g, n) for g in graphs(model) for n in g.nodes if n.is_op("Gather") and _is_table(n)]
    if not products and not gathers:
        return 0
    functions = set(function_bodies(model))
    outputs = output_ids(model)
    count = 0
    for graph, node in products:
        if not calls(node, functions) and (index := _one_hot_index(node, outputs, shapes())) is not None:
            _write_gather(model, graph, node, index, shapes())
            count += 1
    for graph, node in gathers:
        if not calls(node, functions):
            count += _move_behind_table(model, graph, node, outputs, shapes)
    return count


def _is_product(node: Node) -> bool:
    data, before = constant_data(node.inputs[1]), producer(node.inputs[0])
    return data is not None and before is not None and before.is_op("Cast") and len(data.shape) == 2 and data.size <= LARGEST


def _one_hot_index(product: Node, outputs: set[int], shapes: Shapes) -> Tensor | None:
    """The tensor of integers, of last size 1, whose one-hot vectors `product` multiplies with a constant matrix of float32."""
    weight = constant_value(product.inputs[1])
    cast = producer(product.inputs[0])
    equal = None if cast is None else producer(cast.inputs[0])
    if (
        weight is None
        or weight.dtype != np.float32
        or not np.isfinite(weight).all()
        or 0 in weight.shape
        or cast is None
        or equal is None
        or not equal.is_op("Equal")
    ):
        return None
    if (
        sole_consumer(cast.outputs[0], outputs) is not product
        or sole_consumer(equal.outputs[0], outputs) is not cast
        or shapes.dtype(cast.outputs[0]) != "float"
    ):
        return None
    for index, numbers in (equal.inputs, equal.inputs[::-1]):
        shape, values = shapes.shape(index), constant_value(numbers)
        if constant_data(index) is not None or shapes.dtype(index) not in INDEX_TYPES or shape is None or values is None or values.size != weight.shape[0]:
            continue
        if (
            len(shape) >= 2
            and shape[-1] == 1
            and values.ndim <= len(shape)
            and values.shape[-1:] == (values.size,)
            and np.array_equal(values.ravel(), np.arange(values.size))
        ):
            tensor: Tensor = index
            return tensor
    return None


def _write_gather(model: Model, graph: Graph, product: Node, index: Tensor, shapes: Shapes) -> None:
    """Gather from the matrix with a row of zeros at each end, for the indices below and above."""
    dtype, rank = INDEX_TYPES[shapes.dtype(index) or ""], shapes.rank(index) or 0
    weight = constant_value(product.inputs[1])
    assert weight is not None
    rows = weight.shape[0]
    zeros = np.zeros((1, weight.shape[1]), np.float32)
    # A sum with products of 0 is +0 where the matrix has -0.
    table = model.constant(f"{product.inputs[1].name}.rows", np.concatenate([zeros, weight + zeros, zeros]))
    scalars = [model.constant("i", np.array(v, dtype)) for v in (-1, rows, 1)]
    bounded, moved, flat = (model.variable("index") for _ in range(3))
    if model.opset < FIRST_AXES_AS_INPUT:
        squeeze = detached("Squeeze", "", {"axes": [rank - 1]}, (moved,), (flat,))
    else:
        squeeze = detached("Squeeze", "", {}, (moved, model.constant("axes", np.array([rank - 1], np.int64))), (flat,))
    new = [
        detached("Clip", "", {}, (index, *scalars[:2]), (bounded,)),
        detached("Add", "", {}, (bounded, scalars[2]), (moved,)),
        squeeze,
        detached("Gather", product.name, {"axis": 0}, (table, flat), product.outputs),
    ]
    with Edits(model) as edits:
        edits.remove([product])
        for node in new:
            node.rank, node.origin = product.rank, (STAGE, product.name or product.outputs[0].name)
            edits.add(node, graph)


def _is_table(gather: Node) -> bool:
    """Whether rows of a constant of floats that nobody else reads are looked up."""
    table = gather.inputs[0]
    data = constant_data(table)
    if constant_data(gather.inputs[1]) is not None:  # folding computes that
        return False
    return isinstance(table, Constant) and data is not None and len(table.outputs) == 1 and len(data.shape) >= 1 and not gather.attrs.get("axis", 0)


def _move_behind_table(model: Model, graph: Graph, gather: Node, outputs: set[int], shapes: Callable[[], Shapes]) -> int:
    """Compute from the table what is computed element by element from what `gather` looks up, where just one result of that is read; how many nodes moved."""
    table, rows = gather.inputs[0], gather.outputs[0]
    data = constant_data(table)
    assert data is not None
    shape = tuple(int(d) for d in data.shape)
    rank = shapes().rank(rows)
    if id(rows) in outputs or rank is None or shapes().dtype(table) not in FLOATS:
        return 0
    members: dict[Node, None] = {}
    computed = {rows}
    for node in toposort(graph):
        if any(t in computed for t in node.inputs) and _by_element(node, computed, shape, rank):
            members[node] = None
            computed.add(node.outputs[0])
    ends = [t for t in computed if id(t) in outputs or any(n not in members for n in t.outputs)]
    if len(ends) != 1 or ends[0] is rows or id(ends[0]) in outputs:
        return 0
    end = ends[0]
    inner = [t for t in computed if t is not end and t is not rows]
    shapes().forget(inner)
    with Edits(model) as edits:
        for node in members:
            for place, tensor in enumerate(node.inputs):
                if tensor is rows:
                    edits.set_input(node, place, table)
                elif (value := constant_value(tensor)) is not None and value.ndim >= len(shape):
                    edits.set_input(node, place, model.constant(tensor.name, value.reshape(_inner(value.shape))))
        last = producer(end)
        assert last is not None
        values = model.variable("table")
        edits.set_output(last, 0, values)
        moved = detached("Gather", gather.name, dict(gather.attrs), (values, gather.inputs[1]), (end,))
        moved.rank, moved.origin = last.rank, (STAGE, *(n.name or n.outputs[0].name for n in members))
        edits.remove([gather])
        edits.add(moved, graph)
        for tensor in inner:
            edits.reshape(tensor)
    return len(members)


def _inner(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` without the axes of size 1 that it begins with."""
    first = next((i for i, d in enumerate(shape) if d != 1), len(shape))
    return shape[first:]


def _by_element(node: Node, computed: set[Tensor], shape: tuple[int, ...], rank: int) -> bool:
    """Whether `node` computes each element of its result from the same one of tensors of `computed`, and from constants that are the same in each row of a table of `shape`, and have no more
    axes than the `rank` of what is looked up, to which they would add theirs."""
    if not node.standard or len(node.outputs) != 1 or not (node.op in ONE_INPUT or (node.op in TWO_INPUTS and len(node.inputs) == 2)):
        return False
    if node.op in ONE_INPUT:
        return node.inputs[0] in computed and all(not t.name or constant_data(t) is not None for t in node.inputs[1:])
    for tensor in node.inputs:
        if tensor in computed:
            continue
        data = constant_data(tensor)
        if data is None or len(data.shape) > rank:
            return False
        inner = _inner(tuple(int(d) for d in data.shape))
        if len(inner) >= len(shape) or any(d not in (1, s) for d, s in zip(inner[::-1], shape[::-1], strict=False)):
            return False
    return True
