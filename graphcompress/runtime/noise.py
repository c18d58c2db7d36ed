"""How far the outputs of a run moved from those of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def relative_noise(reference: Sequence[Mapping[str, Any]], moved: Sequence[Mapping[str, Any]]) -> float:
    """Mean square of the change over that of the output, over all runs: the largest of the float outputs; what is not finite, or has another shape, does not count."""
    lost: dict[str, float] = {}
    power: dict[str, float] = {}
    for before, after in zip(reference, moved, strict=True):
        for name, value in before.items():
            other = after[name]
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.shape(other) == value.shape:
                a, b = value.astype(np.float64), np.asarray(other, np.float64)
                finite = np.isfinite(a) & np.isfinite(b)
                lost[name] = lost.get(name, 0.0) + float(np.square(a - b, where=finite, out=np.zeros_like(a)).sum())
                power[name] = power.get(name, 0.0) + float(np.square(a, where=finite, out=np.zeros_like(a)).sum())
    return max((lost[name] / power[name] for name in lost if power[name] > 0), default=0.0)
