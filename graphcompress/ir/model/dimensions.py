"""Sizes that are not numbers: polynomials with integer coefficients over the symbols of a model's signature.

A size is an int, a symbol (str), or a `Polynomial` where it is compound ("seq + 1", "2*batch", "batch*seq", "(seq + 1)//2"). The functions here take sizes or None
(unknown) and return a size, None where there is no exact answer. Results are normalized: equal sizes compare equal, and what is a number or a symbol is one.
Every symbol stands for a number >= 0, which may be 0 or 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

LARGEST_TERMS = 8
LARGEST_DEGREE = 8
DEEPEST = 6


@dataclass(frozen=True, slots=True)
class Unknown:
    """A size that no symbol names: one number >= 0 within a run. Two different ones may or may not be equal."""

    number: int

    def __str__(self) -> str:
        return "?"


@dataclass(frozen=True, slots=True)
class SizeFunction:
    """A function of sizes that is no polynomial: floor division by a number, minimum, maximum."""

    name: Literal["//", "min", "max"]
    arguments: tuple[Size, ...]
    depth: int

    def __str__(self) -> str:
        first, second = self.arguments
        if self.name == "//":
            return f"{first}//{second}" if isinstance(first, str) else f"({first})//{second}"
        return f"{self.name}({first}, {second})"


Atom: TypeAlias = str | Unknown | SizeFunction
Monomial: TypeAlias = tuple[Atom, ...]


class Polynomial:
    """A compound size: monomial (sorted atoms, () for the constant term) -> coefficient. Immutable, compared by value."""

    __slots__ = ("_hash", "anonymous", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        #: Whether an `Unknown` is part of it.
        self.anonymous = any(_is_anonymous(atom) for monomial, _ in terms for atom in monomial)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Polynomial) and self._hash == other._hash and self.terms == other.terms)

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        parts: list[str] = []
        for monomial, coefficient in self.terms:
            factors = [str(abs(coefficient))] if abs(coefficient) != 1 or not monomial else []
            alone = len(monomial) == 1 and (coefficient == 1 or (coefficient == -1 and bool(parts)))  # 2*N//2 and -N//2 would read as (2*N)//2 and (-N)//2
            factors += [f"({a})" if isinstance(a, SizeFunction) and a.name == "//" and not alone else str(a) for a in monomial]
            sign = "-" if coefficient < 0 else "+"
            parts.append(f"{sign} {'*'.join(factors)}" if parts else f"{'-' if coefficient < 0 else ''}{'*'.join(factors)}")
        return " ".join(parts)

    def __repr__(self) -> str:
        return f"Polynomial({self.terms!r})"


Size: TypeAlias = int | str | Polynomial
Dim: TypeAlias = Size | None
Terms: TypeAlias = dict[Monomial, int]


def unknown(number: int) -> Polynomial:
    """The size that is `Unknown(number)`."""
    return Polynomial((((Unknown(number),), 1),))


def named(dim: Dim) -> Dim:
    """`dim`, None where an anonymous size is part of it."""
    return None if isinstance(dim, Polynomial) and dim.anonymous else dim


def newest_unknown(dim: Dim) -> int:
    """The largest number of an `Unknown` in `dim`; -1 where there is none."""
    if not isinstance(dim, Polynomial) or not dim.anonymous:
        return -1
    return max(
        a.number if isinstance(a, Unknown) else max(map(newest_unknown, a.arguments)) if isinstance(a, SizeFunction) else -1 for m, _ in dim.terms for a in m
    )


def plus(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if a is None or b is None:
        return None
    return _combined(a, b, 1)


def minus(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    if a is None or b is None:
        return None
    return 0 if a == b else _combined(a, b, -1)


def times(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a == 1 or b is None:
        return b
    if b == 1 or a is None:
        return a
    result: Terms = {}
    for left, c in _terms(a).items():
        for right, d in _terms(b).items():
            monomial = tuple(sorted(left + right, key=_atom_key)) if left and right else left or right
            result[monomial] = result.get(monomial, 0) + c * d
    return _normalized(result)


def product(dims: Iterable[Dim]) -> Dim:
    result: Dim = 1
    for dim in dims:
        if result is None:
            break
        result = None if dim is None else times(result, dim)
    return result


def quotient(a: Dim, b: Dim) -> Dim:
    """a / b where it is a polynomial, whatever the symbols stand for (as long as b is not 0); None otherwise."""
    if a is None or b is None or b == 0:
        return None
    rest, divisor = _terms(a), _terms(b)
    lead = min(divisor, key=_monomial_key)
    result: Terms = {}
    while rest:
        if len(rest) + len(result) > 2 * LARGEST_TERMS:
            return None
        monomial = min(rest, key=_monomial_key)
        factor = _without(monomial, lead)
        if factor is None or rest[monomial] % divisor[lead]:
            return None
        coefficient = rest[monomial] // divisor[lead]
        result[factor] = coefficient
        for other, c in divisor.items():
            target = tuple(sorted(other + factor, key=_atom_key))
            rest[target] = rest.get(target, 0) - c * coefficient
            if not rest[target]:
                del rest[target]
    return _normalized(result)


def floor_divided(a: Dim, divisor: int) -> Dim:
    """floor(a / divisor) for divisor > 0."""
    if a is None or divisor <= 0:
        return None
    if isinstance(a, int):
        return a // divisor
    whole: Terms = {}
    rest: Terms = {}
    for monomial, c in _terms(a).items():
        if c // divisor:
            whole[monomial] = c // divisor
        if c % divisor:
            rest[monomial] = c % divisor
    if set(rest) <= {()}:
        return _normalized(whole)
    nested = [(m, c) for m, c in rest.items() if m]
    if len(nested) == 1 and nested[0][1] == 1 and len(nested[0][0]) == 1 and isinstance(inner := nested[0][0][0], SizeFunction) and inner.name == "//":
        # floor((floor(x / b) + c) / d) = floor((x + b c) / (b d))
        source, base = inner.arguments
        assert isinstance(base, int)
        return plus(_normalized(whole), floor_divided(plus(source, base * rest.get((), 0)), base * divisor))
    remainder = _normalized(rest)
    return None if remainder is None else plus(_normalized(whole), _function("//", remainder, divisor))


def ceil_divided(a: Dim, divisor: int) -> Dim:
    """ceil(a / divisor) for divisor > 0."""
    return floor_divided(plus(a, divisor - 1), divisor)


def minimum(a: Dim, b: Dim) -> Dim:
    if a is None or b is None:
        return None
    if at_least(a, b):
        return b
    return a if at_least(b, a) else _function("min", *_ordered(a, b))


def maximum(a: Dim, b: Dim) -> Dim:
    if a is None or b is None:
        return None
    if at_least(a, b):
        return a
    return b if at_least(b, a) else _function("max", *_ordered(a, b))


def at_least(a: Dim, b: Dim) -> bool:
    """Whether a >= b for certain."""
    return nonnegative(minus(a, b))


def nonnegative(a: Dim) -> bool:
    """Whether a >= 0 for certain."""
    if a is None or isinstance(a, int):
        return a is not None and a >= 0
    terms = _terms(a)
    if all(c >= 0 and all(map(_atom_nonnegative, m)) for m, c in terms.items()):
        return True
    for monomial, c in terms.items():  # a minimum that is subtracted is at most its arguments, a maximum that is added at least
        if len(monomial) == 1 and isinstance(atom := monomial[0], SizeFunction) and atom.name == ("min" if c < 0 else "max"):
            return any(nonnegative(plus(a, times(c, minus(argument, Polynomial(((monomial, 1),)))))) for argument in atom.arguments)
    return False


def broadcast(a: Dim, b: Dim) -> Dim:
    """The size of an axis of which one operand has a and the other b, given that they fit; None where it depends on what the symbols stand for."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(b, int):
        a, b = b, a
    if isinstance(a, int):
        return None if isinstance(b, int) else a  # what fits to a number other than 1 is that number, or 1
    if a is None or b is None:
        return None
    for one, other in ((a, b), (b, a)):
        # What fits to min(one, n) with n >= 1: one <= n, so they are equal, or the minimum is n, which must be 1.
        function = _only_function(other)
        if function is not None and function.name == "min" and one in function.arguments and any(isinstance(n, int) and n >= 1 for n in function.arguments):
            return one
    return None


def evaluated(dim: Dim, symbols: Mapping[str, int]) -> int | None:
    """The number that `dim` is where the symbols stand for these numbers; None where an unknown is part of it."""
    if dim is None or isinstance(dim, int):
        return dim
    total = 0
    for monomial, coefficient in _terms(dim).items():
        for atom in monomial:
            factor = symbols.get(atom) if isinstance(atom, str) else _evaluated_function(atom, symbols) if isinstance(atom, SizeFunction) else None
            if factor is None:
                return None
            coefficient *= factor
        total += coefficient
    return total


def atoms(dim: Dim) -> set[Atom]:
    """The atoms of a size; a function counts as one."""
    return {atom for monomial in _terms(dim) for atom in monomial} if dim is not None else set()


def vanishes_with(a: Dim, b: Dim) -> bool:
    """Whether b is 0 wherever a is, for certain."""
    if a is None or b is None:
        return False
    terms = _terms(a)
    if any(not m and c > 0 for m, c in terms.items()) and nonnegative(a):
        return True  # a is never 0
    if len(terms) != 1 or not nonnegative(a):
        return quotient(b, a) is not None
    return all(atom in monomial for atom in atoms(a) for monomial in _terms(b))


# --- inside ---------------------------------------------------------------------------------------------------------------------


def _terms(size: Size) -> Terms:
    if isinstance(size, Polynomial):
        return dict(size.terms)
    if isinstance(size, str):
        return {(size,): 1}
    return {(): int(size)} if size else {}


def _normalized(terms: Terms) -> Dim:
    terms = {m: c for m, c in terms.items() if c}
    if not terms:
        return 0
    if len(terms) == 1:
        ((monomial, coefficient),) = terms.items()
        if not monomial:
            return coefficient
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], str):
            return monomial[0]
    if len(terms) > LARGEST_TERMS or any(len(m) > LARGEST_DEGREE for m in terms):
        return None
    return Polynomial(tuple(sorted(terms.items(), key=lambda item: _monomial_key(item[0]))))


def _combined(a: Size, b: Size, sign: int) -> Dim:
    result = _terms(a)
    for monomial, c in _terms(b).items():
        result[monomial] = result.get(monomial, 0) + sign * c
    return _normalized(result)


def _function(name: Literal["//", "min", "max"], a: Size, b: Size) -> Dim:
    depth = 1 + max((atom.depth for atom in atoms(a) | atoms(b) if isinstance(atom, SizeFunction)), default=0)
    return None if depth > DEEPEST else Polynomial((((SizeFunction(name, (a, b), depth),), 1),))


def _only_function(size: Size) -> SizeFunction | None:
    if isinstance(size, Polynomial) and len(size.terms) == 1:
        monomial, coefficient = size.terms[0]
        if coefficient == 1 and len(monomial) == 1 and isinstance(monomial[0], SizeFunction):
            return monomial[0]
    return None


def _ordered(a: Size, b: Size) -> tuple[Size, Size]:
    return (a, b) if repr(a) <= repr(b) else (b, a)


def _atom_key(atom: Atom) -> tuple[int, str]:
    return (0, atom) if isinstance(atom, str) else (1, f"{atom.number:09}") if isinstance(atom, Unknown) else (2, repr(atom))


def _monomial_key(monomial: Monomial) -> tuple[int, tuple[tuple[int, str], ...]]:
    """Graded lexicographic order, the leading monomial first."""
    return -len(monomial), tuple(map(_atom_key, monomial))


def _without(monomial: Monomial, factor: Monomial) -> Monomial | None:
    rest = list(monomial)
    for atom in factor:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def _is_anonymous(atom: Atom) -> bool:
    if isinstance(atom, SizeFunction):
        return any(isinstance(a, Polynomial) and a.anonymous for a in atom.arguments)
    return isinstance(atom, Unknown)


def _atom_nonnegative(atom: Atom) -> bool:
    if not isinstance(atom, SizeFunction):
        return True
    decides = any if atom.name == "max" else all
    return decides(nonnegative(a) for a in atom.arguments)


def _evaluated_function(function: SizeFunction, symbols: Mapping[str, int]) -> int | None:
    first, second = (evaluated(a, symbols) for a in function.arguments)
    if first is None or second is None:
        return None
    return first // second if function.name == "//" else min(first, second) if function.name == "min" else max(first, second)
