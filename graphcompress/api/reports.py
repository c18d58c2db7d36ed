"""From results to the documents of `graphcompress.record`."""

from __future__ import annotations

import html
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from graphcompress import record
from graphcompress.errors import BarMissed
from graphcompress.findings import Finding
from graphcompress.gate import Bars, Goal, Judgement, Outcome, reaches, required_speedup, telling
from graphcompress.gate.explain import explanation
from graphcompress.runtime import machine
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.api.inputs import Feeds, Source
    from graphcompress.ir import Model
    from graphcompress.ir.files.snapshot import Snapshot
    from graphcompress.ir.shapes.infer import Shapes
    from graphcompress.recipe import Recipe
    from graphcompress.runtime.agreement.measured import Measured
    from graphcompress.runtime.compare import Comparison
    from graphcompress.runtime.measure import Measurement
    from graphcompress.step import Certificate, Context, ExecutedStep
    from graphcompress.targets import Target

RUNTIME_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")

MACHINE_KEYS = ("machine", "system", "cpu", "flags", "cores")
"""What the description of a place says of the machine."""
REPEATED = "Done as an earlier run decided: nothing was searched for or timed, and no bar but a stated one was looked at."
UNCOMPARED = "No data was given, so the result was neither compared with the original nor measured."


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What `compress`, `simplify` and `quantize` return. `snapshot` is of `model`: for whoever writes it to a file before anybody edits it."""

    model: Model
    record: record.Record
    snapshot: Snapshot

    def save(self, path: str | os.PathLike[str], *, external_data: bool = False) -> None:
        """Write the model to `path`, in one file below 2 GiB unless `external_data`. Raises WriteError."""
        from graphcompress.ir import save

        save(self.model, path, external_data=external_data)

    def __repr__(self) -> str:
        return f"Result({summary(self.record)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: a table of before and after."""
        before, after = self.record.before, self.record.after
        rows = [
            ("bytes", before.bytes, after.bytes),
            ("nodes", before.nodes, after.nodes),
            ("parameters", before.parameters, after.parameters),
            ("MACs", before.macs, after.macs),
        ]
        cells = "".join(
            f"<tr><th>{name}</th>" + "".join(f"<td>{'-' if value is None else f'{value:,}'}</td>" for value in values) + "</tr>" for name, *values in rows
        )
        return f"<p>{html.escape(summary(self.record))}</p><table><tr><th></th><th>before</th><th>after</th></tr>{cells}</table>"


def summary(document: record.Record) -> str:
    """A record in one sentence: size, speed, agreement."""
    parts = [smaller_text(document.smaller) or "size unchanged"]
    if document.measurements:
        slowest = min(document.measurements, key=lambda timing: timing.speedup)
        words = {
            "faster": f"{slowest.speedup:.2f}x as fast",
            "slower": f"{slowest.speedup:.2f}x as fast",
            "same": "same speed",
            "noisy": "speed too noisy to tell",
        }
        parts.append("speed unchanged" if document.gate is not None and not document.gate.kept else words[slowest.verdict])
    comparison = document.comparison
    if comparison is not None and comparison.agreement is not None:
        equal = all(output.equal for output in comparison.outputs.values())
        parts.append("all outputs equal" if equal else f"agreement {comparison.agreement:.4f}")
    return f"{document.command}: {', '.join(parts)}"


def smaller_text(value: float) -> str:
    """How the size changed; nothing where it is the same to two digits."""
    if 0.995 < value < 1.005:
        return ""
    return f"{value:.2f}x smaller" if value > 1 else f"{1 / value:.2f}x larger"


def run_record(
    command: str,
    source: Source,
    result: Model,
    feeds: Feeds,
    recipe: Recipe,
    context: Context,
    executed: Sequence[ExecutedStep],
    sizes: tuple[record.Size, record.Size],
    *,
    where: Mapping[str, Any] | None = None,
    comparison: Comparison | None = None,
    measurements: Sequence[tuple[int, Measurement]] = (),
    nodes: dict[str, int] | None = None,
    gate: record.Gate | None = None,
    bars: Sequence[record.Bar] = (),
    notes: Iterable[str] = (),
) -> record.Record:
    """The record of a run. `sizes` are those of the original and of `result`; `where` is the description of the place where the result was judged (None: it
    was not)."""
    before, after = sizes
    timings = [timing(threads, m) for threads, m in measurements]
    speedup = min((t.speedup for t in timings), default=None)
    return record.Record(
        graphcompress=__version__,
        libraries=libraries(),
        command=command,
        model=source.file,
        data=feeds.source(),
        recipe=record.RecipeSource(name=recipe.name, sha256=recipe.sha256),
        target=context.target.name if context.target else None,
        provider=None if where is None else where["provider"],
        machine=machine.describe() if where is None or "place" not in where else machine_at(where),
        place=None if where is None else where.get("place"),
        threads=context.threads,
        seed=context.seed,
        seconds=time.monotonic() - context.started,
        before=before,
        after=after,
        smaller=ratio(before.bytes, after.bytes),
        steps=list(step_runs(executed, context.target)),
        nodes=nodes,
        comparison=None if comparison is None else distance_report(comparison),
        measurements=timings,
        speedup=1.0 if gate is not None and not gate.kept else speedup,
        gate=gate,
        bars=list(bars),
        notes=[*notes, *(finding.text for finding in (() if comparison is None else comparison.findings))],
    )


def machine_at(where: Mapping[str, Any]) -> dict[str, Any]:
    """What the description of a place says of its machine."""
    return {key: where[key] for key in MACHINE_KEYS if key in where}


def libraries() -> dict[str, str]:
    """Versions of Python and of what decides results; the runtime by the package that is installed."""
    versions = {"python": platform.python_version()}
    for name in ("numpy", "onnx", "onnx-graphsurgeon", *RUNTIME_PACKAGES, "scipy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def sizes(
    original: Source, result: Snapshot, feed_shapes: Mapping[str, Sequence[int]] | None = None, shapes: Shapes | None = None
) -> tuple[record.Size, record.Size]:
    """Statistics of both models. `shapes` are those of the original (`statistics.run_shapes`) where they were inferred already."""
    from graphcompress.ir.analysis.statistics import statistics

    def figures_of(model: Model, known: Shapes | None, size: int | None) -> record.Size:
        figures = statistics(model, feed_shapes, shapes=known, size=size)
        operators = dict(sorted(figures.operators.items()))
        return record.Size(bytes=figures.bytes, parameters=figures.parameters, nodes=figures.nodes, macs=figures.macs, operators=operators)

    file = original.same_file()
    before = figures_of(original.model, shapes, None if file is None else file.stat().st_size)
    return before, before if result.source is original.model else figures_of(result, None, result.size)


def ratio(reference: float, candidate: float) -> float:
    """How many times better the candidate is, where less is better."""
    return reference / candidate if candidate else 1.0


def number(value: Any) -> float | None:
    """A float for JSON: null for what is undefined or not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def distance_report(comparison: Comparison) -> record.Distance:
    """A comparison as a document."""
    outputs = {
        name: record.OutputDistance(
            kind=o.kind,
            equal=o.equal,
            agreement=number(o.agreement),
            measures=[measure_report(m) for m in o.measures],
            sqnr_db=number(o.sqnr_db),
            cosine=number(o.cosine),
            max_abs=number(o.max_abs),
            inputs=o.inputs,
            broken=o.broken,
            unstable=o.unstable,
        )
        for name, o in comparison.outputs.items()
    }
    return record.Distance(
        agreement=number(comparison.agreement),
        worst=comparison.worst,
        feeds=comparison.feeds,
        statement=comparison.statement(),
        findings=finding_reports(comparison.findings),
        outputs=outputs,
        metric=None if comparison.metric is None else measure_report(comparison.metric),
    )


def measure_report(measured: Measured) -> record.MeasureReport:
    """A measure of agreement as a document."""
    return record.MeasureReport(
        name=measured.name,
        value=measured.value,
        floor=measured.floor,
        agreement=measured.agreement,
        decisions=measured.decisions,
        disagreements=measured.disagreements,
    )


def finding_reports(findings: Iterable[Finding]) -> list[record.FindingReport]:
    """Findings as documents."""
    return [record.FindingReport(id=finding.id, text=finding.text) for finding in findings]


def interval(pair: Any) -> tuple[float, float] | None:
    """Two finite ends, or null."""
    if pair is None or not all(math.isfinite(end) for end in pair):
        return None
    return float(pair[0]), float(pair[1])


def timing(threads: int, measurement: Measurement) -> record.Timing:
    """A measurement as a document."""
    return record.Timing(
        threads=threads,
        reference_ms=measurement.reference_ms,
        median_ms=measurement.median_ms,
        speedup=measurement.speedup,
        speedup_ci=interval(measurement.speedup_ci),
        band=interval(measurement.band),
        rounds=measurement.rounds,
        verdict=measurement.verdict,
        clock=measurement.clock,
        rejected=measurement.rejected,
        findings=finding_reports(measurement.findings()),
    )


def certificate_report(certificate: Certificate, target: Target) -> record.CertificateReport:
    """A certificate as a document; `target` is the table that it was made by."""
    operators = [record.OperatorReport(node=o.node, op=o.op, precision=o.precision, id=o.id, reason=o.reason) for o in certificate.operators]
    return record.CertificateReport(
        target=certificate.target, provider=target.provider, source=target.certificate, heavy=len(operators), int8=certificate.integer, operators=operators
    )


def step_runs(executed: Iterable[ExecutedStep], target: Target | None) -> Iterator[record.StepRun]:
    """The steps as documents. What runs in integers after a quantizing step does so after the later ones, which bear its certificate on; after one that was rolled back,
    that nothing does, and why."""
    certificate: Certificate | None = None
    for step in executed:
        result = step.result
        if result is None or result.certificate is None:
            yield step_run(step, target, certificate)
            continue
        yield step_run(step, target, result.certificate)
        certificate = result.certificate if step.in_result or not result.changed else _rolled_back(result.certificate)


def _rolled_back(certificate: Certificate) -> Certificate:
    """Of the model before the step: what the step would have in integers is float."""
    reason = "INT8 was rolled back; the gate says why"
    operators = (replace(o, precision="float", id="gate/rolled-back", reason=reason) if o.precision == "int8" else o for o in certificate.operators)
    return replace(certificate, operators=tuple(operators))


def step_run(executed: ExecutedStep, target: Target | None, certificate: Certificate | None) -> record.StepRun:
    """A step that was executed as a document; one that could not be built has neither rules nor refusals of its own."""
    result = executed.result
    refusals = () if result is None else result.refusals
    return record.StepRun(
        use=executed.step.kind.name,
        options=executed.step.options.model_dump(mode="json"),
        rung=executed.rung,
        in_result=executed.in_result,
        changed=result is not None and result.changed,
        applied={} if result is None else dict(result.applied),
        refusals=[record.RefusalReport(id=r.id, reason=r.reason, node=r.node, count=r.count) for r in refusals],
        decisions={} if result is None else dict(result.decisions),
        applications=[] if result is None else [record.ApplicationReport(by=a.by, removed=list(a.removed), added=list(a.added)) for a in result.applications],
        rules=[] if result is None else [record.RuleReport(id=name, **asdict(count)) for name, count in result.rules.items()],
        stop="" if result is None else result.stop,
        certificate=None if certificate is None or target is None else certificate_report(certificate, target),
        seconds=executed.seconds,
        peak_memory_bytes=executed.peak_memory_bytes,
    )


def gate_report(outcome: Outcome, bars: Bars, goal: Goal) -> record.Gate:
    """The gate's work as a document."""
    kept = list(outcome.chosen.candidate.steps)
    tried = {j.candidate.position: j.candidate.step.kind.name for j in outcome.judged if j.candidate.step is not None}
    in_result = {part.position for part in outcome.chosen.candidate.path}
    return record.Gate(
        goal=goal,
        agreement=bars.agreement,
        speedup=required_speedup(bars, goal),
        kept=kept,
        rolled_back=[name for position, name in sorted(tried.items()) if position not in in_result],
        candidates=[
            record.CandidateReport(
                steps=list(j.candidate.steps),
                rungs=list(j.candidate.rungs),
                chosen=j is outcome.chosen,
                reason=j.reason,
                because=j.because,
                agreement=None if j.comparison is None else number(j.comparison.agreement),
                measurements=[timing(threads, m) for threads, m in j.measurements],
            )
            for j in outcome.judged
        ],
        explanation=explanation(outcome, bars),
    )


def bar(option: str, required: float, reached: float | None) -> record.Bar:
    """A stated bar and what was reached."""
    return record.Bar(option=option, required=required, reached=reached, held=reached is not None and reached >= required)


def speed_bar(required: float, measurements: Sequence[Measurement]) -> record.Bar:
    """The stated bar of speed, which every measurement that tells anything must reach (see `gate.bars`)."""
    answer = reaches(measurements, required) if measurements else False
    return record.Bar(
        option="--min-speedup",
        required=required,
        reached=min((m.speedup for m in telling(measurements)), default=None),
        held=answer is True,
        undecided=answer is None,
    )


def agreement_bar(bars: Bars, comparison: Comparison | None) -> list[record.Bar]:
    """The bar of agreement where the user stated one, and what was reached (None: nothing was compared)."""
    if bars.min_agreement is None:
        return []
    return [bar("--min-agreement", bars.min_agreement, None if comparison is None else number(comparison.agreement))]


def stated_bars(bars: Bars, chosen: Judgement | None) -> list[record.Bar]:
    """The bars that the user stated, and what the chosen candidate reached (None: nothing was judged)."""
    stated = agreement_bar(bars, None if chosen is None else chosen.comparison)
    if bars.min_speedup is not None:
        original = chosen is not None and chosen.candidate.rung is None
        measurements = () if chosen is None else tuple(m for _, m in chosen.measurements)
        stated.append(bar("--min-speedup", bars.min_speedup, 1.0) if original else speed_bar(bars.min_speedup, measurements))
    return stated


def raise_missed(bars: Iterable[record.Bar], result: Any) -> None:
    """Raise BarMissed, with `result`, where a bar does not hold."""
    missed = [b for b in bars if not b.held]
    if missed:
        raise BarMissed("; ".join(f"{b.option} {b.required:g} was not met: {_reached(b)}" for b in missed) + ".", result)


def _reached(missed: record.Bar) -> str:
    if missed.reached is None:
        return "it could not be judged"
    if missed.undecided:
        return f"not decided, because this machine is busy (about {missed.reached:.2f}; run it again on a quiet machine)"
    return f"it is {missed.reached:.4f}"
