"""What the search did, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphcompress.gate.bars import NEXT_TO_NOTHING, telling
from graphcompress.gate.judge import speed_text, threads_text
from graphcompress.gate.outcome import Candidate, Judgement, Outcome
from graphcompress.step import ExecutedStep

if TYPE_CHECKING:
    from graphcompress.gate.bars import Bars


def explanation(outcome: Outcome, bars: Bars) -> str:
    """What was rolled back and why, and what the result holds."""
    sentences = [sentence for position in range(len(outcome.executed)) for sentence in _rolled_back(outcome, position)]
    chosen = outcome.chosen
    if chosen.candidate.rung is None:
        sentences.append("The result is the original model.")
    else:
        sentences.append(_holds(chosen, bars))
    return " ".join(sentences)


def _rolled_back(outcome: Outcome, position: int) -> Iterator[str]:
    """What was rolled back of one step: all of it, or what its boldest rung has more than the chosen one. Where the step failed on what stands of the earlier ones, that tells;
    on top of a step that was rolled back, too, it may have failed for that one's reason."""
    failures = [j for j in outcome.judged if j.candidate.position == position and j.reason and j is not outcome.chosen]
    bases = ((j, j.candidate.base) for j in failures)
    failures = [j for j, base in bases if base is not None and (base.rung is None or base in outcome.chosen.candidate.path)] or failures
    executed = outcome.executed[position]
    noun = executed.step.kind.noun
    if not failures:
        if executed.result is not None and executed.result.changed and not executed.in_result:
            yield f"{noun[:1].upper()}{noun[1:]} was left out because the result is smaller without it."
        return
    first = failures[0]
    chosen = next((part for part in outcome.chosen.candidate.path if part.position == position), None)
    if chosen is None:
        others = len({j.candidate for j in failures}) - 1
        tried = f" {others} less bold alternative{'s' * (others > 1)} of it did not hold either." if others else ""
        yield f"{noun[:1].upper()}{noun[1:]} was rolled back because {first.because}.{tried}"
    elif first.candidate.index < chosen.index:
        yield f"{_less_bold(executed, first.candidate, chosen)} because with {_quoted(first.candidate)} {first.because}."


def _less_bold(executed: ExecutedStep, boldest: Candidate, chosen: Candidate) -> str:
    """What stays float, where certificates say so, else which alternative was chosen."""
    certificate = None if executed.result is None else executed.result.certificate
    before = None if boldest.rung is None or not boldest.rung.built else boldest.rung.result.certificate
    noun = executed.step.kind.noun
    if certificate is not None and before is not None and before.integer > certificate.integer:
        return f"{before.integer - certificate.integer} of {len(certificate.operators)} heavy operators stay float after {noun}"
    return f"{noun[:1].upper()}{noun[1:]} was done in part ({_quoted(chosen)})"


def _quoted(candidate: Candidate) -> str:
    return f"'{candidate.rung.label}'" if candidate.rung is not None and candidate.rung.label else "all of it"


def _holds(chosen: Judgement, bars: Bars) -> str:
    """What the result reaches."""
    comparison = chosen.comparison
    figures = [] if comparison is None or comparison.agreement is None else [f"agreement {comparison.agreement:.4f}"]
    figures += [speed_text(threads, measurement) for threads, measurement in chosen.measurements]
    told = f": {', '.join(figures)}." if figures else "."
    agreed = f"reaches {bars.agreement_name}" if comparison is not None and comparison.agreement is not None else "computes the same function by construction"
    if chosen.reason:
        return f"The result {agreed}, but {chosen.because}."
    if not chosen.measurements:
        return f"The result {agreed}{told} Speed was not measured."
    told_by = telling(measurement for _, measurement in chosen.measurements)
    untold = [threads for threads, measurement in chosen.measurements if measurement not in told_by]
    noisy = any(measurement.verdict == "noisy" for measurement in told_by)
    if chosen.slower and bars.min_speedup is None:
        takes = "most likely takes" if noisy else "takes"
        return f"The result {agreed} and {takes} at most {NEXT_TO_NOTHING:g} times as long, which the smallest may{told}"
    not_slower = "is most likely not slower, which this busy machine cannot prove" if noisy else "is not slower"
    claim = not_slower if bars.min_speedup is None else f"the bar of {bars.min_speedup:g} (--min-speedup)"
    only = f" as far as this busy machine can tell, which is not with {' and '.join(map(threads_text, untold))}" if untold else ""
    return f"The result {agreed} and {claim}{only}{told}"
