"""Reading a rule file: its keys, bodies, expressions and examples, each checked by itself. What a kind of rule is made of is its own loader's business."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NoReturn

from graphcompress.engine import expression
from graphcompress.engine.expression import Expression, ExpressionError
from graphcompress.errors import RuleError, cause
from graphcompress.ir.files.text import Body, BodyNode, TextError, parse_body
from graphcompress.ir.schemas.operators import newest_opset, operator_definition

BOUND = re.compile(r"\s*(>=|<=|==|<|>)\s*(\d+)\s*")


def rule_files(root: Path) -> list[Path]:
    """The rule files below `root`, in order."""
    return sorted(root.rglob("*.toml"))


class RuleText:
    """The text of a rule file. Every fault is a RuleError that names file and line."""

    def __init__(self, path: Path) -> None:
        """Raises RuleError where the file cannot be read."""
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise RuleError(f"{path}: cannot be read: {cause(problem)}") from problem
        self.lines = self.text.splitlines()

    def fail(self, line: int, message: str) -> NoReturn:
        raise RuleError(f"{self.path}:{line}: {message}")

    def table(self, keys: Set[str], required: Sequence[str]) -> dict[str, Any]:
        """The file as a table with `required` among its `keys`."""
        try:
            table = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as problem:
            place = re.search(r"at line (\d+)", str(problem))
            self.fail(int(place[1]) if place else len(self.lines), f"no TOML: {problem}")
        for key in table.keys() - keys:
            self.fail(self.line_of(key), f"unknown key '{key}'; a rule has {', '.join(sorted(keys))}")
        for key in required:
            if key not in table:
                self.fail(1, f"the key '{key}' is missing")
        return table

    def opsets(self, text: str) -> tuple[int, int]:
        low, high = 1, newest_opset()
        for part in text.split(","):
            bound = BOUND.fullmatch(part)
            if not bound:
                self.fail(self.line_of("opset"), f"opset is '{text}'; expected bounds such as '>=9' or '>=9, <15'")
            number = int(bound[2])
            match bound[1]:
                case ">=":
                    low = max(low, number)
                case ">":
                    low = max(low, number + 1)
                case "<=":
                    high = min(high, number)
                case "<":
                    high = min(high, number - 1)
                case _:
                    low, high = max(low, number), min(high, number)
        if low > high:
            self.fail(self.line_of("opset"), f"no opset up to {newest_opset()}, the newest known, fits '{text}'")
        return low, high

    def body(self, table: Mapping[str, Any], key: str, opsets: tuple[int, int]) -> Body:
        text = self.text_of(table, key)
        start = self.line_of(key)
        opener = re.match(rf"{key}\s*=\s*('''|\"\"\")(.*)", self.lines[start - 1])
        first = start + 1 if opener and not opener[2].strip() else start
        try:
            body = parse_body(text, {"": opsets[0]})
        except TextError as problem:
            self.fail(first + problem.line - 1, f"{key}: {problem.message}")
        for node in body.nodes:
            self.check_operator(node, opsets, first + node.line - 1)
        outputs = [t for n in body.nodes for t in n.outputs if t]
        for name in outputs:
            if outputs.count(name) > 1 or name in body.inputs:
                self.fail(first, f"{key}: '{name}' is defined twice")
        known = {*body.inputs, *outputs}
        for node in body.nodes:
            for name in node.inputs:
                if name and name not in known:
                    self.fail(first + node.line - 1, f"{key}: '{name}' is not bound; it is no input and no output of a node")
        for name in body.outputs:
            if name not in known:
                self.fail(first, f"{key}: the output '{name}' is not bound")
        read = {t for n in body.nodes for t in n.inputs} | set(body.outputs)
        for name in body.inputs:
            if name not in read:
                self.fail(first, f"{key}: the input '{name}' is not used")
        return body

    def check_operator(self, node: BodyNode, opsets: tuple[int, int], line: int) -> None:
        if node.domain not in ("", "ai.onnx"):
            return
        version = opsets[1]
        while version >= opsets[0]:
            definition = operator_definition(node.op, node.domain, version)
            if definition is None:
                self.fail(line, f"opset {version} has no operator {node.op}; the rule says it is for opsets {opsets[0]} to {opsets[1]}")
            if len(node.outputs) > definition.outputs[1]:
                self.fail(line, f"{node.op} of opset {version} has {definition.outputs[1]} outputs, not {len(node.outputs)}")
            for name in (*node.attrs, *node.refs):
                if name not in definition.attributes:
                    self.fail(line, f"{node.op} of opset {version} has no attribute '{name}'")
            version = definition.since - 1  # down to there it is the same

    def entry(self, key: str, text: str) -> Expression:
        """The expression `text`, the value of `key`."""
        try:
            return expression.parse(text)
        except ExpressionError as problem:
            self.fail(self.line_of(key), str(problem))

    def clause(self, key: str, text: str) -> Expression:
        """The expression `text`, one of the list `key`."""
        try:
            return expression.parse(text)
        except ExpressionError as problem:
            self.fail(self.line_of_text(text, key), str(problem))

    def example_tables(self, table: Mapping[str, Any], keys: Set[str]) -> Iterator[tuple[dict[str, Any], int]]:
        """The [[example]] tables, each with its line."""
        entries = table["example"]
        places = [i for i, line in enumerate(self.lines, 1) if line.lstrip().startswith("[[example]]")]
        if not isinstance(entries, list) or len(places) != len(entries) or not all(isinstance(e, dict) for e in entries):
            self.fail(self.line_of("example"), "examples are written as [[example]] tables")
        for entry, line in zip(entries, places, strict=True):
            for key in entry.keys() - keys:
                self.fail(line, f"unknown key '{key}' in an example; it has {', '.join(sorted(keys))}")
            yield entry, line

    # --- reading --------------------------------------------------------------------------------------------------------------------

    def line_of(self, key: str) -> int:
        """Where a key (or table) stands; 1 where it cannot be found."""
        pattern = re.compile(rf"\s*\[*\"?{re.escape(key)}\"?\s*[=\]]")
        return next((i for i, line in enumerate(self.lines, 1) if pattern.match(line)), 1)

    def line_of_text(self, text: str, key: str) -> int:
        """Where a clause stands: the line at or behind `key` that holds its text."""
        start = self.line_of(key)
        return next((i for i in range(start, len(self.lines) + 1) if text in self.lines[i - 1]), start)

    def text_of(self, table: Mapping[str, Any], key: str) -> str:
        value = table[key]
        if not isinstance(value, str) or not value.strip():
            self.fail(self.line_of(key), f"'{key}' must be a text that is not empty")
        return value

    def list_of(self, table: Mapping[str, Any], key: str) -> list[str]:
        values = table.get(key, [])
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values) or len(set(values)) != len(values):
            self.fail(self.line_of(key), f"'{key}' must be a list of different texts")
        return values

    def texts(self, table: Mapping[str, Any], key: str) -> dict[str, str]:
        entries = table.get(key, {})
        if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
            self.fail(self.line_of(key), f"'{key}' must be a table of texts")
        return entries
