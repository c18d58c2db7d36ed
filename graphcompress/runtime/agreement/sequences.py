"""Sequences of classes (frames, tokens, anchors): what is left when repeats are collapsed and the blank is dropped, compared by edit distance.

The blank is the class that the reference gives most often in a sequence: the blank of CTC, the background of anchors, the tag of no entity. A frame where the
candidate's choice costs the reference less than a twentieth of its typical margin (median over the frames of the sequence) is a toss, and counts as the
reference's choice.

What is collapsed has a length, which is the answer where runs are long (segments, tags of stretches): of two runs of one class, what the lengths differ by
beyond a quarter of the longer and two frames (peaks of CTC are wider or narrower by rounding) counts as that part of an edit.

agreement = 1 - sum of edits / sum of lengths (of the longer of both), over all sequences.
"""

from __future__ import annotations

import numpy as np

from graphcompress.runtime.agreement.measured import Array, Measured, capped

TOSS = 0.05
LENGTH_PART, LENGTH_FRAMES = 0.25, 2
"""By how much the lengths of two runs may differ for nothing: this part of the longer, and so many frames."""


class ClassSequences:
    """Sequences along the second axis (the first, where the second has one element), classes along the last."""

    def __init__(self) -> None:
        self.edits = 0.0
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
            (before, own_lengths), (after, other_lengths) = collapse(before, blank), collapse(after, blank)
            alike = len(before) == len(after) and bool((before == after).all() and (own_lengths == other_lengths).all())
            edits = 0.0 if alike else edit_distance(before, after, (own_lengths, other_lengths))
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


def collapse(classes: Array, blank: int) -> tuple[Array, Array]:
    """The runs without those of the blank: their classes and their lengths."""
    starts = np.flatnonzero(np.concatenate([[True], classes[1:] != classes[:-1]]))
    lengths = np.diff(starts, append=len(classes))
    kept = classes[starts] != blank
    return classes[starts][kept], lengths[kept]


def stretched(length: int, others: Array) -> Array:
    """[others] what part of an edit it is that a run has this length in place of the others."""
    longer = np.maximum(length, others)
    excess = np.abs(others - length) - LENGTH_PART * longer - LENGTH_FRAMES
    parts: Array = np.maximum(0.0, excess) / np.maximum(1, longer)
    return parts


def edit_distance(a: Array, b: Array, lengths: tuple[Array, Array] | None = None) -> float:
    """Insertions, deletions and substitutions between two sequences (Levenshtein), row by row; time len(a) * len(b). With the `lengths` of both sides' runs
    equal symbols cost what these differ by."""
    if lengths is None and len(a) == len(b) and bool((a == b).all()):
        return 0.0
    row = np.arange(len(b) + 1.0)
    steps = np.arange(len(b) + 1)
    for i, symbol in enumerate(a):
        equal = 0.0 if lengths is None else stretched(int(lengths[0][i]), lengths[1])
        best = np.concatenate([[i + 1], np.minimum(row[1:] + 1, row[:-1] + np.where(b != symbol, 1.0, equal))])
        row = np.minimum.accumulate(best - steps) + steps  # insertions, from the left
    return float(row[-1])
