"""Refit what is left of a model to what the whole one calculated: layer after layer, on the inputs that each has with all earlier layers refitted.

The student is the cut model, the teacher the one it was cut from. Each layer's target is the teacher's output before the activation, or, where the layer feeds a sum
whose other side is final, the teacher's sum less the student's other side: then the last branch mends what the first could not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.ir import Model
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.prune.agenda import Job, RepairLayer, agenda, by_weight
from graphcompress.passes.prune.flat import FlatRows
from graphcompress.passes.prune.frontier import Frontier, values_of
from graphcompress.passes.prune.gram import Array, Gram, Moments
from graphcompress.passes.prune.rows import Layer
from graphcompress.passes.prune.solve import best_ridge, bias_of, refit, squared_error
from graphcompress.passes.prune.store import Store
from graphcompress.passes.prune.targets import Targets
from graphcompress.runtime.session import Feed
from graphcompress.step import Progress, Refusal, silent

# Of each input. On a residual network 12, 24 and 48 left errors of .0760, .0738 and .0731; the time grows with them.
POSITIONS = 24
# Of the mean diagonal; the one with the least error on inputs that are held out is taken.
RIDGES = (1e-3, 1e-2, 1e-1)
# A matrix of moments holds the square of this many numbers.
MOST_UNKNOWNS = 5120
# Of the outputs' energy: a smaller mean error is not worth an input for a bias.
LEAST_BIAS = 1e-6
# Of the target's energy: a layer with a smaller error has lost nothing, and stays bit for bit as it is.
EXACT = 1e-10


@dataclass(frozen=True, slots=True)
class RepairedLayer:
    """What was done to a layer. `method`: "least squares", "channel factors" where there are too few rows or too many unknowns, "none" where nothing was lost.

    `before` and `after` are squared
    errors on held-out inputs, all earlier layers being refitted, as parts of the target's energy about its mean; `residual`: the target was a sum's.
    """

    node: str
    method: str
    rows: int
    unknowns: int
    ridge: float
    residual: bool
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class RepairReport:
    """The layers that were refitted, in that order, and why others were not."""

    layers: tuple[RepairedLayer, ...]
    refusals: tuple[Refusal, ...]


def repair(
    teacher: Model,
    student: Model,
    layers: Sequence[RepairLayer],
    feeds: Iterable[Feed],
    *,
    seed: int,
    positions: int = POSITIONS,
    ridges: Sequence[float] = RIDGES,
    threads: int | None = None,
    progress: Progress = silent,
) -> RepairReport:
    """Give the weights and biases of `layers` of `student` new values (in place), by least squares towards the old ones over `positions` of each input.

    `feeds` must be iterable again. A weight that several of the layers read gets one value for all; one that others read too is left. Layers with more than
    MOST_UNKNOWNS unknowns or fewer rows than unknowns get a factor and a bias per output channel only. A Conv or Gemm without a bias gets one where it matters.
    Raises DataError where there is no feed, ValueError where `kept` does not fit the student's layer.
    """
    jobs, refusals = agenda(teacher, student, layers)
    if not jobs:
        return RepairReport((), tuple(refusals))
    groups = by_weight(jobs)
    repaired: list[RepairedLayer] = []
    with Store() as store:
        targets = Targets(teacher, jobs, feeds, store, seed=seed, positions=positions, threads=threads)
        frontier = Frontier(student, [group[0].reads for group in groups], targets.feeds, store, threads=threads)
        for index, (group, values) in enumerate(zip(groups, frontier, strict=True)):
            unknowns = group[0].layer.form.shape[1]
            by_channel = unknowns > MOST_UNKNOWNS or sum(targets.rows(job) for job in group) < unknowns
            fits = [_Fit(job, targets, by_channel=by_channel, store=store if len(group) == 1 else None) for job in group]
            fits[0].take(values)
            for fit in fits[1:]:  # what they read is calculated with the weight that is to be fitted, as it is now
                fit.take(values_of(student, fit.job.reads, targets.feeds, threads=threads))
            if usable := [fit for fit in fits if fit.rows]:
                repaired += _replace(student, usable, ridges)
            else:
                refusals.append(Refusal("prune/not-finite", "no row of its input and target is finite", group[0].layer.node.name))
            for fit in fits:
                fit.close()
            progress("repairing", index + 1, len(groups))
    return RepairReport(tuple(repaired), tuple(refusals))


# --- one layer --------------------------------------------------------------------------------------------------------------------


class _Fit:
    """Moments of one job's rows, of those that are held out and of the others. `by_channel`: instead of a matrix, one factor for each output channel is fitted,
    whose only input is what the old weights make of the row."""

    def __init__(self, job: Job, targets: Targets, *, by_channel: bool, store: Store | None) -> None:
        """`store` is for what the activation after a layer needs, None where it is not looked at."""
        self.job = job
        flat = job.flat
        self.flat_rows = None if store is None or flat is None or by_channel or job.layer.bias_site is None else FlatRows(flat, store)
        self.by_channel = by_channel
        self._targets = targets
        self._fitted, self._held_out = Gram(), Gram()

    def close(self) -> None:
        """Let go of what is held of the rows."""
        if self.flat_rows is not None:
            self.flat_rows.close()

    @property
    def rows(self) -> int:
        """The rows that were finite."""
        return self._fitted.rows + self._held_out.rows

    def take(self, values: Iterable[Sequence[Array]]) -> None:
        """Take in, batch by batch, the values of what the job reads."""
        form, matrix = self.job.layer.form, self.job.layer.weight_matrix()
        for batch, (x, *branch) in enumerate(values):
            at, held_out, channels = self._targets.of(self.job, batch)
            rows = form.rows(x, at)
            added = form.outputs(branch[0], at) if branch else np.zeros_like(channels)
            target = self.job.layer.grouped(channels - added)
            if self.flat_rows is not None:
                self.flat_rows.take(rows, target, self.job.layer.grouped(added))
            if self.by_channel:
                rows, target = _one_by_one(rows @ matrix), _one_by_one(target)
            self._fitted.update(rows[:, ~held_out], target[:, ~held_out])
            self._held_out.update(rows[:, held_out], target[:, held_out])

    def moments(self) -> tuple[Moments, Moments, Moments]:
        """(fitted, held out, all). Where one part is empty, everything is both."""
        whole = Gram().merge(self._fitted).merge(self._held_out).finish()
        split = self._fitted.rows and self._held_out.rows
        fitted, held_out = (self._fitted.finish(), self._held_out.finish()) if split else (whole, whole)
        if self.job.layer.bias_site is None:
            return fitted.about_zero(), held_out.about_zero(), whole.about_zero()
        return fitted, held_out, whole


def _replace(student: Model, fits: Sequence[_Fit], ridges: Sequence[float]) -> list[RepairedLayer]:
    """Fit the weight that the layers of `fits` share, and write it and their biases."""
    layer, by_channel = fits[0].job.layer, fits[0].by_channel
    fitted, held_out, whole = zip(*(fit.moments() for fit in fits), strict=True)
    matrix = layer.weight_matrix()
    g, n, o = matrix.shape
    old = np.ones((g * o, 1, 1)) if by_channel else matrix
    energy = sum(float(m.yy.sum()) for m in held_out) or 1.0
    before = sum(squared_error(m, old, fit.job.layer.bias_vector().reshape(m.mean_y.shape)) for fit, m in zip(fits, held_out, strict=True))
    method, ridge, after = "none", 0.0, before
    if before > EXACT * energy:
        method = "channel factors" if by_channel else "least squares"
        ridge, after = best_ridge(fitted, held_out, old, ridges)
        new = refit(whole, old, ridge)
        biases = [bias_of(moments, new) for moments in whole]
        if (rows := fits[0].flat_rows) is not None:
            new, biases[0] = rows.refit(whole[0], old, ridge, new)
        with Edits(student) as edits:
            edits.set_value(layer.weight, layer.weight_from_matrix(matrix * new.reshape(g, 1, o) if by_channel else new))
            for fit, bias, moments in zip(fits, biases, whole, strict=True):
                _set_bias(edits, student, fit.job.layer, bias.reshape(g, o), moments)
    return [RepairedLayer(fit.job.layer.node.name, method, fit.rows, n, ridge, fit.job.sum is not None, before / energy, after / energy) for fit in fits]


def _set_bias(edits: Edits, student: Model, layer: Layer, bias: Array, moments: Moments) -> None:
    """Write a bias where it has a place, and make one where it matters."""
    if layer.bias_site is None:
        return
    if layer.bias is None and moments.rows * np.square(bias).sum() <= LEAST_BIAS * moments.yy.sum():
        return
    values = layer.bias_from_vector(bias)
    if layer.bias is not None and len(layer.bias.outputs) == 1 and layer.bias.values.size == values.size:
        edits.set_value(layer.bias, values.reshape(layer.bias.shape))
    else:
        node, index = layer.bias_site
        edits.set_input(node, index, student.constant(f"{layer.weight.name}_bias", values))


def _one_by_one(channels: Array) -> Array:
    """Channels [g, r, o] as layers of one channel each, [g * o, r, 1]."""
    g, r, o = channels.shape
    return channels.swapaxes(1, 2).reshape(g * o, r, 1)
