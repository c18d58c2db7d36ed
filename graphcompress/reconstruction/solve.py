"""Ridge least squares of a layer's weights towards the old ones, from moments. Layers that share a weight are a sequence of moments, each with a bias of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphcompress.reconstruction.gram import Moments

Array = np.ndarray[Any, Any]


def refit(moments: Sequence[Moments], old: Array, ridge: float) -> Array:
    """The W [..., n, o] that minimizes |Yc - Xc W|^2 + d |W - W_old|^2 for centred rows, d = `ridge` times the mean of the diagonal of Xc'Xc.

    Towards the old weights, not towards 0: a ridge that is too large then leaves them as they were. An input that never varies keeps its weight.
    """
    from scipy.linalg import solve

    n = old.shape[-2]
    result = np.empty_like(old)
    for group in np.ndindex(old.shape[:-2]):
        xx: Array = sum(m.xx[group] for m in moments[1:]) + moments[0].xx[group]
        xy: Array = sum(m.xy[group] for m in moments[1:]) + moments[0].xy[group]
        d = damping(xx, ridge)
        result[group] = solve(xx + d * np.eye(n), xy + d * old[group], assume_a="pos")
    return result


def damping(xx: Array, ridge: float) -> float:
    """What a ridge adds to the diagonal of `xx` [n, n]: `ridge` times its mean. For inputs that never vary 1: any positive number gives the old weights."""
    return ridge * float(np.trace(xx)) / len(xx) or 1.0


def bias_of(moments: Moments, weight: Array) -> Array:
    """The bias [..., o] that makes the mean error 0."""
    bias: Array = moments.mean_y - np.einsum("...n,...no->...o", moments.mean_x, weight)
    return bias


def squared_error(moments: Moments, weight: Array, bias: Array) -> float:
    """Sum of |y - x W - b|^2 over all rows, groups and outputs; `moments` need not be those that W and b were fitted on."""
    about_mean = float(moments.yy.sum()) + float((weight * (moments.xx @ weight - 2 * moments.xy)).sum())
    return max(0.0, about_mean) + moments.rows * float(np.square(bias_of(moments, weight) - bias).sum())


def best_ridge(training: Sequence[Moments], validation: Sequence[Moments], old: Array, ridges: Sequence[float]) -> tuple[float, float]:
    """Of `ridges` the one whose refit on `training` has the least squared error on `validation`, and that error."""
    errors: list[tuple[float, float]] = []
    for ridge in ridges:
        weight = refit(training, old, ridge)
        errors.append((sum(squared_error(h, weight, bias_of(f, weight)) for f, h in zip(training, validation, strict=True)), ridge))
    error, ridge = min(errors)
    return ridge, error
