"""Comparing two models as a job of workers (`workers.SharedJob`)."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphcompress.errors import UsageError
from graphcompress.findings import Finding
from graphcompress.ir import Model
from graphcompress.ir.analysis.output_kinds import OutputKind
from graphcompress.runtime.compare import SPAN, Comparison, ComparisonStatistic, compare_span
from graphcompress.runtime.metric import Metric
from graphcompress.runtime.session import Feed, LocalSession
from graphcompress.runtime.workers import Workers, message_for

Truth: TypeAlias = "Sequence[Mapping[str, Any]] | None"
Part: TypeAlias = "tuple[int, Iterable[Feed], Truth]"


@dataclass(frozen=True)
class CompareJob:
    """Both models as messages, and what `ComparisonStatistic` takes; a part is the number of its first feed, the feeds of a span, and their ground truth."""

    reference: bytes
    candidate: bytes
    threads: int
    names: Sequence[str]
    kinds: Mapping[str, OutputKind]
    metric: Metric | None

    def open(self) -> Callable[[Part], ComparisonStatistic]:
        """See `SharedJob.open`."""
        # From messages, not from models: a large model would be written to a temporary file, which nobody removes when a process ends.
        reference = LocalSession(self.reference, threads=self.threads, label="the reference")
        candidate = LocalSession(self.candidate, threads=self.threads, label="the candidate")

        def span(part: Part) -> ComparisonStatistic:
            first, feeds, truth = part
            known = itertools.repeat(None) if truth is None else iter(truth)
            return compare_span(reference, candidate, zip(feeds, known, strict=False), ComparisonStatistic(self.names, self.kinds, self.metric), first)

        return span


def compare_by(
    workers: Workers,
    reference: Model,
    candidate: Model,
    spans: Iterable[Iterable[Feed]],
    kinds: Mapping[str, OutputKind],
    findings: Sequence[Finding] = (),
    *,
    threads: int | None = None,
    metric: Metric | None = None,
    labels: Iterable[Mapping[str, Any]] | None = None,
    progress: Callable[[int], None] = lambda feeds: None,
) -> Comparison:
    """As `compare`, on the CPU provider of `workers`, each with one thread where `threads` are not stated; `spans` are the feeds in runs of SPAN. `progress` is told how many were compared.

    Raises what `compare` does, UsageError for a metric that cannot be sent to another process, and for models from 2 GiB on.
    """
    try:
        pickle.dumps(metric)
    except (pickle.PicklingError, TypeError, AttributeError) as problem:
        raise UsageError(
            f"The metric cannot be sent to workers ({problem}): define it in a module that they can import, or leave out the workers."
        ) from problem
    names = [spec.name for spec in reference.outputs]
    job = CompareJob(message_for(reference), message_for(candidate), threads or 1, names, kinds, metric)
    truth = None if labels is None else iter(labels)

    def parts() -> Iterator[Part]:
        for number, feeds in enumerate(spans):
            yield number * SPAN, feeds, None if truth is None else list(itertools.islice(truth, SPAN))

    total = ComparisonStatistic(names, kinds, metric)
    for part in workers.map(job, parts()):
        total.merge(part)
        progress(total.feeds)
    return total.finish(findings)
