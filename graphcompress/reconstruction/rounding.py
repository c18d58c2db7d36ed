"""Rounding of a weight matrix to few levels, with error feedback.

W [n, o] is a matrix whose n inputs have the second moments H [n, n]: a change D of W costs tr(D' H D). Input by input, the largest moments first, each weight goes to the nearest level, and the
inputs behind it take over what they can of the error: with H^-1 = U'U, U upper triangular, U_ij / U_ii of it (GPTQ, arXiv 2210.17323). Then codes and scales are made better one by one while that lessens the cost (coordinate descent, arXiv 2406.17542). What is rounded is best the least-squares solution for
the original's outputs: then its error and that of the levels are all that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SHARES = np.linspace(1.0, 0.4, 25)
"""What part of a column's largest magnitude the largest code may stand for."""
BLOCK = 128
"""Inputs whose errors are handed on together."""
ROUNDS = 4
"""Of making all codes, then all scales better, at most."""


@dataclass(frozen=True, slots=True)
class Levels:
    """A matrix [g, n, o] as whole numbers times a scale for each column: `codes` [g, n, o] from -2^(bits-1) to 2^(bits-1) - 1, `scales` [g, 1, o] in float32."""

    codes: Array
    scales: Array

    @property
    def values(self) -> Array:
        """The matrix that the codes stand for, in float64."""
        return self.codes * self.scales.astype(np.float64)


def code_range(bits: int) -> tuple[int, int]:
    """The lowest and the highest code."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def round_by_error(matrix: Array, moments: Sequence[Array], bits: int, rounds: int = ROUNDS) -> Levels:
    """`matrix` [g, n, o] in `bits` bits with error feedback, its codes and scales then made better one by one in so many `rounds`, at most. `moments` are g positive definite matrices [n, n]. Time: n^3 + n^2 o for each group."""
    codes = np.empty(matrix.shape, np.int8)
    scales = np.empty((len(matrix), 1, matrix.shape[2]), np.float32)
    low, high = code_range(bits)
    for group, (values, moment) in enumerate(zip(matrix, moments, strict=True)):
        scale = column_scales(values, np.diag(moment), bits)
        order = np.argsort(-np.diag(moment), kind="stable")
        rows = values[order].copy()
        upper = inverse_factor(moment[np.ix_(order, order)])
        levels = np.empty(rows.shape, np.int8)
        for start in range(0, len(rows), BLOCK):
            end = min(start + BLOCK, len(rows))
            block, factor = rows[start:end], upper[start:end]
            errors = np.zeros_like(block)
            for i in range(end - start):
                levels[start + i] = np.clip(np.rint(block[i] / scale), low, high)
                errors[i] = (block[i] - levels[start + i] * scale) / factor[i, start + i]
                block[i:] -= np.outer(factor[i, start + i : end], errors[i])
            rows[end:] -= factor[:, end:].T @ errors
        levels, scale = polished(values[order], moment[np.ix_(order, order)], levels, scale, bits, rounds)
        codes[group, order] = levels
        scales[group, 0] = scale
    return Levels(codes, scales)


def polished(values: Array, moment: Array, codes: Array, scale: Array, bits: int, rounds: int) -> tuple[Array, Array]:
    """`codes` [n, o] and `scale` [o] with a cost tr(D' H D), D = `values` - codes * scale, that no other single code or scale lessens, or after `rounds`. No column's cost is larger than before."""
    low, high = code_range(bits)
    wanted, diagonal = moment @ values, np.diag(moment)[:, None]
    current = codes.astype(np.float64)
    for _ in range(rounds):
        pull = wanted - moment @ (current * scale)
        moved = np.zeros_like(current)
        for start in range(0, len(values), BLOCK):
            end = min(start + BLOCK, len(values))
            block, own = pull[start:end], moment[start:end, start:end]
            for i in range(end - start):
                step = np.clip(np.rint(current[start + i] + block[i] / (diagonal[start + i] * scale)), low, high) - current[start + i]
                moved[start + i] = step
                block -= np.outer(own[:, i], step * scale)
            rest = moment[end:, start:end] @ (moved[start:end] * scale)
            pull[end:] -= rest
        current += moved
        across = moment @ current
        gain, power = (current * wanted).sum(axis=0), (current * across).sum(axis=0)
        scale = np.divide(gain, power, out=scale.astype(np.float64), where=gain * power != 0).astype(np.float32)
        if not moved.any():
            break
    return current.astype(np.int8), scale


def round_to_nearest(matrix: Array, bits: int) -> Levels:
    """`matrix` [g, n, o] in `bits` bits, each entry by itself."""
    scales = np.stack([column_scales(values, np.ones(len(values)), bits)[None] for values in matrix])
    return Levels(np.clip(np.rint(matrix / scales), *code_range(bits)).astype(np.int8), scales)


def column_scales(values: Array, weights: Array, bits: int) -> Array:
    """For each column of `values` [n, o] the scale [o] in float32 that leaves the least squared error, rows counting by `weights` [n]. Signs tell which end of the codes is the longer one:
    a scale may be negative."""
    low, high = code_range(bits)
    peaks = np.abs(values).max(axis=0, initial=0.0)
    signs = np.where(
        values.max(axis=0, initial=0.0) > -values.min(axis=0, initial=0.0), -1.0, 1.0
    )  # the largest magnitude belongs to the lowest code, of which there is one more
    best, scales = np.full(len(peaks), np.inf), np.ones(len(peaks), np.float32)
    for share in SHARES:
        trial = (signs * np.where(peaks > 0, peaks * share / -low, 1.0)).astype(np.float32)
        off = np.clip(np.rint(values / trial), low, high) * trial - values
        errors = weights @ np.square(off)
        better = errors < best
        best[better], scales[better] = errors[better], trial[better]
    return scales


def inverse_factor(moment: Array) -> Array:
    """The upper triangular U with U'U = moment^-1."""
    from scipy.linalg import cholesky, solve_triangular

    # moment = V V' with V upper triangular: the lower factor of the matrix whose rows and columns run backwards.
    factor = cholesky(moment[::-1, ::-1], lower=True)[::-1, ::-1]
    inverse: Array = solve_triangular(factor, np.eye(len(moment)), lower=False)
    return inverse
