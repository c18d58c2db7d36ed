"""Second moments of a layer's input rows and output targets, streamed: all that scores and least squares need of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

Array = np.ndarray[Any, Any]

STRIP = 512


@dataclass(frozen=True, slots=True)
class Moments:
    """Centred second moments of `rows` pairs (x, y); sums, not means. Leading axes `...` are independent layers (the groups of a Conv) over as many rows.

    `mean_x` [..., n], `mean_y` [..., o], `xx` = X'X [..., n, n], `xy` = X'Y [..., n, o], `yy` = the diagonal of Y'Y [..., o].

    Where n is less than the layer's `inputs`, x stands for coordinates in an orthonormal basis of all rows. A weight then is [n + o, o]: its coordinates in that basis, and what is left, as it is
    in the `outside` of the old one, the part that no row sees; its second moments [o, o].
    """

    rows: int
    mean_x: Array
    mean_y: Array
    xx: Array
    xy: Array
    yy: Array
    inputs: int | None = None
    outside: Array | None = None

    def seen(self, weight: Array) -> Array:
        """What the rows see of a weight: [..., n, o]."""
        return weight[..., : self.xx.shape[-1], :]

    def about_zero(self) -> Moments:
        """The moments about 0 in place of the means, with means of 0: what a layer that can have no bias is fitted with."""
        x, y = self.mean_x, self.mean_y
        return Moments(
            self.rows,
            np.zeros_like(x),
            np.zeros_like(y),
            self.xx + self.rows * x[..., :, None] * x[..., None, :],
            self.xy + self.rows * x[..., :, None] * y[..., None, :],
            self.yy + self.rows * y**2,
            self.inputs,
            self.outside,
        )


class Gram:
    """Moments of rows that come in parts: `update`, `merge`, `finish`.

    Sums are float64 and taken about the mean of the first rows, so that a mean far from 0 costs no digits; that shift is part of the state, and merging takes it
    into account exactly. A row with a value that is not finite is left out, in all leading axes.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._shift_x = self._shift_y = np.zeros(0)
        self._x = self._y = self._xx = self._xy = self._yy = np.zeros(0)

    def update(self, x: Array, y: Array | None = None) -> None:
        """Take in rows `x` [..., r, n] and, where there are targets, `y` [..., r, o]. All calls must agree in n, o and the leading axes."""
        x, y = _finite_rows(x, np.zeros((*x.shape[:-1], 0)) if y is None else y)
        if not x.shape[-2]:
            return
        if not self.rows:
            self._start(x.mean(axis=-2, dtype=np.float64), y.mean(axis=-2, dtype=np.float64))
        x, y = (np.subtract(rows, shift[..., None, :], dtype=np.float64) for rows, shift in ((x, self._shift_x), (y, self._shift_y)))
        across = np.swapaxes(x, -1, -2)
        self.rows += x.shape[-2]
        self._x += x.sum(axis=-2)
        self._y += y.sum(axis=-2)
        for part in _strips(self._xx):
            self._xx[..., part, :] += across[..., part, :] @ x
        self._xy += across @ y
        self._yy += np.square(y).sum(axis=-2)

    def merge(self, other: Gram) -> Self:
        """Add what `other` has taken in."""
        if not other.rows:
            return self
        if not self.rows:
            self._start(other._shift_x, other._shift_y)
        n, dx, dy = other.rows, other._shift_x - self._shift_x, other._shift_y - self._shift_y
        self.rows += n
        self._xx += other._xx
        self._xy += other._xy
        for matrix, x, y, dz in ((self._xx, other._x, other._x, dx), (self._xy, other._x, other._y, dy)):
            _add_outer(matrix, dx, y + n * dz)
            _add_outer(matrix, x, dz)
        self._yy += other._yy + 2 * dy * other._y + n * dy**2
        self._x += other._x + n * dx
        self._y += other._y + n * dy
        return self

    def finish(self, *, last: bool = False) -> Moments:
        """The moments of everything taken in; without any row all arrays are empty. `last`: nothing is asked of this object any more, so that its matrices become the moments'."""
        n = max(1, self.rows)
        yy = np.maximum(0.0, self._yy - self._y**2 / n)
        xx, xy = (m if last else m.copy() for m in (self._xx, self._xy)) if self.rows else (np.zeros((0, 0)), np.zeros((0, 0)))
        if self.rows:
            _add_outer(xx, self._x, self._x / -n)
            _add_outer(xy, self._x, self._y / -n)
        return Moments(self.rows, self._shift_x + self._x / n, self._shift_y + self._y / n, xx, xy, yy)

    def _start(self, shift_x: Array, shift_y: Array) -> None:
        self._shift_x, self._shift_y = shift_x.copy(), shift_y.copy()
        self._x, self._y, self._yy = np.zeros_like(shift_x), np.zeros_like(shift_y), np.zeros_like(shift_y)
        self._xx, self._xy = np.zeros((*shift_x.shape, shift_x.shape[-1])), np.zeros((*shift_x.shape, shift_y.shape[-1]))


def _add_outer(matrix: Array, a: Array, b: Array) -> None:
    """Add a b' to `matrix` [..., n, o], in place."""
    for part in _strips(matrix):
        matrix[..., part, :] += a[..., part, None] * b[..., None, :]


def _strips(matrix: Array) -> Iterator[slice]:
    """Runs of rows of a matrix: what is calculated for one of them takes little memory beside the matrix."""
    return (slice(start, start + STRIP) for start in range(0, matrix.shape[-2], STRIP))


def _finite_rows(x: Array, y: Array) -> tuple[Array, Array]:
    if np.isfinite(x.sum()) and np.isfinite(y.sum()):
        return x, y
    sound = np.isfinite(x).all(axis=-1) & np.isfinite(y).all(axis=-1)
    sound = sound.reshape(-1, sound.shape[-1]).all(axis=0)
    return x[..., sound, :], y[..., sound, :]
