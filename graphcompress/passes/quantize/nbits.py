"""Weights of a few bits in blocks, as onnxruntime's MatMulNBits reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphcompress.passes.quantize.parameters import Array

TRIALS = np.linspace(0.7, 1.1, 17)
"""Scales of a block that are tried, in units of that with which its largest weight just fits."""


@dataclass(frozen=True, slots=True)
class BlockCodes:
    """Codes (uint8, [columns, blocks, block]) of a matrix [rows, columns], each less than 2**bits, the middle one standing for 0, and float32 scales ([columns, blocks]). Rows beyond the
    matrix are 0."""

    codes: Array
    scales: Array
    bits: int
    rows: int

    @property
    def values(self) -> Array:
        """The matrix that the codes stand for."""
        wide = (self.codes.astype(np.float32) - 2 ** (self.bits - 1)) * self.scales[:, :, None]
        matrix: Array = wide.reshape(len(wide), -1)[:, : self.rows].T
        return matrix

    @property
    def packed(self) -> Array:
        """uint8 [columns, blocks, block * bits / 8], the lower bits first."""
        per_byte = 8 // self.bits
        parts = self.codes.reshape(*self.codes.shape[:2], -1, per_byte)
        shifts = np.arange(per_byte, dtype=np.uint8) * self.bits
        packed: Array = np.bitwise_or.reduce(parts << shifts, axis=3).astype(np.uint8)
        return packed


def block_codes(weight: Array, bits: int, block: int) -> BlockCodes:
    """Codes of `weight` ([rows, columns]), each block of rows with the scale, of those tried, that leaves the least squared error. The largest weight of a block may take the code that
    has no counterpart of the other sign."""
    rows, columns = weight.shape
    blocks = -(-rows // block)
    flat = np.zeros((columns, blocks * block))
    flat[:, :rows] = weight.T
    parts = flat.reshape(columns, blocks, block)
    middle = 2 ** (bits - 1)
    largest = np.take_along_axis(parts, np.abs(parts).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    full = np.where(largest == 0, 1.0, -largest / middle)
    least = np.full(full.shape, np.inf)
    scales = full.astype(np.float32)
    for trial in TRIALS:
        candidate = (full * trial).astype(np.float32)
        error = np.square(parts - _rounded(parts, candidate, middle) * candidate[:, :, None]).sum(axis=2)
        better = error < least
        least[better], scales[better] = error[better], candidate[better]
    return BlockCodes((_rounded(parts, scales, middle) + middle).astype(np.uint8), scales, bits, rows)


def _rounded(parts: Array, scales: Array, middle: int) -> Array:
    codes: Array = np.clip(np.rint(parts / scales[:, :, None].astype(np.float64)), -middle, middle - 1)
    return codes
