"""Linear operators that work along one axis after the other (Resize, AveragePool): the matrix of each axis, and its transposition applied to a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.gradient.build import NodeGradient, NoGradient
from graphcompress.ir import Tensor, Variable
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.edit import Edits
from graphcompress.runtime.evaluate import run_once

Array = np.ndarray[Any, Any]

LONGEST = 4096  # elements of an axis: its matrix has their square


def axis_matrix(call: NodeGradient, op: str, size: int, attrs: Mapping[str, Any], extra: Sequence[Array | None] = (), *, between: int = 1) -> Array:
    """What `op` makes of an axis of `size` elements, as a matrix [size, result]: it is run on the rows of the identity. `extra` are its inputs beside the first,
    `between` is the number of axes of size one before the axis.

    Raises NoGradient where the runtime does not run it so.
    """
    if size > LONGEST:
        raise NoGradient("long-axis", f"{call.node.op} works along an axis of {size} elements; up to {LONGEST} have a gradient rule")
    shape = (size, *[1] * between, size)
    model = parse_model(f"(float[{','.join(map(str, shape))}] x) => (float y) {{ y = Identity (x) }}", {"": call.build.model.opset})
    with Edits(model) as edits:
        edits.remove(model.graph.nodes)
    inputs = [model.graph.inputs[0], *(Variable("") if e is None else model.constant("extra", e) for e in extra)]
    model.add(op, inputs, model.graph.outputs, dict(attrs))
    try:
        return np.asarray(run_once(model, {"x": np.eye(size, dtype=np.float32).reshape(shape)})["y"].reshape(size, -1))
    except ModelError as problem:
        raise NoGradient("not-separable", f"{call.node.op} along one axis does not run: {problem}") from problem


def transposed_along(call: NodeGradient, gradient: Tensor, matrix: Array, axis: int) -> Tensor:
    """`gradient` [..., result, ...] times `matrix` [size, result] along `axis`: [..., size, ...]."""
    if matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix))):
        return gradient
    rank = call.rank(gradient)
    dtype = call.dtype(gradient)
    if axis == rank - 2:
        return call.add("MatMul", call.build.array(matrix, dtype), gradient)
    exchanged = [*range(rank)]
    exchanged[axis], exchanged[-1] = rank - 1, axis
    product = call.add("MatMul", call.transpose(gradient, exchanged), call.build.array(matrix.T, dtype))
    return call.transpose(product, exchanged)
