"""Probabilities: F1 of the decisions at a threshold, weighed by margin.

A decision counts by how sure the reference is of it: min(1, |p - t| / t) at threshold t, so that what lies at the threshold costs nothing and what is clear
costs 1. F1 = 2 TP / (2 TP + FP + FN) looks at positives only: maps that are nearly everywhere 0 are judged by what is in them. The threshold is 0.5; where the
reference has less than one clear positive there, the next lower of THRESHOLDS. Below all of them nothing is decided, and the values alone judge.
"""

from __future__ import annotations

import numpy as np

from graphcompress.runtime.agreement.measured import Array

THRESHOLDS = (0.5, 0.25, 0.1, 0.05)
CLEAR = 1.0  # the least weight of positives that decides


class Tally:
    """Weights of true positives, false positives and false negatives for each threshold (rows) at each of some positions (columns)."""

    def __init__(self, positions: int = 1) -> None:
        self.weights = np.zeros((3, len(THRESHOLDS), positions))

    def count(self, r: Array, c: Array, at: Array | None = None) -> None:
        """Flat arrays of probabilities (float64, NaN where there is none), and the position of each. NaN on the candidate's side is the wrong decision."""
        positions = self.weights.shape[2]
        for i, threshold in enumerate(THRESHOLDS):
            own = r >= threshold
            other = np.where(np.isnan(c), ~own, c >= threshold)
            matters = (own | other) & ~np.isnan(r)
            weight = np.minimum(1.0, np.abs(r[matters] - threshold) / threshold)
            where = np.zeros(len(weight), np.int64) if at is None else at[matters]
            for kind, chosen in enumerate((own & other, ~own & other, own & ~other)):
                self.weights[kind, i] += np.bincount(where, weight * chosen[matters], minlength=positions)

    def f1(self, positions: Array | slice = slice(None)) -> tuple[float, float] | None:
        """(F1, weight of the decisions) at the first threshold with a clear positive; None where there is none."""
        for hit, extra, missed in self.weights[:, :, positions].sum(axis=2).T:
            if hit + missed >= CLEAR or extra >= CLEAR:
                return float(2 * hit / (2 * hit + extra + missed)), float(hit + extra + missed)
        return None
