"""The mutations of one Python source: each a small change of a piece of text that a test ought to notice (used by mutants.py).

Left out: docstrings, annotations, asserts, the texts of errors and notes (any string that is more than one word), `raise`, `__all__`, type-checking code,
decorators, reports of progress, `zip(strict=...)`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult}
SETS = {ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
LEAVES = (ast.Return, ast.Continue, ast.Break, ast.Raise)
SILENT = re.compile(r"(^|\.)(progress|cast|TypeVar|NewType|getLogger|debug|info|warn|warning)$|Error$")
WORD = re.compile(r"[\w.:]*")


@dataclass(frozen=True, order=True)
class Mutant:
    """One change: the piece `start:end` (byte offsets) of the file becomes `text`."""

    file: str
    line: int
    start: int
    end: int
    text: str
    kind: str
    function: str  # the qualified name of the enclosing function; "" at module or class level, whose code runs on import

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def sides(self, source: bytes) -> tuple[str, str]:
        """The lines that it removes and those it adds, each as one line."""
        first, last = source.rfind(b"\n", 0, self.start) + 1, source.find(b"\n", self.end)
        before = source[first:last]
        after = source[first : self.start] + self.text.encode() + source[self.end : last]
        return tuple(" ".join(side.decode().split()) for side in (before, after))

    def parses(self, source: bytes) -> bool:
        try:
            ast.parse(self.apply(source))
        except SyntaxError:
            return False
        return True


def mutants(file: str, source: bytes) -> Iterator[Mutant]:
    """Every mutant of a source, a few of which may not parse."""
    return _Visitor(file, source).visit_all()


class _Visitor:
    def __init__(self, file: str, source: bytes) -> None:
        self.file = file
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def visit_all(self) -> Iterator[Mutant]:
        yield from self._visit(ast.parse(self.source), "", False)

    def _visit(self, node: ast.AST, function: str, inside: bool) -> Iterator[Mutant]:
        """The mutants of a node and all below it.

        Args:
            function: The qualified name so far: of classes too.
            inside: Whether `function` ends in a function, whose code does not run on import.
        """
        if _skipped(node):
            return
        for target, text, kind in _changes(node):
            start, end = self._span(target)
            yield Mutant(self.file, target.lineno, start, end, text, kind, function if inside else "")
        for child in _children(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = f"{function}.<locals>.{child.name}" if inside else f"{function}.{child.name}".lstrip(".")
                yield from self._visit(child, name, isinstance(child, ast.FunctionDef))
            else:
                yield from self._visit(child, function, inside)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )


def _skipped(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.Call(func=func):
            return bool(SILENT.search(ast.unparse(func)))
        case ast.Expr(value=ast.Call(func=func)):
            return bool(SILENT.search(ast.unparse(func)))
        case ast.FunctionDef(name=name):
            return name in ("__repr__", "__str__")
        case ast.keyword(arg="strict"):
            return True
    return False


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        yield node.args[0]  # the second names types
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        # Words in a display are dropped whole; changing their text is the same.
        words = field == "elts"
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not (words and isinstance(child, ast.Constant) and isinstance(child.value, str)):
                yield child


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    """What can be changed at a node itself: the piece that changes, its new text, the kind of mutation."""
    match node:
        case ast.Compare(left=left, ops=ops, comparators=right):
            for place, op in enumerate(ops):
                operands = [f"({ast.unparse(o)})" if isinstance(o, ast.BoolOp | ast.IfExp | ast.Compare) else ast.unparse(o) for o in (left, *right)]
                signs = [_sign(o) for o in ops]
                signs[place] = COMPARISONS[type(op)]
                yield node, operands[0] + "".join(f" {s} {o}" for s, o in zip(signs, operands[1:], strict=True)), "comparison"
        case ast.BoolOp(op=op, values=values):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield node, f"({ast.unparse(ast.BoolOp(other, values))})", "connective"
            for place in range(len(values)):
                rest = values[:place] + values[place + 1 :]
                yield node, f"({ast.unparse(rest[0] if len(rest) == 1 else ast.BoolOp(op, rest))})", "dropped condition"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC and not _is_text(node):
            yield node, f"({ast.unparse(ast.BinOp(left, ARITHMETIC[type(op)](), right))})", "arithmetic"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SETS:
            yield node, f"({ast.unparse(ast.BinOp(left, SETS[type(op)](), right))})", "set operator"
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield node, f"({ast.unparse(operand)})", "sign"
        case ast.Constant(value=bool() as value):
            yield node, str(not value), "constant"
        case ast.Constant(value=int() | float() as value):
            yield node, repr(value + 1), "constant"
        case ast.Constant(value=str() as value) if WORD.fullmatch(value):
            yield node, '""' if value else '"x"', "constant"
        case ast.Name(id=name) if name in NAMES:
            yield node, NAMES[name], "builtin"
        case ast.Expr(value=ast.Call()):
            yield node, "pass", "removed call"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.AugAssign():
            yield node, "pass", "removed assignment"
        case ast.Subscript(slice=index) if not isinstance(index, ast.Constant | ast.Slice | ast.Tuple):
            if isinstance(index, ast.BinOp | ast.UnaryOp):
                yield index, f"{ast.unparse(index)} + 1", "index"
        case ast.Slice(lower=lower, upper=upper):
            for bound in (lower, upper):
                if bound is not None and not isinstance(bound, ast.Constant):
                    yield bound, f"{ast.unparse(bound)} + 1", "slice"
        case ast.Set(elts=elements) | ast.Tuple(elts=elements, ctx=ast.Load()) if len(elements) > 1 and all(
            isinstance(e, ast.Constant | ast.Attribute) for e in elements
        ):
            for place in range(len(elements)):
                rest = elements[:place] + elements[place + 1 :]
                text = ast.unparse(ast.Set(rest) if isinstance(node, ast.Set) else ast.Tuple(rest, ast.Load()))
                yield node, text, "dropped element"
    yield from _conditions(node)
    if isinstance(node, ast.FunctionDef) and not (isinstance(node.returns, ast.Constant) and node.returns.value is None):
        yield from ((r, "return None", "return") for r in _returns(node))


def _conditions(node: ast.AST) -> Iterator[tuple[ast.AST, str, str]]:
    """Conditions negated, guards that never or always hold."""
    tests = list(node.ifs) if isinstance(node, ast.comprehension) else [node.test] if isinstance(node, ast.If | ast.IfExp | ast.While) else []
    for test in tests:
        if not isinstance(test, ast.Compare):  # its operator is changed elsewhere
            yield test, f"({ast.unparse(test.operand)})" if isinstance(test, ast.UnaryOp) else f"(not ({ast.unparse(test)}))", "negated condition"
    if isinstance(node, ast.comprehension):
        yield from ((test, "True", "removed condition") for test in tests)
    if isinstance(node, ast.If) and not node.orelse:
        yield node.test, "False" if isinstance(node.body[-1], LEAVES) else "True", "removed guard"


def _returns(function: ast.FunctionDef) -> Iterator[ast.Return]:
    """The `return` statements of a function with a value that is not None, less those of functions inside."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Return) and node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def _sign(op: ast.cmpop) -> str:
    return ast.unparse(ast.Compare(ast.Name("a"), [op], [ast.Name("b")]))[2:-2]


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str)) for side in (node.left, node.right))
