"""Probabilities: F1 of the decisions at a threshold, weighed by margin.

A decision counts by how sure the reference is of it: min(1, |p - t| / t) at threshold t, so that what lies at the threshold costs nothing and what is clear
costs 1. F1 = 2 TP / (2 TP + FP + FN) looks at positives only: maps that are nearly everywhere 0 are judged by what is in them. The threshold is 0.5; where the
reference has less than one clear positive there, the next lower of THRESHOLDS. Below all of them nothing is decided, and the values alone judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from graphcompress.runtime.agreement.measured import Array

THRESHOLDS = (0.5, 0.25, 0.1, 0.05)
CLEAR = 1.0  # the least weight of positives that decides


class Decisions(NamedTuple):
    """What is decided at one threshold: the index of each element that either side decides for, whether that is a true positive (0), a false positive (1) or a false negative (2), and its
    weight."""

    elements: Array
    kinds: Array
    weights: Array


def decisions(r: Array, c: Array) -> list[Decisions]:
    """At each of THRESHOLDS, of flat arrays of probabilities (float64, NaN where there is none). NaN on the candidate's side is the wrong decision."""
    some = np.flatnonzero(((r >= THRESHOLDS[-1]) | ~(c < THRESHOLDS[-1])) & ~np.isnan(r))  # maps are nearly everywhere 0
    r, c = r[some], c[some]
    lost = np.isnan(c)
    decided = []
    for threshold in THRESHOLDS:
        own = r >= threshold
        other = np.where(lost, ~own, c >= threshold)
        matters = np.flatnonzero(own | other)
        kinds = np.where(own, np.where(other, 0, 2), 1)[matters]
        decided.append(Decisions(some[matters], kinds, np.minimum(1.0, np.abs(r[matters] - threshold) / threshold)))
    return decided


class Tally:
    """Weights of true positives, false positives and false negatives for each threshold (rows) at each of some positions (columns)."""

    def __init__(self, positions: int = 1) -> None:
        self.weights = np.zeros((3, len(THRESHOLDS), positions))

    def count(self, decided: Sequence[Decisions], at: Array | None = None) -> None:
        """Add what `decisions` says of some elements; `at` is the position of each of these."""
        positions = self.weights.shape[2]
        for i, (elements, kinds, weights) in enumerate(decided):
            places = kinds if at is None else kinds * positions + at[elements]
            self.weights[:, i] += np.bincount(places, weights, minlength=3 * positions).reshape(3, positions)

    def f1(self, positions: Array | slice = slice(None)) -> tuple[float, float] | None:
        """(F1, weight of the decisions) at the first threshold with a clear positive; None where there is none."""
        for hit, extra, missed in self.weights[:, :, positions].sum(axis=2).T:
            if hit + missed >= CLEAR or extra >= CLEAR:
                return float(2 * hit / (2 * hit + extra + missed)), float(hit + extra + missed)
        return None
