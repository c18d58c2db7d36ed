"""What an error in the output of a layer does to the outputs of the model: for all layers at once, by gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphcompress.gradient.build import FLOATS
from graphcompress.gradient.reverse import Gradient, gradient
from graphcompress.ir import Model, Tensor
from graphcompress.ir.model.signature import with_signature
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.prune.deviation import logits
from graphcompress.reconstruction.rows import Layer
from graphcompress.runtime.session import Feed, open_session

Array = np.ndarray[Any, Any]

PASSES = 3
"""How many times the work of the model itself a forward and a backward pass take, about."""


def propagated_errors(model: Model, layers: Sequence[Layer], feeds: Sequence[Feed], *, seed: int, threads: int | None = None) -> Array:
    """[layers] the outputs' squared error, as a part of their squares, for a squared error of a layer's output as large as its variance: how many times a small relative error there is felt here. NaN where a gradient is missing.

    The error is taken to be a part of what the output is beside its mean, with a sign by chance for each channel of an input, the same at all its positions: a channel that is missing, or fitted less well, is missing everywhere.
    With cotangents v of independent normal numbers, E (v'J e)^2 = |J e|^2 (Hutchinson 1990), so that one backward pass for each feed serves all layers. `feeds` are of one shape.

    Raises ModelError where the model cannot be differentiated.
    """
    kinds = infer(model)
    outputs, tensors = [t.name for t in logits(model) if kinds.dtype(t) in FLOATS], [layer.output.name for layer in layers]
    slopes = gradient(model, outputs, dict.fromkeys(tensors), shapes={name: array.shape for name, array in feeds[0].items()})
    felt = {name: _Felt() for name in slopes.gradients}
    axes = {layer.output.name: layer.form.channel_axis for layer in layers}
    random, squares = np.random.default_rng(seed), 0.0
    session = open_session(_with_values(slopes), threads=threads)
    try:
        shapes = {i.name: tuple(d if isinstance(d, int) else 1 for d in i.shape or ()) for i in session.inputs}
        for feed in feeds:
            cotangents = {name: random.standard_normal(shapes[name]).astype(np.float32) for name in slopes.cotangents.values() if name in shapes}
            values = session.run({name: feed[name] if name in feed else cotangents[name] for name in shapes})
            squares += sum(float(np.square(values[name], dtype=np.float64).sum()) for name in dict.fromkeys(outputs))
            for name, sums in felt.items():
                sums.update(values[name], values[slopes.gradients[name]], axes[name])
    finally:
        session.close()
    errors = {name: sums.finish() / squares if squares > 0 else np.nan for name, sums in felt.items()}
    return np.array([errors.get(name, np.nan) for name in tensors])


class _Felt:
    """Sums over feeds of (g'(z - m))^2 for each channel of each input, where m is the mean of z over all feeds."""

    def __init__(self) -> None:
        self._sums: list[Array] = []

    def update(self, values: Array, slopes: Array, axis: int) -> None:
        """Take in a layer's output and the gradient of the same shape; `axis` is that of the channels."""
        axis %= values.ndim
        positions = tuple(i for i in range(values.ndim > 2, values.ndim) if i != axis)
        z, g = values.astype(np.float64), slopes.astype(np.float64)
        products, totals = ((t.sum(axis=positions)).reshape(-1, values.shape[axis]) for t in (z * g, g))
        means = np.moveaxis(z, axis, -1).reshape(-1, values.shape[axis]).mean(axis=0)
        new = [np.square(products).sum(axis=0), (products * totals).sum(axis=0), np.square(totals).sum(axis=0), means, np.ones(1)]
        self._sums = [a + b for a, b in zip(self._sums, new, strict=True)] if self._sums else new

    def finish(self) -> float:
        if not self._sums:
            return np.nan
        squares, products, totals, means, feeds = self._sums
        mean = means / feeds
        return float((squares - 2 * mean * products + mean * mean * totals).sum())


def _with_values(slopes: Gradient) -> Model:
    """The gradient model, with the tensors that are differentiated among its outputs."""
    model = slopes.model
    named: Mapping[str, Tensor] = {t.name: t for t in model.graph.outputs} | {t.name: t for n in model.graph.nodes for t in n.outputs if t.name}
    outputs = dict.fromkeys((*(o.name for o in model.outputs), *slopes.gradients))
    return with_signature(model, [], [named[name] for name in outputs])
