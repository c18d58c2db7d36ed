"""Embeddings: directions.

1 - cosine of a vector and its counterpart, as a part of what two different inputs of the reference are apart in the mean: where all vectors point into nearly
one direction, as those of many language models do, a plain cosine sees nothing. agreement = 1 - mean over vectors, at least 0.
"""

from __future__ import annotations

import numpy as np

from graphcompress.runtime.agreement.measured import Array, Measured, capped

CHUNK = 1 << 18
ROUNDING = 1e-6  # of a cosine of float32 numbers: no difference
FAR = 0.05  # of a vector: counted as a different answer


class Directions:
    """Vectors along `axis`. Holds the sum of the reference's unit vectors, from which the mean cosine of all pairs follows."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis
        self.total = np.zeros(0)
        self.vectors = 0
        self.apart = 0.0
        self.far = 0

    def update(self, reference: Array, candidate: Array, rows: int) -> None:
        """See `Measure.update`."""
        r, c = (np.moveaxis(a, self.axis, -1).reshape(-1, a.shape[self.axis]) for a in (reference, candidate))
        step = max(1, CHUNK // max(1, r.shape[1]))
        for start in range(0, len(r), step):
            own, other = _units(r[start : start + step]), _units(c[start : start + step])
            apart = 1 - np.einsum("ij,ij->i", own, other)
            apart[(apart < ROUNDING) | (own == other).all(axis=1)] = 0.0
            self.apart += float(apart.sum())
            self.far += int((apart > FAR).sum())
            self._add(own.sum(axis=0), len(own))

    def merge(self, other: Directions) -> None:
        """See `Measure.merge`."""
        self.apart += other.apart
        self.far += other.far
        self._add(other.total, other.vectors)

    def finish(self) -> list[Measured]:
        """See `Measure.finish`."""
        if not self.vectors:
            return []
        pairs = self.vectors * (self.vectors - 1)
        alike = (float(self.total @ self.total) - self.vectors) / pairs if pairs else 0.0
        typical = 1 - alike if alike < 1 - 1e-6 else 1.0
        return [Measured("embedding", capped(1 - self.apart / self.vectors / min(1.0, typical)), self.vectors, self.far)]

    def _add(self, total: Array, vectors: int) -> None:
        self.vectors += vectors
        if len(total) == len(self.total):
            self.total += total
        elif vectors:
            self.total = total.copy() if not len(self.total) else np.zeros(0)


def _units(rows: Array) -> Array:
    """Rows of length 1 (float64); what is not finite becomes zero, which points nowhere."""
    values = np.nan_to_num(rows.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    units: Array = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    return units
