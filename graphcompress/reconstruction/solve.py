"""Ridge least squares of a layer's weights towards the old ones, from moments. Layers that share a weight are a sequence of moments, each with a bias of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphcompress.reconstruction.gram import Moments

Array = np.ndarray[Any, Any]

NOISE = 1e-6
"""Of an input's mean: what varies by less is rounding of float32, which has nothing to teach. A fit to it takes any size that rounding happens to ask for."""


def refit(moments: Sequence[Moments], old: Array, ridge: float, rank: int | None = None) -> Array:
    """The W [..., n, o] that minimizes |Yc - Xc W|^2 + d |W - W_old|^2 for centred rows, d = `ridge` times the mean of the diagonal of Xc'Xc; of all matrices, or of those of a
    `rank` (reduced-rank regression).

    Towards the old weights, not towards 0: a ridge that is too large then leaves them as they were. An input that never varies keeps its weight.
    """
    xy: Array = sum(m.xy for m in moments[1:]) + moments[0].xy
    return DampedMoments(moments, ridge).refit(xy, old, rank)


class DampedMoments:
    """The second moments of the inputs of layers that share a weight, `ridge` times their mean diagonal added: what `refit` inverts, for any targets."""

    def __init__(self, moments: Sequence[Moments], ridge: float) -> None:
        xx: Array = sum(m.xx for m in moments[1:]) + moments[0].xx
        rounding = sum(m.rows * np.square(m.mean_x).mean(axis=-1) for m in moments)
        self._damping = (damping(xx, ridge) + rounding * NOISE**2)[..., None, None]
        self._matrix = xx + self._damping * np.eye(xx.shape[-1])
        self._factor: tuple[Array, bool] | None = None

    def refit(self, xy: Array, old: Array, rank: int | None = None) -> Array:
        """The weights [..., n, o] for the moments `xy` [..., n, o] of inputs and targets; see `refit`."""
        weight = self._solved(xy + self._damping * old)
        if rank is None or rank >= min(weight.shape[-2:]):
            return weight
        # What W misses of the best W* is tr((W - W*)' H (W - W*)) with the damped moments H: of rank r least where the main directions of the fitted outputs stay.
        main = main_directions(np.swapaxes(weight, -1, -2) @ self._matrix @ weight, rank)
        return weight @ main @ np.swapaxes(main, -1, -2)

    def _solved(self, right: Array) -> Array:
        """The solutions of positive definite systems [..., n, n] X = [..., n, o]: one large one by its Cholesky factor, many small ones together."""
        if self._matrix.shape[-1] == 1:
            quotient: Array = right / self._matrix
            return quotient
        if math.prod(self._matrix.shape[:-2]) > 1:
            return np.linalg.solve(self._matrix, right)
        from scipy.linalg import cho_factor, cho_solve

        size = self._matrix.shape[-1]
        if self._factor is None:
            self._factor = cho_factor(self._matrix.reshape(size, size))
        result: Array = cho_solve(self._factor, right.reshape(size, -1)).reshape(right.shape)
        return result


def main_directions(moments: Array, count: int) -> Array:
    """The `count` orthonormal directions [..., o, count] in which outputs with the second moments [..., o, o] have most of their energy, the largest part last."""
    _, vectors = np.linalg.eigh((moments + np.swapaxes(moments, -1, -2)) / 2)
    return vectors[..., vectors.shape[-1] - count :]


def damping(xx: Array, ridge: float) -> Array:
    """[...] what a ridge adds to the diagonal of `xx` [..., n, n]: `ridge` times its mean. For inputs that never vary 1: any positive number gives the old weights."""
    d: Array = ridge * np.trace(xx, axis1=-2, axis2=-1) / xx.shape[-1]
    return np.where(d == 0, 1.0, d)


def bias_of(moments: Moments, weight: Array) -> Array:
    """The bias [..., o] that makes the mean error 0."""
    bias: Array = moments.mean_y - np.einsum("...n,...no->...o", moments.mean_x, weight)
    return bias


def squared_error(moments: Moments, weight: Array, bias: Array) -> float:
    """Sum of |y - x W - b|^2 over all rows, groups and outputs; `moments` need not be those that W and b were fitted on."""
    about_mean = float(moments.yy.sum()) + float((weight * (moments.xx @ weight - 2 * moments.xy)).sum())
    return max(0.0, about_mean) + moments.rows * float(np.square(bias_of(moments, weight) - bias).sum())


def best_ridge(training: Sequence[Moments], validation: Sequence[Moments], old: Array, ridges: Sequence[float], rank: int | None = None) -> tuple[float, float]:
    """Of `ridges` the one whose refit on `training` (of a `rank`) has the least squared error on `validation`, and that error."""
    errors: list[tuple[float, float]] = []
    for ridge in ridges:
        weight = refit(training, old, ridge, rank)
        errors.append((sum(squared_error(h, weight, bias_of(f, weight)) for f, h in zip(training, validation, strict=True)), ridge))
    error, ridge = min(errors)
    return ridge, error
