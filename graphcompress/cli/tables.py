"""Documents as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from graphcompress.api.reports import smaller_text, summary
from graphcompress.gate import threads_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphcompress.record import (
        Bar,
        BenchmarkReport,
        BenchmarkRow,
        InspectReport,
        MemorizationReport,
        OutputDistance,
        Record,
        RefusalReport,
        StepRun,
        Timing,
        ValidateReport,
    )

MEASURES = {
    "classes": "classes, by what the other choices cost",
    "sequence": "edits of collapsed sequences",
    "probabilities": "F1 at the threshold, by margin",
    "scores": "probabilities within 0.05",
    "values": "elements within 5% of their spread",
    "channel": "elements of the worst channel",
    "embedding": "cosine, beside that of other inputs",
    "boxes": "matched rows",
    "exact": "equal elements",
}
"""What the measures of agreement look at."""
LONGEST_LIST = 12
"""Rows of a list before the rest is only counted; the JSON has all of them."""
PROCESSOR_PROVIDERS = {None, "cpu", "openvino", "dnnl", "xnnpack"}
"""Providers that compute on the processor that a record names (None: nothing was judged), so that its instructions decide what INT8 gains. The others have hardware of their own."""


def record_tables(record: Record) -> Iterator[RenderableType]:
    """Before and after, what stayed float and why, what was left as it was, the verdict."""
    before, after = record.before, record.after
    yield Text(_printable(f"{summary(record)}."), style="bold")
    table = new_table(f"{record.command} {record.model.path or ''}".strip(), ("", "left"), ("before", "right"), ("after", "right"), ("", "left"))
    add_row(
        table,
        "size",
        size_text(before.bytes),
        size_text(after.bytes),
        smaller_text(record.smaller) or "unchanged",
    )
    pairs = sum(after.operators.get(name, 0) for name in ("QuantizeLinear", "DequantizeLinear"))
    add_row(table, "nodes", f"{before.nodes:,}", f"{after.nodes:,}", f"of which {pairs} Q/DQ" if pairs else "")
    add_row(table, "parameters", f"{before.parameters:,}", f"{after.parameters:,}", "")
    if before.macs is not None:
        add_row(table, "MACs", f"{before.macs:,}", "-" if after.macs is None else f"{after.macs:,}", "")
    if record.comparison is not None:
        whose = "by the metric" if record.comparison.worst is None else f"worst output '{record.comparison.worst}'"
        plain = len(record.comparison.outputs) == 1 and record.comparison.metric is None
        judged = f"on {record.comparison.feeds} feeds" + ("" if plain or record.comparison.agreement in (None, 1.0) else f", {whose}")
        add_row(table, "agreement", "", share(record.comparison.agreement), judged)
    for timing in record.measurements:
        add_row(table, f"time, {threads_text(timing.threads)}", f"{timing.reference_ms:.3f} ms", f"{timing.median_ms:.3f} ms", speed(timing))
    yield table
    yield from dict.fromkeys(finding.text for timing in record.measurements for finding in timing.findings)
    yield from _steps(record)
    if record.data is not None and record.data.note and record.data.note not in record.notes:
        yield record.data.note
    if record.comparison is not None:
        yield sentence(record.comparison.statement)
    if record.gate is not None:
        yield record.gate.explanation
    if (
        record.machine is not None
        and record.provider in PROCESSOR_PROVIDERS
        and any(step.certificate is not None and step.certificate.heavy for step in record.steps)
    ):
        yield machine_text(record.machine)
    if record.seconds is not None and record.seconds >= 1:
        yield seconds_text(record.seconds, record.steps)
    yield from bars_text(record.bars)
    beside = f" and {record.output_data}, which belong together" if record.output_data else ""
    yield f"Written to {record.output}{beside}." if record.output else "Nothing was written."


def bars_text(bars: Sequence[Bar]) -> Iterator[str]:
    for bar in bars:
        verdict = "held" if bar.held else "not decided, which counts as missed" if bar.undecided else "missed"
        yield f"{bar.option} {bar.required:g}: {verdict} ({'not judged' if bar.reached is None else f'{bar.reached:.4f}'})"


def machine_text(machine: Mapping[str, Any]) -> str:
    """The processor, and what it means for INT8."""
    flags = set(machine.get("flags", ()))
    if flags & {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}:
        what = "with AMX" if "amx_int8" in flags else "with VNNI"
        meaning = "processors without it gain less from INT8"
    elif flags & {"asimddp", "i8mm"}:
        what, meaning = "with dot products of bytes", "processors without them gain less from INT8"
    elif "avx2" in flags:
        what = "without VNNI"
        meaning = "INT8 gains less here, or nothing, and files whose weights were not bounded for it (graphcompress lint: qdq/saturates) lose accuracy"
    else:
        what, meaning = "whose instructions for bytes are not known", "whether INT8 pays here is what was measured"
    return f"On {machine.get('cpu') or machine.get('machine')}, {machine.get('cores')} cores, {what}: {meaning}."


def seconds_text(whole: float, steps: Sequence[StepRun]) -> str:
    """Where a run's time went, the longest first; what is below a hundredth of it is not told."""
    parts: dict[str, float] = {}
    for step in steps:
        parts[step.use] = parts.get(step.use, 0.0) + step.seconds
    rest = "comparing" if len(steps) == 1 else "searching, comparing and measuring"
    parts[rest] = max(0.0, whole - sum(parts.values()))
    told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(parts.items(), key=lambda part: -part[1]) if seconds >= max(0.05, 0.01 * whole))
    return f"Took {whole:.1f} s: {told}."


def _steps(record: Record) -> Iterator[RenderableType]:
    """What was applied, what stayed float, and what was refused. Of a step that was rolled back the explanation of the gate tells."""
    rolled_back = set() if record.gate is None else set(record.gate.rolled_back)
    told = None
    for step in record.steps:
        if not step.in_result and (step.changed or step.use in rolled_back):
            continue
        if step.applied:
            yield f"{step.use}: " + ", ".join(f"{name} x{count}" if count != 1 else name for name, count in sorted(step.applied.items()))
        widths = [(g["name"], str(g["size"]), str(g["kept"])) for g in step.decisions.get("groups", ()) if g["kept"] < g["size"]]
        if widths:
            table = new_table("Groups of channels that were cut", ("group", "left"), ("channels", "right"), ("left", "right"))
            add_rows(table, sorted(widths, key=lambda row: int(row[2]) - int(row[1])))
            yield table
        ranks = [(r["node"], "{} x {}".format(*r["shape"]), str(r["rank"])) for r in step.decisions.get("ranks", ())]
        if ranks:
            table = new_table("Layers that became two", ("layer", "left"), ("matrix before", "right"), ("rank", "right"))
            add_rows(table, ranks)
            yield table
        certificate = None if step.certificate == told else step.certificate
        told = step.certificate
        floats = [] if certificate is None else [operator for operator in certificate.operators if operator.precision == "float"]
        if floats:
            table = new_table("Heavy operators that stayed float", ("node", "left"), ("operator", "left"), ("reason", "left"))
            add_rows(table, [(operator.node, operator.op, operator.reason) for operator in floats])
            yield table
        named = {operator.node for operator in floats}
        # Most refusals of a rule only say that a node is not its business; the step's own are news.
        others = [r for r in step.refusals if r.node not in named and r.id.startswith(f"{step.use}/")]
        if others:
            table = new_table(f"{step.use}: left as it was", ("for example", "left"), ("reason", "left"), ("alike", "right"))
            add_rows(table, [(alike[0].node, alike[0].reason, str(sum(r.count for r in alike))) for alike in _by_id(others)])
            yield table
        by_rules = sum(not r.id.startswith(f"{step.use}/") for r in step.refusals)
        if by_rules:
            yield f"{step.use}: {by_rules} clause{'s' if by_rules > 1 else ''} of its rules held back somewhere; the record (--record FILE) lists them."


def _by_id(refusals: Iterable[RefusalReport]) -> list[list[RefusalReport]]:
    """Refusals of one kind together: their sentences differ in names and figures."""
    kinds: dict[str, list[RefusalReport]] = {}
    for refusal in refusals:
        kinds.setdefault(refusal.id, []).append(refusal)
    return sorted(kinds.values(), key=lambda alike: -sum(r.count for r in alike))


def site(provider: str, place: str | None) -> str:
    """Where something ran."""
    return provider if place is None else f"{provider} at {place}"


def validate_tables(report: ValidateReport) -> Iterator[RenderableType]:
    """One row per output, and what the agreement says."""
    yield _outputs(f"{report.candidate.path} against {report.reference.path}, {report.feeds} feeds, {site(report.provider, report.place)}", report.outputs)
    if report.metric is not None:
        yield f"By the metric: {share(report.metric.agreement)}."
    yield sentence(report.statement)
    if report.nodes is not None and report.share is not None and report.provider != "cpu":
        yield f"{report.provider} took {report.share:.0%} of the nodes ({', '.join(f'{name}: {count}' for name, count in report.nodes.items())})."
    if report.memorization is not None:
        yield from _memorization(report.memorization)
    yield from bars_text(report.bars)


def _memorization(report: MemorizationReport) -> Iterator[RenderableType]:
    rows = [
        (
            attack.name,
            f"{attack.reference:.3f} +- {attack.reference_error:.3f}",
            f"{attack.candidate:.3f} +- {attack.candidate_error:.3f}",
            f"{attack.difference:+.3f} +- {attack.difference_error:.3f}",
        )
        for attack in report.attacks
    ]
    title = f"AUC of attacks that tell {report.member_rows} members of the training data from {report.other_rows} others by '{report.output}'"
    yield listing(title, (("attack", "left"), ("original", "right"), ("result", "right"), ("difference", "right")), rows)
    yield sentence(report.statement)
    yield from report.notes


def _outputs(title: str, outputs: dict[str, OutputDistance]) -> Table:
    columns = (
        ("output", "left"),
        ("agreement", "right"),
        ("judged by", "left"),
        ("value", "right"),
        ("floor", "right"),
        ("SQNR dB", "right"),
        ("cosine", "right"),
        ("max abs", "right"),
    )
    table = new_table(title, *columns)
    for name, o in outputs.items():
        apart = (figure(o.sqnr_db, 1), figure(o.cosine, 6), "-" if o.max_abs is None else f"{o.max_abs:.4g}")
        if o.equal and o.sqnr_db is None:
            add_row(table, name, share(o.agreement), "all bits equal", "", "", "-", "-", "0")
        elif not o.measures:
            add_row(table, name, "-", "nothing to judge", "", "", *apart)
        for i, m in enumerate([] if o.equal and o.sqnr_db is None else o.measures):
            add_row(table, name if not i else "", share(m.agreement), MEASURES[m.name], share(m.value), f"{m.floor:g}", *(apart if not i else ("", "", "")))
    return table


def benchmark_tables(report: BenchmarkReport) -> Iterator[RenderableType]:
    """One row per model, provider and thread setting."""
    columns = (
        ("model", "left"),
        ("on", "left"),
        ("median", "right"),
        ("speed-up", "right"),
        ("95% interval", "left"),
        ("", "left"),
        ("load", "right"),
        ("memory", "right"),
    )
    table = new_table("Speed-up against the first model on the same provider", *columns)
    for row in report.models:
        noise = "noise " if row.verdict == "reference" else ""
        loads = "-" if row.load_seconds is None else f"{row.load_seconds * 1000:.0f} ms"
        memory = "-" if row.peak_memory_bytes is None else size_text(row.peak_memory_bytes)
        where = f"{site(row.provider, row.place)}, {threads_text(row.threads)}"
        add_row(
            table, row.path or "(in memory)", where, f"{row.median_ms:.3f} ms", f"{row.speedup:.2f}x", noise + span(row.speedup_ci), row.verdict, loads, memory
        )
    yield table
    yield from (economy(row) for row in report.models)
    for path, provider, assigned in dict.fromkeys((row.path, site(row.provider, row.place), row.share) for row in report.models):
        if assigned is not None and assigned < 1:
            yield f"{provider} took {assigned:.0%} of the nodes of {path or 'the model in memory'}; the others ran on the CPU provider."
    for note in dict.fromkeys(note for row in report.models for note in row.notes):
        yield f"Note: {note}"
    yield from bars_text(report.bars)


def economy(row: BenchmarkRow) -> str:
    """Throughput, energy and cost of one row, in a sentence."""
    parts = [f"{1000 / row.median_ms / max(1, row.threads):,.0f} per second and core"] if row.threads and row.median_ms else []
    parts.append(
        f"energy not measured ({'this system has no counter for it' if row.place is None else 'only this machine has counters that are read'})"
        if row.joules is None
        else f"{row.joules * 1000:.3g} mJ each, measured over the whole processor"
    )
    if row.joules_estimated is not None:
        parts.append(
            f"about {row.joules_estimated * 1000:.3g} mJ estimated from MACs and bytes (4.6 pJ a float MAC, 0.3 an INT8 one, 160 a byte of weights: Horowitz 2014)"
        )
    if row.cost_per_million is not None:
        parts.append(f"{row.cost_per_million:.3g} per million at the stated price")
    return f"{row.path or '(in memory)'}, {threads_text(row.threads)}: {'; '.join(parts)}."


def inspect_tables(report: InspectReport) -> Iterator[RenderableType]:
    """The model as a whole, its inputs and outputs, its operators, its largest nodes."""
    table = new_table(report.model.path or "model", ("", "left"), ("", "left"))
    add_row(table, "format", f"IR {report.ir_version}, " + ", ".join(f"{domain} {version}" for domain, version in report.opsets.items()))
    if report.producer:
        add_row(table, "made by", report.producer)
    add_row(table, "size", f"{size_text(report.bytes)}, initializers {size_text(report.initializer_bytes)}")
    add_row(table, "parameters", f"{report.parameters:,}")
    add_row(table, "nodes", f"{report.nodes:,}")
    add_row(table, "MACs", "unknown: shapes are free" if report.macs is None else f"{report.macs:,}")
    for what, infos in (("input", report.inputs), ("overridable", report.overridable), ("output", report.outputs)):
        for info in infos:
            shape = "?" if info.shape is None else ", ".join("?" if d is None else str(d) for d in info.shape)
            add_row(table, what, f"{info.name}: {info.dtype or info.kind} [{shape}]")
    yield table
    operators = new_table("Operators", ("operator", "left"), ("count", "right"))
    for name, count in sorted(report.operators.items(), key=lambda item: (-item[1], item[0])):
        add_row(operators, name, str(count))
    yield operators
    heavy = sorted((n for n in report.per_node if n.parameters or n.macs), key=lambda n: (-(n.macs or 0), -n.parameters, n.name))
    if heavy:
        nodes = new_table("Nodes with parameters or MACs, heaviest first", ("node", "left"), ("operator", "left"), ("parameters", "right"), ("MACs", "right"))
        add_rows(nodes, [(n.name, n.op, f"{n.parameters:,}", "?" if n.macs is None else f"{n.macs:,}") for n in heavy])
        yield nodes
    if report.groups is not None:
        columns = (("group", "left"), ("channels", "right"), ("MACs each", "right"), ("parameters each", "right"))
        table = new_table("Groups of channels that prune could cut" if report.groups else "There is no group of channels that prune could cut.", *columns)
        add_rows(table, [(g.name, str(g.channels), f"{g.macs_per_channel:,.0f}", f"{g.parameters_per_channel:,.0f}") for g in report.groups])
        yield table
    if report.fixed:
        table = new_table("Channels and other indices of weights that stay", ("reason", "left"), ("first node", "left"), ("count", "right"))
        add_rows(table, [(r.reason, r.node, str(r.count)) for r in report.fixed])
        yield table


# --- figures -----------------------------------------------------------------------------------------------------------------------


def sentence(text: str) -> str:
    """A clause as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def speed(timing: Timing) -> str:
    """A speed-up in words, with its interval."""
    if timing.verdict == "noisy":
        return f"{timing.speedup:.2f}x, too noisy to tell"
    word = {"faster": "faster", "slower": "(slower)", "same": "(no difference)"}[timing.verdict]
    return f"{timing.speedup:.2f}x {word}, {span(timing.speedup_ci)}"


def span(pair: tuple[float, float] | None) -> str:
    """An interval."""
    return "-" if pair is None else f"{pair[0]:.2f} to {pair[1]:.2f}"


def share(value: float | None) -> str:
    """An agreement."""
    return "-" if value is None else f"{value:.4f}"


def figure(value: float | None, digits: int) -> str:
    """A number that may be undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def size_text(count: int) -> str:
    """Bytes for people."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def new_table(title: str, *columns: tuple[str, str]) -> Table:
    """A table with a heading over each column, "left" or "right"."""
    table = Table(title=Text(_printable(title)), title_justify="left", show_header=any(name for name, _ in columns))
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    return table


def listing(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[tuple[str, ...]]) -> Table:
    """All rows below their headings; `columns` are headings and how they are justified."""
    table = new_table(title, *columns)
    for row in rows:
        add_row(table, *row)
    return table


def add_row(table: Table, *cells: str) -> None:
    """A row of texts."""
    table.add_row(*(Text(_printable(cell)) for cell in cells))


def add_rows(table: Table, rows: Sequence[tuple[str, ...]], longest: int = LONGEST_LIST) -> None:
    """Rows up to a readable number, then how many more there are."""
    for row in rows[:longest]:
        add_row(table, *row)
    if len(rows) > longest:
        add_row(table, f"... and {len(rows) - longest} more: --format json lists all", *("" for _ in rows[0][1:]))


def _printable(text: str) -> str:
    """Names come from files: control characters, which could drive a terminal, are shown as '?'."""
    return "".join(c if c.isprintable() else "?" for c in text)
