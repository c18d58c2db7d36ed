"""Weights in 3 or 4 bits, layer after layer: the least-squares weights for what the original calculates there, on the inputs that the layer has with all earlier ones rounded, and these
rounded with error feedback (`reconstruction.rounding`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Model
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.store.codes import Array, Codes
from graphcompress.reconstruction.gram import Moments
from graphcompress.reconstruction.layer_moments import best_rows
from graphcompress.reconstruction.repair import set_bias
from graphcompress.reconstruction.rounding import ROUNDS, Levels, round_by_error, round_to_nearest
from graphcompress.reconstruction.rows import Layer
from graphcompress.reconstruction.solve import bias_of, refit, squared_error
from graphcompress.reconstruction.sweep import curvatures, layers_by_weight, name_of, sweep
from graphcompress.step import Context, Refusal

RIDGES = (1e-2, 1e-1)
"""Of the mean diagonal of the moments; the one with the least error on inputs that are held out is taken."""
FEWEST = 2048
"""Elements of a weight from which on few bits are worth the nodes that unpack them; smaller weights have 8 bits and are refitted as well, so that a last layer mends what the others lost."""
FULL = 8
"""Bits of codes that are not packed."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """`model`, a copy in which weights have the values that their codes stand for, the `codes` by constant of it, what was done to each layer, and why others are as they were."""

    model: Model
    codes: dict[Constant, Codes]
    layers: list[dict[str, Any]]
    refusals: list[Refusal]


def narrowed(base: Model, bits: int, context: Context) -> Narrowed:
    """The weights of convolutions and matrix products of the main graph in `bits` bits (small ones in 8) with a scale per output channel; biases take up the mean error. Without data each weight is rounded by itself."""
    student, twins = base.clone()
    layers, refusals = layers_by_weight(student, ())
    layers = {weight: readers for weight, readers in layers.items() if np.isfinite(weight.values).all()}
    width = {weight: bits if weight.values.size >= FEWEST else FULL for weight in layers}
    whole = {weight: weight.values for weight in layers}
    codes: dict[Constant, Codes] = {}
    report: dict[Constant, dict[str, Any]] = {}
    with Edits(student) as edits:
        for weight, (layer, *_) in layers.items():
            codes[weight] = _write(edits, layer, round_to_nearest(layer.weight_matrix(), width[weight]), whole[weight], width[weight])
            report[weight] = {"node": name_of(layer.node), "bits": width[weight], "method": "nearest"}
    if context.data is not None:
        for fits in sweep(base, student, twins, layers, context, "rounding weights", refusals):
            layer = fits[0].job.layer
            old, validation = layer.form.matrix(whole[layer.weight]), [fit.validation() for fit in fits]
            ridge, _, mirrors = best_rows(fits, validation, old, RIDGES)
            training = [fit.training(mirrors=mirrors) for fit in fits]
            trials = {rounds: _rounded(training, old, ridge, width[layer.weight], rounds) for rounds in (0, ROUNDS)}
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
            levels, biases = _rounded(rows, old, ridge, width[layer.weight], rounds)
            with Edits(student) as edits:
                codes[layer.weight] = _write(edits, layer, levels, whole[layer.weight], width[layer.weight])
                for fit, bias, moments in zip(fits, biases, rows, strict=True):
                    set_bias(edits, student, fit.job.layer, bias, moments)
    reasons = [Refusal(r.id.replace("prune/", "store/"), r.reason, r.node, r.count) for r in refusals]
    return Narrowed(student, codes, list(report.values()), reasons)


def _rounded(moments: Sequence[Moments], old: Array, ridge: float, bits: int, rounds: int) -> tuple[Levels, list[Array]]:
    """The weight that layers with these moments share in `bits` bits, and the bias of each."""
    levels = round_by_error(refit(moments, old, ridge), curvatures(moments, len(old), ridge), bits, rounds)
    return levels, [bias_of(m, levels.values) for m in moments]


def _write(edits: Edits, layer: Layer, levels: Levels, whole: Array, bits: int) -> Codes:
    """Give the layer's weight the values of `levels`, and the codes in its shape: they times the scales are these values bit for bit."""
    shape = layer.weight.shape
    scales = layer.form.weight(np.broadcast_to(levels.scales.astype(np.float64), levels.codes.shape)).reshape(shape).astype(np.float32)
    small = scales
    for axis in range(len(shape)):
        first = small.take([0], axis)
        if np.array_equal(np.broadcast_to(first, small.shape), small):
            small = first
    numbers = np.rint(layer.form.weight(levels.values).reshape(shape) / scales).astype(np.int8)
    values = numbers.astype(np.float32) * small
    edits.set_value(layer.weight, values.astype(whole.dtype))
    power = float(np.square(whole, dtype=np.float64).sum())
    lost = float(np.square(values.astype(np.float64) - whole).sum())
    return Codes(numbers, (np.ascontiguousarray(small),), lost / power if power else 0.0, bits if bits < FULL else 0)
