"""Loading is strict: each fault of a rule file is an error with file, line and what was expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphcompress.engine import load_rule, load_rules, rule_files
from graphcompress.engine.rulefile import operators_of
from graphcompress.errors import RuleError
from graphcompress.targets import rules_root

GOOD = """\
summary = "x times one"
effect = "exact"
opset = ">=7"
before = '''
(x, k) => (y) {
    y = Mul (x, k)
}'''
after = "(x) => (x) { }"
where = ["constant(k)", "every(k == one)"]

[let]
one = "1"

[[example]]
graph = '''(float[2] x) => (float[2] z) <float k = {1}> { y = Mul (x, k) z = Relu (y) }'''

[[example]]
refused = "constant(k)"
graph = '''(float[2] x, float k) => (float[2] z) { y = Mul (x, k) z = Relu (y) }'''

[[example]]
refused = "every(k == one)"
graph = '''(float[2] x) => (float[2] z) <float k = {2}> { y = Mul (x, k) z = Relu (y) }'''
"""


def fault(tmp_path: Path, text: str) -> str:
    path = tmp_path / "rule.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RuleError) as caught:
        load_rule(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


@pytest.mark.parametrize(("bounds", "expected"), [(">=9, <15", (9, 14)), (">9, <=15", (10, 15)), ("==13", (13, 13)), (">=9, >10, <=12, <=14", (11, 12))])
def test_bounds_of_opsets(bounds: str, expected: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "rule.toml"
    path.write_text(GOOD.replace(">=7", bounds), encoding="utf-8")
    assert load_rule(path, tmp_path).opsets == expected


def test_a_good_rule_is_read(tmp_path: Path) -> None:
    path = tmp_path / "eliminate" / "rule.toml"
    path.parent.mkdir()
    path.write_text(GOOD, encoding="utf-8")
    rule = load_rule(path, tmp_path)
    assert rule.id == "eliminate/rule"
    assert rule.root_op == ("", "Mul")
    assert rule.opsets[0] == 7
    assert [c.text for c in rule.clauses] == ["constant(k)", "every(k == one)"]
    assert [e.refused for e in rule.examples] == [None, "constant(k)", "every(k == one)"]
    assert rule.target is None


def test_clauses_that_need_no_values_come_first(tmp_path: Path) -> None:
    """A value that is read by way of a name, beside what is none, is read all the same."""
    path = tmp_path / "rule.toml"
    where = ["half + rank(x) == 1.5", "every(k == one)", "rank(x) == one", "constant(k)"]
    text = GOOD.replace('where = ["constant(k)", "every(k == one)"]', f"where = {json.dumps(where)}").replace('one = "1"', 'one = "1"\nhalf = "k / 2"')
    more = [("half + rank(x) == 1.5", "float[2]", "<float k = {3}> "), ("rank(x) == one", "float[2, 2]", "<float k = {1}> ")]
    for refused, kind, constant in more:
        text += f"""
[[example]]
refused = "{refused}"
graph = '''({kind} x) => ({kind} z) {constant}{{ y = Mul (x, k) z = Relu (y) }}'''
"""
    path.write_text(text, encoding="utf-8")
    assert [c.text for c in load_rule(path, tmp_path).clauses] == ["rank(x) == one", "constant(k)", "half + rank(x) == 1.5", "every(k == one)"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('summary = "x times one"\n', "", 1, "'summary' is missing"),
        ('summary = "x times one"', 'summary = ""', 1, "not empty"),
        ("opset =", "opsets =", 3, "unknown key 'opsets'"),
        ('effect = "exact"', 'effect = "sound"', 2, "exact, equivalent, approximate"),
        ('effect = "exact"', 'effect = "equivalent"\nnonfinite = "perhaps"', 3, "overflow, any"),
        ('effect = "exact"', 'effect = "exact"\nnonfinite = "any"', 3, "not exact"),
        ('">=7"', '"7 and up"', 3, "expected bounds such as '>=9'"),
        ('">=7"', '">=9, <9"', 3, "no opset"),
        ("    y = Mul (x, k)\n}", "    y = Mul (x, k\n}", 7, "before"),
        ("    y = Mul (x, k)\n}", "    y = Mool (x, k)\n}", 6, "no operator Mool"),
        ("    y = Mul (x, k)\n}", "    y = Mul <axis = 1> (x, k)\n}", 6, "no attribute 'axis'"),
        ("    y = Mul (x, k)\n}", "    y = Mul (x, q)\n}", 6, "'q' is not bound"),
        ("(x, k) => (y)", "(x, k, q) => (y)", 5, "'q' is not used"),
        ("(x, k) => (y)", "(x, k) => (q)", 5, "'q' is not bound"),
        ("    y = Mul (x, k)\n}", "    y = Mul (x, k)\n    z = Relu (x)\n}", 4, "one last node"),
        ("    y = Mul (x, k)\n}", "    y = Mul (x, k)\n    y = Relu (x)\n}", 5, "'y' is defined twice"),
        ('"(x) => (x) { }"', '"(x) => (x, x) { }"', 8, "equally many outputs"),
        ('"(x) => (x) { }"', '"(w) => (w) { }"', 8, "'w' is neither"),
        ('"(x) => (x) { }"', '"(x) => (y) { y = Cast <to: int = @kind> (x) }"', 8, "'@kind' is not in `let`"),
        ('"constant(k)", "every', '"constant(q)", "every', 9, "'q' in 'constant(q)' is not bound"),
        ('"constant(k)", "every', '"open(k)", "every', 9, "calls open()"),
        ('"constant(k)", "every', '"k.values == 1", "every', 9, "Attribute"),
        ('"constant(k)", "every', '"uses(k, k) == 1", "every', 9, "with 2 arguments; it takes 1"),
        ('one = "1"', 'one = "1"\ntwo = "2"', 13, "'two' is not used"),
        ('one = "1"', 'one = "two"\ntwo = "2"', 12, "earlier entry of `let`"),
        ('one = "1"', 'one = "1"\nk = "one"', 13, "already a name of `before`"),
        ("where = ", 'optional = ["q"]\nwhere = ', 9, "'q' is no input"),
        ("where = ", 'inherit = { "y" = "x" }\nwhere = ', 9, "must be made in `after`"),
        ('refused = "every(k == one)"', 'refused = "every(k == 1)"', 21, "no clause of `where`"),
        ('[[example]]\nrefused = "constant(k)"', '[[example]]\nrefused = "every(k == one)"', 9, "no example is refused by 'constant(k)'"),
        ('[[example]]\nrefused = "constant(k)"', '[[example]]\nwhy = "constant(k)"', 17, "unknown key 'why'"),
        ('[[example]]\nrefused = "constant(k)"', '[[example]]\nopset = 6\nrefused = "constant(k)"', 17, "opset 6"),
        ("[[example]]\ngraph", '[[example]]\nrefused = "constant(k)"\ngraph', 1, "no example that the rule changes"),
        ("[let]", "[let", 11, "no TOML"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    assert old in GOOD
    message = fault(tmp_path, GOOD.replace(old, new, 1))
    assert words in message
    assert message.split(":")[0] == str(line)


def test_a_rule_for_a_target_is_read_for_that_target_only(tmp_path: Path) -> None:
    for place in ("eliminate", "targets/cpu", "targets/other"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "rule.toml").write_text(GOOD, encoding="utf-8")
    assert [r.id for r in load_rules(tmp_path)] == ["eliminate/rule"]
    assert [r.id for r in load_rules(tmp_path, "cpu")] == ["eliminate/rule", "targets/cpu/rule"]
    assert load_rules(tmp_path, "cpu")[1].target == "cpu"


def test_clauses_that_read_values_are_judged_last(tmp_path: Path) -> None:
    path = tmp_path / "rule.toml"
    path.write_text(GOOD.replace('["constant(k)", "every(k == one)"]', '["every(k == one)", "constant(k)"]'), encoding="utf-8")
    assert [c.text for c in load_rule(path).clauses] == ["constant(k)", "every(k == one)"]


@pytest.mark.parametrize("path", rule_files(rules_root() / "rewrite"), ids=lambda p: p.stem)
def test_the_operators_of_a_rule_are_known_without_reading_it(path: Path) -> None:
    rule = load_rule(path)
    assert operators_of(path) == (frozenset(n.op for n in rule.before.nodes), frozenset(n.op for n in rule.after.nodes))


def test_only_rules_of_use_are_loaded() -> None:
    root = rules_root() / "rewrite"
    every = load_rules(root, "cpu")
    assert load_rules(root, "cpu", {n.op for r in every for n in r.before.nodes}) == every
    assert load_rules(root, "cpu", ()) == []
    few = {r.id for r in load_rules(root, None, {"Sum", "Conv"})}
    assert {"canonicalize/sum_of_two", "fuse/conv_add", "fuse/conv1x1_conv1x1"} <= few  # Sum is written as Add, which goes into the Conv
    assert "fuse/conv_bn" not in few


@pytest.mark.parametrize("quote", ["'''", '"""', "'", '"'])
def test_operators_are_found_however_a_body_is_quoted(quote: str, tmp_path: Path) -> None:
    path = tmp_path / "rule.toml"
    path.write_text(f"before = {quote}(x) => (y) {{ a = Neg (x) y = com.x.Twice <n = 2> (a) }}{quote}\nafter = {quote}(x) => (y) {{ y = Exp(x) }}{quote}\n")
    assert operators_of(path) == ({"Neg", "Twice"}, {"Exp"})
    assert operators_of(tmp_path / "none.toml") == (frozenset(), frozenset())
