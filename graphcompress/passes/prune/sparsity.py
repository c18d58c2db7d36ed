"""Single weights that become zero, in shapes that stay: layer after layer, on the inputs that each has with all earlier layers done, towards what the original calculates there.

The best dense weights W for these inputs and targets come first (`solve.refit`); any other weights V then cost tr((V - W)' H (V - W)) more, H being the moments that W was fitted
with, and `zeros.zero_by_error` looks for zeros that cost little of that.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Model, graphs
from graphcompress.ir.inline import functions_holding, inline_functions
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.prune.options import Options
from graphcompress.passes.prune.zeros import ZeroRule, zero_by_error, zero_by_magnitude
from graphcompress.reconstruction.layer_moments import LayerMoments, best_rows
from graphcompress.reconstruction.repair import set_bias
from graphcompress.reconstruction.rows import READERS
from graphcompress.reconstruction.solve import bias_of, refit, squared_error
from graphcompress.reconstruction.sweep import curvatures, layers_by_weight, name_of, sweep
from graphcompress.step import Context, Ladder, Refusal, Rung, StepResult

RIDGE = 1e-2
"""Of the mean diagonal of the moments."""
LESS_SPARSE = (1.0, 0.75, 0.5, 0.25)
"""Rungs: how much of the share that was asked for."""


def sparsify(model: Model, context: Context, options: Options) -> Ladder:
    """Zeros in the constant weights of convolutions and matrix products: a share of each, or a pattern. The first rung is the goal.

    Without data, or where nothing is to be refitted, the smallest weights become zero and the others stay. A weight that is zero already stays zero, and counts.
    Raises UsageError for an `ignore` that matches no layer, ModelError where the model does not run.
    """
    if options.pattern is not None:
        kept, group = (int(part) for part in options.pattern.split(":"))
        rules = {options.pattern: ZeroRule(pattern=(kept, group))}
    else:
        shares = [part * (options.sparsity or 0.0) for part in LESS_SPARSE]
        rules = {f"{100 * share:.6g}% zeros": ZeroRule(share) for share in shares}
    base = inline_functions(model, functions_holding(model, set(READERS)))

    def rung(label: str, rule: ZeroRule) -> Rung:
        return Rung(label, lambda: _Sparsifier(base, context, options, rule).result(model))

    return Ladder(tuple(rung(label, rule) for label, rule in rules.items()))


@dataclass(frozen=True, slots=True)
class _WeightFit:
    """What became of the layers that share a weight; errors, with zeros by magnitude and after the fit, are parts of the target's energy on inputs that are kept out of the fit."""

    method: str
    before: float | None = None
    after: float | None = None


class _Sparsifier:
    """One copy of a model on its way to its zeros."""

    def __init__(self, base: Model, context: Context, options: Options, rule: ZeroRule) -> None:
        self.base, self.context, self.options, self.rule = base, context, options, rule
        self.student, self.twins = base.clone()
        self.refusals: list[Refusal] = []
        self.layers, reasons = layers_by_weight(self.student, options.ignore)
        self.refusals += reasons
        self.whole = {weight: weight.values for weight in self.layers}
        self.fits: dict[Constant, _WeightFit] = {}

    def result(self, original: Model) -> StepResult:
        """The model with its zeros; `original` where no weight is changed."""
        with Edits(self.student) as edits:
            for weight, (layer, *_) in self.layers.items():
                edits.set_value(weight, layer.weight_from_matrix(zero_by_magnitude(layer.weight_matrix(), self.rule, layer.form.taps)))
                self.fits[weight] = _WeightFit("magnitude")
        if self.context.data is not None and self.options.repair:
            self._refit()
        changed = sum(not np.array_equal(values, weight.values) for weight, values in self.whole.items())
        if not changed:
            return StepResult(original, False, refusals=tuple(self.refusals))
        return StepResult(self.student, True, {"prune/zeros": changed}, tuple(self.refusals), self._decisions())

    def _refit(self) -> None:
        """Choose the zeros again, by the error that they leave, and refit what is not zero."""
        for fits in sweep(self.base, self.student, self.twins, self.layers, self.context, "zeroing weights", self.refusals):
            self._replace(fits)

    def _replace(self, fits: Sequence[LayerMoments]) -> None:
        """Write the weight that the layers of `fits` share, and their biases, where that is nearer to the targets than what magnitude has left."""
        jobs = [fit.job for fit in fits]
        layer, validation = jobs[0].layer, [fit.validation() for fit in fits]
        whole, old = layer.form.matrix(self.whole[layer.weight]), layer.weight_matrix()
        _, _, mirrors = best_rows(fits, validation, whole, (RIDGE,))
        training = [fit.training(mirrors=mirrors) for fit in fits]
        new = zero_by_error(refit(training, whole, RIDGE), curvatures(training, len(whole), RIDGE), self.rule, layer.form.taps, whole == 0)
        biases = [bias_of(m, new) for m in training]
        old_biases = [job.layer.bias_vector() for job in jobs]
        energy = sum(float(m.yy.sum()) for m in validation) or 1.0
        before = sum(squared_error(m, old, bias) for m, bias in zip(validation, old_biases, strict=True)) / energy
        after = sum(squared_error(m, new, bias) for m, bias in zip(validation, biases, strict=True)) / energy
        if after > before:
            return
        self.fits[layer.weight] = _WeightFit("least squares", before, after)
        with Edits(self.student) as edits:
            edits.set_value(layer.weight, layer.weight_from_matrix(new))
            for job, bias, m in zip(jobs, biases, training, strict=True):
                set_bias(edits, self.student, job.layer, bias, m)

    # --- words ------------------------------------------------------------------------------------------------------------------

    def _decisions(self) -> dict[str, Any]:
        zeros = {weight: int((weight.values == 0).sum()) for weight in self.layers}
        total = sum(weight.values.size for weight in self.layers)
        return {
            "goal": {"pattern": self.options.pattern} if self.rule.pattern is not None else {"sparsity": self.rule.share},
            "reached": {"sparsity": sum(zeros.values()) / max(1, total)},
            "layers": [
                {"node": name_of(layers[0].node), "weights": weight.values.size, "zeros": zeros[weight] / weight.values.size}
                | {"method": fit.method, "error_before": fit.before, "error_after": fit.after}
                for (weight, layers), fit in zip(self.layers.items(), self.fits.values(), strict=True)
            ],
            "gzip": {"before": gzip_bytes(self.base), "after": gzip_bytes(self.student)},
        }


def gzip_bytes(model: Model) -> int:
    """What the constants of `model` take after gzip, in bytes."""
    stream = zlib.compressobj()
    return sum(len(stream.compress(part)) for part in _constant_bytes(model)) + len(stream.flush())


def _constant_bytes(model: Model) -> Iterable[bytes]:
    for graph in graphs(model):
        for constant in graph.initializers.values():
            if not constant.values.dtype.hasobject:
                yield constant.values.tobytes()
