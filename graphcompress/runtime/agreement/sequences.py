"""Sequences of classes (frames, tokens, anchors): what is left when repeats are collapsed and the blank is dropped, compared by edit distance.

The blank is the class that the reference gives most often in a sequence: the blank of CTC, the background of anchors, the tag of no entity. A frame where the
candidate's choice costs the reference less than a twentieth of its typical margin (median over the frames of the sequence) is a toss, and counts as the
reference's choice.

agreement = 1 - sum of edits / sum of lengths (of the longer of both), over all sequences.
"""

from __future__ import annotations

import numpy as np

from graphcompress.runtime.agreement.measured import Array, Measured, capped

TOSS = 0.05


class ClassSequences:
    """Sequences along the second axis (the first, where the second has one element), classes along the last."""

    def __init__(self) -> None:
        self.edits = 0
        self.length = 0
        self.sequences = 0
        self.wrong = 0

    def update(self, reference: Array, candidate: Array, rows: int) -> None:
        """See `Measure.update`."""
        r, c = (np.swapaxes(a, 0, 1) if a.shape[1] == 1 else a for a in (reference.astype(np.float64), candidate.astype(np.float64)))
        for own, other in zip(r, c, strict=True):
            if not own.size:
                continue
            before, after = _choices(own, other)
            blank = int(np.bincount(before).argmax())
            before, after = collapse(before, blank), collapse(after, blank)
            edits = edit_distance(before, after)
            self.edits += edits
            self.length += max(len(before), len(after))
            self.sequences += 1
            self.wrong += edits > 0

    def merge(self, other: ClassSequences) -> None:
        """See `Measure.merge`."""
        self.edits += other.edits
        self.length += other.length
        self.sequences += other.sequences
        self.wrong += other.wrong

    def finish(self) -> list[Measured]:
        """See `Measure.finish`."""
        if not self.sequences:
            return []
        return [Measured("sequence", capped(1 - self.edits / max(1, self.length)), self.sequences, self.wrong)]


def _choices(own: Array, other: Array) -> tuple[Array, Array]:
    """The classes that both give, tosses being settled for the reference. A frame with NaN on one side has a class of its own."""
    classes = own.shape[1]
    before, after = np.argmax(own, axis=1), np.argmax(other, axis=1)
    lost = np.isnan(own).any(axis=1) != np.isnan(other).any(axis=1)
    at = np.arange(len(own))
    regret = own[at, before] - own[at, after]
    margin = np.median(np.diff(np.partition(own, -2, axis=1)[:, -2:], axis=1)) if classes > 1 else 0.0
    after = np.where(regret <= TOSS * margin, before, after)
    after[lost] = classes
    return before, after


def collapse(classes: Array, blank: int) -> Array:
    """Without repeats, then without the blank."""
    first = np.concatenate([[True], classes[1:] != classes[:-1]])
    kept: Array = classes[first & (classes != blank)]
    return kept


def edit_distance(a: Array, b: Array) -> int:
    """Insertions, deletions and substitutions between two sequences (Levenshtein), row by row; time len(a) * len(b)."""
    if len(a) == len(b) and bool((a == b).all()):
        return 0
    row = np.arange(len(b) + 1)
    steps = np.arange(len(b) + 1)
    for i, symbol in enumerate(a, 1):
        best = np.concatenate([[i], np.minimum(row[1:] + 1, row[:-1] + (b != symbol))])
        row = np.minimum.accumulate(best - steps) + steps  # insertions, from the left
    return int(row[-1])
