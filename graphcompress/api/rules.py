"""The rules of `simplify`: what there is, whether it is right, and why it does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from graphcompress.api.inputs import AnyModel, open_model
from graphcompress.errors import BarMissed, UsageError, suggestion
from graphcompress.record import (
    FaultReport,
    MissReport,
    ProofReport,
    RuleExample,
    RuleListReport,
    RuleShowReport,
    RuleSummary,
    VerifyReport,
    WhyReport,
)
from graphcompress.step import Context, Progress, silent
from graphcompress.targets import load_target, rules_root
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.engine import Rule
    from graphcompress.engine.proof.trials import Proof

CASES = 40


def list_rules() -> RuleListReport:
    """Every rule, those for targets too."""
    rules = [RuleSummary(id=r.id, effect=r.effect, target=r.target, benefit=r.benefit, summary=r.summary) for r in _rules().values()]
    return RuleListReport(graphcompress=__version__, rules=rules)


def show_rule(name: str) -> RuleShowReport:
    """One rule as its file has it. Raises UsageError where there is none of this id."""
    rule = _rule(name)
    before, after = rule.texts
    return RuleShowReport(
        graphcompress=__version__,
        id=rule.id,
        summary=rule.summary,
        effect=rule.effect,
        target=rule.target,
        benefit=rule.benefit,
        nonfinite=rule.nonfinite,
        opsets=rule.opsets,
        before=before,
        after=after,
        optional=sorted(rule.optional),
        where=[c.text for c in rule.clauses],
        let={name: e.text for name, e in rule.lets.items()},
        examples=[RuleExample(graph=e.graph.strip(), opset=e.opset, refused=e.refused) for e in rule.examples],
    )


def verify_rules(names: Sequence[str] = (), *, cases: int = CASES, seed: int = 0, progress: Progress = silent) -> VerifyReport:
    """Hold rules (default: all) against random graphs made from their patterns, until each has changed `cases` of them.

    Raises UsageError for an id that there is not, RuntimeUnavailable without onnxruntime, BarMissed, with the report as its result, where a rule is wrong.
    """
    from graphcompress.engine.proof.trials import prove

    chosen = [_rule(name) for name in names] or list(_rules().values())
    proofs: list[ProofReport] = []
    for number, rule in enumerate(chosen):
        progress("verify", number, len(chosen))
        proofs.append(_proof(prove(rule, cases, seed)))
    report = VerifyReport(graphcompress=__version__, cases=cases, seed=seed, rules=proofs)
    wrong = [p.id for p in proofs if p.fault is not None]
    if wrong:
        raise BarMissed(f"{len(wrong)} of {len(proofs)} rules changed what a graph computes: {', '.join(wrong)}.", report)
    return report


def explain_rule(name: str, model: AnyModel, *, target: str | None = None, progress: Progress = silent) -> WhyReport:
    """Simplify `model` and say how often the rule was applied, and where in the result it nearly holds and what is missing there; the rule's own target is taken where none is given.

    Raises UsageError where there is no such rule, ModelError where the model cannot be used.
    """
    from graphcompress.engine.explain import near_misses
    from graphcompress.ir import label
    from graphcompress.passes.simplify import simplify

    rule = _rule(name)
    source = open_model(model)
    chosen = target or rule.target
    result = simplify(source.model, Context(target=load_target(chosen) if chosen else None, progress=progress)).boldest
    misses = [
        MissReport(node=label(m.node), op=m.node.op, matched=m.matched, size=rule.size, clause=m.clause, reason=m.reason)
        for m in near_misses(result.model, rule)
    ]
    return WhyReport(graphcompress=__version__, model=source.file, rule=rule.id, applied=result.applied.get(rule.id, 0), misses=misses)


def _rules() -> dict[str, Rule]:
    from graphcompress.engine import load_rule, rule_files

    root = rules_root() / "rewrite"
    return {rule.id: rule for rule in (load_rule(path, root) for path in rule_files(root))}


def _rule(name: str) -> Rule:
    from graphcompress.engine import load_rule

    root = rules_root() / "rewrite"
    path = (root / f"{name}.toml").resolve()
    if path.is_relative_to(root.resolve()) and path.is_file():
        return load_rule(path, root.resolve())
    raise UsageError(f"There is no rule '{name}'. {suggestion(name, _rules())} 'graphcompress rules list' shows all.")


def _proof(proof: Proof) -> ProofReport:
    return ProofReport(
        id=proof.rule,
        tried=proof.tried,
        changed=proof.changed,
        judged=dict(sorted(proof.judged.items())),
        types=dict(sorted(proof.types.items())),
        opsets={str(v): n for v, n in sorted(proof.opsets.items())},
        fault=None if proof.fault is None else FaultReport(**asdict(proof.fault)),
    )
