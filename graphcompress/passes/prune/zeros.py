"""Zeros in a weight matrix: which entries become zero, and what the others become.

W [n, o] is a matrix whose n inputs have the second moments H [n, n]: a change D of W costs tr(D' H D). With H^-1 = U'U, U upper triangular, setting entry ij to zero costs
W_ij^2 / U_ii^2 once the inputs behind i have taken over what they can, and they take over U_ij / U_ii of it. One factor serves all outputs (SparseGPT, arXiv 2301.00774).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.reconstruction.rounding import inverse_factor

Array = np.ndarray[Any, Any]

BLOCK = 128
"""Inputs that are compared with one another before one of their weights becomes zero."""


@dataclass(frozen=True, slots=True)
class ZeroRule:
    """`share` of all entries, 0 to 1; or, with `pattern` (n, m), all but n of every m neighbouring input channels, for each output and each tap of a kernel by itself.
    A last group of fewer channels counts as one that is filled up with zeros, as kernels for such patterns do."""

    share: float = 0.0
    pattern: tuple[int, int] | None = None

    def count(self, entries: int) -> int:
        """How many of `entries` entries, at least."""
        return math.ceil(self.share * entries - 1e-9)

    def blocks(self, channels: int, taps: int) -> list[int]:
        """How many inputs are compared with one another, block after block; inputs stand tap by tap."""
        if self.pattern is not None:
            return _lengths(channels, self.pattern[1]) * taps
        return _lengths(channels * taps, BLOCK)

    def lowest(self, costs: Array, count: int) -> Array:
        """Which entries of a block of costs [b, o] become zero: `count` of them, or what the pattern says. Of equal costs the first."""
        chosen = np.zeros(costs.shape, bool)
        if self.pattern is None:
            chosen.reshape(-1)[np.argsort(costs, axis=None, kind="stable")[: max(0, count)]] = True
        else:
            ranked = np.argsort(costs, axis=0, kind="stable")
            np.put_along_axis(chosen, ranked[: max(0, len(costs) - self.pattern[0])], True, axis=0)
        return chosen


def zero_by_magnitude(matrix: Array, rule: ZeroRule, taps: int) -> Array:
    """`matrix` [g, n, o] with zeros in place of the smallest entries. The `taps` rows of an input channel are neighbours."""
    rows = _tap_by_tap(matrix, taps)
    g, n, o = rows.shape
    lengths = [g * n] if rule.pattern is None else rule.blocks(n // taps, taps) * g
    blocks = np.split(rows.reshape(g * n, o), np.cumsum(lengths)[:-1])
    chosen = np.concatenate([rule.lowest(np.abs(block), rule.count(block.size)) for block in blocks])
    return _channel_by_channel(np.where(chosen.reshape(g, n, o), 0.0, rows), taps)


def zero_by_error(matrix: Array, moments: Sequence[Array], rule: ZeroRule, taps: int, zeros: Array) -> Array:
    """`matrix` [g, n, o] with zeros where they cost least after the other entries have taken over, and those entries. `moments` are g positive definite matrices [n, n];
    `zeros` [g, n, o] says which entries are zero in any case. The `taps` rows of an input channel are neighbours.

    Time: n^3 + n^2 o for each group.
    """
    result, stay = _tap_by_tap(matrix, taps).copy(), _tap_by_tap(zeros, taps)
    order = np.arange(matrix.shape[1]).reshape(-1, taps).T.reshape(-1)
    entries = done = 0
    for rows, fixed, moment in zip(result, stay, moments, strict=True):
        upper = inverse_factor(moment[np.ix_(order, order)])
        start = 0
        for length in rule.blocks(len(rows) // taps, taps):
            end = start + length
            block, factor = rows[start:end], upper[start:end]
            entries += block.size
            costs = np.where(fixed[start:end], -1.0, np.square(block / factor.diagonal(start)[:, None]))
            chosen = rule.lowest(costs, rule.count(entries) - done) | fixed[start:end]
            done += int(chosen.sum())
            errors = np.zeros_like(block)
            for i in range(length):
                errors[i] = np.where(chosen[i], block[i] / factor[i, start + i], 0.0)
                block[i:] -= np.outer(factor[i, start + i : end], errors[i])
            block[chosen] = 0.0  # exactly, whatever rounding has left
            rows[end:] -= factor[:, end:].T @ errors
            start = end
    return _channel_by_channel(result, taps)


def _lengths(count: int, most: int) -> list[int]:
    """`count` in parts of `most`, the last one smaller."""
    return [min(most, count - start) for start in range(0, count, most)]


def _tap_by_tap(matrix: Array, taps: int) -> Array:
    """Rows [g, channels * taps, o] as [g, taps * channels, o]."""
    g, n, o = matrix.shape
    return matrix.reshape(g, n // taps, taps, o).swapaxes(1, 2).reshape(g, n, o)


def _channel_by_channel(rows: Array, taps: int) -> Array:
    """The inverse of `_tap_by_tap`."""
    g, n, o = rows.shape
    return rows.reshape(g, taps, n // taps, o).swapaxes(1, 2).reshape(g, n, o)
