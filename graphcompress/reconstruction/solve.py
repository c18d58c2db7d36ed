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
        self._first = moments[0]  # layers that share a weight have no basis
        self._xx: Array = sum((m.xx for m in moments[1:]), start=moments[0].xx)
        self._inputs = self._first.inputs or self._xx.shape[-1]
        rounding = sum(m.rows * np.square(m.mean_x).sum(axis=-1) / self._inputs for m in moments)
        self._damping = (damping(self._xx, ridge, self._inputs) + rounding * NOISE**2)[..., None, None]
        self._factor: tuple[Array, bool] | None = None

    def refit(self, xy: Array, old: Array, rank: int | None = None) -> Array:
        """The weights [..., n, o] for the moments `xy` [..., n, o] of inputs and targets; see `refit`."""
        known = self._first.seen(old)
        found = self._solved(xy + self._damping * known)
        outside = self._first.outside
        weight = found if outside is None else np.concatenate([found, old[..., found.shape[-2] :, :]], axis=-2)
        if rank is None or rank >= min(self._inputs, weight.shape[-1]):
            return weight
        # What W misses of the best W* is tr((W - W*)' H (W - W*)) with the damped moments H: of rank r least where the main directions of the fitted outputs stay.
        squares = np.swapaxes(found, -1, -2) @ found + (0.0 if outside is None else outside)
        main = main_directions(np.swapaxes(found, -1, -2) @ (self._xx @ found) + self._damping * squares, rank)
        return weight @ main @ np.swapaxes(main, -1, -2)

    def _solved(self, right: Array) -> Array:
        """The solutions of positive definite systems [..., n, n] X = [..., n, o]: one large one by its Cholesky factor, many small ones together."""
        size = self._xx.shape[-1]
        if size == 1:
            quotient: Array = right / (self._xx + self._damping)
            return quotient
        if math.prod(self._xx.shape[:-2]) > 1:
            return np.linalg.solve(self._xx + self._damping * np.eye(size), right)
        from scipy.linalg import cho_factor, cho_solve

        if self._factor is None:
            matrix = self._xx.reshape(size, size).T.copy("F")  # whose columns lie as LAPACK has them, so that the factor takes the place of the matrix
            matrix[np.diag_indices(size)] += self._damping.reshape(())
            self._factor = cho_factor(matrix, overwrite_a=True)
        result: Array = cho_solve(self._factor, right.reshape(size, -1)).reshape(right.shape)
        return result


def main_directions(moments: Array, count: int) -> Array:
    """The `count` orthonormal directions [..., o, count] in which outputs with the second moments [..., o, o] have most of their energy, the largest part last."""
    _, vectors = np.linalg.eigh((moments + np.swapaxes(moments, -1, -2)) / 2)
    return vectors[..., vectors.shape[-1] - count :]


def damping(xx: Array, ridge: float, inputs: int | None = None) -> Array:
    """[...] what a ridge adds to the diagonal of `xx` [..., n, n]: `ridge` times its mean over n, or over `inputs`. For inputs that never vary 1: any positive number gives the old weights."""
    d: Array = ridge * np.trace(xx, axis1=-2, axis2=-1) / (inputs or xx.shape[-1])
    return np.where(d == 0, 1.0, d)


def bias_of(moments: Moments, weight: Array) -> Array:
    """The bias [..., o] that makes the mean error 0."""
    bias: Array = moments.mean_y - np.einsum("...n,...no->...o", moments.mean_x, moments.seen(weight))
    return bias


def squared_error(moments: Moments, weight: Array, bias: Array) -> float:
    """Sum of |y - x W - b|^2 over all rows, groups and outputs; `moments` need not be those that W and b were fitted on."""
    seen = moments.seen(weight)
    about_mean = float(moments.yy.sum()) + float((seen * (moments.xx @ seen - 2 * moments.xy)).sum())
    return max(0.0, about_mean) + moments.rows * float(np.square(bias_of(moments, weight) - bias).sum())


def best_ridge(training: Sequence[Moments], validation: Sequence[Moments], old: Array, ridges: Sequence[float], rank: int | None = None) -> tuple[float, float]:
    """Of `ridges` the one whose refit on `training` (of a `rank`) has the least squared error on `validation`, and that error."""
    errors: list[tuple[float, float]] = []
    for ridge in ridges:
        weight = refit(training, old, ridge, rank)
        errors.append((sum(squared_error(h, weight, bias_of(f, weight)) for f, h in zip(training, validation, strict=True)), ridge))
    error, ridge = min(errors)
    return ridge, error
