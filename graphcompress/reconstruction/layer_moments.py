"""The moments of one layer's inputs and targets, apart by what their rows are for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from graphcompress.reconstruction.agenda import Job
from graphcompress.reconstruction.flat import FlatRows
from graphcompress.reconstruction.gram import Array, Gram, Moments
from graphcompress.reconstruction.solve import best_ridge
from graphcompress.reconstruction.store import Store
from graphcompress.reconstruction.targets import MIRROR, TRAINING, VALIDATION, Targets


class LayerMoments:
    """Moments of one job's rows, apart by what they are for. `by_channel`: instead of a matrix, one factor for each output channel is fitted, whose only input is
    what the old weights make of the row."""

    def __init__(self, job: Job, targets: Targets, *, by_channel: bool, store: Store | None) -> None:
        """`store` is for what the activation after a layer needs, None where it is not looked at."""
        self.job = job
        self.by_channel = by_channel
        self._targets = targets
        self._grams = {use: Gram() for use in (TRAINING, VALIDATION, MIRROR)}
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
        form, matrix = self.job.layer.form, self.job.layer.weight_matrix()
        for batch, (x, *branch) in enumerate(values):
            at, uses, channels = self._targets.of(self.job, batch)
            rows = form.rows(x, at)
            addend = form.outputs(branch[0], at) if branch else np.zeros_like(channels)
            target = self.job.layer.grouped(channels - addend)
            for use, held in self._held.items():
                here = (uses == MIRROR) == (use == MIRROR)
                held.take(rows[:, here], target[:, here], self.job.layer.grouped(addend)[:, here])
            if self.by_channel:
                rows, target = _one_by_one(rows @ matrix), _one_by_one(target)
            for use, gram in self._grams.items():
                gram.update(rows[:, uses == use], target[:, uses == use])

    def validation(self) -> Moments:
        """Of the rows for validation; of all where one use has none."""
        return self._moments([VALIDATION] if self._split() else [TRAINING, VALIDATION])

    def training(self, *, mirrors: bool) -> Moments:
        """Of the rows for training, with or without mirror images; with those for validation where one use has none."""
        return self._moments([TRAINING, *([] if self._split() else [VALIDATION]), *([MIRROR] if mirrors else [])])

    def whole(self, *, mirrors: bool) -> Moments:
        """Of all rows, with or without mirror images."""
        return self._moments([TRAINING, VALIDATION, *([MIRROR] if mirrors else [])])

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
        moments = whole.finish()
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
