"""Signatures of operators, from the files of rules/axes/.

    [[operator]]
    names = ["Conv"]
    signature = "x[n, g*c, =k...], w[g*o, c, =l...], b?[g*o] -> y[n, g*o, =s...]"
    attributes = { group = "g" }
    costs = ["g", "c", "o"]

A letter is an axis; the same letter is the same axis, tied index by index; `a*b` is a row-major product, `a` outermost; `=a` is frozen; a number is a frozen factor of
this length; `a...` (or `...`) stands for any further axes, tied from the right, where one of length 1 broadcasts; `x?` is optional; `x+` stands for all further inputs or outputs. A letter that
only inputs have is summed over. `attributes` says which attribute states the size of a letter; `transposed` which attribute (of 0 or 1) swaps the last two axes of an
operand; `blocks` is a letter of whose blocks, in axes that are its products, each may lose indices of its own; `costs` are the letters in whose product the multiply-accumulates grow ("..." for all of `...`); with an attribute of `unless` that is not 0 the operator has no signature. `c?` inside the
brackets is an axis that an operand of lower rank lacks.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graphcompress.errors import RuleError
from graphcompress.ir import Constant, Node, Shape, Tensor
from graphcompress.passes.prune.axes.forms import AxisForm, Letter, Slot
from graphcompress.targets import rules_root

REST = "..."
_OPERAND = re.compile(r"\s*([A-Za-z]\w*)([?+]?)\s*\[([^\]]*)\]\s*(?:,|$)")
_FACTOR = re.compile(r"[A-Za-z]\w*|\d+")


@dataclass(frozen=True, slots=True)
class AxisTerm:
    """One axis of an operand: a product of `factors`, those of `frozen` being frozen; `rest`: any number of axes under this letter ("" for `...` alone);
    `optional`: an operand of lower rank lacks it."""

    factors: tuple[str, ...]
    frozen: frozenset[str]
    rest: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Operand:
    """An input or output. `optional`: `x?`; `variadic`: `x+`."""

    name: str
    terms: tuple[AxisTerm, ...]
    optional: bool
    variadic: bool


@dataclass(frozen=True, slots=True)
class AxisSignature:
    """What an operator does to axes."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    attributes: Mapping[str, Letter]
    transposed: Mapping[str, str]
    costs: tuple[Letter, ...]
    unless: tuple[str, ...]
    blocks: Letter | None


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...]
    signature: str
    domain: str = ""
    attributes: dict[str, str] = Field(default_factory=dict)
    transposed: dict[str, str] = Field(default_factory=dict)
    costs: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    blocks: str | None = None


@cache
def signatures() -> Mapping[tuple[str, str], AxisSignature]:
    """(domain, operator) -> signature, from all files. Raises RuleError for a file that is not what it should be."""
    table: dict[tuple[str, str], AxisSignature] = {}
    for path in sorted((rules_root() / "axes").glob("*.toml")):
        for row in _rows(path):
            signature = parse_signature(
                row.signature, path.name, attributes=row.attributes, transposed=row.transposed, costs=row.costs, unless=row.unless, blocks=row.blocks
            )
            for name in row.names:
                if (row.domain, name) in table:
                    raise RuleError(f"{path.name}: {name} has a signature already; an operator has one.")
                table[row.domain, name] = signature
    return table


def _rows(path: Path) -> list[_Row]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        if set(document) - {"operator"}:
            raise RuleError(f"{path.name}: unknown key '{min(set(document) - {'operator'})}' at the top; only [[operator]] tables belong here.")
        return [_Row.model_validate(row) for row in document.get("operator", [])]
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"{path.name}: not a TOML file: {error}.") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise RuleError(f"{path.name}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}.") from error


def parse_signature(
    text: str,
    where: str = "signature",
    *,
    attributes: Mapping[str, Letter] | None = None,
    transposed: Mapping[str, str] | None = None,
    costs: Sequence[Letter] = (),
    unless: Sequence[str] = (),
    blocks: Letter | None = None,
) -> AxisSignature:
    """Read `text`. Raises RuleError, beginning with `where`, for text that is no signature or names what it does not have."""
    left, arrow, right = text.partition("->")
    if not arrow:
        raise RuleError(f"{where}: '{text}' has no '->' between inputs and outputs.")
    inputs, outputs = _operands(left, text, where), _operands(right, text, where)
    letters = {f for o in (*inputs, *outputs) for t in o.terms for f in t.factors}
    for letter in (*(attributes or {}).values(), *costs, *([] if blocks is None else [blocks])):
        if letter not in (*letters, REST):
            raise RuleError(f"{where}: '{text}' has no letter '{letter}'.")
    for name in transposed or {}:
        if name not in {o.name for o in inputs}:
            raise RuleError(f"{where}: '{text}' has no input '{name}'.")
    return AxisSignature(inputs, outputs, dict(attributes or {}), dict(transposed or {}), tuple(costs), tuple(unless), blocks)


def _operands(text: str, whole: str, where: str) -> tuple[Operand, ...]:
    operands: list[Operand] = []
    position = 0
    while position < len(text) and text[position:].strip():
        match = _OPERAND.match(text, position)
        if match is None:
            raise RuleError(f"{where}: '{whole}': no operand at '{text[position:].strip()}'; one is written x[n, c, ...].")
        name, mark, axes = match.groups()
        terms = tuple(_term(axis.strip(), whole, where) for axis in axes.split(",") if axis.strip())
        if sum(t.rest for t in terms) > 1:
            raise RuleError(f"{where}: '{whole}': '{name}' has '...' twice.")
        operands.append(Operand(name, terms, mark == "?", mark == "+"))
        position = match.end()
    return tuple(operands)


def _term(text: str, whole: str, where: str) -> AxisTerm:
    if text.endswith(REST):
        letter = text.removesuffix(REST)
        name = letter.removeprefix("=")
        return AxisTerm((name,), frozenset([name] if letter != name else []), rest=True)
    factors = [f.strip() for f in text.removesuffix("?").split("*")]
    names = tuple(f.removeprefix("=") for f in factors)
    if not all(_FACTOR.fullmatch(f) for f in names):
        raise RuleError(f"{where}: '{whole}': '{text}' is no axis.")
    return AxisTerm(names, frozenset(n for n, f in zip(names, factors, strict=True) if n != f), optional=text.endswith("?"))


class _Mismatch(Exception):
    """The shapes do not have what the signature says."""


def form(signature: AxisSignature, node: Node, shapes: Mapping[Tensor, Shape | None]) -> AxisForm | None:
    """The form of `node`, whose tensors have `shapes`; None where the ranks or lengths are not those of the signature, or are not known."""
    if any(node.attrs.get(attribute, 0) != 0 for attribute in signature.unless):
        return None
    try:
        return _Solver(signature, node, shapes).form()
    except _Mismatch:
        return None


class _Solver:
    """Finds what each letter of a signature is in one node."""

    def __init__(self, signature: AxisSignature, node: Node, shapes: Mapping[Tensor, Shape | None]) -> None:
        self.signature = signature
        self.node = node
        self.shapes = shapes
        self.sizes: dict[Letter, int | None] = {}
        self.frozen: set[Letter] = set()

    def form(self) -> AxisForm:
        for attribute, letter in self.signature.attributes.items():
            value = self.node.attrs.get(attribute, 1 if attribute == "group" else None)
            if isinstance(value, int):
                self.sizes[letter] = value
        slots = [self.slots(o, t) for o, t in self.pairs(self.signature.inputs, self.node.inputs)]
        written = [self.slots(o, t) for o, t in self.pairs(self.signature.outputs, self.node.outputs)]
        flat = [(slot, dim) for part in (*slots, *written) for slot, dim in part]
        self.solve(flat)
        return AxisForm(
            self.node,
            tuple(slot for part in slots for slot, _ in part),
            tuple(slot for part in written for slot, _ in part),
            self.sizes,
            frozenset(self.frozen),
            {a: x for a, x in self.signature.attributes.items() if x in self.sizes},
            self.signature.blocks if self._own_weights(flat) else None,
        )

    def _own_weights(self, slots: Sequence[tuple[Slot, int | None]]) -> bool:
        """Whether what has axes of the signature's blocks and others alone is constant, and read by this node only."""
        blocks = self.signature.blocks
        inner = {x for slot, _ in slots if blocks in slot.letters for x in slot.letters if x != blocks}
        alone = {slot.tensor for slot, _ in slots if len(slot.letters) == 1 and slot.letters[0] in inner}
        return all(isinstance(tensor, Constant) and len(tensor.outputs) == 1 for tensor in alone)

    def pairs(self, operands: Sequence[Operand], tensors: Sequence[Tensor]) -> list[tuple[Operand, Tensor]]:
        """Operands with the tensors that stand for them."""
        result = []
        for index, tensor in enumerate(tensors):
            operand = operands[min(index, len(operands) - 1)] if operands else None
            if operand is None or (index >= len(operands) and not operand.variadic):
                raise _Mismatch
            if tensor.name:
                result.append((operand, tensor))
        return result

    def slots(self, operand: Operand, tensor: Tensor) -> list[tuple[Slot, int | None]]:
        """The axes of one tensor with their lengths (None: no number)."""
        shape = self.shapes.get(tensor)
        if shape is None:
            raise _Mismatch
        terms = list(operand.terms)
        at = next((i for i, t in enumerate(terms) if t.rest), None)
        if at is not None:
            count = len(shape) - (len(terms) - 1)
            rest = terms[at]
            # From the right, so that ranks may differ as they do in broadcasting.
            terms[at : at + 1] = [
                AxisTerm((f"{rest.factors[0]}{REST}{i}",), frozenset([f"{rest.factors[0]}{REST}{i}"] if rest.frozen else [])) for i in range(count, 0, -1)
            ]
        while len(terms) > len(shape) and terms[0].optional:
            del terms[0]
        if len(terms) != len(shape):
            raise _Mismatch
        swap = self.signature.transposed.get(operand.name)
        if swap is not None and self.node.attrs.get(swap, 0):
            terms[-2:] = terms[-1], terms[-2]
        result = []
        for axis, (term, dim) in enumerate(zip(terms, shape, strict=True)):
            letters = tuple(self.letter(f) for f in term.factors)
            self.frozen.update(term.frozen)
            result.append((Slot(tensor, axis, letters), dim if isinstance(dim, int) else None))
        return result

    def letter(self, factor: str) -> Letter:
        if factor.isdigit():
            self.sizes[factor] = int(factor)
            self.frozen.add(factor)
        return factor

    def solve(self, slots: Sequence[tuple[Slot, int | None]]) -> None:
        """Sizes of letters, from axes of one unknown letter until none is left."""
        for slot, dim in slots:
            if len(slot.letters) == 1:
                self.single(slot.letters[0], dim)
        for slot, dim in slots:
            unknown = [x for x in slot.letters if x not in self.sizes]
            if len(slot.letters) > 1 and len(unknown) == 1 and dim is not None:
                known = self.product(x for x in slot.letters if x in self.sizes)
                if known == 0 or dim % known:
                    raise _Mismatch
                self.sizes[unknown[0]] = dim // known
        for slot, dim in slots:
            if len(slot.letters) > 1 and (any(x not in self.sizes for x in slot.letters) or (dim is not None and self.product(slot.letters) != dim)):
                raise _Mismatch

    def single(self, letter: Letter, dim: int | None) -> None:
        """An axis of one letter: lengths must be equal, or 1; where one is no number, the letter is none."""
        before = self.sizes.get(letter, 1)
        if letter not in self.sizes or before == 1:
            self.sizes[letter] = dim
        elif dim is None:
            self.sizes[letter] = None
        elif before is not None and dim not in (1, before):
            raise _Mismatch

    def product(self, letters: Iterable[Letter]) -> int:
        result = 1
        for letter in letters:
            size = self.sizes[letter]
            if size is None:
                raise _Mismatch
            result *= size
        return result
