"""A rule file -> Rule, strictly: an unknown key, an unbound or unused name, an operator that an opset lacks, a clause without an example are errors with file and line."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graphcompress.engine import expression
from graphcompress.engine.expression import Expression
from graphcompress.engine.rulereader import RuleText, rule_files
from graphcompress.ir.files.text import Body

KEYS = {"summary", "effect", "opset", "before", "after", "inherit", "optional", "where", "let", "benefit", "nonfinite", "example"}
REQUIRED = ("summary", "effect", "opset", "before", "after", "example")
EXAMPLE_KEYS = {"graph", "refused", "opset"}
EFFECTS = ("exact", "equivalent", "approximate")
BENEFITS = ("speed", "size", "int8")
NONFINITE = ("overflow", "any")
TARGETS = "targets"
_BODY = re.compile(r"""^(before|after)\s*=\s*('''|\"{3}|'|")(.*?)\2""", re.MULTILINE | re.DOTALL)
_OPERATOR = re.compile(r"=\s*(?:\w+\.)*(\w+)\s*[<(]")
EXAMPLE_OPSET = 17
Effect = Literal["exact", "equivalent", "approximate"]


@dataclass(frozen=True, slots=True)
class Example:
    """A small graph that the rule changes, or that the clause `refused` keeps as it is. `line` is where it stands in the file."""

    graph: str
    refused: str | None
    opset: int
    line: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A checked rule. `id` is its path below rules/rewrite without ending; `opsets` are the lowest and the highest version of ai.onnx that it is for.

    `clauses` stand in the order in which they are judged: those that look at the graph only, then those that read values; each in file order.
    `root` is the index in `before.nodes` of the node that all others lead to; `makers` says which node and which output of it makes a name. `target` names the target that the rule is only for.
    `benefit` is what benchmarks/rules.py found it to be good for ("" where nothing was measured, as of removals): "speed"; "size", where onnxruntime takes the same time without it;
    "int8", where integer kernels need it.
    `nonfinite` says where it may change what is not finite: "" nowhere; "overflow" where a value between leaves the range of its type, before or after alone, because other values
    are formed between; "any" also where infinities and NaN that come in meet (or do not meet) in other places.
    """

    id: str
    path: Path
    summary: str
    effect: Effect
    opsets: tuple[int, int]
    before: Body
    after: Body
    inherit: Mapping[str, str]
    optional: frozenset[str]
    clauses: tuple[Expression, ...]
    lets: Mapping[str, Expression]
    examples: tuple[Example, ...]
    root: int
    makers: Mapping[str, tuple[int, int]]
    target: str | None
    benefit: str
    nonfinite: str
    texts: tuple[str, str]

    @property
    def root_op(self) -> tuple[str, str]:
        node = self.before.nodes[self.root]
        return node.domain, node.op

    @property
    def size(self) -> int:
        return len(self.before.nodes)


def load_rules(root: Path, target: str | None = None, operators: Collection[str] | None = None) -> list[Rule]:
    """Every rule below `root` that holds for `target`: those for other targets are not even read. Raises RuleError.

    With `operators`, those of a graph, only the rules whose operators are all among them, or among what such rules write; the others can change nothing in it.
    """
    files = _files_for(root, target)
    return [load_rule(f, root) for f in (files if operators is None else _of_use(files, operators))]


def rule_ids(root: Path, target: str | None = None) -> list[str]:
    """The ids of all rules below `root` that hold for `target`. Only the names of files are read."""
    return [_id_of(f, root) for f in _files_for(root, target)]


def _files_for(root: Path, target: str | None) -> list[Path]:
    return [f for f in rule_files(root) if _target_of(f, root) in (None, target)]


def _id_of(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _of_use(files: Sequence[Path], operators: Collection[str]) -> list[Path]:
    known, left, found = set(operators), dict.fromkeys(files), set[Path]()
    while more := [f for f in left if operators_of(f)[0] <= known]:
        found.update(more)
        for file in more:
            del left[file]
            known |= operators_of(file)[1]
    return [f for f in files if f in found]


def operators_of(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """What a rule file has in `before` and in `after`, without domains; nothing where that cannot be told without reading it as a whole."""
    try:
        return _operators_in(path, path.stat().st_mtime_ns)
    except OSError:
        return frozenset(), frozenset()  # reading the file says what is wrong


@functools.cache
def _operators_in(path: Path, changed: int) -> tuple[frozenset[str], frozenset[str]]:
    bodies = {key: body for key, _, body in _BODY.findall(path.read_text(encoding="utf-8", errors="replace"))}
    before, after = (frozenset(_OPERATOR.findall(bodies.get(key, ""))) for key in ("before", "after"))
    return before, after


def load_rule(path: Path, root: Path | None = None) -> Rule:
    """Read one rule file; its id is the path below `root`, or its name alone. Raises RuleError naming file, line and what was expected."""
    try:
        state = path.stat()
    except OSError:
        return _Loader(path, root or path.parent).rule()  # which says what is wrong
    return _loaded(path, root or path.parent, state.st_mtime_ns, state.st_size)


@functools.cache
def _loaded(path: Path, root: Path, changed: int, size: int) -> Rule:
    """A file is read once in a process, as long as it stays as it is (`changed`, `size`)."""
    return _Loader(path, root).rule()


def _target_of(path: Path, root: Path) -> str | None:
    parts = path.relative_to(root).parts
    return parts[1] if len(parts) > 2 and parts[0] == TARGETS else None


class _Loader:
    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root, self.text = path, root, RuleText(path)

    def rule(self) -> Rule:
        table = self.text.table(KEYS, REQUIRED)
        summary, effect = self.text.text_of(table, "summary"), self.text.text_of(table, "effect")
        if effect not in EFFECTS:
            self.text.fail(self.text.line_of("effect"), f"effect is '{effect}'; it must be one of {', '.join(EFFECTS)}")
        benefit = table.get("benefit", "")
        if benefit and benefit not in BENEFITS:
            self.text.fail(self.text.line_of("benefit"), f"benefit is '{benefit}'; it must be one of {', '.join(BENEFITS)}")
        nonfinite = table.get("nonfinite", "")
        if nonfinite and (nonfinite not in NONFINITE or effect == "exact"):
            self.text.fail(self.text.line_of("nonfinite"), f"nonfinite is '{nonfinite}'; it must be one of {', '.join(NONFINITE)}, in a rule that is not exact")
        opsets = self.text.opsets(self.text.text_of(table, "opset"))
        before, after = (self.text.body(table, key, opsets) for key in ("before", "after"))
        lets = {k: self.text.entry(k, v) for k, v in self.text.texts(table, "let").items()}
        where = [self.text.clause("where", c) for c in self.text.list_of(table, "where")]
        rule = Rule(
            id=_id_of(self.path, self.root),
            path=self.path,
            summary=summary,
            effect=effect,  # type: ignore[arg-type]
            opsets=opsets,
            before=before,
            after=after,
            inherit=self.text.texts(table, "inherit"),
            optional=frozenset(self.text.list_of(table, "optional")),
            clauses=self.ordered(where, lets, before),
            lets=lets,
            examples=tuple(self.examples(table, opsets)),
            root=self.root_of(before),
            makers={name: (index, place) for index, node in enumerate(before.nodes) for place, name in enumerate(node.outputs) if name},
            target=_target_of(self.path, self.root),
            benefit=benefit,
            nonfinite=nonfinite,
            texts=(table["before"].strip(), table["after"].strip()),
        )
        self.check_names(rule)
        self.check_examples(rule)
        return rule

    def ordered(self, where: list[Expression], lets: Mapping[str, Expression], before: Body) -> tuple[Expression, ...]:
        """Clauses that need no values first: nothing is decoded for a match that cannot hold."""
        tensors = frozenset((*before.inputs, *(t for n in before.nodes for t in n.outputs)))
        plain: set[str] = set()
        for name, expression_ in lets.items():
            if self.cheap(expression_, lets, plain, tensors):
                plain.add(name)
        return tuple(sorted(where, key=lambda c: not self.cheap(c, lets, plain, tensors)))

    @staticmethod
    def cheap(expression_: Expression, lets: Mapping[str, Expression], plain: set[str], tensors: frozenset[str]) -> bool:
        return all(n not in lets or n in plain for n in expression_.names) and expression.structural(expression_, tensors)

    def examples(self, table: Mapping[str, Any], opsets: tuple[int, int]) -> Iterator[Example]:
        for entry, line in self.text.example_tables(table, EXAMPLE_KEYS):
            version = entry.get("opset", min(max(EXAMPLE_OPSET, opsets[0]), opsets[1]))
            if not isinstance(entry.get("graph"), str) or not isinstance(entry.get("refused", ""), str) or not isinstance(version, int):
                self.text.fail(line, "an example has a `graph` in ONNX text, and may have a `refused` clause and an `opset` number")
            yield Example(entry["graph"], entry.get("refused"), version, line)

    def root_of(self, before: Body) -> int:
        """The one node that all others lead to: matching starts there."""
        makers = {t: i for i, n in enumerate(before.nodes) for t in n.outputs if t}
        read = {makers[t] for n in before.nodes for t in n.inputs if t in makers}
        roots = [i for i in range(len(before.nodes)) if i not in read]
        if len(roots) != 1:
            self.text.fail(self.text.line_of("before"), f"before must have one last node that all others lead to; it has {len(roots)}")
        root = before.nodes[roots[0]]
        for name in before.outputs:
            if name not in root.outputs:
                self.text.fail(self.text.line_of("before"), f"the output '{name}' is not made by the last node, {root.op}")
        return roots[0]

    # --- checks across parts --------------------------------------------------------------------------------------------------------

    def check_names(self, rule: Rule) -> None:
        tensors = {*rule.before.inputs, *(t for n in rule.before.nodes for t in n.outputs if t)}
        made_after = {t for n in rule.after.nodes for t in n.outputs if t}
        for name in rule.lets:
            if name in tensors:
                self.text.fail(self.text.line_of(name), f"let: '{name}' is already a name of `before`")
        seen: set[str] = set()
        for name, expression_ in rule.lets.items():
            for used in expression_.names:
                if used not in tensors and used not in seen:
                    self.text.fail(
                        self.text.line_of(name), f"let: '{used}' in '{name}' is not bound; it must be a name of `before` or an earlier entry of `let`"
                    )
            seen.add(name)
        for clause in rule.clauses:
            for used in clause.names:
                if used not in tensors and used not in rule.lets:
                    self.text.fail(self.text.line_of_text(clause.text, "where"), f"where: '{used}' in '{clause.text}' is not bound")
        for name in rule.after.inputs:
            if name not in tensors and name not in rule.lets:
                self.text.fail(self.text.line_of("after"), f"after: the input '{name}' is neither a name of `before` nor of `let`")
        refs = {r for n in rule.after.nodes for r in n.refs.values()}
        for name in refs - rule.lets.keys():
            self.text.fail(self.text.line_of("after"), f"after: '@{name}' is not in `let`")
        if any(n.refs for n in rule.before.nodes):
            self.text.fail(self.text.line_of("before"), "before: attributes are compared with what is written; read them with attr() in `let`")
        used_names = {*rule.after.inputs, *refs, *(u for c in rule.clauses for u in c.names), *(u for e in rule.lets.values() for u in e.names)}
        for name in rule.lets.keys() - used_names:
            self.text.fail(self.text.line_of(name), f"let: '{name}' is not used")
        for name in rule.optional - set(rule.before.inputs):
            self.text.fail(self.text.line_of("optional"), f"optional: '{name}' is no input of `before`")
        for new, old in rule.inherit.items():
            if new not in made_after or old not in tensors - set(rule.before.inputs):
                self.text.fail(self.text.line_of("inherit"), f"inherit: '{new}' must be made in `after` and '{old}' in `before`")
        if len(rule.before.outputs) != len(rule.after.outputs):
            self.text.fail(self.text.line_of("after"), "before and after must have equally many outputs")

    def check_examples(self, rule: Rule) -> None:
        clauses = {c.text for c in rule.clauses}
        for example in rule.examples:
            if example.refused is not None and example.refused not in clauses:
                self.text.fail(example.line, f"refused = '{example.refused}' is no clause of `where`")
            if not rule.opsets[0] <= example.opset <= rule.opsets[1]:
                self.text.fail(example.line, f"opset {example.opset} is not one that the rule is for")
        if all(e.refused is not None for e in rule.examples):
            self.text.fail(1, "there is no example that the rule changes (one without `refused`)")
        for clause in sorted(clauses - {e.refused for e in rule.examples if e.refused is not None}):
            self.text.fail(self.text.line_of_text(clause, "where"), f"no example is refused by '{clause}'")
