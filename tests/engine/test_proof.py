"""Rules are proved by random graphs made from their patterns: every shipped rule holds, and rules made wrong on purpose are found out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphcompress.engine import Rule, load_rule, rule_files
from graphcompress.engine.expression import parse
from graphcompress.engine.proof.trials import prove
from graphcompress.ir.files.text import parse_model
from graphcompress.targets import rules_root

ROOT = rules_root() / "rewrite"
RULES = {r.id: r for r in (load_rule(f, ROOT) for f in rule_files(ROOT))}


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda r: r.id)
def test_no_rule_is_refuted(rule: Rule) -> None:
    proof = prove(rule, 6)
    assert proof.fault is None, f"{proof.fault.problem} ({proof.fault.judge})\n{proof.fault.graph}\n{proof.fault.feed}"
    assert proof.changed > len([e for e in rule.examples if e.refused is None]), "no graph that was made from the pattern was changed"
    assert proof.judged["onnxruntime"] and proof.judged["reference"]


def without(rule: str, clause: str) -> Rule:
    """A rule that has forgotten a clause."""
    left = tuple(c for c in RULES[rule].clauses if c.text != clause)
    assert len(left) == len(RULES[rule].clauses) - 1
    return replace(RULES[rule], clauses=left)


def asking(rule: str, clause: str, instead: str) -> Rule:
    """A rule with another clause."""
    return replace(without(rule, clause), clauses=(*without(rule, clause).clauses, parse(instead)))


def calculating(rule: str, **lets: str) -> Rule:
    """A rule that calculates something else."""
    changed = {name: parse(text) for name, text in lets.items()}
    assert changed.keys() <= RULES[rule].lets.keys()
    return replace(RULES[rule], lets={**RULES[rule].lets, **changed})


MUTANTS = {
    "the square root is forgotten": calculating("fuse/conv_bn", g="scale / (var + attr(y, 'epsilon', 1e-5))"),
    "the mean is added": calculating("fuse/gemm_bn", b2="(beta * vector(b, n) + mean) * g + bias")
    if "n" in RULES["fuse/gemm_bn"].lets
    else calculating("fuse/matmul_bn", b2="bias + mean * g"),
    "another default of epsilon": calculating("fuse/matmul_bn", g="scale / sqrt(var + 0.1)"),
    "permutations in the wrong order": calculating("fuse/transpose_transpose", p="compose(perm(y), perm(t))"),
    "+0 is added": asking("eliminate/add_zero", "minus_zero(k)", "filled(k, 0)"),
    "an operand that raises the rank": without("eliminate/multiply_one", "broadcasts(k, x)"),
    "any Reshape": without("eliminate/reshape", "same_shape(x, y)"),
    "any Cast between float types": asking("eliminate/cast", "type_name(attr(y, 'to')) == dtype(x)", "attr(y, 'to') in [1, 10, 11]"),
    "padding with another value": without("fuse/pad_conv", "pad_value(z) == 0"),
    "padding that reflects": without("fuse/pad_conv", "attr(z, 'mode', 'constant') == 'constant'"),
    "padding only before": calculating("fuse/pad_conv", total="added(own, cut(more, 2, rank(w)) + cut(more, 2, rank(w)))"),
    "the first of several slopes": without("targets/cpu/prelu", "every(s == slope)"),
    "any mean": without("targets/cpu/reduce_mean", "axes(y, 4) == [2, 3]"),
    "axes that do not fit together": without("eliminate/unsqueeze_squeeze", "axes(u, rank(u)) == axes(y, rank(u))"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_that_is_wrong_is_found_out(mutant: str) -> None:
    proof = prove(MUTANTS[mutant], 40)
    assert proof.fault is not None
    assert parse_model(proof.fault.graph).graph.nodes  # it can be tried again
