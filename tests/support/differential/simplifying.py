"""`simplify`, and what its rules and stages promise."""

from __future__ import annotations

from functools import cache

import onnx

from differential.program import Case
from differential.running import loaded
from graphcompress.engine import Rule, load_rules
from graphcompress.passes.simplify import affine, simplify
from graphcompress.step import Context, StepResult
from graphcompress.targets import Target, load_target, rules_root


@cache
def target(name: str) -> Target:
    return load_target(name)


@cache
def library() -> dict[str, Rule]:
    """The rules by id, targets' rules included."""
    return {r.id: r for name in (None, "cpu") for r in load_rules(rules_root() / "rewrite", name)}


@cache
def effects() -> dict[str, str]:
    """Rule or stage that is not exact -> effect, targets' rules included."""
    return {name: rule.effect for name, rule in library().items()} | {affine.STAGE: "equivalent"}


def simplified(case: Case, model: onnx.ModelProto | None = None) -> StepResult:
    """The case, or a model that was made of it, after `simplify` for the case's target."""
    return simplify(loaded(model or case.model), Context(target=target(case.target) if case.target else None)).boldest
