"""rules list, show, verify, why; diff; simplify --verbose and --bisect, from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphcompress.api import rules as api_rules
from graphcompress.engine import Rule, load_rule, rule_files
from graphcompress.engine.explain import near_misses
from graphcompress.engine.expression import parse
from graphcompress.engine.proof.trials import prove
from graphcompress.ir.files.text import parse_model
from graphcompress.passes.simplify.bisect import bisect
from graphcompress.record import BisectReport, DiffReport, RuleListReport, RuleShowReport, VerifyReport, WhyReport
from graphcompress.step import Context
from graphcompress.targets import rules_root

ROOT = rules_root() / "rewrite"
CONV_ADD = "(float[N,1,2,2] x{more}) => (float[N,2,2,2] y) <float[2,1,1,1] w = {{1, 2}}{k}> {{ {body} }}"
K = ", float[2,1,1] k = {1, 2}"


def rule(name: str) -> Rule:
    return load_rule(ROOT / f"{name}.toml", ROOT)


def test_list_has_every_rule(run: Any) -> None:
    done = run("rules", "list", "--format", "json")
    report = RuleListReport.model_validate(done.json)
    assert [r.id for r in report.rules] == [f.relative_to(ROOT).with_suffix("").as_posix() for f in rule_files(ROOT)]
    assert "fuse/conv_bn" in run("rules", "list").out


def test_show_has_what_the_file_has(run: Any) -> None:
    report = RuleShowReport.model_validate(run("rules", "show", "fuse/conv_bn", "--format", "json").json)
    assert "BatchNormalization" in report.before and "BatchNormalization" not in report.after
    assert {e.refused for e in report.examples} == {None, *report.where}
    assert report.before in run("rules", "show", "fuse/conv_bn").out


def test_an_id_that_there_is_not_is_an_error_with_a_suggestion(run: Any) -> None:
    for arguments in (("show", "fuse/conv_bm"), ("verify", "fuse/conv_bm"), ("why", "fuse/conv_bm", "model.onnx")):
        done = run("rules", *arguments)
        assert (done.status, done.out) == (2, "") and "Did you mean 'fuse/conv_bn'?" in done.err
    assert run("rules", "show", "../recipes/default").status == 2


def test_verify_says_what_was_tried(run: Any) -> None:
    report = VerifyReport.model_validate(run("rules", "verify", "eliminate/reshape", "--cases", "3", "-q", "--format", "json").json)
    assert report.rules[0].changed >= 3 and report.rules[0].fault is None


def test_verify_ends_with_1_and_a_graph_where_a_rule_is_wrong(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(rule("eliminate/reshape"), clauses=())
    monkeypatch.setattr(api_rules, "_rule", lambda name: wrong)
    done = run("rules", "verify", "eliminate/reshape", "--cases", "9", "-q", "--format", "json")
    assert done.status == 1 and "eliminate/reshape" in done.err
    (proof,) = VerifyReport.model_validate(done.json).rules
    assert proof.fault is not None and "Reshape" in proof.fault.graph
    assert "Reshape" in run("rules", "verify", "eliminate/reshape", "--cases", "9").out


@pytest.mark.parametrize(
    ("more", "k", "body", "matched", "clause", "reason"),
    [
        (", float k", "", "c = Conv (x, w) y = Add (c, k)", 2, "constant(k)", "constant(k) is False"),
        ("", K, "r = Relu (x) y = Add (r, k)", 1, None, "'r' is Relu, and the pattern has Conv there"),
        ("", K, "y = Add (x, k)", 1, None, "'x' is an input of a graph"),
        ("", K, "c = Conv (x, w) d = Add (c, k) y = Mul (c, d)", 2, "uses(c) == 1", "uses(c) is 2"),
    ],
)
def test_near_misses_name_what_is_missing(more: str, k: str, body: str, matched: int, clause: str | None, reason: str) -> None:
    (miss,) = near_misses(parse_model(CONV_ADD.format(more=more, k=k, body=body)), rule("fuse/conv_add"))
    assert (miss.matched, miss.clause) == (matched, clause)
    assert reason in miss.reason


ABSENT = """summary = "for this test"
effect = "equivalent"
opset = ">=13"
before = "(x, w, b, h) => (y) { c = Conv (x, w, b)  l = Clip (x, BLANK, h)  y = Add (c, l) }"
after = "(x, w, b, h) => (y) { l = Clip (x, BLANK, h)  c = Conv (x, w, b)  y = Add (l, c) }"
optional = ["b"]
[[example]]
graph = "(float[N,1,2,2] x) => (y) <float[1,1,1,1] w = {1}, float h = {1}> { c = Conv (x, w)  l = Clip (x, BLANK, h)  y = Add (c, l) }"
""".replace("BLANK", r"\"\"")


@pytest.mark.parametrize(
    ("body", "matched", "reason"),
    [
        ("c = Conv (x, w)  l = Neg (x)", 2, "'l' is Neg, and the pattern has Clip there"),  # the bias is optional
        ("c = Neg (x)  l = Clip (x, BLANK, h)", 2, "'c' is Neg, and the pattern has Conv there"),  # the lower bound is absent in both
        ("c = Conv (x, w)  l = Clip (x)", 3, "h of Clip 'l' is absent"),
        ("c = Conv (x, w)  l = Clip (x, h, h)", 3, "Clip 'l' has the input 'h', which the pattern leaves out"),
    ],
)
def test_what_is_absent_is_missed_only_where_the_pattern_needs_it(body: str, matched: int, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "rule.toml"
    file.write_text(ABSENT)
    text = f"(float[N,1,2,2] x) => (float[N,1,2,2] y) <float[1,1,1,1] w = {{1}}, float h = {{1}}> {{ {body}  y = Add (c, l) }}".replace("BLANK", '""')
    (miss,) = near_misses(parse_model(text), load_rule(file))
    assert (miss.matched, miss.reason) == (matched, reason)


def test_the_nearest_miss_comes_first_and_what_holds_is_none() -> None:
    body = "r = Relu (x) a = Add (r, k) c = Conv (x, w) d = Add (c, a) e = Conv (x, w) f = Add (e, k) y = Mul (d, f)"
    misses = near_misses(parse_model(CONV_ADD.format(more="", k=K, body=body)), rule("fuse/conv_add"))
    assert [(m.node.outputs[0].name, m.matched) for m in misses] == [("d", 2), ("a", 1)]


def test_why_from_the_command_line(place: Path, run: Any) -> None:
    report = WhyReport.model_validate(run("rules", "why", "fuse/conv_add", "model.onnx", "--format", "json").json)
    assert report.rule == "fuse/conv_add"
    assert "fuse/conv_add was applied" in run("rules", "why", "fuse/conv_add", "model.onnx").out


def test_verbose_lists_what_rules_cost(place: Path, run: Any) -> None:
    assert "rewriting ended: fixed point" in run("simplify", "model.onnx", "-o", "a.onnx", "-v").out
    assert "rewriting ended" not in run("simplify", "model.onnx", "-o", "b.onnx").out


def test_diff_with_the_record(place: Path, run: Any) -> None:
    run("simplify", "model.onnx", "-o", "out.onnx", "--record", "r.json", "-q")
    report = DiffReport.model_validate(run("diff", "model.onnx", "out.onnx", "--record", "r.json", "--format", "json").json)
    applied = {by for step in json.loads((place / "r.json").read_text())["steps"] for by in step["applied"]}
    assert report.nodes and {n.by for n in report.nodes} <= applied
    assert "Both models are the same graph." in run("diff", "model.onnx", "model.onnx").out


def test_bisect_from_the_command_line(place: Path, run: Any) -> None:
    done = run("simplify", "model.onnx", "--bisect", "--data", "feeds.npz", "--format", "json")
    report = BisectReport.model_validate(done.json)
    assert report.applications and report.total is not None and report.total < 1e-5
    for arguments in (("--bisect",), ("--bisect", "--random-data", "-o", "o.onnx"), ("--random-data", "-o", "o.onnx"), ()):
        done = run("simplify", "model.onnx", *arguments)
        assert (done.status, done.out) == (2, "")


def test_bisect_finds_the_rule_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphcompress.passes.simplify import run as passes

    text = """(float[N,1,2,2] x) => (float[N,2,2,2] y)
    <float[2,1,1,1] w = {1, 2}, float[2,2,1,1] u = {1, 2, 3, 4}, float[2] s = {2, 3}, float[2] b = {1, 1}, float[2] m = {0, 1}, float[2] v = {1, 1}, float[2] big = {9, 30}> {
        a = Conv (x, w)  n = BatchNormalization (a, s, b, m, v)  r = Relu (n)  i = Identity (r)
        [here] c = Conv (i, u)  [norm] d = BatchNormalization (c, s, b, m, big)  e = Identity (d)  y = Relu (e)
    }"""
    right = rule("fuse/conv_bn")
    wrong = replace(right, lets={**right.lets, "g": parse("scale / (var + attr(y, 'epsilon', 1e-5))")})  # the same where the variance is 1
    monkeypatch.setattr(passes, "_rules", lambda context, options: lambda operators: [wrong, rule("eliminate/identity")])
    from graphcompress.random_feeds import random_feeds

    model = parse_model(text)
    result = bisect(model, Context(), list(random_feeds(model, 2, 0)))
    assert result.moves[0].change.by == "fuse/conv_bn" and set(result.moves[0].change.removed) == {"here", "norm"}
    assert result.moves[0].moved > 0.1 and all(m.moved < 1e-4 for m in result.moves[1:])


def test_counterexamples_are_small() -> None:
    proof = prove(replace(rule("eliminate/transpose"), clauses=()), 9)
    assert proof.fault is not None
    assert sum(len(str(v)) for v in proof.fault.feed.values()) < 60 and len(proof.fault.graph.splitlines()) <= 9
