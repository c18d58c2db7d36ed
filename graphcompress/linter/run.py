"""All rules, choosing among them, looking and mending."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphcompress.errors import UsageError, suggestion
from graphcompress.ir import Model
from graphcompress.linter import fusion, numbers, precision, silent, waste
from graphcompress.linter.rule import LintRule, Problem, Subject
from graphcompress.targets import Target

RULES: tuple[LintRule, ...] = (*silent.RULES, *fusion.RULES, *precision.RULES, *numbers.RULES, *waste.RULES)
ROUNDS = 8
"""What one rule mends may show another rule something; more rounds than this never helped."""

Report = list[tuple[LintRule, Problem]]


def choose(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[LintRule, ...]:
    """The rules that `select` names (default: all) and `ignore` does not: whole ids, or what stands before the slash. Raises UsageError for a name that matches none."""
    known = {rule.id for rule in RULES} | {rule.id.partition("/")[0] for rule in RULES}
    for option, names in (("--select", tuple(select)), ("--ignore", tuple(ignore))):
        for name in names:
            if name not in known:
                raise UsageError(f"{option} {name}: there is no such rule. {suggestion(name, known)}")

    def named(rule: LintRule, names: Iterable[str]) -> bool:
        return any(rule.id == name or rule.id.startswith(f"{name}/") for name in names)

    return tuple(rule for rule in RULES if (not select or named(rule, select)) and not named(rule, ignore))


def check(model: Model, rules: Sequence[LintRule], target: Target, provider: str = "cpu") -> Report:
    """What the rules find, the gravest first."""
    subject = Subject(model, target, provider)
    order = ("error", "warning", "info")
    return [(rule, problem) for rule in sorted(rules, key=lambda rule: order.index(rule.severity)) for problem in rule.look(subject)]


def mend(model: Model, rules: Sequence[LintRule], target: Target, provider: str = "cpu") -> tuple[Model, dict[str, int]]:
    """A copy in which everything is mended that these rules can mend without changing what the graph computes, and how often each did."""
    copy = model.copy()
    mended: dict[str, int] = {}
    for _ in range(ROUNDS):
        before = sum(mended.values())
        for rule in rules:
            subject = Subject(copy, target, provider)
            if rule.fix is not None and next(iter(rule.look(subject)), None) is not None and (count := rule.fix(subject)):
                mended[rule.id] = mended.get(rule.id, 0) + count
        if sum(mended.values()) == before:
            break
    return copy, mended
