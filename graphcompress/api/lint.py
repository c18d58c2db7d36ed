"""lint."""

from __future__ import annotations

from collections.abc import Sequence

from graphcompress.api.documents import LintFinding, LintReport
from graphcompress.api.inputs import AnyModel, open_model
from graphcompress.errors import BarMissed
from graphcompress.ir import Model
from graphcompress.targets import load_target
from graphcompress.version import __version__


def lint(model: AnyModel, *, select: Sequence[str] = (), ignore: Sequence[str] = (), target: str = "cpu", provider: str = "cpu") -> LintReport:
    """What is wrong with a model, the gravest first. `select` and `ignore` name rules (docs/lint.md) or their groups ("qdq").

    Raises UsageError for a name that matches no rule, BarMissed, with the report in its `result`, where something of severity error was found.
    """
    from graphcompress.linter import check, choose

    source = open_model(model)
    found = check(source.model, choose(select, ignore), load_target(target), provider)
    findings = [
        LintFinding(id=rule.id, severity=rule.severity, place=problem.place, text=problem.text, cure=rule.cure, fixable=rule.fix is not None)
        for rule, problem in found
    ]
    report = LintReport(graphcompress=__version__, model=source.file, findings=findings)
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        raise BarMissed(f"{source.name}: {errors} finding{'s' * (errors > 1)} of severity error.", report)
    return report


def mend(
    model: AnyModel, *, select: Sequence[str] = (), ignore: Sequence[str] = (), target: str = "cpu", provider: str = "cpu"
) -> tuple[Model, dict[str, int]]:
    """A copy in which everything is mended that can be without changing what the graph computes, and how often each rule did so."""
    from graphcompress.linter import choose
    from graphcompress.linter import mend as mended

    return mended(open_model(model).model, choose(select, ignore), load_target(target), provider)
