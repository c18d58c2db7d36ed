"""The moments of one layer's inputs and targets, apart by what their rows are for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from graphcompress.reconstruction.agenda import Job
from graphcompress.reconstruction.flat import FlatRows
from graphcompress.reconstruction.gram import Array, Gram, Moments
from graphcompress.reconstruction.solve import best_ridge
from graphcompress.reconstruction.store import Store
from graphcompress.reconstruction.targets import MIRROR, TRAINING, VALIDATION, Targets

FEW = 2
"""A layer of a rank with this many times as many inputs as rows is fitted in a basis of its rows: beyond them it keeps its old weights anyway, and moments of all inputs take n^2 numbers and n^3 operations."""

Part = tuple[Array, Array, Array, Array]
"""Of a batch: rows [g, r, n], targets [g, r, o], what is added to the layer's output [g, r, o], uses [r]."""


class LayerMoments:
    """Moments of one job's rows, apart by what they are for. `by_channel`: instead of a matrix, one factor for each output channel is fitted, whose only input is
    what the old weights make of the row."""

    def __init__(self, job: Job, targets: Targets, *, by_channel: bool, store: Store | None) -> None:
        """`store` is for what the activation after a layer needs, None where it is not looked at."""
        self.job = job
        self.by_channel = by_channel
        self._targets = targets
        self._grams = {use: Gram() for use in (TRAINING, VALIDATION, MIRROR)}
        self._basis: Array | None = None
        self._outside: Array | None = None
        self._few = job.rank is not None and FEW * targets.rows(job) <= job.layer.form.shape[1]
        flat = None if store is None or by_channel or job.layer.bias_site is None else job.flat
        self._held = {} if flat is None or store is None else {use: FlatRows(flat, store) for use in (TRAINING, MIRROR)}

    @property
    def rows(self) -> int:
        """The rows that were finite, without mirror images."""
        return self._grams[TRAINING].rows + self._grams[VALIDATION].rows

    @property
    def mirrors(self) -> bool:
        """Whether there are mirror images, and rows to tell whether they help."""
        return all(gram.rows for gram in self._grams.values())

    def take(self, values: Iterable[Sequence[Array]]) -> None:
        """Take in, batch by batch, the values of what the job reads."""
        matrix = self.job.layer.weight_matrix()
        parts = self._parts(values)
        for rows, target, addend, uses in self._in_basis(list(parts)) if self._few else parts:
            for use, held in self._held.items():
                here = (uses == MIRROR) == (use == MIRROR)
                held.take(rows[:, here], target[:, here], addend[:, here])
            if self.by_channel:
                rows, target = _one_by_one(rows @ matrix.astype(np.result_type(rows, np.float32))), _one_by_one(target)
            for use, gram in self._grams.items():
                gram.update(rows[:, uses == use], target[:, uses == use])

    def _parts(self, values: Iterable[Sequence[Array]]) -> Iterator[Part]:
        layer = self.job.layer
        for batch, (x, *branch) in enumerate(values):
            at, uses, channels = self._targets.of(self.job, batch)
            addend = layer.form.outputs(branch[0], at) if branch else np.zeros_like(channels)
            yield layer.form.rows(x, at), layer.grouped(channels - addend), layer.grouped(addend), uses

    def _in_basis(self, parts: Sequence[Part]) -> Iterator[Part]:
        """`parts` with the coordinates of their rows in a basis of all rows; of rows that are not finite NaN."""
        rows = np.concatenate([part[0] for part in parts], axis=1)
        sound = np.isfinite(rows).all(axis=(0, 2))
        self._basis, coordinates = np.linalg.qr(rows[:, sound].swapaxes(1, 2).astype(np.float64))
        seen = np.full((*rows.shape[:2], coordinates.shape[1]), np.nan)
        seen[:, sound] = coordinates.swapaxes(1, 2)
        matrix = self.job.layer.weight_matrix()
        known = self._basis.swapaxes(1, 2) @ matrix
        self._outside = matrix.swapaxes(1, 2) @ matrix - known.swapaxes(1, 2) @ known
        start = 0
        for own, target, addend, uses in parts:
            yield seen[:, start : start + own.shape[1]], target, addend, uses
            start += own.shape[1]

    def validation(self) -> Moments:
        """Of the rows for validation; of all where one use has none."""
        return self._moments([VALIDATION] if self._split() else [TRAINING, VALIDATION])

    def training(self, *, mirrors: bool) -> Moments:
        """Of the rows for training, with or without mirror images; with those for validation where one use has none."""
        return self._moments([TRAINING, *([] if self._split() else [VALIDATION]), *([MIRROR] if mirrors else [])])

    def whole(self, *, mirrors: bool) -> Moments:
        """Of all rows, with or without mirror images."""
        return self._moments([TRAINING, VALIDATION, *([MIRROR] if mirrors else [])])

    def old(self) -> Array:
        """The weight that the layer has, as the moments see it: [g, n, o]; with less rows than inputs see `Moments`; by channel a factor of 1 for each, [g * o, 1, 1]."""
        matrix = self.job.layer.weight_matrix()
        g, _, o = matrix.shape
        if self.by_channel:
            return np.ones((g * o, 1, 1))
        if self._basis is None:
            return matrix
        return np.concatenate([self._basis.swapaxes(1, 2) @ matrix, np.broadcast_to(np.eye(o), (g, o, o))], axis=1)

    def weight(self, fitted: Array) -> Array:
        """[g, n, o] from what was fitted in the place of `old`."""
        matrix = self.job.layer.weight_matrix()
        g, _, o = matrix.shape
        if self.by_channel:
            return matrix * fitted.reshape(g, 1, o)
        if self._basis is None:
            return fitted
        rank = self._basis.shape[2]
        coordinates, outside = fitted[:, :rank], fitted[:, rank:]
        weight: Array = matrix @ outside + self._basis @ (coordinates - self._basis.swapaxes(1, 2) @ matrix @ outside)
        return weight

    def held(self, *, mirrors: bool) -> list[FlatRows]:
        """The same rows themselves, where a flat activation follows; none elsewhere."""
        return [held for use, held in self._held.items() if mirrors or use != MIRROR]

    def close(self) -> None:
        """Let go of what is held of the rows."""
        for held in self._held.values():
            held.close()

    def _split(self) -> bool:
        return bool(self._grams[TRAINING].rows and self._grams[VALIDATION].rows)

    def _moments(self, uses: Sequence[int]) -> Moments:
        whole = Gram()
        for use in uses:
            whole.merge(self._grams[use])
        moments = whole.finish(last=True)
        if self._basis is not None:
            moments = replace(moments, inputs=self._basis.shape[1], outside=self._outside)
        return moments if self.job.layer.bias_site is not None else moments.about_zero()


def best_rows(
    fits: Sequence[LayerMoments], validation: Sequence[Moments], old: Array, ridges: Sequence[float], rank: int | None = None
) -> tuple[float, float, bool]:
    """Of the `ridges`, and of rows with and without mirror images, those of which the refit of what the layers of `fits` share has the least squared error on `validation`: (ridge, error, whether with
    mirror images)."""
    choices = [
        (*best_ridge([fit.training(mirrors=m) for fit in fits], validation, old, ridges, rank), m)
        for m in ((False, True) if all(f.mirrors for f in fits) else (False,))
    ]
    ridge, error, mirrors = min(choices, key=lambda choice: choice[1])
    return ridge, error, mirrors


def _one_by_one(channels: Array) -> Array:
    """Channels [g, r, o] as layers of one channel each, [g * o, r, 1]."""
    g, r, o = channels.shape
    return channels.swapaxes(1, 2).reshape(g * o, r, 1)
