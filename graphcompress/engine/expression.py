"""The little language of `where` and `let`: Python's grammar for expressions, cut down, and interpreted.

Names are what the match binds and what `let` defines; functions are those of `structural_functions` and `constant_functions`. There are no attributes, keywords, comprehensions, lambdas,
strings that are formatted, no `eval`, no imports: `ast` parses, and whatever is not listed here is an error when the rule is loaded.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.engine import constant_functions, structural_functions
from graphcompress.engine.functions import Binding, Function, GraphQueries
from graphcompress.engine.values import Undetermined, Value, common, lifted

LONGEST = 500
DEEPEST = 40
LARGEST_EXPONENT = 64

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.MatMult: operator.matmul,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
FUNCTIONS: dict[str, Function] = {**structural_functions.FUNCTIONS, **constant_functions.FUNCTIONS}
CONSTANTS = (int, float, str, bool, type(None))


class ExpressionError(ValueError):
    """An expression that the language does not have."""


Run = Callable[[Mapping[str, Any], GraphQueries], Any]


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: its text, its tree, the names that it reads, and what calculates it from names and the graph."""

    text: str
    tree: ast.expr
    names: tuple[str, ...]
    run: Run


def parse(text: str) -> Expression:
    """Parse `text`. Raises ExpressionError for what the language does not have."""
    if len(text) > LONGEST:
        raise ExpressionError(f"the expression is longer than {LONGEST} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise ExpressionError(f"'{text}' is no expression: {getattr(problem, 'msg', problem)}") from problem
    names: dict[str, None] = {}
    for node in _walk(tree):
        _check(node, text)
        if isinstance(node, ast.Name):
            names[node.id] = None
    return Expression(text, tree, tuple(names), _value_of(tree))


def structural(expression: Expression, tensors: frozenset[str]) -> bool:
    """Whether the expression can be judged without the value of any of `tensors`: they are only handed to structural functions."""

    def look(node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id not in tensors
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return FUNCTIONS[node.func.id].structural and all(isinstance(a, ast.Name) or look(a) for a in node.args)
        return all(look(c) for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr))

    return look(expression.tree)


def evaluate(expression: Expression, names: Mapping[str, Any], graph: GraphQueries) -> Any:
    """The value under `names`: plain Python data or a Value. Raises Undetermined where there is none.

    numpy may warn of what `finite()` is there to find (a division by zero, an overflow): callers that mind switch its warnings off.
    """
    try:
        return expression.run(names, graph)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        raise Undetermined(f"'{expression.text}': {problem}") from problem


# --- from trees to functions: what runs at every match must not walk trees ----------------------------------------------------------


def _value_of(node: ast.expr) -> Run:
    """What calculates `node`; a tensor is read."""
    if not isinstance(node, ast.Name | ast.Call | ast.Subscript):
        return _raw_of(node)
    raw = _raw_of(node)

    def run(names: Mapping[str, Any], graph: GraphQueries) -> Any:
        result = raw(names, graph)
        return result.value() if isinstance(result, Binding) else result

    return run


def _raw_of(node: ast.expr) -> Run:
    """What calculates `node`; a name alone stays the tensor that it is bound to, as functions want it."""
    match node:
        case ast.Constant(value=constant):
            return lambda names, graph: constant
        case ast.Name(id=name):
            return lambda names, graph: names[name]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            entries = [_value_of(e) for e in elements]
            return lambda names, graph: [e(names, graph) for e in entries]
        case ast.Call(func=ast.Name(id=name), args=arguments):
            called, operands = FUNCTIONS[name], [_raw_of(a) for a in arguments]
            return lambda names, graph: called(graph, *[o(names, graph) for o in operands])
        case ast.BoolOp(op=kind, values=parts):
            tests, every = [_value_of(v) for v in parts], all if isinstance(kind, ast.And) else any
            return lambda names, graph: every(_truth(t(names, graph)) for t in tests)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _value_of(operand)
            return lambda names, graph: not _truth(inner(names, graph))
        case ast.UnaryOp(op=unary, operand=operand):
            inner, function = _value_of(operand), UNARY[type(unary)]
            return lambda names, graph: _apply(function, inner(names, graph))
        case ast.BinOp(left=left, op=binary, right=right):
            first, second = _value_of(left), _value_of(right)
            return lambda names, graph: _binary(binary, first(names, graph), second(names, graph))
        case ast.Compare(left=left, ops=kinds, comparators=others):
            sides = [_value_of(n) for n in (left, *others)]
            return _comparison([COMPARE[type(k)] for k in kinds], sides)
        case ast.IfExp(test=test, body=body, orelse=other):
            condition, yes, no = (_value_of(n) for n in (test, body, other))
            return lambda names, graph: (yes if _truth(condition(names, graph)) else no)(names, graph)
        case ast.Subscript(value=sequence, slice=index):
            whole, place = _value_of(sequence), _value_of(index)
            return lambda names, graph: whole(names, graph)[place(names, graph)]
    raise ExpressionError(f"no value for {ast.unparse(node)}")


def _comparison(functions: Sequence[Callable[[Any, Any], Any]], sides: Sequence[Run]) -> Run:
    """A chain such as 0 < a <= b: the last comparison may be elementwise, those before it must be true or false."""

    def run(names: Mapping[str, Any], graph: GraphQueries) -> Any:
        left = sides[0](names, graph)
        for function, side in zip(functions[:-1], sides[1:-1], strict=True):
            right = side(names, graph)
            if not _truth(held := _apply(function, left, right, "bool")):
                return held
            left = right
        return _apply(functions[-1], left, sides[-1](names, graph), "bool")

    return run


def _binary(kind: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(kind, ast.Pow) and not isinstance(left, Value) and abs(lifted(right)) > LARGEST_EXPONENT:
        raise Undetermined("the exponent is too large")
    if isinstance(kind, ast.Mult) and any(isinstance(v, list | str) for v in (left, right)):
        raise Undetermined("lists are not multiplied")
    if isinstance(kind, ast.Div | ast.Pow) and any(isinstance(v, Value) and not v.floating for v in (left, right)):
        raise Undetermined("integer tensors are not divided")
    return _apply(BINARY[type(kind)], left, right)


def _apply(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` on plain data, or elementwise on Values of one element type. A text as last argument names the type of the result."""
    dtype = arguments[-1] if arguments and arguments[-1] == "bool" and len(arguments) == 3 else None
    operands = arguments[:-1] if dtype else arguments
    if not any(isinstance(a, Value) for a in operands):
        return function(*operands)
    kind = common(*operands)
    return Value(np.asarray(function(*(lifted(a) for a in operands))), dtype or kind)


def _truth(value: Any) -> bool:
    if isinstance(value, Value):
        if value.array.size != 1:
            raise Undetermined("a tensor of several elements is neither true nor false: use every() or some()")
        return bool(value.array)
    return bool(value)


def _walk(tree: ast.expr) -> Iterator[ast.AST]:
    """Every node but operators and contexts; the name of a function is part of its call. Raises ExpressionError for what is nested too deep."""
    stack: list[tuple[ast.AST, int]] = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > DEEPEST:
            raise ExpressionError(f"the expression is nested more than {DEEPEST} deep")
        yield node
        inner = (c for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr | ast.keyword) and not (isinstance(node, ast.Call) and c is node.func))
        stack.extend((c, depth + 1) for c in inner)


def _check(node: ast.AST, text: str) -> None:
    match node:
        case ast.Constant(value=value) if isinstance(value, CONSTANTS):
            return
        case ast.Name() | ast.List() | ast.Tuple() | ast.IfExp() | ast.BoolOp():
            return
        case ast.BinOp(op=op) if type(op) in BINARY:
            return
        case ast.UnaryOp(op=op) if type(op) in UNARY or isinstance(op, ast.Not):
            return
        case ast.Compare(ops=ops) if all(type(o) in COMPARE for o in ops):
            return
        case ast.Subscript(slice=index) if not isinstance(index, ast.Slice):
            return
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if not any(isinstance(a, ast.Starred) for a in arguments):
            function = FUNCTIONS.get(name)
            if function is None:
                raise ExpressionError(f"'{text}' calls {name}(), which does not exist (there are {', '.join(sorted(FUNCTIONS))})")
            if not function.least <= len(arguments) <= function.most:
                expected = str(function.least) if function.least == function.most else f"{function.least} to {function.most}"
                raise ExpressionError(f"'{text}' calls {name}() with {len(arguments)} arguments; it takes {expected}")
            return
    raise ExpressionError(
        f"'{text}' uses {type(node).__name__} ({ast.unparse(node) if isinstance(node, ast.expr) else node}), which the language does not have"
    )
