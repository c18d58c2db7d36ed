"""The language of `where` and `let`: what it has, what it refuses, how numbers behave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.engine.constant_functions import FUNCTIONS
from graphcompress.engine.expression import ExpressionError, evaluate, parse
from graphcompress.engine.values import Undetermined, Value, safe, to_array


def value(text: str, **names: Any) -> Any:
    return evaluate(parse(text), names, None)


def single(*numbers: float, dtype: str = "float") -> Value:
    return Value(np.array(numbers, np.float64), dtype)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("-2 ** 2", -4),
        ("7 // 2 == 3 and not 1 > 2", True),
        ("0 <= 1 < 2", True),
        ("0 <= 3 < 2", False),
        ("'a' in ['a', 'b']", True),
        ("[1, 2][1] if 1 > 0 else 5", 2),
        ("compose([1, 2, 0], [1, 2, 0])", [2, 0, 1]),
        ("added([1, 2], [3, 4]) + zeros(2)", [4, 6, 0, 0]),
        ("largest(cut([5, 1, 9, 7], 1, 3))", 9),
    ],
)
def test_plain_data(text: str, expected: Any) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x.shape",
        "__import__('os')",
        "eval('1')",
        "lambda: 1",
        "[i for i in x]",
        "f'{x}'",
        "every(condition=x)",
        "every(*x)",
        "x[1:2]",
        "(x := 1)",
        "x if",
        "1; 2",
        "{1: 2}",
        "b'1'",
        "1j",
        "~x",
        "x is x",
        "x" * 501,
        "-" * 499 + "x",
    ],
)
def test_what_the_language_does_not_have_is_an_error_when_it_is_read(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


@pytest.mark.parametrize("text", ["2 ** 1000", "'a' * 1000000", "[1] * 1000000", "1 / 0", "[1][5]", "1 + 'a'", "zeros(1000000)", "not x"])
def test_what_has_no_value_is_undetermined(text: str) -> None:
    with pytest.raises(Undetermined):
        value(text, x=single(1, 2))


def test_tensors_of_two_types_do_not_mix() -> None:
    with pytest.raises(Undetermined, match="mixed element types"):
        value("a + b", a=single(1), b=single(1, dtype="float16"))


def test_integers_are_not_divided() -> None:
    with pytest.raises(Undetermined):
        value("a / 2", a=Value(np.array([3]), "int32"))


def test_an_integer_must_fit_into_its_type() -> None:
    assert to_array(Value(np.array([-128]), "int8")).dtype == np.int8
    with pytest.raises(Undetermined):
        to_array(Value(np.array([128]), "int8"))


def test_arithmetic_is_double_and_rounds_once() -> None:
    third = single(float(np.float32(1) / np.float32(3)))
    found = value("a * 3 - 1", a=third)
    assert found.array[0] == float(np.float32(1 / 3)) * 3 - 1
    assert to_array(found).dtype == np.float32


# The smallest normal number of each type.
NORMAL = {"float": 2.0**-126, "double": 2.0**-1022, "float16": 2.0**-14, "bfloat16": 2.0**-126}


@pytest.mark.parametrize(
    ("numbers", "dtype", "expected"),
    [
        ((1.0, 2.0), "float", True),
        ((0.0, -0.0), "float", True),
        ((1.0, 1e-60), "float", True),  # nothing beside a normal number
        ((1e-60, 0.0), "float", False),  # nothing at all, where there was something
        ((1e-40,), "float", False),
        ((1e39, 1.0), "float", False),
        ((7e4,), "float16", False),
        ((6e4,), "float16", True),
        ((float("nan"),), "float", False),
        ((float("inf"), 1.0), "double", False),
        ((1e-60,), "double", True),
        *(((number,), dtype, True) for dtype, number in NORMAL.items()),
        *(((number / 2,), dtype, False) for dtype, number in NORMAL.items()),
    ],
)
def test_safe_means_finite_and_not_lost(numbers: tuple[float, ...], dtype: str, expected: bool) -> None:
    assert safe(single(*numbers, dtype=dtype)) is expected
    assert value("finite(v)", v=single(*numbers, dtype=dtype)) is expected


@pytest.mark.parametrize(
    ("numbers", "dtype", "plus", "minus"),
    [((0.0, 0.0), "float", True, False), ((-0.0, -0.0), "float", False, True), ((0.0, -0.0), "float", False, False), ((1.0,), "float", False, False)],
)
def test_zeros_have_signs(numbers: tuple[float, ...], dtype: str, plus: bool, minus: bool) -> None:
    assert value("plus_zero(v)", v=single(*numbers, dtype=dtype)) is plus
    assert value("minus_zero(v)", v=single(*numbers, dtype=dtype)) is minus


def test_the_zero_of_integers_has_no_sign() -> None:
    zero = Value(np.array([0, 0]), "int64")
    assert value("filled(v, 0)", v=zero) is True
    assert value("plus_zero(v)", v=zero) is True
    assert value("minus_zero(v)", v=zero) is True


COLUMN, ROW = single(4, 9, 16), Value(np.array([[3, 5]]), "int64")
TABLE = [
    ("sqrt(v)", [2, 3, 4]),
    ("sqrt(9)", 3.0),
    ("largest(v)", 16),
    ("smallest(v)", 4),
    ("largest([2, 7, 5])", 7),
    ("smallest([2, 7, 5])", 2),
    ("shape(per_channel(v, 3))", [3, 1, 1]),
    ("shape(per_channel(v, 3, 1))", [1, 3, 1]),
    ("shape(per_channel(one, 3, 1))", []),
    ("per_channel(2, 3)", 2),
    ("vector(v, 3)", [4, 9, 16]),
    ("vector(one, 3)", [5, 5, 5]),
    ("vector(2, 3)", 2),
    ("shape(per_output(six, 4, 2))", [2, 1, 3, 1, 1]),
    ("per_output(six, 2, 3)[1]", None),  # entries of tensors are not taken
    ("per_output(2, 4, 2)", 2),
    ("split_groups(six, 2)", [[1, 2, 3], [4, 5, 6]]),
    ("shape(split_groups(reshaped(six, [3, 2]), 3))", [3, 1, 2]),
    ("reshaped(six, [2, 3])", [[1, 2, 3], [4, 5, 6]]),
    ("reshaped(six, [4, 2])", None),
    ("reshaped(row, [2])", [3, 5]),
    ("shape(row)", [1, 2]),
    ("rank(row)", 2),
    ("dim(row, 1)", 2),
    ("rank(one * 1) + rank(sqrt(one))", 2),
    ("every(v > 3)", True),
    ("every(v > 4)", False),
    ("every(v == v)", True),
    ("filled(fives, 5)", True),
    ("filled(fives, 4)", False),
    ("filled(late, 5)", False),
    ("near(fives, 5.0000005)", True),
    ("near(fives, 5.00001)", False),
    ("near(late, 5)", False),
    ("finite(v, one, 3, row)", True),
    ("finite(v, sqrt(one - 6))", False),
    ("count(3)", [0, 1, 2]),
    ("count(0)", []),
    ("length([4, 4])", 2),
    ("cut([1, 2, 3], 0, 2)", [1, 2]),
    ("cut([1, 2, 3], -1, 3)", [3]),
    ("added([1], [1, 2])", None),
    ("joined([1, 2], [3])", [1, 2, 3]),
    ("joined([], row)", [3, 5]),
    ("joined([0], axes_)", [0, 1, 3]),
    ("apart([0, 1], [-1], 3)", True),
    ("apart([0, 2], [-1], 3)", False),
    ("total(reshaped(six, [2, 3]), [0])", [5, 7, 9]),
    ("total(reshaped(six, [2, 3]), [1])", [6, 15]),
    ("total(six, [])", [1, 2, 3, 4, 5, 6]),
    ("magnitude(v * -1)", [4, 9, 16]),
    ("magnitude(-3)", 3),
    ("filled_with(0.0, [2, 1], v)", [[0], [0]]),
    ("filled_with(v, [2, 3], v)", [[4, 9, 16], [4, 9, 16]]),
    ("diagonal(cut_of)", [[5, 0], [0, 7]]),
    ("centred(reshaped(six, [6, 1]), [3])", [[0, n, 0] for n in range(1, 7)]),
    ("shape(centred(reshaped(six, [3, 2, 1, 1]), [3, 5]))", [3, 2, 3, 5]),
    ("windowed(reshaped(six, [2, 3]), [1, 3])", [[2, 3], [5, 6]]),
    ("windowed(reshaped(six, [1, 2, 3]), [1, 0, 2, 2])", [[[4, 5]]]),
]
FIVES = np.full(1 << 17, 5.0)
LATE = np.where(np.arange(1 << 17) == (1 << 17) - 1, 4.0, 5.0)


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_what_functions_make_of_values(text: str, expected: Any) -> None:
    names = {"v": COLUMN, "one": single(5), "six": single(1, 2, 3, 4, 5, 6), "row": ROW, "fives": Value(FIVES, "float"), "late": Value(LATE, "float")}
    names |= {"axes_": Value(np.array([1, 3]), "int64"), "cut_of": single(5, 7)}
    if expected is None:
        with pytest.raises(Undetermined):
            value(text, **names)
        return
    with np.errstate(invalid="ignore"):  # as the driver has it
        found = value(text, **names)
    assert (found.array.tolist() if isinstance(found, Value) else found) == expected


def test_types_stay_with_values() -> None:
    for text in ("sqrt(v)", "per_channel(v, 2)", "vector(v, 1)", "per_output(v, 2, 1)", "split_groups(v, 1)", "reshaped(v, [1, 1])", "v * 2 - v"):
        assert value(text, v=single(1, dtype="float16")).dtype == "float16"


def test_every_function_that_reads_values_is_in_the_table() -> None:
    nodes = {"pads", "pad_value", "axes", "steps", "nonnegative"}  # what a node says of itself, tested beside the nodes
    zeros = {"plus_zero", "minus_zero"}
    assert {name for name in FUNCTIONS if any(f"{name}(" in text for text, _ in TABLE)} == FUNCTIONS.keys() - nodes - zeros
