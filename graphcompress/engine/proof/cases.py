"""Random small graphs that a rule may match, made from its own pattern: nodes in order, operands that fit, literals of its clauses as values and attributes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphcompress.engine import expression
from graphcompress.engine.proof.choices import Choices
from graphcompress.engine.proof.draft import FLOATS, Attributes, Dims, NoCase
from graphcompress.engine.proof.operands import FLOATS_ONLY, OPERANDS, elementwise
from graphcompress.engine.rulefile import Rule
from graphcompress.ir import Model
from graphcompress.ir.files.text import BodyNode, parse_model
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.schemas.operators import operator_definition
from graphcompress.ir.shapes.infer import infer

Array = np.ndarray[Any, Any]

OPSETS = (17, 13, 18, 11, 9, 10, 7, 8, 12, 14, 15, 16, 19, 20, 21, 22, 23, 24, 25, 26)
TYPES = ("float", "float", "float", "float", "double", "float16", "int32", "int64", "uint8", "bool")
SIZES = (1, 2, 3, 4)
NUMBERS = (1.0, 0.0, -0.0, 2.0, -1.0, 0.5)
FITTING = (1.0, 2.0, 0.5, 3.0)
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 3e38)
NEAR_OVERFLOW = (3e38,)
LARGE = 1e18
ABSENT = '""'
MOST_ELEMENTS = 4096


@dataclass(slots=True)
class CaseTensor:
    """An input or constant of a case. `dims` are those that are declared: a size or a symbol per axis."""

    array: Array
    dtype: str
    constant: bool
    dims: tuple[int | str, ...] = ()


@dataclass(slots=True)
class Case:
    """A graph as text in parts, and the values of its inputs. `inner` are the tensors that the pattern makes, `large` says that only what overflows is judged."""

    opset: int
    lines: list[str]
    operands: dict[str, CaseTensor]
    outputs: tuple[str, ...]
    inner: tuple[str, ...] = ()
    large: bool = False

    def model(self, outputs: Sequence[str] | None = None) -> Model:
        """The graph, with other outputs where they are given. Raises TextError or ModelError where it is none."""
        inputs = ", ".join(f"{o.dtype}[{', '.join(map(str, o.dims))}] {n}" for n, o in self.operands.items() if not o.constant)
        constants = ", ".join(
            f"{o.dtype}[{', '.join(map(str, o.array.shape))}] {n} = {{{', '.join(['0'] * o.array.size)}}}" for n, o in self.operands.items() if o.constant
        )
        body = "\n    ".join(self.lines)
        model = parse_model(f"({inputs}) => ({', '.join(outputs or self.outputs)})\n<{constants}>\n{{\n    {body}\n}}".replace("[]", ""), {"": self.opset})
        for name, operand in self.operands.items():
            if operand.constant:
                model.graph.initializers[name].values = operand.array
        return model

    def feeds(self) -> Iterator[dict[str, Array]]:
        """The inputs as generated, and with symbols of other sizes: 1, one more, 0."""
        fed = {n: o for n, o in self.operands.items() if not o.constant}
        yield {n: o.array for n, o in fed.items()}
        symbols = list(dict.fromkeys(d for o in fed.values() for d in o.dims if isinstance(d, str)))
        for symbol in symbols:
            for size in (1, 5, 0):
                yield {n: _resized(o.array, [size if d == symbol else None for d in o.dims]) for n, o in fed.items()}

    def in_type(self, dtype: str) -> Case:
        """The same case with another element type for all floats."""
        operands = {n: replace(o, dtype=dtype, array=o.array.astype(numpy_dtype(dtype))) if o.dtype in FLOATS else o for n, o in self.operands.items()}
        return replace(self, operands=operands)


def _resized(array: Array, sizes: Sequence[int | None]) -> Array:
    """Other sizes for some axes, the elements repeated; nothing can be made of no elements."""
    for axis, size in enumerate(sizes):
        if size is not None and (size == 0 or array.shape[axis]):
            array = np.take(array, np.arange(size) % max(array.shape[axis], 1), axis=axis)
    return array


def case_of(rule: Rule, choices: Choices, width: int = 1) -> Case:
    """A case out of `choices`, with `width` times as many channels and columns. Raises NoCase, TextError or ModelError where they lead to no graph."""
    return _Draft(rule, choices, width).case()


@dataclass(frozen=True, slots=True)
class Hints:
    """What a rule's text says of the values that it looks for: names that must be constants, numbers that it compares with, tensors that are a certain
    number throughout, or (`uniform`) perhaps any, attributes that it reads (by the tensor of their node)."""

    constants: frozenset[str]
    numbers: tuple[float, ...]
    filled: dict[str, float]
    uniform: frozenset[str]
    attributes: dict[str, list[tuple[str, Any]]]

    @classmethod
    def of(cls, rule: Rule) -> Hints:
        constants, numbers, filled, attributes = set[str](), list[float](), dict[str, float](), dict[str, list[tuple[str, Any]]]()
        uniform: set[str] = set()
        for part in (*rule.clauses, *rule.lets.values()):
            constants.update(n for n in part.names if n in rule.before.inputs and not expression.structural(part, frozenset((n,))))
            for node in ast.walk(part.tree):
                match node:
                    case ast.Constant(value=bool() | str() | None):
                        pass
                    case ast.Constant(value=number) if isinstance(number, int | float):
                        numbers.append(float(number))
                    case ast.Call(func=ast.Name(id="filled" | "near"), args=[ast.Name(id=name), ast.Constant(value=int() | float() as number)]):
                        filled[name] = number
                    case ast.Call(
                        func=ast.Name(id="every"),
                        args=[ast.Compare(left=ast.Name(id=name), ops=[ast.Eq()], comparators=[ast.Constant(value=int() | float() as number)])],
                    ):
                        filled[name] = number
                    case ast.Call(func=ast.Name(id="every"), args=[condition]):
                        uniform.update(n.id for n in ast.walk(condition) if isinstance(n, ast.Name) and n.id in rule.before.inputs)
                    case ast.Call(func=ast.Name(id="constant"), args=names):
                        constants.update(n.id for n in names if isinstance(n, ast.Name))
                    case ast.Compare(
                        left=ast.Call(func=ast.Name(id="attr"), args=[ast.Name(id=name), ast.Constant(value=str(key)), *_]), ops=[kind], comparators=[other]
                    ):
                        options = other.elts if isinstance(kind, ast.In) and isinstance(other, ast.List) else [other]
                        with suppress(ValueError):  # what is no literal
                            attributes.setdefault(name, []).extend((key, ast.literal_eval(option)) for option in options)
        return cls(frozenset(constants & set(rule.before.inputs)), tuple(dict.fromkeys(numbers)), filled, frozenset(uniform - filled.keys()), attributes)


@dataclass(slots=True)
class _Draft:
    """See `operands.Draft`."""

    rule: Rule
    choices: Choices
    width: int
    opset: int = 0
    rank: int = 0
    uniform: bool = False
    dtype: str = ""
    operands: dict[str, CaseTensor] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    inner: dict[str, Dims] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    special: bool = False
    large: bool = False
    fitting: dict[str, float] = field(default_factory=dict)

    def case(self) -> Case:
        choices, before = self.choices, self.rule.before
        low, high = self.rule.opsets
        self.opset = choices.pick([v for v in OPSETS if low <= v <= high] or [low])
        self.dtype = choices.pick([t for t in TYPES if t in FLOATS or not any(n.op in FLOATS_ONLY for n in before.nodes)])
        self.rank = choices.pick((2, 4, 3, 1, 2, 4, 0, 5) if self.width == 1 else (4, 4, 2, 3))
        self.uniform = bool(choices.below(2))
        self.special = self.rule.effect != "approximate" and self.rule.nonfinite != "any" and choices.chance(30)
        self.large = self.rule.effect == "equivalent" and self.dtype in FLOATS and not self.special and choices.chance(10)
        self.absent = {n for n in sorted(self.rule.optional) if not choices.below(2)}
        self.hints = Hints.of(self.rule)
        if len(self.hints.filled) + len(self.hints.uniform) > 1 and self.choices.below(2):  # several at once are too seldom met by chance
            number = choices.pick(FITTING)
            self.fitting = {**self.hints.filled, **dict.fromkeys(self.hints.uniform, number)}
        for node in before.nodes:
            self.add(node)
        outputs = self.ending(before.outputs)
        self.beginning()
        self.declare()
        return Case(self.opset, self.lines, self.operands, tuple(outputs), tuple(self.inner), self.large)

    hints: Hints = field(init=False)

    # --- what operand functions see -------------------------------------------------------------------------------------------------

    def dims(self, name: str) -> Dims | None:
        if name in self.operands:
            return tuple(self.operands[name].array.shape)
        return self.inner.get(name)

    def left_out(self, name: str) -> bool:
        return name in self.absent

    def data(self, name: str, dims: Sequence[int] | None = None, *, least: int = 0, positive: bool = False) -> Dims:
        known = self.dims(name)
        if known is not None:
            return known
        if not name or name in self.absent:
            return ()
        shape = tuple(dims) if dims is not None else self.shape(max(self.rank, least))
        if np.prod(shape, dtype=np.float64) > MOST_ELEMENTS * (self.width * 2) ** (self.width > 1):
            raise NoCase
        constant = self.is_constant(name)
        array = self.values(shape, constant)
        if name in self.fitting:
            array = np.full_like(array, self.fitting[name])
        elif name in self.hints.filled and self.choices.below(2):
            array = np.full_like(array, self.hints.filled[name])
        if positive and array.dtype.kind == "f" and not self.choices.chance(3):
            array = np.abs(array) + array.dtype.type(0.25)
        self.operands[name] = CaseTensor(array, self.dtype, constant)
        return shape

    def plain(self, name: str, values: Any, dtype: str = "int64") -> None:
        if name and self.dims(name) is None and name not in self.absent:
            self.operands[name] = CaseTensor(np.asarray(values, numpy_dtype(dtype)), dtype, not self.choices.chance(8))

    def shape(self, rank: int) -> Dims:
        """A shape of so many axes; for wide graphs that of one picture or of a sequence of vectors."""
        if self.width == 1:
            return tuple(self.choices.pick(SIZES) for _ in range(rank))
        return (1, self.width, *[56] * (rank - 2)) if rank > 3 else (1, *[2 * self.width] * (rank - 1))

    # --- parts ----------------------------------------------------------------------------------------------------------------------

    def is_constant(self, name: str) -> bool:
        return not self.choices.chance(6) if name in self.hints.constants else self.choices.chance(20 if self.operands else 3)

    def values(self, shape: Dims, constant: bool) -> Array:
        choices, dtype = self.choices, numpy_dtype(self.dtype)
        size = int(np.prod(shape))
        array: Array
        match choices.below(6 if constant else 3):
            case 0:
                array = np.arange(1, size + 1) % 7
            case 1 | 2:
                array = np.random.default_rng(choices.below(1000)).standard_normal(size) * (1 if dtype.kind == "f" else 20)
            case kind:  # one number, perhaps with another among them
                array = np.full(size, choices.pick((*NUMBERS, *self.hints.numbers)))
                if kind == 5 and size:
                    array[choices.below(size)] = choices.pick(NUMBERS)
        if self.special and dtype.kind == "f" and not constant:
            array = array.astype(np.float64)
            special = SPECIAL if not self.rule.nonfinite else tuple(v for v in SPECIAL if v not in NEAR_OVERFLOW)
            for place, value in enumerate(special[: size // 2]):
                array[-1 - place] = value
        if self.large and not constant:
            array = array * LARGE if self.dtype != "float16" else array * 100
        if dtype.kind == "b":
            array = array > 0
        elif dtype.kind == "u":
            array = np.abs(array)
        with np.errstate(all="ignore"):
            return np.asarray(array.astype(dtype).reshape(shape))

    def add(self, node: BodyNode) -> None:
        """Write a node of the pattern: operands for what nobody makes, attributes, and the shapes of its outputs."""
        fitted = OPERANDS.get(node.op, elementwise)(self, node.inputs)
        definition = operator_definition(node.op, node.domain, self.opset)
        known = definition.attributes if definition is not None else {}
        attributes = {k: v for k, v in fitted.items() if k in known}
        for name in node.outputs:
            for key, value in self.hints.attributes.get(name, ()):
                if key in known and self.choices.chance(50):
                    attributes[key] = value
        for name in node.inputs:
            self.data(name)
        inputs = ["" if n in self.absent else n for n in node.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        if len(inputs) == 2 and node.op in ("Add", "Mul") and self.choices.below(2):
            inputs.reverse()
        made, read = (", ".join(n or ABSENT for n in names) for names in (node.outputs, inputs))
        self.lines.append(f"{made} = {node.op} {attributes_text({**attributes, **node.attrs})}({read})")
        named = [n for n in node.outputs if n]
        operands = {n: replace(o, dims=tuple(o.array.shape)) for n, o in self.operands.items()}
        model = Case(self.opset, self.lines, operands, tuple(named)).model()
        shapes = infer(model)
        for tensor in model.graph.outputs:
            dims = shapes.static(tensor)
            if dims is None:
                raise NoCase
            self.inner[tensor.name] = dims

    def ending(self, made: Sequence[str]) -> list[str]:
        """The outputs: behind one more node or as they are, perhaps one of the pattern's inner tensors too."""
        outputs = []
        for name in made:
            if self.choices.below(4) == 3:
                outputs.append(name)
            else:
                self.lines.append(f"{name}_out = Identity ({name})")
                outputs.append(f"{name}_out")
        if self.choices.chance(12):
            outputs.append(self.choices.pick([n for n in self.inner if n not in outputs] or outputs))
        return list(dict.fromkeys(outputs))

    def beginning(self) -> None:
        """An input may be made by a node instead."""
        for name, operand in list(self.operands.items()):
            if not operand.constant and operand.dtype in FLOATS and self.choices.chance(25):
                self.operands = {f"{name}_in" if n == name else n: o for n, o in self.operands.items()}
                self.lines.insert(0, f"{name} = Neg ({name}_in)")

    def declare(self) -> None:
        """Sizes or symbols: all sizes, the first axis free, every axis free, or equal sizes with one symbol."""
        kind = self.choices.below(4)
        for name, operand in self.operands.items():
            dims = tuple(operand.array.shape)
            symbols = {0: dims, 1: ("N", *dims[1:]) if dims else dims, 2: tuple(f"{name}_{a}" for a in range(len(dims))), 3: tuple(f"d{d}" for d in dims)}
            operand.dims = symbols[kind] if operand.dtype == self.dtype else dims


def attributes_text(attributes: Attributes) -> str:
    """Attributes in ONNX's text."""
    if not attributes:
        return ""

    def shown(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(shown, value))}]"
        if isinstance(value, float):
            return f"{value:.1f}" if value.is_integer() else f"{value:.9g}"
        return f'"{value}"' if isinstance(value, str) else str(value)

    parts = (f"{name}{': ints' if isinstance(value, list) else ''} = {shown(value)}" for name, value in attributes.items())
    return f"<{', '.join(parts)}> "
