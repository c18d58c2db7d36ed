"""Detections: sets of rows, matched one to one, whose number and order depend on the data.

Two rows match where integers are equal, scores (columns within 0 and 1) differ by at most 0.2, and other numbers by at most 2% of the largest of them in the
set (13 pixels of an image of 640). A row counts by its score, as a part of the way from the lowest score of the set (0.5 at most) to 1: what barely passed the
threshold comes and goes with rounding. Tables of a fixed number of rows are padded: the row of several numbers that a set of the reference holds most often,
at least twice and bit for bit, is no detection and does not count.

agreement = F1 of the matched rows, over all feeds.
"""

from __future__ import annotations

import math

import numpy as np

from graphcompress.runtime.agreement.measured import Array, Measured, capped

PLACE = 0.02
SCORE = 0.2
MIDDLE = 0.5
LEAST_WEIGHT = 0.05  # of a sure row: where all rows are weak they must not be lost either
MOST_ROWS = 2048  # of one set, the first ones


class Detections:
    """Rows along the axis before the last; an array of rank 1 is a column, and with `axis` 1 so is each row of a table; with `axis` 0 every number says how
    many detections there are. Arrays of both sides may differ in their number of rows."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis
        self.unmatched = 0.0
        self.total = 0.0
        self.sets = 0
        self.wrong = 0

    def update(self, reference: Array, candidate: Array, rows: int) -> None:
        """See `Measure.update`, but for the number of rows."""
        if self.axis == 0 and reference.shape == candidate.shape:
            self._count(reference.astype(np.float64).reshape(-1), candidate.astype(np.float64).reshape(-1))
            return
        columns = self.axis == 1 and reference.ndim == 2
        r, c = (_sets(array[..., None] if columns else array) for array in (reference, candidate))
        for own, other in zip(r, c, strict=True):
            unmatched, total = match(*(rows[:MOST_ROWS] for rows in _without_padding(own, other)))
            self.unmatched += unmatched
            self.total += total
            self.sets += 1
            self.wrong += unmatched > 0

    def _count(self, own: Array, other: Array) -> None:
        """Take in how many there are: as many have no partner as the numbers differ by."""
        apart = np.abs(own - other)
        lost = ~np.isfinite(apart)
        self.unmatched += float(apart[~lost].sum() + lost.sum())
        self.total += float((np.abs(own) + np.abs(other))[~lost].sum() + lost.sum())
        self.sets += len(own)
        self.wrong += int((lost | (apart > 0)).sum())

    def merge(self, other: Detections) -> None:
        """See `Measure.merge`."""
        self.unmatched += other.unmatched
        self.total += other.total
        self.sets += other.sets
        self.wrong += other.wrong

    def finish(self) -> list[Measured]:
        """See `Measure.finish`."""
        return [Measured("boxes", capped(1 - self.unmatched / self.total) if self.total else 1.0, self.sets, self.wrong)] if self.sets else []


def fits(reference: Array, candidate: Array) -> bool:
    """Whether two arrays are sets of rows of one width."""
    if reference.ndim != candidate.ndim or reference.ndim == 0:
        return False
    return reference.ndim == 1 or (reference.shape[:-2] == candidate.shape[:-2] and reference.shape[-1] == candidate.shape[-1])


def match(r: Array, c: Array) -> tuple[float, float]:
    """(weight of the rows of both sides that have no partner, weight of all rows). Rows of the reference choose in the order of their weight."""
    if not len(r) and not len(c):
        return 0.0, 0.0
    score, limits = _columns(r if len(r) else c)
    own, other = _weights(r, c, score)
    free = np.ones(len(c), bool)
    unmatched = 0.0
    for i in np.argsort(-own, kind="stable"):
        apart = np.abs(c - r[i]) if len(c) else np.zeros((0, r.shape[1]))
        near = np.flatnonzero(free & (apart <= limits).all(axis=1))
        if len(near):
            best = near[np.argmin((apart[near] / np.maximum(limits, 1e-30)).sum(axis=1))]
            free[best] = False
        else:
            unmatched += own[i]
    return float(unmatched + other[free].sum()), float(own.sum() + other.sum())


def _without_padding(own: Array, other: Array) -> tuple[Array, Array]:
    """Both tables without what pads the first of them."""
    if own.shape[1] < 2:
        return own, other
    rows, counts = np.unique(own, axis=0, return_counts=True)
    if counts.max(initial=0) < 2:
        return own, other
    padding = rows[counts.argmax()]
    return own[(own != padding).any(axis=1)], other[(other != padding).any(axis=1)]


def _columns(rows: Array) -> tuple[int | None, Array]:
    """The column of the scores, and how far apart the values of each column may be."""
    whole = (rows == np.round(rows)).all(axis=0)
    unit = (rows >= 0).all(axis=0) & (rows <= 1).all(axis=0) & ~whole
    limits = np.where(whole, 0.5, np.where(unit, SCORE, PLACE * np.abs(rows[:, ~whole]).max(initial=0.0)))
    scores = np.flatnonzero(unit)
    if unit.sum() > 2:  # boxes in parts of the image: the place is what lies within 0 and 1, and the score is last or first among them
        limits = np.where(unit, PLACE, limits)
        limits[scores[-1]] = SCORE
    return (int(scores[-1]) if len(scores) else None), limits


def _weights(r: Array, c: Array, score: int | None) -> tuple[Array, Array]:
    if score is None:
        return np.ones(len(r)), np.ones(len(c))
    lowest = min(MIDDLE, float(np.concatenate([r[:, score], c[:, score]]).min()))
    own, other = (np.clip((rows[:, score] - lowest) / (1 - lowest), LEAST_WEIGHT, 1.0) for rows in (r, c))
    return own, other


def _sets(array: Array) -> list[Array]:
    """Tables of numbers; NaN and infinities become values that match nothing."""
    values = np.nan_to_num(array.astype(np.float64), nan=-1e300, posinf=1e300, neginf=-1e299)
    if values.ndim < 2:
        return [values.reshape(-1, 1)]
    return list(values.reshape(math.prod(values.shape[:-2]), *values.shape[-2:]))
