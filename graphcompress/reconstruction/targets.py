"""What the teacher calculates at sampled positions: the targets of the repair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from graphcompress.errors import DataError
from graphcompress.ir import Model, Tensor
from graphcompress.reconstruction.agenda import Job
from graphcompress.reconstruction.batches import batches, items
from graphcompress.reconstruction.gram import Array
from graphcompress.reconstruction.mirrors import Mirrors, pictures
from graphcompress.reconstruction.rows import sample
from graphcompress.reconstruction.store import Store
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import BUDGET, Watch

# What a row is for. Validation is on every fourth input, never on mirror images.
TRAINING, VALIDATION, MIRROR = range(3)
EVERY = 4


class Targets:
    """For each job and batch of `feeds` (the caller's, in batches) the positions, which of them are for validation, and the channels that are left there.

    One pass over the feeds; more where the tensors of one feed need more than `runtime.watch.BUDGET`.
    """

    def __init__(
        self,
        teacher: Model,
        jobs: Sequence[Job],
        feeds: Iterable[Feed],
        store: Store,
        *,
        seed: int,
        positions: int,
        mirrors: bool = False,
        threads: int | None = None,
    ) -> None:
        """`mirrors`: pictures are seen in a mirror too."""
        first = next(iter(feeds), None)
        if first is None:
            raise DataError("There is not one calibration feed: what was cut cannot be repaired. Give feeds with --data.")
        self._store = store
        self._where: dict[tuple[Job, int], tuple[Array, Array]] = {}
        self._rows = dict.fromkeys(jobs, 0)
        needed = _settle(teacher, jobs, first, threads)
        names = pictures(teacher.inputs) if mirrors else frozenset()
        self.feeds = batches(teacher, Mirrors(feeds, names) if names else feeds, bytes_per_input=needed // items(first), budget=BUDGET, threads=threads)
        by_tensor: dict[Tensor, list[int]] = {}
        for index, job in enumerate(jobs):
            by_tensor.setdefault(job.target, []).append(index)
        counts = [items(feed) for feed in self.feeds]
        starts = np.concatenate([[0], np.cumsum(counts)])
        self._originals = sum(counts) // (2 if names else 1)
        next_batch = dict.fromkeys(by_tensor, 0)
        for values in Watch(teacher, by_tensor).run(self.feeds, threads=threads, optimize="basic"):
            for tensor in list(values):
                value = np.asarray(values.pop(tensor))
                batch = next_batch[tensor]
                next_batch[tensor] += 1
                for index in by_tensor[tensor]:
                    random = np.random.default_rng([seed, index, batch])
                    self._take(jobs[index], batch, value, counts[batch], int(starts[batch]), positions, random)

    def rows(self, job: Job) -> int:
        """How many rows a job has in all."""
        return self._rows[job]

    def of(self, job: Job, batch: int) -> tuple[Array, Array, Array]:
        """(positions [r], uses [r]: TRAINING, VALIDATION or MIRROR, outputs [r, c]) of one batch."""
        return *self._where[job, batch], self._store.get((job, batch))

    def _take(self, job: Job, batch: int, value: Array, count: int, start: int, positions: int, random: np.random.Generator) -> None:
        form = job.layer.form
        places = form.places(value.shape)
        at = sample(places, count, positions, random)
        outputs = form.outputs(value, at)
        if job.channels is not None:
            outputs = outputs[:, job.channels]
        g, _, o = form.shape
        if outputs.shape[1] != g * o:
            raise ValueError(f"'{job.layer.node.name}' has {g * o} output channels, and {outputs.shape[1]} of its twin's are named.")
        item = start + at * count // max(1, places)
        use = np.where(item % EVERY == EVERY - 1, VALIDATION, TRAINING)
        self._where[job, batch] = at, np.where(item < self._originals, use, MIRROR)
        self._store.put((job, batch), outputs.astype(np.float32))
        self._rows[job] += len(at)


def _settle(teacher: Model, jobs: Sequence[Job], first: Feed, threads: int | None) -> int:
    """Leave sums as targets only where nothing is broadcast in them, by the shapes under the first feed. Returns the bytes of all targets there."""
    tensors = {t for job in jobs for t in ((job.output,) if job.sum is None else (job.output, job.sum.total, job.sum.branch))}
    forms: dict[Tensor, tuple[tuple[int, ...], int]] = {}
    for values in Watch(teacher, tensors).run([first], threads=threads, optimize="basic"):
        forms.update((t, (np.shape(v), np.asarray(v).nbytes)) for t, v in values.items())
    for job in jobs:
        if job.sum is not None and len({forms[t][0] for t in (job.output, job.sum.total, job.sum.branch)}) > 1:
            job.sum = None
    return sum(forms[t][1] for t in {job.target for job in jobs})
