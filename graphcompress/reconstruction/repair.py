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
from graphcompress.reconstruction.agenda import RepairLayer, agenda, by_weight
from graphcompress.reconstruction.flat import refit_before_flat
from graphcompress.reconstruction.frontier import Frontier, values_of
from graphcompress.reconstruction.gram import Array, Moments
from graphcompress.reconstruction.layer_moments import LayerMoments, best_rows
from graphcompress.reconstruction.rows import Layer
from graphcompress.reconstruction.solve import bias_of, refit, squared_error
from graphcompress.reconstruction.store import IN_MEMORY, Store
from graphcompress.reconstruction.targets import TeacherRows
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
class LayerRepair:
    """What was done to a layer. `method`: "least squares", "reduced rank" where its weight is of a `rank`, "channel factors" where there are too few rows or too many unknowns,
    "none" where nothing was lost.

    `before` and `after` are squared
    errors on held-out inputs, all earlier layers being refitted, as parts of the target's energy about its mean; `residual`: the target was a sum's;
    `mirrors`: mirror images were taken in.
    """

    node: str
    method: str
    rank: int | None
    rows: int
    unknowns: int
    ridge: float
    residual: bool
    mirrors: bool
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class RepairReport:
    """The layers that were refitted, in that order, and why others were not."""

    layers: tuple[LayerRepair, ...]
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
    mirrors: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> RepairReport:
    """Give the weights and biases of `layers` of `student` new values (in place), by least squares towards the old ones over `positions` of each input.

    `feeds` must be iterable again. Many students of one teacher share what it calculates in `repair_from`. A weight that several of the layers read gets one value for all; one that others read too is left. Layers with more than
    MOST_UNKNOWNS unknowns or fewer rows than unknowns get a factor and a bias per output channel only, those of a rank excepted. A Conv or Gemm without a bias gets one where it
    matters.
    `mirrors`: where all inputs are pictures, those seen in a mirror are taken in for each layer whose error on the originals they lessen; twice the time.
    Raises DataError where there is no feed, ValueError where `channels` do not fit the student's layer.
    """
    with TeacherRows(teacher, feeds, seed=seed, positions=positions, mirrors=mirrors, threads=threads) as rows:
        return repair_from(rows, student, layers, ridges=ridges, progress=progress)


def repair_from(
    teacher: TeacherRows, student: Model, layers: Sequence[RepairLayer], *, ridges: Sequence[float] = RIDGES, progress: Progress = silent
) -> RepairReport:
    """`repair` with the feeds, positions and mirror images of `teacher`."""
    jobs, refusals = agenda(teacher.teacher, student, layers)
    if not jobs:
        return RepairReport((), tuple(refusals))
    groups = by_weight(jobs)
    repairs: list[LayerRepair] = []
    targets = teacher.targets(jobs)
    with Store(IN_MEMORY // 2) as store:
        frontier = Frontier(student, [group[0].reads for group in groups], targets.feeds, store, threads=teacher.threads)
        for index, (group, values) in enumerate(zip(groups, frontier, strict=True)):
            unknowns = group[0].layer.form.shape[1]
            short = unknowns > MOST_UNKNOWNS or sum(targets.rows(job) for job in group) < unknowns
            by_channel = short and group[0].rank is None
            fits = [LayerMoments(job, targets, by_channel=by_channel, store=store if len(group) == 1 else None) for job in group]
            fits[0].take(values)
            for fit in fits[1:]:  # what they read is calculated with the weight that is to be fitted, as it is now
                fit.take(values_of(student, fit.job.reads, targets.feeds, threads=teacher.threads))
            if usable := [fit for fit in fits if fit.rows]:
                repairs += _replace(student, usable, ridges)
            else:
                refusals.append(Refusal("prune/not-finite", "no row of its input and target is finite", group[0].layer.node.name))
            for fit in fits:
                fit.close()
            progress("repairing", index + 1, len(groups))
    return RepairReport(tuple(repairs), tuple(refusals))


# --- one layer --------------------------------------------------------------------------------------------------------------------


def _replace(student: Model, fits: Sequence[LayerMoments], ridges: Sequence[float]) -> list[LayerRepair]:
    """Fit the weight that the layers of `fits` share, and write it and their biases."""
    layer, by_channel, rank = fits[0].job.layer, fits[0].by_channel, fits[0].job.rank
    validation = [fit.validation() for fit in fits]
    g, n, o = layer.form.shape
    old = fits[0].old()
    energy = sum(float(m.yy.sum()) for m in validation) or 1.0
    before = sum(squared_error(m, old, fit.job.layer.bias_vector().reshape(m.mean_y.shape)) for fit, m in zip(fits, validation, strict=True))
    method, ridge, mirrors, after = "none", 0.0, False, before
    if rank is not None or before > EXACT * energy:
        method = "channel factors" if by_channel else "least squares" if rank is None else "reduced rank"
        ridge, after, mirrors = best_rows(fits, validation, old, ridges, rank)
        whole = [fit.whole(mirrors=mirrors) for fit in fits]
        new = refit(whole, old, ridge, rank)
        biases = [bias_of(moments, new) for moments in whole]
        if held := fits[0].held(mirrors=mirrors):
            new, biases[0] = refit_before_flat(held, whole[0], old, ridge, new, rank)
        with Edits(student) as edits:
            edits.set_value(layer.weight, layer.weight_from_matrix(fits[0].weight(new)))
            for fit, bias, moments in zip(fits, biases, whole, strict=True):
                set_bias(edits, student, fit.job.layer, bias.reshape(g, o), moments)
    return [
        LayerRepair(fit.job.layer.node.name, method, rank, fit.rows, n, ridge, fit.job.sum is not None, mirrors, before / energy, after / energy)
        for fit in fits
    ]


def set_bias(edits: Edits, student: Model, layer: Layer, bias: Array, moments: Moments) -> None:
    """Write a bias [g, o] where it has a place, and make one where it matters."""
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
