"""Weights in few bits, layer after layer: the least-squares weights for what the original calculates there, on the inputs that the layer has with all earlier ones rounded, and these
rounded with error feedback (`reconstruction.rounding`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Model, Node
from graphcompress.ir.model.edit import Edits
from graphcompress.reconstruction.gram import Array, Moments
from graphcompress.reconstruction.layer_moments import best_rows
from graphcompress.reconstruction.repair import set_bias
from graphcompress.reconstruction.rounding import ROUNDS, Levels, round_by_error, round_to_nearest
from graphcompress.reconstruction.rows import Layer
from graphcompress.reconstruction.solve import bias_of, refit, squared_error
from graphcompress.reconstruction.sweep import curvatures, layers_by_weight, name_of, sweep
from graphcompress.step import Context, Refusal

RIDGES = (1e-2, 1e-1)
"""Of the mean diagonal of the moments; the one with the least error on inputs that are held out is taken."""


@dataclass(frozen=True, slots=True)
class RoundedWeight:
    """What became of the weight that `layer` reads: its `levels` in so many `bits`, and `noise`, the mean square of what is lost relative to that of the weight. The float32 products of `codes` and
    `scales` are its values bit for bit."""

    layer: Layer
    levels: Levels
    bits: int
    noise: float

    @property
    def scales(self) -> Array:
        """In the weight's shape, float32; of length 1 along the axes on which they do not hang."""
        scales = self.layer.form.weight(self.levels.row_scales).reshape(self.layer.weight.shape).astype(np.float32)
        for axis in range(scales.ndim):
            first = scales.take([0], axis)
            if np.array_equal(np.broadcast_to(first, scales.shape), scales):
                scales = first
        return np.ascontiguousarray(scales)

    @property
    def codes(self) -> Array:
        """In the weight's shape, int8."""
        whole = self.layer.form.weight(self.levels.values).reshape(self.layer.weight.shape)
        codes: Array = np.rint(whole / self.scales).astype(np.int8)
        return codes


@dataclass(frozen=True, slots=True)
class Narrowed:
    """`model`, a copy in which weights have the values that their codes stand for, the `weights` by constant of it, what was done to each layer, and why others are as they were."""

    model: Model
    weights: dict[Constant, RoundedWeight]
    layers: list[dict[str, Any]]
    refusals: list[Refusal]


def narrowed(base: Model, width: Callable[[Node, Constant], int | None], context: Context, *, block: int | None = None) -> Narrowed:
    """The weights of convolutions and matrix products of the main graph in few bits, with a scale for each output channel or for `block` inputs of one; biases take up the mean error. `width` says of a
    node of `base` and its weight in how many bits it is to be, None where it stays. Without data each weight is rounded by itself."""
    student, twins = base.clone()
    originals = {twins.node(node): node for node in base.graph.nodes}
    layers, refusals = layers_by_weight(student, ())
    widths = {w: bits for w, (layer, *_) in layers.items() if np.isfinite(w.values).all() and (bits := width(originals[layer.node], w))}
    layers = {weight: layers[weight] for weight in widths}
    whole = {weight: weight.values for weight in layers}
    weights: dict[Constant, RoundedWeight] = {}
    report: dict[Constant, dict[str, Any]] = {}
    with Edits(student) as edits:
        for weight, (layer, *_) in layers.items():
            weights[weight] = _write(edits, layer, round_to_nearest(layer.weight_matrix(), widths[weight], block), whole[weight], widths[weight])
            report[weight] = {"node": name_of(layer.node), "bits": widths[weight], "method": "nearest"}
    if context.data is not None:
        for fits in sweep(base, student, twins, layers, context, "rounding weights", refusals):
            layer = fits[0].job.layer
            bits, old, validation = widths[layer.weight], layer.form.matrix(whole[layer.weight]), [fit.validation() for fit in fits]
            ridge, _, mirrors = best_rows(fits, validation, old, RIDGES)
            training = [fit.training(mirrors=mirrors) for fit in fits]
            trials = {rounds: _rounded(training, old, ridge, bits, rounds, block) for rounds in (0, ROUNDS)}
            energy = sum(float(m.yy.sum()) for m in validation) or 1.0
            before = sum(squared_error(m, fit.job.layer.weight_matrix(), fit.job.layer.bias_vector()) for m, fit in zip(validation, fits, strict=True))
            errors = {
                rounds: sum(squared_error(m, levels.values, bias) for m, bias in zip(validation, biases, strict=True))
                for rounds, (levels, biases) in trials.items()
            }
            rounds = min(errors, key=errors.__getitem__)  # with few rows codes come to fit the noise in the moments
            after = errors[rounds]
            if after > before:
                continue
            report[layer.weight] |= {
                "method": "least squares",
                "error_before": before / energy,
                "error_after": after / energy,
                "mirrors": mirrors,
                "rounds": rounds,
            }
            rows = [fit.whole(mirrors=mirrors) for fit in fits]
            levels, biases = _rounded(rows, old, ridge, bits, rounds, block)
            with Edits(student) as edits:
                weights[layer.weight] = _write(edits, layer, levels, whole[layer.weight], bits)
                for fit, bias, moments in zip(fits, biases, rows, strict=True):
                    set_bias(edits, student, fit.job.layer, bias, moments)
    return Narrowed(student, weights, list(report.values()), refusals)


def _rounded(moments: Sequence[Moments], old: Array, ridge: float, bits: int, rounds: int, block: int | None) -> tuple[Levels, list[Array]]:
    """The weight that layers with these moments share in `bits` bits, and the bias of each."""
    levels = round_by_error(refit(moments, old, ridge), curvatures(moments, len(old), ridge), bits, rounds, block)
    return levels, [bias_of(m, levels.values) for m in moments]


def _write(edits: Edits, layer: Layer, levels: Levels, whole: Array, bits: int) -> RoundedWeight:
    """Give the layer's weight the values of `levels`."""
    exact = RoundedWeight(layer, levels, bits, 0.0)
    values = exact.codes.astype(np.float32) * exact.scales
    edits.set_value(layer.weight, values.astype(whole.dtype))
    power = float(np.square(whole, dtype=np.float64).sum())
    lost = float(np.square(values.astype(np.float64) - whole).sum())
    return replace(exact, noise=lost / power if power else 0.0)
