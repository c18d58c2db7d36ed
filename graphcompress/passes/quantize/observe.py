"""Watching tensors while the float model runs over the calibration feeds: one statistic, shape and size per tensor, whatever the number of feeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.errors import DataError
from graphcompress.ir import Model
from graphcompress.passes.quantize.ranges import Array, Statistic
from graphcompress.runtime import evaluate
from graphcompress.step import Progress, silent


@dataclass(slots=True)
class Observed:
    """What was seen of one tensor: `elements` in all over `feeds` runs, the shape in the first; `finite` is false where it was infinite somewhere (a mask, say)."""

    statistic: Statistic
    dtype: str
    shape: tuple[int, ...]
    elements: int = 0
    feeds: int = 0
    finite: bool = True

    @property
    def size(self) -> float:
        """Mean number of elements."""
        return self.elements / max(1, self.feeds)


def observe(
    model: Model,
    names: Sequence[str],
    feeds: Iterable[dict[str, Array]],
    statistic: Callable[[], Statistic],
    *,
    threads: int | None = None,
    progress: Progress = silent,
    total: int | None = None,
) -> dict[str, Observed]:
    """Run `model` in float over `feeds` and learn from the tensors `names`. Tensors that are not float32, or infinite, are seen (type, shape) but not counted.

    Raises DataError naming tensor and feed where a value is NaN, and where there is no feed at all.
    """
    seen: dict[str, Observed] = {}
    runs: dict[str, int] = {}
    for values in evaluate.observe(model, names, feeds, threads=threads):
        for name, array in values.items():
            number = runs[name] = runs.get(name, 0) + 1
            array = np.asarray(array)
            if name not in seen:
                seen[name] = Observed(statistic(), str(array.dtype), array.shape)
            entry = seen[name]
            entry.feeds += 1
            entry.elements += array.size
            if array.dtype == np.float32:
                entry.finite = entry.finite and _finite(name, array, number)
                if entry.finite:
                    entry.statistic.update(array)
        progress("observing", max(runs.values(), default=0), total)
    if not seen:
        raise DataError("There is not one calibration feed: ranges cannot be found. Give feeds with --data.")
    return seen


def _finite(name: str, array: Array, number: int) -> bool:
    """Whether all values are finite; raises DataError for NaN. Infinity is what attention masks are made of, and no fault."""
    # The sum of finite float32 values can overflow in float32, not in float64; NaN and infinity survive it.
    if array.size == 0 or np.isfinite(array.sum(dtype=np.float64)) or np.isfinite(array).all():
        return True
    if np.isnan(array).any():
        raise DataError(
            f"Tensor '{name}' has NaN values in calibration feed {number}: no range can be given to it. Take this feed out, or keep the operator before it in float with --exclude."
        )
    return False
