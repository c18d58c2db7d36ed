"""Watching tensors while the float model runs over the calibration feeds: one statistic, shape and size per tensor, whatever the number of feeds.

What a Reshape or a Transpose makes has the values that it read: its statistic is that of its input, and it is not looked at.

Processes that watch a part of the feeds each give, put together, what one gives of all: counts, extremes and exact sums do not depend on order or parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np

from graphcompress.data import Dataset
from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, Tensor, model_from_proto, producer
from graphcompress.ir.files.parse import parse
from graphcompress.ir.model.walk import values
from graphcompress.passes.quantize.ranges import Array, Statistic
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import Watch
from graphcompress.runtime.workers import Workers, message_for
from graphcompress.step import Progress, silent

SPAN = 32  # feeds that a worker is given at a time
UNIT = 1 << 1074  # every float is a whole number of its inverses
REARRANGING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
FLOAT_BYTES = 4


@dataclass(slots=True)
class Observed:
    """What was seen of one tensor: `elements` in all over `feeds` runs, `squares` the exact sum of their squares times UNIT, the shape in the first run (inside a Loop or
    Scan: flat over the iterations).

    `unusable` says why no range can be taken from it (an id and a sentence), None where one can: NaN or infinite values, or a runtime that cannot hand it out.
    """

    statistic: Statistic
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    elements: int = 0
    feeds: int = 0
    squares: int = 0
    unusable: tuple[str, str] | None = None

    def merge(self, later: Observed) -> None:
        """Add what was seen of the same tensor in the span of feeds after these."""
        if self.feeds == 0:
            self.dtype, self.shape = later.dtype, later.shape
        self.feeds += later.feeds
        self.elements += later.elements
        if self.unusable is None:
            self.squares += later.squares
            self.statistic.merge(later.statistic)
            self.unusable = later.unusable

    @property
    def size(self) -> float:
        """Mean number of elements."""
        return self.elements / max(1, self.feeds)

    @property
    def power(self) -> float:
        """Mean square of the values."""
        return self.squares / (UNIT * max(1, self.elements))


def observe(
    model: Model,
    tensors: Sequence[Tensor],
    feeds: Dataset,
    statistic: Callable[[Tensor], Statistic],
    *,
    shapes: Mapping[Tensor, tuple[int, ...]] | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    workers: Workers | None = None,
) -> dict[Tensor, Observed]:
    """Run `model` in float over `feeds` and learn from `tensors`. Tensors that are not float32, or not finite, are seen
    (type, shape) but not counted.

    `shapes` are those of tensors of the main graph under the first feed, as far as they are known. `workers` share the feeds, each with one thread where `threads` are not stated. Raises DataError where there is no feed at all, UsageError for a model that is too large for workers.
    """
    shapes = shapes or {}
    everything = {t: Observed(statistic(t)) for t in tensors}
    origins = origins_of_values(everything, shapes)
    observed = {t: entry for t, entry in everything.items() if t not in origins}
    sizes = {t: FLOAT_BYTES * math.prod(shape) for t, shape in shapes.items()}
    if workers is not None and tensors:
        problems = _shared(workers, model, observed, feeds, sizes, threads, progress)
    else:
        watch = Watch(model, observed)
        for seen in watch.run(feeds, sizes=sizes, threads=threads):
            for tensor in list(seen):
                _take(observed[tensor], np.asarray(seen.pop(tensor)), tensor.name)
            progress("observing", max((o.feeds for o in observed.values()), default=0), len(feeds))
        problems = watch.problems
    if tensors and not any(o.feeds for o in observed.values()) and not problems:
        raise DataError("There is not one calibration feed: ranges cannot be found. Give feeds with --data.")
    for tensor, problem in problems.items():
        observed[tensor].unusable = ("not-observed", problem)
    return {t: replace(observed[origins[t]], shape=shapes[t]) if t in origins else entry for t, entry in everything.items()}


def origins_of_values(observed: Mapping[Tensor, Observed], shapes: Mapping[Tensor, tuple[int, ...]]) -> dict[Tensor, Tensor]:
    """For each tensor of known shape that has the values of another one in another order or shape: the first one of these in the graph, where both want the same
    kind of statistic."""
    origins: dict[Tensor, Tensor] = {}
    for tensor, entry in observed.items():
        if tensor not in shapes:
            continue
        before = tensor
        while (node := producer(before)) is not None and node.is_op(*REARRANGING):
            before = node.inputs[0]
            if before in observed and type(observed[before].statistic) is type(entry.statistic):
                origins[tensor] = before
    return origins


@dataclass(frozen=True)
class Observation:
    """Observing as a job of workers: tensors by their number in `values(model)`, which a file keeps, and `names`, `fresh` statistics and known `sizes` of these; a part is the number of the first
    feed of a span, and the feeds."""

    model: bytes
    numbers: Sequence[int]
    names: Sequence[str]
    fresh: Sequence[Statistic]
    sizes: Sequence[int | None]
    threads: int

    def open(self) -> Callable[[tuple[int, Iterable[Feed]]], list[tuple[Observed, str | None]]]:
        """See `SharedJob.open`."""
        model = model_from_proto(parse(self.model))
        all_values = values(model)
        tensors = [all_values[number] for number in self.numbers]
        if [t.name for t in tensors] != list(self.names):
            raise ModelError("The model that workers read is not the one that was sent, which is a fault of graphcompress. Leave out the workers.")
        watch = Watch(model, tensors)
        sizes = {t: size for t, size in zip(tensors, self.sizes, strict=True) if size is not None}

        def span(part: tuple[int, Iterable[Feed]]) -> list[tuple[Observed, str | None]]:
            first, feeds = part
            observed = {t: Observed(deepcopy(s)) for t, s in zip(tensors, self.fresh, strict=True)}
            for seen in watch.run(feeds, sizes=sizes, threads=self.threads, again=True):
                for tensor in list(seen):
                    _take(observed[tensor], np.asarray(seen.pop(tensor)), tensor.name, first)
            return [(observed[t], watch.problems.get(t)) for t in tensors]

        return span


def _shared(
    workers: Workers,
    model: Model,
    observed: Mapping[Tensor, Observed],
    feeds: Dataset,
    sizes: Mapping[Tensor, int],
    threads: int | None,
    progress: Progress,
) -> dict[Tensor, str]:
    """Have `workers` observe; the problems of tensors that cannot be handed out."""
    numbers = {t: number for number, t in enumerate(values(model))}
    tensors = list(observed)
    job = Observation(
        message_for(model),
        [numbers[t] for t in tensors],
        [t.name for t in tensors],
        [deepcopy(observed[t].statistic) for t in tensors],
        [sizes.get(t) for t in tensors],
        threads or 1,
    )
    problems: dict[Tensor, str] = {}
    for span in workers.map(job, zip(range(0, len(feeds), SPAN), feeds.parts(SPAN), strict=True)):
        for tensor, (seen, problem) in zip(tensors, span, strict=True):
            observed[tensor].merge(seen)
            if problem is not None:
                problems.setdefault(tensor, problem)
        progress("observing", max(o.feeds for o in observed.values()), len(feeds))
    return problems


def _take(entry: Observed, array: Array, name: str, first: int = 0) -> None:
    """Take in the value of one feed; `first` feeds came before those of `entry`."""
    if entry.feeds == 0:
        entry.dtype, entry.shape = str(array.dtype), array.shape
    entry.feeds += 1
    entry.elements += array.size
    if array.dtype != np.float32 or entry.unusable or not array.size:
        return
    flat = array.reshape(-1)
    # In float32 the sum of squares of finite values can overflow; NaN and infinity survive it.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(np.einsum("i,i->", flat, flat))  # the BLAS behind np.dot sums less exactly, and its threads spin
    if not math.isfinite(squares):
        if np.isnan(flat).any():
            entry.unusable = "not-finite", f"'{name}' has NaN values in calibration feed {first + entry.feeds}, so no range is known for it"
            return
        if np.isinf(flat).any():
            entry.unusable = "not-finite", f"'{name}' has infinite values in calibration feed {first + entry.feeds}, which no 8-bit range holds"
            return
        squares = float(np.square(flat, dtype=np.float64).sum())
    numerator, denominator = squares.as_integer_ratio()
    entry.squares += numerator * (UNIT // denominator)
    entry.statistic.update(array)
