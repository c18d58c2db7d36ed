"""report: a document of a command as one page that can be handed on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from graphcompress.api import html, reports
from graphcompress.api.regions import changed_regions
from graphcompress.errors import GraphCompressError, UsageError, cause
from graphcompress.record import Bar, BenchmarkReport, MemorizationReport, OutputDistance, Record, ValidateReport

if TYPE_CHECKING:
    from graphcompress.ir import Model, Tensor
    from graphcompress.ir.analysis.matching import Matching

Told: TypeAlias = Record | ValidateReport | BenchmarkReport
KINDS: tuple[tuple[str, type[Told]], ...] = (("steps", Record), ("reference", ValidateReport), ("models", BenchmarkReport))
"""A field that only this kind of document has."""
UNPACKING = ("DequantizeLinear", "Cast", "Mul", "Transpose")
"""What turns stored codes into weights."""
PICTURES, NAMED = 6, 6
"""Changed regions that are drawn, and names for each."""
LAYERS = 16
"""Rows of a picture."""


def read_document(path: Path) -> Told:
    """The document in a file. Raises UsageError where it is none, or of another version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(f"{path} cannot be read: {cause(problem)}. Give what --record wrote, or --format json printed.") from problem
    kind = next((kind for field, kind in KINDS if isinstance(document, dict) and field in document), None)
    if kind is None:
        raise UsageError(
            f"{path} is no record: it has none of 'steps', 'reference', 'models'. Give what --record wrote, or --format json of validate or benchmark printed."
        )
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"{path} was written by another version of graphcompress: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def report(document: Told, models: tuple[Model, Model] | None = None) -> str:
    """The page of a document, in HTML. `models` are the original and the result: with them sizes and times are shown by layer (which takes a few runs)."""
    if isinstance(document, ValidateReport):
        return _validate(document)
    return _benchmark(document) if isinstance(document, BenchmarkReport) else _record(document, models)


def models_of(document: Told) -> tuple[Model, Model] | None:
    """The original and the result of a record, where both files still are where the record says, and can be read."""
    if not isinstance(document, Record) or document.output is None:
        return None
    pair = original(document), _loaded(document.output)
    return None if pair[0] is None or pair[1] is None else (pair[0], pair[1])


def original(record: Record) -> Model | None:
    """The model that a record is about, where its file still can be read."""
    return _loaded(record.model.path)


def _loaded(path: str | None) -> Model | None:
    from graphcompress.ir import load

    try:
        return None if path is None else load(Path(path))
    except (GraphCompressError, OSError):
        return None


def _record(record: Record, models: tuple[Model, Model] | None) -> str:
    from graphcompress.ir.analysis.matching import match

    matching = None if models is None else match(*models)
    before, after = record.before, record.after
    pairs = sum(after.operators.get(name, 0) for name in ("QuantizeLinear", "DequantizeLinear"))
    sizes: list[tuple[str, object, object, str]] = [
        ("bytes", f"{before.bytes:,}", f"{after.bytes:,}", reports.smaller_text(record.smaller) or "unchanged"),
        ("nodes", f"{before.nodes:,}", f"{after.nodes:,}", f"of which {pairs} Q/DQ" if pairs else ""),
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}", ""),
        ("MACs", "-" if before.macs is None else f"{before.macs:,}", "-" if after.macs is None else f"{after.macs:,}", ""),
    ]
    for timing in record.measurements:
        band = "" if timing.speedup_ci is None else f", 95% interval {timing.speedup_ci[0]:.2f} to {timing.speedup_ci[1]:.2f}"
        sizes.append(
            (
                f"ms, {timing.threads} thread{'s' * (timing.threads > 1)}",
                f"{timing.reference_ms:.3f}",
                f"{timing.median_ms:.3f}",
                f"{timing.speedup:.2f}x, {timing.verdict}{band}",
            )
        )
    floats = _floats(record)
    gate = "" if record.gate is None else record.gate.explanation
    comparison = record.comparison
    noise = max((max(abs(1 - end) for end in timing.band) for timing in record.measurements if timing.band is not None), default=0.0)
    return html.page(
        f"{record.command} {record.model.path or ''}".strip(),
        html.paragraph(f"{reports.summary(record)}.", "verdict"),
        html.paragraph(gate),
        *(html.paragraph(f"{bar.option} {bar.required:g}: {_verdict(bar)}") for bar in record.bars),
        html.section("Before and after", html.table(("", "before", "after", ""), sizes, numbers=(1, 2))),
        html.section(
            "Agreement",
            "" if comparison is None else _outputs(comparison.outputs),
            "" if comparison is None else html.paragraph(_sentence(comparison.statement)),
        ),
        *([] if matching is None else _layers(matching, min(noise, 0.5))),
        *([] if matching is None else [html.section("Where the graph changed", *_regions(record, matching))]),
        html.section("What stayed float, and why", html.table(("node", "operator", "reason"), floats) if floats else ""),
        html.section(
            "What was done",
            html.table(("step", "in the result", "applied"), [(s.use, "yes" if s.in_result else "no", _applied(s.applied)) for s in record.steps]),
        ),
        html.section("Notes", html.paragraphs(record.notes)),
        html.section("Made with", _versions(record)),
    )


def _applied(applied: Mapping[str, int]) -> str:
    return ", ".join(f"{name} x{count}" if count > 1 else name for name, count in applied.items()) or "-"


def _floats(record: Record) -> list[tuple[str, str, str]]:
    certificates = [step.certificate for step in record.steps if step.certificate is not None]
    return [(o.node, o.op, o.reason) for o in certificates[-1].operators if o.precision == "float"] if certificates else []


def _outputs(outputs: Mapping[str, OutputDistance]) -> str:
    rows = []
    for name, output in outputs.items():
        judged = ", ".join(f"{measure.name} {measure.value:.4f} (floor {measure.floor:g})" for measure in output.measures)
        apart = (
            "all bits equal"
            if output.equal
            else f"SQNR {_figure(output.sqnr_db, 1)} dB, cosine {_figure(output.cosine, 6)}, max abs {_figure(output.max_abs, 4)}"
        )
        rows.append((name, output.kind, _figure(output.agreement, 4), judged, apart))
    return html.table(("output", "judged as", "agreement", "measures", "distance"), rows, numbers=(2,))


def _layers(matching: Matching, noise: float) -> list[str]:
    """Bytes and times by layer, before and after, of those with the most before. A layer has the name that it had before: it may have lost it."""
    from graphcompress.api.explain import explain
    from graphcompress.passes.quantize.groups import node_name

    original = {node_name(twin): node_name(node) for node, twin in matching.pairs.items()}
    models = matching.first.model, matching.second.model
    sizes = layer_bytes(models[0]), _renamed(layer_bytes(models[1]), original)
    pictures = [html.section("Size by layer", html.bars("Kilobytes of constants", _pairs(sizes[0], sizes[1], 1e-3), "kB"))]
    try:
        before, changed = ({row.node: row.microseconds for row in explain(model).nodes} for model in models)
    except GraphCompressError:  # sizes that the signature leaves free and nothing fits: the page is worth having without
        return pictures
    told = (
        f"Microseconds per layer, one thread, random inputs; whiskers: the noise band of {noise:.0%}"
        if noise
        else "Microseconds per layer, one thread, random inputs"
    )
    return [*pictures, html.section("Time by layer", html.bars(told, _pairs(before, _renamed(changed, original), 1.0), "us", noise))]


def _renamed(figures: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """Added up under other names, where there are some."""
    total: dict[str, float] = {}
    for name, figure in figures.items():
        known = names.get(name, name)
        total[known] = total.get(known, 0.0) + figure
    return total


def _regions(record: Record, matching: Matching) -> list[str]:
    """The changed regions, those that look alike once, with what did it and the names to search for in a viewer."""
    from graphcompress.api.diff import Causes

    causes, kinds = Causes(record), changed_regions(matching)
    pictures = []
    for region in kinds[:PICTURES]:
        done = dict.fromkeys(filter(None, [*(causes.of(name, "") for name in region.gone), *(causes.of("", name) for name in region.new)]))
        count = f"In {len(region.places)} places" if len(region.places) > 1 else "In one place"
        names = ", ".join(html.shortened(name, 60) for name in region.places[:NAMED]) + (", ..." if len(region.places) > NAMED else "")
        by = f", by {', '.join(list(done)[:NAMED])}" if done else ""
        pictures.append(html.graphs("A changed region", (("before", region.before), ("after", region.after)), f"{count}{by}. To search for: {names}"))
    rest = sum(len(region.places) for region in kinds[PICTURES:])
    more = f"Dashed: gone. Thick: new. {f'{rest:,} other regions are not drawn: ' if rest else ''}graphcompress diff lists every node." if kinds else ""
    return [*pictures, html.paragraph(more, "soft")]


def layer_bytes(model: Model) -> dict[str, float]:
    """Bytes of the constants that each node reads, itself or through what only unpacks them; those of unpacking nodes count at their reader."""
    from graphcompress.ir import Constant, consumers, nodes, producer
    from graphcompress.passes.quantize.groups import node_name

    def computed(tensor: Tensor) -> bool:
        while not isinstance(tensor, Constant) and (maker := producer(tensor)) is not None and maker.op in UNPACKING:
            tensor = maker.inputs[0]
        return not isinstance(tensor, Constant)

    sizes: dict[str, float] = {}
    for node in nodes(model):
        reader = node
        while reader.op in UNPACKING and not any(computed(t) for t in reader.inputs) and len(consumers(reader.outputs[0])) == 1:
            reader = consumers(reader.outputs[0])[0]
        own = sum(tensor.nbytes for tensor in {id(t): t for t in node.inputs if isinstance(t, Constant)}.values())
        if own:
            sizes[node_name(reader)] = sizes.get(node_name(reader), 0.0) + own
    return sizes


def _pairs(before: Mapping[str, float], after: Mapping[str, float], scale: float) -> list[tuple[str, float, float]]:
    largest = sorted(before, key=lambda name: -before[name])[:LAYERS]
    rows = [(name, before[name] * scale, after.get(name, 0.0) * scale) for name in largest]
    rest = (sum(before.values()) - sum(before[n] for n in largest), sum(after.values()) - sum(after.get(n, 0.0) for n in largest))
    return [*rows, ("all others", rest[0] * scale, rest[1] * scale)] if max(rest) > 0 else rows


def _versions(record: Record) -> str:
    machine = record.machine or {}
    rows = [("graphcompress", record.graphcompress), *record.libraries.items(), ("model", f"{record.model.path} sha256 {record.model.sha256}")]
    if record.data is not None:
        rows.append(("data", f"{record.data.source}, {record.data.feeds} feeds, sha256 {record.data.sha256}"))
    rows += [("recipe", record.recipe.name), ("target", record.target or "-"), ("provider", record.provider or "-")]
    rows += [("processor", f"{machine.get('cpu', '')}, {machine.get('cores', '?')} cores, {' '.join(machine.get('flags', ()))}")] if machine else []
    return html.table(("", ""), rows)


def _validate(document: ValidateReport) -> str:
    verdict = "not judged" if document.agreement is None else f"agreement {document.agreement:.4f} over {document.feeds} feeds"
    return html.page(
        f"validate {document.candidate.path or ''} against {document.reference.path or ''}",
        html.paragraph(f"{_sentence(verdict)}", "verdict"),
        *(html.paragraph(f"{bar.option} {bar.required:g}: {_verdict(bar)}") for bar in document.bars),
        html.section("Agreement", _outputs(document.outputs), html.paragraph(_sentence(document.statement))),
        html.section("Memorization", "" if document.memorization is None else _memorization(document.memorization)),
        html.section("Notes", html.paragraphs(document.notes)),
    )


def _memorization(document: MemorizationReport) -> str:
    rows = [
        (
            a.name,
            *(
                f"{area:.3f} \u00b1 {error:.3f}"
                for area, error in ((a.reference, a.reference_error), (a.candidate, a.candidate_error), (a.difference, a.difference_error))
            ),
        )
        for a in document.attacks
    ]
    told = f"AUC of attacks that tell {document.member_rows} members of the training data from {document.other_rows} others by '{document.output}'."
    table = html.table(("attack", "original", "result", "difference"), rows, numbers=(1, 2, 3))
    return html.paragraph(told) + table + html.paragraphs((_sentence(document.statement), *document.notes))


def _benchmark(document: BenchmarkReport) -> str:
    rows = [
        (row.path or "(in memory)", row.provider, row.threads, f"{row.median_ms:.3f}", f"{row.speedup:.2f}x", _interval(row.speedup_ci), row.verdict)
        for row in document.models
    ]
    best = max((row for row in document.models if row.verdict != "reference"), key=lambda row: row.speedup, default=None)
    verdict = "One model was timed." if best is None else f"{best.path or 'The candidate'}: {best.speedup:.2f}x as fast, {best.verdict}."
    return html.page(
        "benchmark",
        html.paragraph(verdict, "verdict"),
        html.section("Times", html.table(("model", "provider", "threads", "ms", "speed-up", "95% interval", ""), rows, numbers=(2, 3, 4))),
        html.section("Notes", html.paragraphs(dict.fromkeys([*document.notes, *(note for row in document.models for note in row.notes)]))),
        html.section(
            "Machine", html.table(("", ""), [(key, " ".join(map(str, value)) if isinstance(value, list) else value) for key, value in document.machine.items()])
        ),
    )


def _verdict(bar: Bar) -> str:
    return "held" if bar.held else "not decided, which counts as missed" if bar.undecided else "missed"


def _interval(pair: Sequence[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.2f} to {pair[1]:.2f}"


def _figure(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _sentence(clause: str) -> str:
    return f"{clause[:1].upper()}{clause[1:]}."
