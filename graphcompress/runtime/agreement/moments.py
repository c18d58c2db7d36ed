"""Mean and variance of each element of an output over inputs, in one pass (Chan, Golub, LeVeque: updating formulae, 1979)."""

from __future__ import annotations

import numpy as np

from graphcompress.runtime.agreement.measured import Array

MOST_ELEMENTS = 1 << 20
"""Of one input. Of larger outputs the spread of a position is that of all its elements around their mean."""


class ElementMoments:
    """Over the inputs of all feeds: rows where the first axis has one for each input of the feed, else arrays. Nothing is known where inputs differ in
    shape."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self.stacked = False
        self.usable = True
        self.count = 0
        self.mean = np.zeros(0)
        self.squares = np.zeros(0)

    def update(self, array: Array, rows: int) -> None:
        """Take in the output of a feed of `rows` inputs."""
        stacked = array.ndim > 0 and array.shape[0] == rows
        shape = array.shape[1:] if stacked else array.shape
        if not self._fits(shape, stacked) or not array.size:
            return
        values = (array if stacked else array[None]).astype(np.float64)
        values = np.where(np.isfinite(values), values, 0.0)
        mean = values.mean(axis=0)
        self._add(len(values), mean, ((values - mean) ** 2).sum(axis=0))

    def merge(self, other: ElementMoments) -> None:
        """Add what another one has learned."""
        self.usable &= other.usable
        if other.shape is not None and self._fits(other.shape, other.stacked) and other.count:
            self._add(other.count, other.mean, other.squares)

    def deviation(self, axis: int | None, positions: int, otherwise: Array) -> Array:
        """The standard deviation over inputs at each of the positions along an axis of the output, pooled over the elements there; `otherwise` where fewer
        than two inputs are known."""
        if not self.usable or self.count < 2:
            return otherwise
        variance = np.asarray(self.squares / (self.count - 1))
        if axis is None:
            pooled = np.full(positions, variance.mean())
        else:
            pooled = variance.mean(axis=tuple(i for i in range(variance.ndim) if i != axis - self.stacked))
        return np.asarray(np.sqrt(pooled))

    def _fits(self, shape: tuple[int, ...], stacked: bool) -> bool:
        if self.shape is None:
            self.shape, self.stacked = shape, stacked
            self.mean, self.squares = np.zeros(shape), np.zeros(shape)
            self.usable &= self.mean.size <= MOST_ELEMENTS
        self.usable &= (self.shape, self.stacked) == (shape, stacked)
        return self.usable

    def _add(self, count: int, mean: Array, squares: Array) -> None:
        total = self.count + count
        apart = mean - self.mean
        self.squares = self.squares + squares + apart**2 * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total
