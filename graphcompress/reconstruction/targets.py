"""What the teacher calculates at sampled positions: the targets of the repair of one student or of many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from graphcompress.errors import DataError
from graphcompress.ir import Model, Tensor, producer
from graphcompress.reconstruction.agenda import Job
from graphcompress.reconstruction.batches import Batches, HeldFeeds, batches, items
from graphcompress.reconstruction.gram import Array
from graphcompress.reconstruction.mirrors import Mirrors, pictures
from graphcompress.reconstruction.rows import sample
from graphcompress.reconstruction.store import IN_MEMORY, Store
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import BUDGET, Watch

# What a row is for. Validation is on every fourth input, never on mirror images.
TRAINING, VALIDATION, MIRROR = range(3)
EVERY = 4

TargetKey = tuple[Tensor, Tensor]
"""A layer of the teacher by its output, and what is watched for it: that, or the sum that it feeds."""


class TeacherRows:
    """What a teacher calculates under `feeds` (iterable again) at `positions` of each input, for as many students as ask: every tensor is calculated once. Use it in a `with` block.

    One pass over the feeds for what a student needs first; more where the tensors of one feed need more than `runtime.watch.BUDGET`.
    """

    def __init__(
        self,
        teacher: Model,
        feeds: Iterable[Feed],
        *,
        seed: int,
        positions: int,
        mirrors: bool = False,
        threads: int | None = None,
        limit: int = IN_MEMORY // 2,
    ) -> None:
        """`mirrors`: pictures are seen in a mirror too. `limit` is in bytes of memory."""
        self.teacher = teacher
        self.threads = threads
        self._names = pictures(teacher.inputs) if mirrors else frozenset()
        self._singles = HeldFeeds(feeds)
        self._batches: Batches | None = None
        self._seed = seed
        self._positions = positions
        self._store = Store(limit)
        self._counts: list[int] = []
        self._first_items = 1
        self._places: dict[tuple[TargetKey, int], tuple[Array, Array]] = {}
        self._rows: dict[TargetKey, int] = {}
        self._shapes: dict[Tensor, tuple[tuple[int, ...], int]] = {}
        self._order = {node: index for index, node in enumerate(teacher.graph.nodes)}

    @property
    def feeds(self) -> Batches:
        """The feeds in batches, mirror images behind them. Only after `targets`."""
        assert self._batches is not None
        return self._batches

    def targets(self, jobs: Sequence[Job]) -> Targets:
        """What the jobs of a student are fitted to. Sums stay targets only where nothing is broadcast in them. Raises DataError where there is no feed."""
        first = next(iter(self._singles), None)
        if first is None:
            raise DataError("There is not one calibration feed: what was cut cannot be repaired. Give feeds with --data.")
        needed = self._settle(jobs, first)
        self._first_items = items(first)
        if self._batches is None:
            feeds = Mirrors(self._singles, self._names) if self._names else self._singles
            self._batches = batches(self.teacher, feeds, bytes_per_input=needed // items(first), budget=BUDGET, threads=self.threads)
            self._counts = [items(feed) for feed in self._batches]
        self._look({_key(job): job for job in jobs if _key(job) not in self._rows})
        return Targets(self, jobs)

    def rows(self, key: TargetKey) -> int:
        """How many rows there are in all."""
        return self._rows[key]

    def of(self, key: TargetKey, batch: int) -> tuple[Array, Array, Array]:
        """(positions [r], uses [r]: TRAINING, VALIDATION or MIRROR, all output channels [r, c]) of one batch."""
        return *self._places[key, batch], self._store.get((key, batch))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._store.close()

    def _settle(self, jobs: Sequence[Job], first: Feed) -> int:
        """Leave sums as targets only where nothing is broadcast in them, by the shapes under the first feed. Returns the bytes of all targets there."""
        tensors = {t for job in jobs for t in ((job.output,) if job.sum is None else (job.output, job.sum.total, job.sum.branch))}
        for values in Watch(self.teacher, tensors - set(self._shapes)).run([first], threads=self.threads, optimize="basic"):
            self._shapes.update((t, (np.shape(v), np.asarray(v).nbytes)) for t, v in values.items())
        for job in jobs:
            if job.sum is not None and len({self._shapes[t][0] for t in (job.output, job.sum.total, job.sum.branch)}) > 1:
                job.sum = None
        return sum(self._shapes[t][1] for t in {job.target for job in jobs})

    def _look(self, wanted: dict[TargetKey, Job]) -> None:
        """Take samples for layers that nobody asked about before."""
        by_tensor: dict[Tensor, list[Job]] = {}
        for key, job in wanted.items():
            by_tensor.setdefault(job.target, []).append(job)
            self._rows[key] = 0
        if not by_tensor:
            return
        starts = np.concatenate([[0], np.cumsum(self._counts)])
        next_batch = dict.fromkeys(by_tensor, 0)
        sizes = {t: self._shapes[t][1] * -(-self.feeds.size // self._first_items) for t in by_tensor}
        for values in Watch(self.teacher, by_tensor).run(self.feeds, sizes=sizes, threads=self.threads, optimize="basic"):
            for tensor in list(values):
                value = np.asarray(values.pop(tensor))
                batch = next_batch[tensor]
                next_batch[tensor] += 1
                for job in by_tensor[tensor]:
                    self._take(job, batch, value, int(starts[batch]))

    def _take(self, job: Job, batch: int, value: Array, start: int) -> None:
        key, count = _key(job), self._counts[batch]
        places = job.layer.form.places(value.shape)
        at = sample(places, count, self._positions, np.random.default_rng([self._seed, self._number(job), batch]))
        item = start + at * count // max(1, places)
        use = np.where(item % EVERY == EVERY - 1, VALIDATION, TRAINING)
        originals = sum(self._counts) // (2 if self._names else 1)
        self._places[key, batch] = at, np.where(item < originals, use, MIRROR)
        self._store.put((key, batch), job.layer.form.outputs(value, at).astype(np.float32))
        self._rows[key] += len(at)

    def _number(self, job: Job) -> int:
        """A number of the job's layer and target that does not hang on what else is asked for."""
        maker = producer(job.output)
        return 2 * (-1 if maker is None else self._order.get(maker, -1)) + 2 + (job.sum is not None)


class Targets:
    """For each job of one student and batch of `feeds` the positions, which of them are for validation, and the channels that are left there."""

    def __init__(self, teacher: TeacherRows, jobs: Iterable[Job]) -> None:
        """Raises ValueError where `channels` do not fit the student's layer."""
        self._teacher = teacher
        self.feeds = teacher.feeds
        for job in jobs:
            g, _, o = job.layer.form.shape
            left = self._channels(job, 0).shape[1]
            if left != g * o:
                raise ValueError(f"'{job.layer.node.name}' has {g * o} output channels, and {left} of its twin's are named.")

    def rows(self, job: Job) -> int:
        """How many rows a job has in all."""
        return self._teacher.rows(_key(job))

    def of(self, job: Job, batch: int) -> tuple[Array, Array, Array]:
        """(positions [r], uses [r]: TRAINING, VALIDATION or MIRROR, outputs [r, c]) of one batch."""
        at, uses, _ = self._teacher.of(_key(job), batch)
        return at, uses, self._channels(job, batch)

    def _channels(self, job: Job, batch: int) -> Array:
        outputs = self._teacher.of(_key(job), batch)[2]
        return outputs if job.channels is None else outputs[:, job.channels]


def _key(job: Job) -> TargetKey:
    return job.output, job.target
