"""Documents about rules and about differences of models, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphcompress.cli.tables import add_row, add_rows, new_table, record_tables

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphcompress.record import BisectReport, DiffReport, Record, RuleListReport, RuleShowReport, VerifyReport, WhyReport

MOST_RULES = 30


def list_tables(report: RuleListReport) -> Iterator[RenderableType]:
    """One row per rule."""
    table = new_table(f"{len(report.rules)} rules", ("id", "left"), ("effect", "left"), ("for", "left"), ("", "left"))
    for rule in report.rules:
        add_row(table, rule.id, rule.effect, rule.target or rule.benefit, rule.summary)
    yield table


def show_tables(rule: RuleShowReport) -> Iterator[RenderableType]:
    """The rule as text."""
    yield f"{rule.id}: {rule.summary}"
    kept = f", for {rule.benefit}" if rule.benefit else ""
    yield f"effect {rule.effect}, opsets {rule.opsets[0]} to {rule.opsets[1]}{f', target {rule.target}' if rule.target else ''}{kept}"
    if rule.nonfinite:
        yield f"what is not finite may change: {rule.nonfinite}"
    yield f"\nbefore\n{rule.before}\n\nafter\n{rule.after}"
    if rule.optional:
        yield f"\nmay be absent: {', '.join(rule.optional)}"
    if rule.where:
        yield "\nwhere\n" + "\n".join(f"  {clause}" for clause in rule.where)
    if rule.let:
        yield "\nlet\n" + "\n".join(f"  {name} = {text}" for name, text in rule.let.items())
    for example in rule.examples:
        what = "refused by " + example.refused if example.refused else "changed"
        yield f"\nexample (opset {example.opset}), {what}\n{example.graph}"


def verify_tables(report: VerifyReport) -> Iterator[RenderableType]:
    """One row per rule, and each counterexample."""
    columns = (("rule", "left"), ("graphs", "right"), ("changed", "right"), ("onnxruntime", "right"), ("reference", "right"), ("types", "left"), ("", "left"))
    table = new_table(f"Rules on {report.cases} random graphs each, seed {report.seed}", *columns)
    for p in report.rules:
        judged = (str(p.judged.get(judge, 0)) for judge in ("onnxruntime", "reference"))
        add_row(table, p.id, str(p.tried), str(p.changed), *judged, " ".join(p.types), "WRONG" if p.fault else "holds")
    yield table
    for p in report.rules:
        if p.fault is not None:
            yield f"\n{p.id} is wrong ({p.fault.judge}): {p.fault.problem}\n{p.fault.graph}\ninputs: {p.fault.feed}"


def why_tables(report: WhyReport) -> Iterator[RenderableType]:
    """How often it was applied, and the nearest misses."""
    yield f"{report.rule} was applied {report.applied} time{'' if report.applied == 1 else 's'} when {report.model.path or 'the model'} was simplified."
    if not report.misses:
        yield "In the result there is no node at which it could hold, or the model's opset is not one that it is for."
        return
    table = new_table("Where it does not hold, the nearest first", ("node", "left"), ("nodes there", "right"), ("refused by", "left"), ("because", "left"))
    add_rows(table, [(f"{m.op} {m.node}", f"{m.matched} of {m.size}", m.clause or "the pattern", m.reason) for m in report.misses])
    yield table


def verbose_tables(record: Record) -> Iterator[RenderableType]:
    """The record, and what each rule did and cost, the dearest first."""
    yield from record_tables(record)
    columns = (("rule", "left"), ("tried", "right"), ("matched", "right"), ("applied", "right"), ("refused", "right"), ("ms", "right"))
    for step in record.steps:
        if step.rules:
            table = new_table(f"Rules of {step.use}; rewriting ended: {step.stop}", *columns)
            for r in sorted(step.rules, key=lambda r: -r.seconds)[:MOST_RULES]:
                add_row(table, r.id, f"{r.tried:,}", f"{r.matched:,}", f"{r.applied:,}", f"{r.refused:,}", f"{r.seconds * 1000:.1f}")
            yield table
        if step.refusals:
            table = new_table("Refused", ("by", "left"), ("first node", "left"), ("count", "right"))
            for refusal in sorted(step.refusals, key=lambda r: -r.count)[:MOST_RULES]:
                add_row(table, refusal.id, refusal.node, f"{refusal.count:,}")
            yield table


def bisect_tables(report: BisectReport) -> Iterator[RenderableType]:
    """What moved the outputs most."""
    total = "not finite" if report.total is None else f"{report.total:.3g}"
    yield f"{report.applications} things were done; they moved the outputs by {total} of their size ({report.feeds} feeds, {report.compared} models run)."
    table = new_table("What moved them most", ("no.", "right"), ("by", "left"), ("nodes that went", "left"), ("nodes that came", "left"), ("moved", "right"))
    for m in report.moves:
        add_row(table, str(m.number), m.by, _names(m.removed), _names(m.added), "not finite" if m.moved is None else f"{m.moved:.3g}")
    yield table


def diff_tables(report: DiffReport) -> Iterator[RenderableType]:
    """Signature, operators, nodes."""
    if not report.signature and not report.operators and not report.nodes and not report.renamed:
        yield "Both models are the same graph."
        return
    yield from report.signature
    if report.operators:
        table = new_table("Operators", ("operator", "left"), ("before", "right"), ("after", "right"))
        for o in report.operators:
            add_row(table, o.op, str(o.before), str(o.after))
        yield table
    table = new_table(f"Nodes ({report.same} are the same)", ("", "left"), ("operator", "left"), ("node", "left"), ("what", "left"), ("by", "left"))
    alone = [n for n in report.nodes if n.kind not in ("removed", "added")]
    rows = [(n.kind, n.op, n.name if n.other in ("", n.name) else f"{n.name} -> {n.other}", "; ".join(n.changes), n.by) for n in alone]
    alike: dict[tuple[str, str, str], list[str]] = {}
    for node in report.nodes:
        if node.kind in ("removed", "added"):
            alike.setdefault((node.kind, node.op, node.by), []).append(node.name)
    rows += [(kind, op if len(names) == 1 else f"{op} x{len(names)}", _names(names), "", by) for (kind, op, by), names in alike.items()]
    add_rows(table, rows, 60)
    yield table
    if report.renamed:
        table = new_table("Tensors with other names", ("before", "left"), ("after", "left"))
        add_rows(table, list(report.renamed.items()))
        yield table


def _names(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
