"""Vectors that several nodes share: exporters and `simplify` store equal biases once, which would tie layers together that have nothing to do with one another."""

from __future__ import annotations

from graphcompress.ir import Constant, Model, consumers
from graphcompress.ir.model.edit import Edits

VECTOR = 4096
"""Elements up to which a shared constant gets a copy for each reader. Larger ones (tied embeddings) stay one."""


def separated(model: Model) -> Model:
    """A copy of `model` in which every small constant of the main graph has one reader."""
    result = model.copy()
    main = set(result.graph.nodes)
    with Edits(result) as edits:
        for constant in list(result.graph.initializers.values()):
            readers = consumers(constant)
            if len(readers) < 2 or constant.nbytes > VECTOR * 8 or not all(node in main for node in readers):
                continue
            for node in readers[1:]:
                copy = Constant(result.fresh(constant.name), constant.data if constant.data is not None else constant.values)
                result.graph.initializers[copy.name] = copy
                for index, tensor in enumerate(node.inputs):
                    if tensor is constant:
                        edits.set_input(node, index, copy)
    return result


def shared(model: Model) -> None:
    """Undo it, in place, where equal constants are left: each is stored once, under its first name."""
    first: dict[tuple[str, tuple[int, ...], bytes], Constant] = {}
    outputs = set(model.graph.outputs)
    with Edits(model) as edits:
        for name, constant in list(model.graph.initializers.items()):
            if constant.nbytes > VECTOR * 8 or constant in outputs or not constant.outputs:
                continue
            values = constant.values
            if values.dtype.hasobject:
                continue
            same = first.setdefault((str(values.dtype), values.shape, values.tobytes()), constant)
            if same is not constant:
                edits.replace(constant, same)
                del model.graph.initializers[name]
