"""Writing chosen forms into a copy of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Graph, Model, Tensor, Variable, producer
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.twins import Twins
from graphcompress.passes.store.codes import Codes, codes_per_word, packed
from graphcompress.passes.store.constants import FLOAT, FloatConstant, home

FLOAT16 = 10  # ONNX's enum of the element type


def write(model: Model, forms: Mapping[FloatConstant, Codes]) -> tuple[Model, dict[str, FloatConstant]]:
    """A copy of `model` with the constants in these forms, and by the name of its codes which constant is which."""
    copy, twins = model.clone()
    names: dict[str, FloatConstant] = {}
    with Edits(copy) as edits:
        for constant, codes in forms.items():
            names[_chain(copy, edits, twins, constant, codes, twins.graph(home(model, constant)))] = constant
    return copy, names


def _chain(model: Model, edits: Edits, twins: Twins, constant: FloatConstant, codes: Codes, graph: Graph) -> str:
    """Write one constant into `graph`: codes, a Cast, and a Mul for each array of scales; the name of the codes. Packed codes are shifted out of their words before.

    The result has the name of the constant, so that the runtime ends with the initializer that it had before. Nodes have no names, and tensors short ones: the file is to be small.
    """
    results = [(twins.tensor(t), twins.graph(g)) for t, g in constant.results]
    sources = [(twins.tensor(t), twins.graph(g)) for t, g in constant.sources]
    # Where several graphs had one, the name of one of them may mean something else in another.
    result = Variable(results[0][0].name if {where for _, where in sources} == {graph} else model.fresh("w"))
    stored = _initializer(model, graph, "q", packed(codes.codes, codes.bits) if codes.bits else codes.codes)
    rest: list[tuple[str, tuple[Tensor, ...], dict[str, Any]]] = _unpacking(model, graph, codes) if codes.bits else [("Cast", (), {"to": FLOAT})]
    rest += [("Mul", (_initializer(model, graph, "s", scale),), {}) for scale in codes.scales]
    if constant.dtype == "float16" and not constant.wide:
        rest.append(("Cast", (), {"to": FLOAT16}))
    rank = min(n.rank for n in constant.readers)
    at: Tensor = stored
    for number, (op, others, attrs) in enumerate(rest, 1):
        out = result if number == len(rest) else model.variable("c")
        node = detached(op, "", attrs, (at, *others), (out,))
        node.rank = rank
        edits.add(node, graph)
        at = out
    for tensor, _ in results:
        edits.replace(tensor, result)
    edits.remove(maker for tensor, _ in (*results, *sources) if (maker := producer(tensor)) is not None)
    for tensor, where in sources:
        if isinstance(tensor, Constant):
            del where.initializers[tensor.name]
    return str(stored.name)


def _unpacking(model: Model, graph: Graph, codes: Codes) -> list[tuple[str, tuple[Tensor, ...], dict[str, Any]]]:
    """From words [words, 1] to codes in float32 in their shape: operators of opset 11, which every runtime folds when it loads the model."""

    def shared(values: np.ndarray[Any, Any]) -> Constant:
        """One initializer for all weights."""
        same = (c for c in graph.initializers.values() if c.values.dtype == values.dtype and np.array_equal(c.values, values))
        return next(same, None) or _initializer(model, graph, "u", values)

    size, count = codes.codes.size, codes_per_word(codes.bits)
    rest: list[tuple[str, tuple[Tensor, ...], dict[str, Any]]] = [
        ("BitShift", (shared((codes.bits * np.arange(count)).astype(np.uint32)),), {"direction": "RIGHT"}),
        ("Mod", (shared(np.array(1 << codes.bits, np.uint32)),), {}),
    ]
    if size % count:
        bounds = [shared(np.array([n], np.int64)) for n in (0, size)]
        rest += [("Reshape", (shared(np.array([-1], np.int64)),), {}), ("Slice", tuple(bounds), {})]
    shape = shared(np.array(codes.codes.shape, np.int64))
    return [*rest, ("Reshape", (shape,), {}), ("Cast", (), {"to": FLOAT}), ("Sub", (shared(np.array(1 << codes.bits - 1, np.float32)),), {})]


def _initializer(model: Model, graph: Graph, hint: str, values: np.ndarray[Any, Any]) -> Constant:
    constant = Constant(model.fresh(hint), values)
    graph.initializers[constant.name] = constant
    return constant
