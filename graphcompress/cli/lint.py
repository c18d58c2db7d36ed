"""graphcompress lint"""

from __future__ import annotations

import hashlib
from collections import Counter
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format
from graphcompress.errors import BarMissed, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from graphcompress.api.documents import LintFinding, LintReport
    from graphcompress.cli.console import Renderable
    from graphcompress.linter.rule import LintRule

LEVELS = {"error": "error", "warning": "warning", "info": "note"}
"""Severities as SARIF calls them."""
PAGE = "docs/lint.md"


class LintFormat(StrEnum):
    """How findings are printed."""

    table = "table"
    json = "json"
    sarif = "sarif"


def lint(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="The .onnx files.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="OUT", help="Where --fix writes.", show_default=False)] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write to OUT a model in which is mended what can be without changing what the graph computes.")] = False,
    select: Annotated[
        list[str] | None,
        typer.Option("--select", metavar="ID", help="Only these rules (docs/lint.md), or groups of them: qdq. Repeatable.", show_default=False),
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", metavar="ID", help="Not these rules or groups. Repeatable.", show_default=False)] = None,
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="The table of rules/targets/ for what computes in INT8.")] = "cpu",
    provider: options.Provider = "cpu",
    format: Annotated[LintFormat, typer.Option("--format", help="json: one document (docs/formats.md); sarif: for forges.")] = LintFormat.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Find what is wrong with models, whoever made them. Status 1 where something of severity error is found."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import Outputs
    from graphcompress.cli.run import check_target, finish_report

    if fix != (output is not None):
        raise UsageError("--fix writes the mended model to OUT: give both --fix and -o OUT, or neither.")
    if len(models) > 1 and (fix or format is not LintFormat.table):
        raise UsageError(f"{'--fix' if fix else f'--format {format.value}'} is for one model at a time, and there are {len(models)}.")
    check_target(target)
    outputs = None if output is None else Outputs(output, None, (models[0],))
    with Console(quiet=quiet, format=Format.table if format is LintFormat.table else Format.json) as console:
        from graphcompress import api

        rules: dict[str, Any] = {"select": select or (), "ignore": ignore or (), "target": target, "provider": provider}
        if outputs is not None:
            from graphcompress.ir import save

            opened = api.open_model(models[0])
            outputs.check_data(opened.model)
            mended, counts = api.mend(opened, **rules)
            save(mended, outputs.model)
            told = ", ".join(f"{name} x{count}" if count > 1 else name for name, count in counts.items())
            console.note(f"Mended: {told or 'nothing'}. Written to {outputs.model}." + (" What is left:" if counts else ""))
            return finish_report(console, tables, lambda: api.lint(mended, **rules))
        if format is LintFormat.sarif:
            console.document = sarif
        missed: list[str] = []
        for model in models:
            try:
                finish_report(console, tables, partial(api.lint, model, **rules))
            except BarMissed as problem:
                missed.append(str(problem))
        if missed:
            raise BarMissed(" ".join(missed))
        return 0


def tables(report: LintReport) -> Iterator[Renderable]:
    """Findings by rule, with the cure once for each."""
    shown: dict[str, list[str]] = {}
    rules = {finding.id: finding for finding in report.findings}
    for finding in report.findings:
        shown.setdefault(finding.id, []).append(f"  {finding.place}: {finding.text}")
    for id, lines in shown.items():
        mendable = " (--fix mends it)" if rules[id].fixable else ""
        yield f"{rules[id].severity} {id}: {rules[id].cure}{mendable}"
        yield "\n".join([*lines[:5], *([f"  ... and {len(lines) - 5} more: --format json lists all"] if len(lines) > 5 else [])])
    counts = {level: sum(finding.severity == level for finding in report.findings) for level in LEVELS}
    total = ", ".join(f"{count} {level}{'s' * (count != 1 and level != 'info')}" for level, count in counts.items() if count)
    yield f"{report.model.path or 'The model'}: {total or 'nothing found'}." + (f" {PAGE} explains each." if total else "")


def _uri(path: str) -> str:
    """A path as a reference by RFC 3986: relative as it was given, absolute with its scheme; spaces and the like as %20."""
    return Path(path).as_uri() if Path(path).is_absolute() else quote(Path(path).as_posix())


def sarif(report: LintReport) -> dict[str, Any]:
    """The findings as SARIF 2.1.0, which forges show beside the file.

    They title a finding by its rule's short description, and want a line to show it at, which a binary file does not have: the first stands for it. What tells a finding from others is its place,
    since a forge would take that line's text for it, which any new export changes.
    """
    from graphcompress.linter import RULES

    found = {finding.id for finding in report.findings}
    rules = [rule for rule in RULES if rule.id in found]
    index = {rule.id: number for number, rule in enumerate(rules)}
    location = {"artifactLocation": {"uri": _uri(report.model.path or "model")}, "region": {"startLine": 1}}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "graphcompress", "version": report.graphcompress, "rules": [_descriptor(rule) for rule in rules]}},
                "results": [
                    {
                        "ruleId": finding.id,
                        "ruleIndex": index[finding.id],
                        "level": LEVELS[finding.severity],
                        "message": {"text": f"{finding.place}: {finding.text} {finding.cure}"},
                        "locations": [{"physicalLocation": location, "logicalLocations": [{"fullyQualifiedName": finding.place}]}],
                        "partialFingerprints": {"primaryLocationLineHash": fingerprint},
                    }
                    for finding, fingerprint in zip(report.findings, _fingerprints(report.findings), strict=True)
                ],
            }
        ],
    }


def _descriptor(rule: LintRule) -> dict[str, Any]:
    """A rule as a forge shows it: a title, a sentence, a page."""
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why} {rule.cure}", "markdown": f"{rule.why}\n\n{rule.cure}\n\n`{PAGE}#{rule.id.replace('/', '')}`"},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
    }


def _fingerprints(findings: Sequence[LintFinding]) -> list[str]:
    """One of each finding, the same in the next export where its rule and place are; the second at one place gets another."""
    seen: Counter[str] = Counter()
    names = []
    for finding in findings:
        name = hashlib.sha256(f"{finding.id} {finding.place}".encode()).hexdigest()[:16]
        seen[name] += 1
        names.append(f"{name}:{seen[name]}")
    return names
