"""The oracle: a cut model computes what the original computes with the removed channels masked where they are summed over.

It is asked about every cut, before any repair: a difference is a fault of the algebra, and the cut is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from graphcompress.errors import GraphCompressError
from graphcompress.ir import Constant, Model, Tensor, constant_data, constant_value, graphs
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.prune.cut import Cut
from graphcompress.passes.prune.deviation import logits
from graphcompress.random_feeds import random_feeds
from graphcompress.runtime.session import Feed, open_session
from graphcompress.runtime.watch import Watch
from graphcompress.step import Context

ORACLE_FEEDS = 2
LEAST_FREE = 8
"""Length of free axes in random inputs: where it is 1, axes that are mixed up look alike."""
MOST_ELEMENTS = 1 << 24
"""Of the inputs of other lengths together."""
TOLERANCE = 1e-4
HALF_TOLERANCE = 1e-2
"""Largest difference, in parts of the largest magnitude of the output, that rounding may make: in float32, and where weights are of 16 bits."""
FEW = 0.01
"""Share of the elements of an output of integers that may differ."""


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
    Of outputs that are no floating-point numbers, the share of elements that differ counts, a percent of them as much as TOLERANCE: few may, as ArgMax of equals does.

    Raises ModelError where one of them does not load or run.
    """
    return largest_difference(masked(cut), cut.model, feeds)


def oracle_feeds(model: Model, context: Context) -> list[Feed]:
    """Inputs for the oracle: the first of the data, random ones without, and where axes are free one of other lengths, if `model` runs with it: a size that was put down as
    a number is wrong there. Raises DataError where no random ones fit."""
    source = context.data
    if source is None:
        source = random_feeds(model, ORACLE_FEEDS, context.seed, least=LEAST_FREE)
    feeds = [feed for feed, _ in zip(source, range(ORACLE_FEEDS), strict=False)]
    others = [_resized(model, feed, double) for feed in feeds[:1] for double in (False, True)]
    others = [o for o in others if _shapes(o) != _shapes(feeds[0]) and sum(math.prod(shape) for shape in _shapes(o).values()) <= MOST_ELEMENTS]
    if others:
        with open_session(model, optimize="none", threads=1) as session:
            for other in others:
                with suppress(GraphCompressError):
                    session.run(other)
                    return [*feeds, other]
    return feeds


def _shapes(feed: Feed) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feed.items() if isinstance(array, np.ndarray)}


def _resized(model: Model, feed: Feed, double: bool) -> Feed:
    """`feed` with twice the batch (the first axis), and half of the length of each other axis that is free, or twice with `double`."""
    result = dict(feed)
    for spec in model.inputs:
        array = feed.get(spec.name)
        for axis, dim in enumerate(spec.shape or ()):
            if isinstance(array, np.ndarray) and not isinstance(dim, int):
                length = array.shape[axis]
                grows = double or (axis == 0 and array.ndim > 1)
                array = np.concatenate([array, array], axis) if grows else array.take(range(max(1, length // 2)), axis)
                result[spec.name] = array
    return result


def largest_difference(reference: Model, other: Model, feeds: Iterable[Feed]) -> float:
    """The same of any two models with the same outputs. Of a Softmax what goes into it counts as well: where it saturates, its own values are the same whatever was cut."""
    feeds = list(feeds)
    worst = 0.0
    with open_session(reference, optimize="none", threads=1) as before, open_session(other, optimize="none", threads=1) as after:
        for feed in feeds:
            right, result = before.run(feed), after.run(feed)
            for name, value in right.items():
                worst = max(worst, _relative(value, result[name]))
    inner = [(a, b) for a, b, output in zip(logits(reference), logits(other), reference.graph.outputs, strict=True) if a is not output]
    if not inner:
        return worst
    runs = (Watch(m, tensors).run(feeds, threads=1, optimize="none") for m, tensors in zip((reference, other), zip(*inner, strict=True), strict=True))
    values: list[dict[tuple[Tensor, int], Any]] = []
    for run in runs:
        values.append({})
        count: Counter[Tensor] = Counter()
        for held in run:
            for tensor, value in held.items():
                values[-1][tensor, count[tensor]] = value
                count[tensor] += 1
    return max(worst, *(_relative(values[0][a, index], values[1][b, index]) for a, b in inner for index in range(len(feeds))))


def _relative(a: object, b: object) -> float:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.size:
        return 0.0
    if a.dtype.kind in "biuOSU":
        return float((a != b).mean()) * TOLERANCE / FEW
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    if (np.isfinite(x) != np.isfinite(y)).any():
        return float("inf")
    scale = float(np.abs(x[finite]).max(initial=0.0))
    return float(np.abs(x - y)[finite].max(initial=0.0)) / max(scale, 1e-30) if finite.any() else 0.0


def _numpy_type(dtype: str | None) -> Any:
    return {"float16": np.float16, "double": np.float64}.get(dtype or "", np.float32)
