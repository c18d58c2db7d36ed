"""From results of the rooms below to the documents of `graphcompress.record`."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from graphcompress import __version__
from graphcompress import record as documents
from graphcompress.errors import BarMissed, UsageError
from graphcompress.findings import Finding
from graphcompress.gate import FLOOR, Judged, Outcome
from graphcompress.recipe import Ran, Recipe

if TYPE_CHECKING:
    from graphcompress.api.sources import Feeds, Source
    from graphcompress.ir import Model
    from graphcompress.runtime.compare import Comparison
    from graphcompress.runtime.measure import Measurement
    from graphcompress.step import Certificate, Context

RUNTIME_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")


def libraries() -> dict[str, str]:
    """Versions of Python and of what decides results; the runtime by the package that is installed."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "onnx", "onnx-graphsurgeon", *RUNTIME_PACKAGES, "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def size_of(model: Model, feed_shapes: Mapping[str, Sequence[int]] | None = None) -> documents.Size:
    """A model's statistics as a document."""
    from graphcompress.ir.analysis.statistics import statistics

    found = statistics(model, feed_shapes)
    return documents.Size(bytes=found.bytes, parameters=found.parameters, nodes=found.nodes, macs=found.macs, operators=dict(sorted(found.operators.items())))


def ratio(reference: float, candidate: float) -> float:
    """How many times better the candidate is, where less is better."""
    return reference / candidate if candidate else 1.0


def number(value: Any) -> float | None:
    """A float for JSON: null for what is undefined or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def distance(found: Comparison) -> documents.Distance:
    """A comparison as a document."""
    outputs = {
        name: documents.OutputDistance(
            kind=o.kind,
            equal=o.equal,
            agreement=number(o.agreement),
            sqnr_db=number(o.sqnr_db),
            cosine=number(o.cosine),
            max_abs=number(o.max_abs),
            decisions=o.decisions,
            disagreements=o.disagreements,
            inputs=o.inputs,
            broken=o.broken,
            unstable=o.unstable,
        )
        for name, o in found.outputs.items()
    }
    return documents.Distance(
        agreement=number(found.agreement),
        worst=found.worst,
        feeds=found.feeds,
        statement=found.statement(),
        findings=findings_of(found.findings),
        outputs=outputs,
    )


def findings_of(findings: Iterable[Finding]) -> list[documents.Finding]:
    """Findings as documents."""
    return [documents.Finding(id=finding.id, text=finding.text) for finding in findings]


def interval(pair: Any) -> tuple[float, float] | None:
    """Two finite ends, or null."""
    if pair is None or not all(math.isfinite(end) for end in pair):
        return None
    return float(pair[0]), float(pair[1])


def timing(threads: int, found: Measurement) -> documents.Timing:
    """A measurement as a document."""
    return documents.Timing(
        threads=threads,
        reference_ms=found.reference_ms,
        median_ms=found.median_ms,
        speedup=found.speedup,
        speedup_ci=interval(found.speedup_ci),
        band=interval(found.band),
        rounds=found.rounds,
        verdict=found.verdict,
        clock=found.clock,
        rejected=found.rejected,
        findings=findings_of(found.findings()),
    )


def certificate(found: Certificate) -> dict[str, Any]:
    """A certificate as a document."""
    operators = [{k: v for k, v in asdict(o).items() if v} for o in found.operators]
    return {"target": found.target, "heavy": len(operators), "int8": found.integer, "float": len(operators) - found.integer, "operators": operators}


def step_run(ran: Ran) -> documents.StepRun:
    """A step that was run as a document."""
    result = ran.result
    return documents.StepRun(
        use=ran.step.kind.name,
        options=ran.step.options.model_dump(mode="json"),
        changed=result.changed,
        applied=dict(result.applied),
        refusals=[documents.RefusalCount(id=r.id, reason=r.reason, node=r.node, count=r.count) for r in result.refusals],
        decisions=dict(result.decisions),
        certificate=None if result.certificate is None else certificate(result.certificate),
        seconds=ran.seconds,
        peak_memory_bytes=ran.peak_memory_bytes,
    )


def gate_of(outcome: Outcome, steps: Sequence[str]) -> documents.Gate:
    """The gate's work as a document; `steps` are those of the recipe that changed something."""
    kept = list(outcome.chosen.candidate.steps)
    return documents.Gate(
        floor=FLOOR,
        kept=kept,
        taken_back=list(steps[len(kept) :]),
        candidates=[
            documents.Candidate(
                steps=list(j.candidate.steps),
                accepted=j.accepted,
                reason=j.reason,
                agreement=None if j.comparison is None else number(j.comparison.agreement),
                measurements=[timing(t, m) for t, m in j.measurements],
            )
            for j in outcome.judged
        ],
        explanation=outcome.explanation,
    )


def bar(option: str, wanted: float, reached: float | None) -> documents.Bar:
    """A stated bar and what was reached."""
    return documents.Bar(option=option, wanted=wanted, reached=reached, held=reached is not None and reached >= wanted)


def speed_bar(wanted: float, measured: Iterable[Measurement]) -> documents.Bar:
    """The bar for the speed-up, which every measurement must reach; equal within what was measured is enough (`Measurement.reaches`)."""
    timings = list(measured)
    reached = [m.reaches(wanted) for m in timings]
    undecided = None in reached and False not in reached
    slowest = min((m.speedup for m in timings), default=None)
    return documents.Bar(option="--min-speedup", wanted=wanted, reached=slowest, held=bool(reached) and all(reached), undecided=undecided)


def check_bars(min_agreement: float | None, min_speedup: float | None) -> None:
    """Raise UsageError for a bar that nothing could meet or miss."""
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise UsageError(f"--min-agreement is a share between 0 and 1, and {min_agreement} is not.")
    if min_speedup is not None and not 0 < min_speedup < math.inf:
        raise UsageError(f"--min-speedup says how many times faster, as a positive number, and {min_speedup} is not one.")


def raise_missed(bars: Iterable[documents.Bar], result: Any) -> None:
    """Raise BarMissed, with `result`, where a bar does not hold."""
    missed = [b for b in bars if not b.held]
    if missed:
        parts = [f"{b.option} {b.wanted:g} was not met: {_reached(b)}" for b in missed]
        raise BarMissed("; ".join(parts) + ".", result)


def _reached(missed: documents.Bar) -> str:
    if missed.reached is None:
        return "it could not be judged"
    if missed.undecided:
        return f"it could not be decided, because this machine is busy (about {missed.reached:.2f}; run it again on a quiet machine)"
    return f"it is {missed.reached:.4f}"


def record(
    command: str,
    source: Source,
    result: Model,
    feeds: Feeds,
    recipe: Recipe,
    context: Context,
    ran: Sequence[Ran],
    *,
    judged: Judged | None = None,
    outcome: Outcome | None = None,
    nodes: dict[str, int] | None = None,
    min_agreement: float | None = None,
    min_speedup: float | None = None,
    notes: Iterable[str] = (),
) -> documents.Record:
    """The record of a run. `judged` is what was found about the result; `outcome` the gate's work."""
    shapes = feeds.shapes()
    before = size_of(source.model, shapes)
    after = before if result is source.model else size_of(result, shapes)
    found = None if judged is None or judged.comparison is None else distance(judged.comparison)
    timings = [] if judged is None else [timing(t, m) for t, m in judged.measurements]
    speedup = min((t.speedup for t in timings), default=None)
    if outcome is not None and not outcome.chosen.candidate.steps:
        speedup = 1.0  # the original itself
    bars = []
    if min_agreement is not None:
        bars.append(bar("--min-agreement", min_agreement, found.agreement if found else None))
    if min_speedup is not None:
        original = outcome is not None and not outcome.chosen.candidate.steps
        bars.append(bar("--min-speedup", min_speedup, speedup) if original or judged is None else speed_bar(min_speedup, (m for _, m in judged.measurements)))
    return documents.Record(
        graphcompress=__version__,
        libraries=libraries(),
        command=command,
        model=source.file,
        data=feeds.source(),
        recipe=documents.RecipeSource(name=recipe.name, sha256=recipe.sha256),
        target=context.target.name if context.target else None,
        provider=context.provider,
        threads=context.threads,
        seed=context.seed,
        before=before,
        after=after,
        smaller=ratio(before.bytes, after.bytes),
        steps=[step_run(r) for r in ran],
        nodes=nodes,
        comparison=found,
        measurements=timings,
        speedup=speedup,
        gate=None if outcome is None else gate_of(outcome, [r.step.kind.name for r in ran if r.result.changed]),
        bars=bars,
        notes=[*notes, *(finding.text for finding in (found.findings if found else ()))],
    )
