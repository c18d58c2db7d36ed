"""Weights of 4 bits in blocks: as DequantizeLinear reads them, and packed as onnxruntime's MatMulNBits does."""

from __future__ import annotations

import numpy as np

from graphcompress.passes.quantize.parameters import Array
from graphcompress.reconstruction.rounding import Levels

BITS = 4
BLOCKED_OPSET = 21
"""From which opset on a DequantizeLinear has blocks, and 4-bit codes."""


def packed_blocks(levels: Levels) -> Array:
    """The codes of a matrix [1, rows, columns] as uint8 [columns, blocks, block / 2], the first in the lower bits, 8 standing for 0. Rows beyond the matrix are 0."""
    _, rows, columns = levels.codes.shape
    blocks = levels.scales.shape[1]
    codes = np.full((columns, blocks * levels.block), 2 ** (BITS - 1), np.uint8)
    codes[:, :rows] += levels.codes[0].T.astype(np.uint8)
    pairs = codes.reshape(columns, blocks, levels.block // 2, 2)
    packed: Array = pairs[..., 0] | pairs[..., 1] << BITS
    return packed
