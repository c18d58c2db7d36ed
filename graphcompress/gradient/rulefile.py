"""A file of rules/gradient -> GradientRule, strictly, as rewrite rules are read.

A rule says how the gradients of an operator's inputs follow from those of its outputs. Where it is a text, `forward` is the operator with names for its inputs and
outputs, and `backward` is a body that may read these names, `dNAME` for the gradient of the output NAME, and names of `let` (a list of integers is a vector of int64,
a number a scalar of the first output's type), and that makes `dNAME` for inputs. It need not mind broadcasting. Where shapes decide, `mapper` names a function of
`gradient.mappers`, and `op` the operator. Examples are small models whose `$NAME`s are replaced by each of the texts in `vary`; the inputs of float type are what is
differentiated, `range` bounds the values of an input. `surrogate` is a model with the same inputs and outputs whose slopes those of `graph` are said to be, where `graph` itself goes in steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphcompress.engine.expression import Expression
from graphcompress.engine.rulereader import RuleText, rule_files
from graphcompress.ir.files.text import Body, BodyNode

KEYS = {"summary", "op", "opset", "forward", "backward", "mapper", "optional", "where", "let", "example"}
EXAMPLE_KEYS = {"graph", "surrogate", "refused", "opset", "vary", "range"}


@dataclass(frozen=True, slots=True)
class GradientExample:
    """A small model in ONNX text; `vary` has the texts that may stand for each `$NAME`, `ranges` the lowest and highest value of an input. `refused` is the clause that does not hold for it. `surrogate` is the model whose slopes are meant, where that is another."""

    graph: str
    vary: Mapping[str, tuple[str, ...]]
    ranges: Mapping[str, tuple[float, float]]
    opset: int
    line: int
    refused: str | None
    surrogate: str | None = None


@dataclass(frozen=True, slots=True)
class GradientRule:
    """A checked rule for the operator `op` of ai.onnx. Either `forward` (its one node) and `backward` are there, or `mapper`."""

    id: str
    path: Path
    summary: str
    op: str
    opsets: tuple[int, int]
    forward: BodyNode | None
    backward: Body | None
    mapper: str | None
    optional: frozenset[str]
    clauses: tuple[Expression, ...]
    lets: Mapping[str, Expression]
    examples: tuple[GradientExample, ...]


def load_gradient_rules(root: Path) -> dict[str, GradientRule]:
    """The rules below `root` (rules/gradient) by operator. Raises RuleError."""
    rules: dict[str, GradientRule] = {}
    for path in rule_files(root):
        rule = load_gradient_rule(path)
        if rule.op in rules:
            RuleText(path).fail(1, f"{rule.op} has a rule in {rules[rule.op].path.name} already")
        rules[rule.op] = rule
    return rules


def load_gradient_rule(path: Path) -> GradientRule:
    """Read one rule file. Raises RuleError naming file, line and what was expected."""
    return _GradientLoader(path).rule()


class _GradientLoader:
    def __init__(self, path: Path) -> None:
        self.path, self.text = path, RuleText(path)

    def rule(self) -> GradientRule:
        text = self.text
        table = text.table(KEYS, ("summary", "opset", "example"))
        if ("mapper" in table) == ("forward" in table) or ("mapper" in table) != ("op" in table) or ("forward" in table) != ("backward" in table):
            text.fail(1, "a rule has `forward` and `backward`, or `op` and `mapper`")
        opsets = text.opsets(text.text_of(table, "opset"))
        lets = {k: text.entry(k, v) for k, v in text.texts(table, "let").items()}
        clauses = tuple(text.clause("where", c) for c in text.list_of(table, "where"))
        forward: BodyNode | None = None
        backward: Body | None = None
        if "forward" in table:
            body = text.body(table, "forward", opsets)
            if len(body.nodes) != 1:
                text.fail(text.line_of("forward"), f"forward is one node; it has {len(body.nodes)}")
            forward, backward = body.nodes[0], text.body(table, "backward", opsets)
        rule = GradientRule(
            id=self.path.stem,
            path=self.path,
            summary=text.text_of(table, "summary"),
            op=forward.op if forward is not None else text.text_of(table, "op"),
            opsets=opsets,
            forward=forward,
            backward=backward,
            mapper=None if forward is not None else text.text_of(table, "mapper"),
            optional=frozenset(text.list_of(table, "optional")),
            clauses=clauses,
            lets=lets,
            examples=tuple(self.examples(table, opsets)),
        )
        self.check_names(rule)
        self.check_examples(rule)
        return rule

    def examples(self, table: Mapping[str, Any], opsets: tuple[int, int]) -> Iterator[GradientExample]:
        for entry, line in self.text.example_tables(table, EXAMPLE_KEYS):
            vary, ranges = entry.get("vary", {}), entry.get("range", {})
            version = entry.get("opset", opsets[0])
            if not isinstance(entry.get("graph"), str) or not isinstance(entry.get("refused", ""), str) or not isinstance(version, int):
                self.text.fail(
                    line, "an example has a `graph` in ONNX text, and may have a `refused` clause, an `opset` number and the tables `vary` and `range`"
                )
            if not isinstance(entry.get("surrogate", ""), str):
                self.text.fail(line, "`surrogate` is a graph in ONNX text")
            if not isinstance(vary, dict) or not all(isinstance(v, list) and v for v in vary.values()):
                self.text.fail(line, "`vary` has a list of texts or numbers for each name")
            if not isinstance(ranges, dict) or not all(isinstance(v, list) and len(v) == 2 for v in ranges.values()):
                self.text.fail(line, "`range` has the lowest and the highest value for each name")
            yield GradientExample(
                entry["graph"],
                {name: tuple(str(v) for v in values) for name, values in vary.items()},
                {name: (float(low), float(high)) for name, (low, high) in ranges.items()},
                version,
                line,
                entry.get("refused"),
                entry.get("surrogate"),
            )

    def check_names(self, rule: GradientRule) -> None:
        text = self.text
        if rule.forward is None or rule.backward is None:
            if rule.lets or rule.clauses or rule.optional:
                text.fail(1, "`let`, `where` and `optional` belong to rules with `forward`")
            return
        if rule.forward.attrs or rule.forward.refs:
            text.fail(text.line_of("forward"), "forward: attributes are read with attr() in `let` and `where`")
        tensors = {*rule.forward.inputs, *rule.forward.outputs}
        known = {*tensors, *(f"d{name}" for name in rule.forward.outputs)}
        seen: set[str] = set()
        for name, expression in rule.lets.items():
            if name in known:
                text.fail(text.line_of(name), f"let: '{name}' is a name of `forward`")
            self.bound(expression, tensors | seen, text.line_of(name), f"let: '{name}'")
            seen.add(name)
        for clause in rule.clauses:
            self.bound(clause, tensors | seen, text.line_of_text(clause.text, "where"), "where")
        refs = {r for n in rule.backward.nodes for r in n.refs.values()}
        for name in rule.backward.inputs:
            if name not in known and name not in rule.lets:
                text.fail(text.line_of("backward"), f"backward: the input '{name}' is neither a name of `forward`, nor the gradient of an output, nor of `let`")
        for name in refs - rule.lets.keys():
            text.fail(text.line_of("backward"), f"backward: '@{name}' is not in `let`")
        for name in rule.backward.outputs:
            if name not in {f"d{i}" for i in rule.forward.inputs}:
                text.fail(text.line_of("backward"), f"backward: the output '{name}' is not the gradient of an input of `forward`")
        used = {*rule.backward.inputs, *refs, *(n for e in (*rule.lets.values(), *rule.clauses) for n in e.names)}
        for name in rule.lets.keys() - used:
            text.fail(text.line_of(name), f"let: '{name}' is not used")
        for name in rule.optional - set(rule.forward.inputs):
            text.fail(text.line_of("optional"), f"optional: '{name}' is no input of `forward`")

    def bound(self, expression: Expression, names: set[str], line: int, where: str) -> None:
        for name in expression.names:
            if name not in names:
                self.text.fail(line, f"{where}: '{name}' in '{expression.text}' is not bound")

    def check_examples(self, rule: GradientRule) -> None:
        clauses = {c.text for c in rule.clauses}
        for example in rule.examples:
            if example.refused is not None and example.refused not in clauses:
                self.text.fail(example.line, f"refused = '{example.refused}' is no clause of `where`")
            if not rule.opsets[0] <= example.opset <= rule.opsets[1]:
                self.text.fail(example.line, f"opset {example.opset} is not one that the rule is for")
        if all(e.refused is not None for e in rule.examples):
            self.text.fail(1, "there is no example that the rule differentiates (one without `refused`)")
        for clause in sorted(clauses - {e.refused for e in rule.examples}):
            self.text.fail(self.text.line_of_text(clause, "where"), f"no example is refused by '{clause}'")
