"""validate --memorization: whether the result tells more than the original about what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from graphcompress.api.inputs import data_source
from graphcompress.errors import DataError, UsageError
from graphcompress.record import AttackReport, MemorizationReport
from graphcompress.runtime.compare import rows_of
from graphcompress.runtime.membership import JUDGED, Attack, advantage, label_of, signals
from graphcompress.step import Progress

if TYPE_CHECKING:
    from graphcompress.data import Dataset
    from graphcompress.ir.analysis.output_kinds import OutputKind
    from graphcompress.runtime.membership import Array
    from graphcompress.runtime.session import Session

FEW = 100
"""Inputs on either side below which an attack is hardly judged."""
TOLD = {"loss": "by the loss", "confidence": "by the confidence", "entropy": "by the entropy"}
ORDER: tuple[Attack, ...] = ("loss", "confidence", "entropy")


def memorization(
    reference: Session, candidate: Session, kinds: Mapping[str, OutputKind], members: Dataset, others: Dataset, progress: Progress
) -> MemorizationReport:
    """Attacks on both models with the same inputs: `members` of the training data, and `others` like them that it was not trained on.

    Raises UsageError where no output is a choice among classes, DataError where both are the same data, or labels do not fit.
    """
    output = next((name for judged in JUDGED for name, kind in kinds.items() if kind.name == judged), None)
    if output is None:
        listed = ", ".join(f"'{name}' ({kind.name})" for name, kind in kinds.items())
        raise UsageError(f"--memorization needs an output that is a choice among classes, and the outputs are {listed}. State it: --kind OUTPUT=classes.")
    if members.sha256 == others.sha256:
        raise DataError(
            f"--memorization: {members.source} and {others.source} hold the same inputs. Give inputs that the model was trained on, and like ones that it was not."
        )
    sides = [_signals((reference, candidate), output, kinds[output], feeds, what, progress) for feeds, what in ((members, "members"), (others, "others"))]
    names = [name for name in ORDER if all(name in pair[0] for pair in sides)]
    attacks = []
    for name in names:
        (m, m_result), (o, o_result) = (tuple(np.concatenate(pair[model][name]) for model in (0, 1)) for pair in sides)
        found = advantage((m, m_result), (o, o_result))
        attacks.append(
            AttackReport(
                name=name,
                reference=found.reference,
                candidate=found.candidate,
                reference_error=found.reference_error,
                candidate_error=found.candidate_error,
                difference=found.difference,
                difference_error=found.difference_error,
            )
        )
    counts = [sum(len(part) for part in pair[0]["confidence"]) for pair in sides]
    notes = [] if "loss" in names else ["Without labels (an array _label or _y in both) the attack by the loss, usually the strongest, was not tried."]
    if min(counts) < FEW:
        notes.append(f"{counts[0]} members and {counts[1]} others are few: the intervals are wide.")
    return MemorizationReport(
        output=output,
        members=data_source(members, 0, 0),
        others=data_source(others, 0, 0),
        member_rows=counts[0],
        other_rows=counts[1],
        attacks=attacks,
        statement=_statement(attacks),
        notes=notes,
    )


def _signals(
    models: tuple[Session, Session], output: str, kind: OutputKind, feeds: Dataset, what: str, progress: Progress
) -> tuple[dict[Attack, list[Array]], ...]:
    """Per model and attack the signals of all inputs, in order."""
    found: tuple[dict[Attack, list[Array]], ...] = ({}, {})
    for done, (feed, truth) in enumerate(zip(feeds, feeds.labels() or repeat({}), strict=False)):
        progress(f"attack with {what}", done, len(feeds))
        for model, kept in zip(models, found, strict=True):
            try:
                for name, values in signals(model.run(feed)[output], kind, rows_of(feed), label_of(truth)).items():
                    kept.setdefault(name, []).append(values)
            except DataError as problem:
                raise DataError(f"{feeds.source}: {problem}") from problem
    return found


def _statement(attacks: list[AttackReport]) -> str:
    """What came of the attack that gains most from the result."""
    strongest = max(attacks, key=lambda attack: attack.candidate)
    worst = max(attacks, key=lambda attack: attack.difference - attack.difference_error)
    both = f"Members are told from others {TOLD[strongest.name]} with an AUC of {strongest.reference:.3f} on the original and {strongest.candidate:.3f} on the result (0.5: a guess)"
    if worst.difference > worst.difference_error:
        return f"{both}. The result tells more than the original: {worst.difference:+.3f} +- {worst.difference_error:.3f} {TOLD[worst.name]}"
    return f"{both}. That the result tells more than the original is not shown: {worst.difference:+.3f} +- {worst.difference_error:.3f} {TOLD[worst.name]}. These are simple attacks: better ones may tell more"
