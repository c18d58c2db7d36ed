"""How well an attacker who sees a model's answers tells inputs that it was trained on from others: what an answer says about its input, and the area under the ROC curve with its errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from graphcompress.errors import DataError
from graphcompress.ir.analysis.output_kinds import OutputKind

Array: TypeAlias = np.ndarray[Any, Any]
Attack: TypeAlias = Literal["loss", "confidence", "entropy"]
JUDGED = ("classes", "sequence", "probabilities")
"""Kinds of outputs that answers with a confidence are."""
LABELS = ("_label", "_labels", "_y", "_target", "_targets")
"""What arrays of ground truth are called."""
LEAST = 1e-12
"""Probabilities below count as this one, so that a loss is finite."""
SIGMAS = 1.96


def label_of(labels: Mapping[str, Array]) -> Array | None:
    """The ground truth among the arrays that are not fed; None where there is none, or it is no class."""
    found = next((labels[name] for known in LABELS for name in labels if name.lower() == known), None)
    return found if found is not None and found.dtype.kind in "biu" else None


def signals(answer: Array, kind: OutputKind, rows: int, label: Array | None) -> dict[Attack, Array]:
    """What each attack goes by, one number for each of the `rows` inputs of a feed: the larger, the more the answer looks like one to an input of training. The loss is there with a `label` only.

    Raises DataError where the label is not of the answer's shape, or of no class that the answer has.
    """
    probabilities = _independent(answer) if kind.name == "probabilities" else _distribution(answer, kind.axis)
    flat = (
        probabilities.reshape(rows, -1, probabilities.shape[-1])
        if rows and answer.shape[:1] == (rows,)
        else probabilities.reshape(1, -1, probabilities.shape[-1])
    )
    clipped = np.clip(flat, LEAST, 1.0)
    found: dict[Attack, Array] = {"confidence": flat.max(-1).mean(-1), "entropy": (flat * np.log(clipped)).sum(-1).mean(-1)}
    if label is not None:
        if label.size != flat.shape[0] * flat.shape[1]:
            raise DataError(f"the labels are {list(label.shape)}, and the answers {list(answer.shape)}: expected one class for each.")
        classes = label.reshape(flat.shape[:2]).astype(np.int64)
        if classes.min(initial=0) < 0 or classes.max(initial=0) >= flat.shape[2]:
            raise DataError(f"a label is {int(classes.max())}, and the answers have the classes 0 to {flat.shape[2] - 1}.")
        found["loss"] = np.log(np.take_along_axis(clipped, classes[:, :, None], 2))[:, :, 0].mean(-1)
    return found


def _distribution(answer: Array, axis: int) -> Array:
    """Classes last, as probabilities: raw numbers go through a softmax."""
    values = np.moveaxis(answer.astype(np.float64), axis if answer.ndim else 0, -1)
    if values.min(initial=0) >= 0 and np.allclose(values.sum(-1), 1, atol=1e-2):
        return values
    if values.max(initial=-1) <= 0 and np.allclose(np.exp(values).sum(-1), 1, atol=1e-2):
        return np.asarray(np.exp(values))
    shifted = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def _independent(answer: Array) -> Array:
    """Each decision by itself: no and yes."""
    values = answer.astype(np.float64)
    return np.stack([1 - values, values], -1)


@dataclass(frozen=True, slots=True)
class Advantage:
    """The area under an attack's ROC curve (0.5: it guesses) on the original and on the result, the difference, and half the width of the 95% interval of each."""

    reference: float
    candidate: float
    reference_error: float
    candidate_error: float
    difference_error: float

    @property
    def difference(self) -> float:
        """How much more the attacker has from the result."""
        return self.candidate - self.reference


def advantage(members: tuple[Array, Array], others: tuple[Array, Array]) -> Advantage:
    """Of the signals of members and of others, each on the original and on the result. The two curves are of the same inputs, so that their difference is known better than either (DeLong)."""
    parts = [_placements(m, o) for m, o in zip(members, others, strict=True)]
    areas = [float(above.mean()) for above, _ in parts]

    def error(above: Array, below: Array) -> float:
        return SIGMAS * math.sqrt(sum(float(part.var(ddof=1)) / len(part) if len(part) > 1 else 0.25 for part in (above, below)))

    (above, below), (other_above, other_below) = parts
    return Advantage(areas[0], areas[1], error(above, below), error(other_above, other_below), error(other_above - above, other_below - below))


def _placements(members: Array, others: Array) -> tuple[Array, Array]:
    """For each member the share of others that it lies above, for each other the share of members that lie above it; ties count half."""

    def below(values: Array, among: Array) -> Array:
        ordered = np.sort(among)
        return np.asarray((np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(among)))

    return below(members, others), 1 - below(others, members)
