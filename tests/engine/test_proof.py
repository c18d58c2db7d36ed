"""Rules are proved by random graphs made from their patterns: every shipped rule holds, and rules made wrong on purpose are found out."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphcompress.engine import Rule, load_rule, rule_files
from graphcompress.engine.expression import parse
from graphcompress.engine.proof import cases
from graphcompress.engine.proof.choices import Choices, shrink
from graphcompress.engine.proof.draft import NoCase
from graphcompress.engine.proof.operands import OPERANDS
from graphcompress.engine.proof.trials import difference, prove
from graphcompress.errors import ModelError
from graphcompress.ir.files.text import TextError, parse_model
from graphcompress.ir.schemas.operators import operator_definition
from graphcompress.targets import rules_root

ROOT = rules_root() / "rewrite"
RULES = {r.id: r for r in (load_rule(f, ROOT) for f in rule_files(ROOT))}


def test_attributes_that_are_drawn_are_those_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one of its opsets: a case leaves out what its own opset does not know, so a name that is wrong would never be noticed."""
    known = {op: {name for opset in range(7, 24) if (d := operator_definition(op, "", opset)) is not None for name in d.attributes} for op in OPERANDS}
    drawn: dict[str, set[str]] = {}

    def noting(op: str) -> Any:
        def draw(draft: Any, names: Any) -> Any:
            attributes = OPERANDS[op](draft, names)
            drawn.setdefault(op, set()).update(attributes)
            return attributes

        return draw

    monkeypatch.setattr(cases, "OPERANDS", {op: noting(op) for op in OPERANDS})
    for rule in RULES.values():
        for seed in range(5):
            with contextlib.suppress(NoCase, TextError, ModelError, ArithmeticError, LookupError):  # choices that fit nothing
                cases.case_of(rule, Choices(rng=np.random.default_rng(seed)))
    assert {"Gemm", "Conv", "Reshape", "Softmax"} <= drawn.keys()
    assert {op: names - known[op] for op, names in drawn.items() if names - known[op]} == {}


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda r: r.id)
def test_no_rule_is_refuted(rule: Rule) -> None:
    proof = prove(rule, 4)
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
    "the mean is added": calculating("fuse/gemm_bn", b2="b * g + (bias + mean * g) / attr(c, 'beta', 1.0)"),
    "another default of epsilon": calculating("fuse/matmul_bn", g="scale / sqrt(var + 0.1)"),
    "permutations in the wrong order": calculating("fuse/transpose_transpose", p="compose(perm(y), perm(t))"),
    "+0 is added": asking("eliminate/add_zero", "minus_zero(k)", "filled(k, 0)"),
    "an operand that raises the rank": without("eliminate/multiply_one", "broadcasts(k, x)"),
    "a Gelu of any scale": without("fuse/gelu_erf_multiply", "near(r, 0.7071067811865476)"),
    "a Gelu that is not halved": without("fuse/gelu_erf_multiply_halved", "filled(half, 0.5)"),
    "any Reshape": without("eliminate/reshape", "same_shape(x, y)"),
    "any Cast between float types": asking("eliminate/cast", "type_name(attr(y, 'to')) == dtype(x)", "attr(y, 'to') in [1, 10, 11]"),
    "padding with another value": without("fuse/pad_conv", "pad_value(z) == 0"),
    "padding that reflects": without("fuse/pad_conv", "attr(z, 'mode', 'constant') == 'constant'"),
    "padding only before": calculating("fuse/pad_conv", total="added(own, cut(more, 2, rank(w)) + cut(more, 2, rank(w)))"),
    "the first of several slopes": without("targets/cpu/prelu", "every(s == slope)"),
    "any mean": without("targets/cpu/reduce_mean", "axes(y, 4) == [2, 3]"),
    "a logarithm of a Softmax in double, where onnxruntime makes numbers of NaN": without("fuse/log_softmax", "dtype(x) != 'double'"),
    "infinities that are not said to meet elsewhere": replace(RULES["fuse/matmul_matmul"], nonfinite=""),
    "the root of a -0": without("fuse/pow_half", "nonnegative(x)"),
    "axes that do not fit together": without("eliminate/unsqueeze_squeeze", "axes(u, rank(u)) == axes(y, rank(u))"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_that_is_wrong_is_found_out(mutant: str) -> None:
    proof = prove(MUTANTS[mutant], 40)
    assert proof.fault is not None
    assert parse_model(proof.fault.graph).graph.nodes  # it can be tried again


def test_choices_repeat_what_was_taken_and_are_zero_behind_it() -> None:
    first = Choices(rng=np.random.default_rng(5))
    taken = [first.below(10) for _ in range(20)]
    again = Choices(first.taken)
    assert [again.below(10) for _ in range(22)] == [*taken, 0, 0]
    assert Choices([9]).below(3) == 2  # a number that is too large is the largest
    assert not Choices().chance(99)


def test_shrinking_ends_at_the_simplest_list_that_fails() -> None:
    start = np.random.default_rng(0).integers(0, 50, 30).tolist()
    start[7], start[21] = 40, 12
    assert shrink(start, lambda choices: any(c >= 10 for c in choices)) == [10]
    assert shrink([3, 0, 0], lambda choices: True) == []


@pytest.mark.parametrize(
    ("expected", "result", "options", "kind"),
    [
        ([1.0, 2.0], [1.0, 2.0 + 1e-10], {}, None),
        ([1.0, 2.0], [1.0, 2.0 + 1e-10], {"exact": True}, "value"),
        ([0.0], [-0.0], {}, None),
        ([0.0], [-0.0], {"exact": True}, "value"),
        ([np.nan, np.inf], [np.nan, np.inf], {"exact": True}, None),
        ([1.0, 2.0], [1.0, 2.1], {}, "value"),
        ([1.0, 2.0], [1.0, 2.1], {"large": True}, None),
        ([1.0, 2.0], [1.0, np.inf], {"large": True}, "overflow"),
        ([np.inf, 2.0], [1.0, 2.0], {}, "value"),
        ([1.0, 2.0], [[1.0, 2.0]], {}, "shape"),
    ],
)
def test_what_counts_as_a_difference(expected: list[float], result: list[Any], options: dict[str, bool], kind: str | None) -> None:
    found = difference(np.asarray(expected), np.asarray(result), 2.0, **options)
    assert (None if found is None else found[0]) == kind
