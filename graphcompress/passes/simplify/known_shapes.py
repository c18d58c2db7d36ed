"""Shape and Size of tensors whose dimensions the signature fixes, and the pieces that are cut out of such shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, constant_data, constant_value, graphs, producer
from graphcompress.ir.inline import called_function, function_bodies
from graphcompress.ir.model.objects import Shape
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.simplify.constants import make_known

STAGE = "simplify/shape"
PIECES = 1024  # entries of an index; more than any rank, and nothing large is decoded

Array = np.ndarray[Any, Any]


def replace_known_shapes(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Replace Shape, Size, and Gather or Slice of a Shape, by constants where every dimension asked for is a number; how many nodes."""
    functions = set(function_bodies(model))
    known: dict[int, tuple[Tensor, Array]] = {}
    gone: list[Node] = []
    places: dict[int, Graph] = {}
    for graph in graphs(model):
        for node in graph.nodes:
            if node.op not in ("Shape", "Size", "Gather", "Slice") or not node.standard or called_function(node) in functions:
                continue
            value = _value(node, shapes())
            if value is not None:
                output = node.outputs[0]
                known[id(output)] = (output, value)
                places[id(output)] = graph
                gone.append(node)
    return make_known(model, known, STAGE, gone, places) if gone else 0


def _value(node: Node, shapes: Shapes) -> Array | None:
    if node.op == "Size":
        static = shapes.static(node.inputs[0])
        return None if static is None else np.array(np.prod(static, dtype=np.int64), np.int64)
    if node.op == "Shape":
        return _numbers(_dims(node, shapes))
    source = producer(node.inputs[0]) if node.inputs else None
    if source is None or not source.is_op("Shape"):
        return None
    dims = _dims(source, shapes)
    if dims is None:
        return None
    return _gathered(node, dims) if node.op == "Gather" else _sliced(node, dims)


def _dims(node: Node, shapes: Shapes) -> Shape | None:
    """What a Shape node hands out, `start` and `end` applied."""
    shape = shapes.shape(node.inputs[0])
    return None if shape is None else shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))]


def _numbers(dims: Shape | None) -> Array | None:
    numbers = [d for d in dims or () if isinstance(d, int)]
    return np.array(numbers, np.int64) if dims is not None and len(numbers) == len(dims) else None


def _gathered(node: Node, dims: Shape) -> Array | None:
    index = _small(node.input(1))
    if index is None or node.attrs.get("axis", 0) not in (0, -1) or any(not -len(dims) <= i < len(dims) for i in index.ravel()):
        return None
    found = _numbers(tuple(dims[int(i)] for i in index.ravel()))
    return None if found is None else found.reshape(index.shape)


def _sliced(node: Node, dims: Shape) -> Array | None:
    """Slice from opset 10 on, where bounds are inputs."""
    bounds = [_small(node.input(i)) for i in (1, 2)]
    steps = _small(node.input(4)) if node.input(4) is not None else np.array([1])
    axes = _small(node.input(3)) if node.input(3) is not None else np.array([0])
    if any(b is None or b.size != 1 for b in (*bounds, steps, axes)) or axes is None or steps is None or int(axes.ravel()[0]) not in (0, -1):
        return None
    start, end = (int(b.ravel()[0]) for b in bounds if b is not None)
    step = int(steps.ravel()[0])
    if step < 1:
        return None  # a negative end means "before the first" to ONNX in some forms and "from the back" to Python
    return _numbers(dims[start:end:step])


def _small(tensor: Tensor | None) -> Array | None:
    """The value of a constant that is short enough to be an index."""
    data = constant_data(tensor)
    return None if data is None or data.nbytes > 8 * PIECES else constant_value(tensor)
