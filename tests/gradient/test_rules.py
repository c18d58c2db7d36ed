"""Every gradient rule is right by central differences, and rules that are wrong are found out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graphcompress.errors import RuleError
from graphcompress.gradient import verify as verifier
from graphcompress.gradient.mappers import MAPPERS
from graphcompress.gradient.reverse import gradient, gradient_rules
from graphcompress.gradient.rulefile import GradientRule, load_gradient_rule
from graphcompress.ir.files.text import parse_model
from graphcompress.targets import rules_root

RULES = gradient_rules()
REFUSED = [(rule, example) for rule in RULES.values() for example in rule.examples if example.refused is not None]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_rule_is_right(rule: GradientRule) -> None:
    """A few cases each; `python -m graphcompress.gradient.verify` runs 200."""
    cases = max(4, len([e for e in rule.examples if e.refused is None]))
    assert list(verifier.verify(rule, cases)) == []


@pytest.mark.parametrize(("rule", "example"), REFUSED, ids=lambda value: value.id if isinstance(value, GradientRule) else f"line{value.line}")
def test_a_refused_example_has_no_gradient(rule: GradientRule, example: verifier.GradientExample) -> None:
    model = parse_model(example.graph, {"": example.opset})
    frozen = gradient(model, ["y"], ["x"]).frozen
    assert frozen["x"].id == "gradient/where" and example.refused in frozen["x"].reason


def test_every_mapper_belongs_to_a_rule() -> None:
    assert {rule.mapper for rule in RULES.values()} - {None} == set(MAPPERS)


WRONG = {
    "tanh": ("r = Sub (one, s)", "r = Add (one, s)"),
    "sigmoid": ("s = Mul (y, r)", "s = Identity (r)"),
    "relu": ("dx = Mul (dy, s)", "dx = Identity (dy)"),
    "div": ("db = Neg (p)", "db = Identity (p)"),
    "softmax": ("d = Sub (dy, s)", "d = Identity (dy)"),
    "logsoftmax": ("dx = Sub (dy, p)", "dx = Sub (dy, s)"),
    "batchnormalization": ('half = "0.5"', 'half = "1"'),
    "leakyrelu": ("'alpha', 0.01", "'alpha', 0.02"),
    "globalaveragepool": ("share = Div (a, b)", "share = Div (b, b)"),
    "where": ("da = Where (c, dy, zero)", "da = Where (c, zero, dy)"),
    "erf": ("1.1283791670955126", "1.1283"),
    "pow": ("e = Sub (c, one)", "e = Identity (c)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_found_out(name: str, tmp_path: Path) -> None:
    right, wrong = WRONG[name]
    text = (rules_root() / "gradient" / f"{name}.toml").read_text()
    assert right in text
    path = tmp_path / f"{name}.toml"
    path.write_text(text.replace(right, wrong))
    assert next(verifier.verify(load_gradient_rule(path), 12), None) is not None


def test_a_wrong_mapper_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MAPPERS["convolution"]
    monkeypatch.setitem(MAPPERS, "convolution", lambda call: {**right(call), 1: call.add("Neg", right(call)[1])})
    assert next(verifier.verify(RULES["Conv"], 4), None) is not None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("forward =", "forwards =", "unknown key 'forwards'"),
        ("y = Sigmoid (x)", "z = Relu (x) y = Sigmoid (z)", "forward is one node"),
        ("dx = Mul (dy, s)", "dy2 = Mul (dy, s)", "the output 'dx' is not bound"),
        ("=> (dx) { r", "=> (r) { r", "'r' is not the gradient of an input"),
        ("(y, dy, one)", "(y, dy, one, two)", "the input 'two' is not used"),
        ('one = "1"', 'one = "1"\ntwo = "2"', "let: 'two' is not used"),
        ('one = "1"', 'one = "z"', "'z' in 'z' is not bound"),
        ("s = Mul (y, r)", "s = Mool (y, r)", "has no operator Mool"),
    ],
)
def test_a_faulty_file_is_refused(old: str, new: str, says: str, tmp_path: Path) -> None:
    text = (rules_root() / "gradient" / "sigmoid.toml").read_text()
    assert old in text
    path = tmp_path / "sigmoid.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(RuleError, match=rf"sigmoid.toml:\d+: .*{says}".replace("(", r"\(")):
        load_gradient_rule(path)


def test_a_rule_is_not_taken_beyond_its_opsets() -> None:
    rules = {**RULES, "Relu": replace(RULES["Relu"], opsets=(19, 20))}
    model = parse_model("(float[2] x) => (float[2] y) { y = Relu (x) }", {"": 18})
    assert gradient(model, None, ["x"], rules=rules).frozen["x"].id == "gradient/no-rule"
    assert gradient(model, None, ["x"]).frozen == {}
