"""Sizes as polynomials: normal forms, exact division, and what holds for every value of the symbols."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from graphcompress.ir.model import dimensions as d
from graphcompress.ir.model.dimensions import Dim, Polynomial

SEQ_1 = d.plus("seq", 1)


def text(dim: Dim) -> str:
    return str(dim)


def test_what_is_a_number_or_a_symbol_is_one() -> None:
    assert d.minus(SEQ_1, 1) == "seq"
    assert d.minus(d.times("seq", 2), d.plus("seq", "seq")) == 0
    assert d.quotient(d.times("batch", "seq"), "seq") == "batch"
    assert d.floor_divided(d.plus(d.times("seq", 2), 1), 2) == "seq"


def test_equal_sizes_are_equal_and_hash_alike() -> None:
    one, other = d.times(d.plus("a", "b"), 2), d.plus(d.times(2, "b"), d.times("a", 2))
    assert one == other and hash(one) == hash(other)
    assert one != d.plus("a", "b")


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (SEQ_1, "seq + 1"),
        (d.times(2, "batch"), "2*batch"),
        (d.minus("seq", 3), "seq - 3"),
        (d.times("batch", "seq"), "batch*seq"),
        (d.floor_divided(SEQ_1, 2), "(seq + 1)//2"),
        (d.minimum("seq", 512), "min(seq, 512)"),
    ],
)
def test_how_a_size_is_written(dim: Dim, expected: str) -> None:
    assert isinstance(dim, Polynomial) and str(dim) == expected


def test_division_is_exact_or_unknown() -> None:
    assert d.quotient(d.times(768, d.times("batch", "seq")), d.times(12, "batch")) == d.times(64, "seq")
    assert d.quotient("seq", 2) is None
    assert d.quotient(SEQ_1, "seq") is None
    total = d.plus("past", "seq")
    assert d.quotient(d.times(d.times("batch", total), 64), total) == d.times(64, "batch")


def test_floors_of_floors_are_one_floor() -> None:
    assert d.floor_divided(d.plus(d.floor_divided(SEQ_1, 2), 1), 2) == d.floor_divided(d.plus("seq", 3), 4)


def test_a_symbol_may_be_0_or_1() -> None:
    assert not d.nonnegative(d.minus("seq", 1))
    assert d.broadcast("a", "b") is None
    assert d.broadcast("a", 1) == "a"
    assert d.broadcast("a", 7) == 7
    assert d.broadcast("a", 0) == 0
    assert d.broadcast("a", d.minimum("a", 512)) == "a"
    assert d.broadcast("a", d.minimum("a", "b")) is None
    assert d.at_least(SEQ_1, 1) and not d.at_least("seq", 1)


def test_two_unknown_sizes_are_not_the_same() -> None:
    assert d.unknown(0) == d.unknown(0) != d.unknown(1)
    assert d.minimum(d.unknown(0), 3) != d.minimum(d.unknown(1), 3)
    assert d.named(d.plus(d.unknown(0), "a")) is None


def test_growing_sizes_become_unknown() -> None:
    size: Dim = "a"
    for k in range(40):
        size = d.times(size, d.plus("a", k)) if k % 2 else d.plus(size, f"s{k}")
    assert size is None


OPERATIONS: list[tuple[Callable[[Dim, Dim], Dim], Callable[[int, int], int | None]]] = [
    (d.plus, lambda a, b: a + b),
    (d.minus, lambda a, b: a - b),
    (d.times, lambda a, b: a * b),
    (d.minimum, min),
    (d.maximum, max),
    (d.quotient, lambda a, b: a // b if b and a % b == 0 else None),
    (lambda a, b: d.floor_divided(a, 3), lambda a, b: a // 3),
    (lambda a, b: d.ceil_divided(a, 2), lambda a, b: -(-a // 2)),
]


@pytest.mark.parametrize("seed", range(200))
def test_random_calculations_hold_for_all_values(seed: int) -> None:
    r = random.Random(seed)
    bindings = [dict(zip("abc", values, strict=True)) for values in itertools.product((0, 1, 2, 5), repeat=3)]
    pool: list[Dim] = [0, 1, 2, -1, 6, "a", "b", "c"]
    for _ in range(25):
        symbolic, exact = r.choice(OPERATIONS)
        left, right = r.choice(pool), r.choice(pool)
        result = symbolic(left, right)
        if result is None:
            continue
        pool.append(result)
        for binding in bindings:
            a, b = d.evaluated(left, binding), d.evaluated(right, binding)
            assert a is not None and b is not None
            expected = exact(a, b)
            if expected is not None or symbolic is not d.quotient or b != 0:
                assert d.evaluated(result, binding) == expected, (left, right, result, binding)
            assert not d.nonnegative(result) or (d.evaluated(result, binding) or 0) >= 0
