"""The oracle: a cut model computes what the original computes with the removed channels masked where they are summed over.

It is asked about every cut, before any repair: a difference is a fault of the algebra, and the cut is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Model, constant_data, constant_value, graphs
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.prune.cut import Cut
from graphcompress.runtime.session import Feed, open_session

TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-2
"""Largest difference, in parts of the largest magnitude of the output, that rounding may make: in float32, and where weights are of 16 bits."""


def tolerance(model: Model) -> float:
    """What rounding may make of the outputs of `model`."""
    half = any(c.dtype in (np.float16, "bfloat16") for graph in graphs(model) for c in graph.initializers.values())
    return HALF_TOLERANCE if half else TOLERANCE


def masked(cut: Cut) -> Model:
    """The original with the removed channels masked: columns of weights that are zero, or a Mul where no operand of the sum is a constant."""
    algebra = cut.algebra
    model, twins = algebra.model.clone()
    values: dict[Constant, np.ndarray] = {}
    with Edits(model) as edits:
        for application in algebra.applications:
            for letter, slots in application.contractions():
                mask = cut.mask(application.vectors[letter])
                if mask is None or mask.all():
                    continue
                slot = next((s for s in slots if constant_data(s.tensor) is not None), slots[0])
                axis = (algebra.axes[slot.tensor] or ())[slot.axis]
                here = cut.mask(axis)
                shape = algebra.shape(slot.tensor)
                assert here is not None and shape is not None
                factor = here.reshape([-1 if a == slot.axis else 1 for a in range(len(shape))])
                twin, node = twins.tensor(slot.tensor), twins.node(application.form.node)
                if isinstance(twin, Constant):
                    before = values.get(twin)
                    array = constant_value(slot.tensor) if before is None else before
                    assert array is not None
                    if len(here) != array.shape[slot.axis]:  # counted within blocks of the first axis
                        blocks = len(here) // array.shape[slot.axis]
                        factor = factor.reshape(blocks, array.shape[slot.axis], *factor.shape[2:]).repeat(len(array) // blocks, 0)
                    values[twin] = array * factor.astype(array.dtype)
                else:
                    dtype = _numpy_type(algebra.shapes.dtype(slot.tensor))
                    product = model.add("Mul", [twin, model.constant("mask", factor.astype(dtype))], near=node)
                    index = next(i for i, t in enumerate(application.form.node.inputs) if t is slot.tensor)
                    edits.set_input(node, index, product.outputs[0])
        for constant, array in values.items():
            edits.set_value(constant, array)
    return model


def difference(cut: Cut, feeds: Iterable[Feed]) -> float:
    """The largest difference between the cut model and the masked original on `feeds`, in parts of the largest magnitude of the output; infinity where shapes or types differ.

    Raises ModelError where one of them does not load or run.
    """
    return largest_difference(masked(cut), cut.model, feeds)


def largest_difference(reference: Model, other: Model, feeds: Iterable[Feed]) -> float:
    """The same of any two models with the same outputs."""
    worst = 0.0
    with open_session(reference, optimize="none", threads=1) as before, open_session(other, optimize="none", threads=1) as after:
        for feed in feeds:
            right, result = before.run(feed), after.run(feed)
            for name, value in right.items():
                worst = max(worst, _relative(value, result[name]))
    return worst


def _relative(a: object, b: object) -> float:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.size or not np.issubdtype(a.dtype, np.floating):
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    if (np.isfinite(x) != np.isfinite(y)).any():
        return float("inf")
    scale = float(np.abs(x[finite]).max(initial=0.0))
    return float(np.abs(x - y)[finite].max(initial=0.0)) / max(scale, 1e-30) if finite.any() else 0.0


def _numpy_type(dtype: str | None) -> Any:
    return {"float16": np.float16, "double": np.float64}.get(dtype or "", np.float32)
