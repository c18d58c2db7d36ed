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
MORE_SHARES = np.concatenate([np.linspace(1.15, 1.025, 6), SHARES])
"""The same of a block: of 16 Gaussian numbers in 4 bits 7% of the error go, of 128 next to nothing."""
TOGETHER = 128
"""Inputs whose errors are handed on together."""
ROUNDS = 4
"""Of making all codes, then all scales better, at most."""


@dataclass(frozen=True, slots=True)
class Levels:
    """A matrix [g, n, o] as whole numbers times a scale for each column, or for each `block` of inputs of a column: `codes` [g, n, o] from -2^(bits-1) to 2^(bits-1) - 1, `scales` [g, blocks, o]
    in float32."""

    codes: Array
    scales: Array
    block: int

    @property
    def row_scales(self) -> Array:
        """The scale of each entry, [g, n, o] in float64."""
        return self.scales.astype(np.float64)[:, blocks_of(self.codes.shape[1], self.block)]

    @property
    def values(self) -> Array:
        """The matrix that the codes stand for, in float64."""
        return self.codes * self.row_scales


def code_range(bits: int) -> tuple[int, int]:
    """The lowest and the highest code."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def blocks_of(inputs: int, block: int) -> Array:
    """The block of each input."""
    return np.arange(inputs) // block


def round_by_error(matrix: Array, moments: Sequence[Array], bits: int, rounds: int = ROUNDS, block: int | None = None) -> Levels:
    """`matrix` [g, n, o] in `bits` bits with error feedback, its codes and scales then made better one by one in so many `rounds`, at most. `moments` are g positive definite matrices [n, n]; `block`
    neighbouring inputs share a scale (default: all). Time: n^3 + n^2 o for each group."""
    size = block or matrix.shape[1]
    codes = np.empty(matrix.shape, np.int8)
    scales = np.empty((len(matrix), -(-matrix.shape[1] // size), matrix.shape[2]), np.float32)
    low, high = code_range(bits)
    for group, (values, moment) in enumerate(zip(matrix, moments, strict=True)):
        scale = block_scales(values, np.diag(moment), bits, size)
        order = np.argsort(-np.diag(moment), kind="stable")
        member = blocks_of(len(values), size)[order]
        rows = values[order].copy()
        upper = inverse_factor(moment[np.ix_(order, order)])
        levels = np.empty(rows.shape, np.int8)
        for start in range(0, len(rows), TOGETHER):
            end = min(start + TOGETHER, len(rows))
            part, factor = rows[start:end], upper[start:end]
            errors = np.zeros_like(part)
            for i in range(end - start):
                step = scale[member[start + i]]
                levels[start + i] = np.clip(np.rint(part[i] / step), low, high)
                errors[i] = (part[i] - levels[start + i] * step) / factor[i, start + i]
                part[i:] -= np.outer(factor[i, start + i : end], errors[i])
            rows[end:] -= factor[:, end:].T @ errors
        codes[group, order], scales[group] = polished(values[order], moment[np.ix_(order, order)], levels, scale, member, bits, rounds)
    return Levels(codes, scales, size)


def polished(values: Array, moment: Array, codes: Array, scales: Array, member: Array, bits: int, rounds: int) -> tuple[Array, Array]:
    """`codes` [n, o] and `scales` [blocks, o] (input i has that of block `member[i]`) with a cost tr(D' H D), D = `values` - codes * scales, that no other single code or scale lessens, or after
    `rounds`. No column's cost is larger than before."""
    low, high = code_range(bits)
    wanted, diagonal = moment @ values, np.diag(moment)[:, None]
    current, scales = codes.astype(np.float64), scales.copy()
    for _ in range(rounds):
        steps = scales[member].astype(np.float64)
        pull = wanted - moment @ (current * steps)
        moved = np.zeros_like(current)
        for start in range(0, len(values), TOGETHER):
            end = min(start + TOGETHER, len(values))
            part, own = pull[start:end], moment[start:end, start:end]
            for i in range(end - start):
                row = start + i
                moved[row] = np.clip(np.rint(current[row] + part[i] / (diagonal[row] * steps[row])), low, high) - current[row]
                part -= np.outer(own[:, i], moved[row] * steps[row])
            pull[end:] -= moment[end:, start:end] @ (moved[start:end] * steps[start:end])
        current += moved
        # What is wanted of all blocks but those whose scale is being chosen: nothing is to be taken off where there is one.
        rest = wanted if len(scales) == 1 else wanted - moment @ (current * steps)
        before = scales.copy()
        for index in range(len(scales)):
            inside = member == index
            part, old = current[inside], scales[index].astype(np.float64)
            across = moment[:, inside] @ part
            own = rest[inside] if len(scales) == 1 else rest[inside] + across[inside] * old
            gain, power = (part * own).sum(axis=0), (part * across[inside]).sum(axis=0)
            scales[index] = np.divide(gain, power, out=old.copy(), where=gain * power != 0)
            if len(scales) > 1:
                rest -= across * (scales[index] - old)
        if not moved.any() and np.array_equal(scales, before):
            break
    return current.astype(np.int8), scales


def round_to_nearest(matrix: Array, bits: int, block: int | None = None) -> Levels:
    """`matrix` [g, n, o] in `bits` bits, each entry by itself."""
    size = block or matrix.shape[1]
    scales = np.stack([block_scales(values, np.ones(len(values)), bits, size) for values in matrix])
    steps = scales[:, blocks_of(matrix.shape[1], size)]
    return Levels(np.clip(np.rint(matrix / steps), *code_range(bits)).astype(np.int8), scales, size)


def block_scales(values: Array, weights: Array, bits: int, block: int) -> Array:
    """`column_scales` of each `block` of rows: [blocks, o]."""
    starts = range(0, len(values), block)
    shares = MORE_SHARES if len(starts) > 1 else SHARES
    return np.stack([column_scales(values[start : start + block], weights[start : start + block], bits, shares) for start in starts])


def column_scales(values: Array, weights: Array, bits: int, shares: Array = SHARES) -> Array:
    """For each column of `values` [n, o] the scale [o] in float32 that leaves the least squared error, rows counting by `weights` [n]. Signs tell which end of the codes is the longer one:
    a scale may be negative."""
    low, high = code_range(bits)
    peaks = np.abs(values).max(axis=0, initial=0.0)
    signs = np.where(
        values.max(axis=0, initial=0.0) > -values.min(axis=0, initial=0.0), -1.0, 1.0
    )  # the largest magnitude belongs to the lowest code, of which there is one more
    best, scales = np.full(len(peaks), np.inf), np.ones(len(peaks), np.float32)
    for share in shares:
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
