"""Watching tensors while the float model runs over the calibration feeds: one statistic, shape and size per tensor, whatever the number of feeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.errors import DataError
from graphcompress.ir import Model, Tensor
from graphcompress.passes.quantize.ranges import Array, Statistic
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import Watch
from graphcompress.step import Progress, silent


@dataclass(slots=True)
class Observed:
    """What was seen of one tensor: `elements` in all over `feeds` runs, `squares` the sum of their squares, the shape in the first run (inside a Loop or
    Scan: flat over the iterations).

    `unusable` says why no range can be taken from it (an id and a sentence), None where one can: NaN or infinite values, or a runtime that cannot hand it out.
    """

    statistic: Statistic
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    elements: int = 0
    feeds: int = 0
    squares: float = 0.0
    unusable: tuple[str, str] | None = None

    @property
    def size(self) -> float:
        """Mean number of elements."""
        return self.elements / max(1, self.feeds)

    @property
    def power(self) -> float:
        """Mean square of the values."""
        return self.squares / max(1, self.elements)


def observe(
    model: Model,
    tensors: Sequence[Tensor],
    feeds: Iterable[Feed],
    statistic: Callable[[Tensor], Statistic],
    *,
    sizes: Mapping[Tensor, int] | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    total: int | None = None,
) -> dict[Tensor, Observed]:
    """Run `model` in float over `feeds`, which can be gone through again, and learn from `tensors`. Tensors that are not float32, or not finite, are seen
    (type, shape) but not counted.

    `sizes` are the bytes of the tensors as far as they are known. Raises DataError where there is no feed at all.
    """
    watch = Watch(model, tensors)
    observed = {t: Observed(statistic(t)) for t in tensors}
    for values in watch.run(feeds, sizes=sizes, threads=threads):
        for tensor in list(values):
            _take(observed[tensor], np.asarray(values.pop(tensor)), tensor.name)
        progress("observing", max((o.feeds for o in observed.values()), default=0), total)
    if tensors and not any(o.feeds for o in observed.values()) and not watch.problems:
        raise DataError("There is not one calibration feed: ranges cannot be found. Give feeds with --data.")
    for tensor, problem in watch.problems.items():
        observed[tensor].unusable = ("not-observed", problem)
    return observed


def _take(entry: Observed, array: Array, name: str) -> None:
    if entry.feeds == 0:
        entry.dtype, entry.shape = str(array.dtype), array.shape
    entry.feeds += 1
    entry.elements += array.size
    if array.dtype != np.float32 or entry.unusable or not array.size:
        return
    flat = array.reshape(-1)
    # In float32 the sum of squares of finite values can overflow; NaN and infinity survive it.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(np.dot(flat, flat))
    if not math.isfinite(squares):
        if np.isnan(flat).any():
            entry.unusable = "not-finite", f"'{name}' has NaN values in calibration feed {entry.feeds}, so no range is known for it"
            return
        if np.isinf(flat).any():
            entry.unusable = "not-finite", f"'{name}' has infinite values in calibration feed {entry.feeds}, which no 8-bit range holds"
            return
        squares = float(np.square(flat, dtype=np.float64).sum())
    entry.squares += squares
    entry.statistic.update(array)
