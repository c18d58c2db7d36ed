"""Additions of +0 go where nothing behind them can tell -0 from +0."""

from __future__ import annotations

import pytest

from graphcompress.ir import lint
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.simplify.zeros import remove_zeros

HEADER = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'


def removed(body: str) -> int:
    constants = "float[2] k = {0, 0}, float[1,1,2] wide = {0, 0}, float[2] some = {0, 1}, float[1] one = {1}, float two = {2}, float[2,2] w = {1, 2, 3, 4}"
    model = parse_model(f"{HEADER} g (float[N,2] x, float[N,2] u) => (float[a,b] y) <{constants}> {{ {body} }}").copy()
    count = remove_zeros(model, lambda: infer(model))
    lint(model)
    return count


@pytest.mark.parametrize(
    "behind",
    [
        "b = Relu (a)  y = MatMul (b, w)",
        "b = Div (a, u)  y = MatMul (b, w)",  # it is divided, nothing is divided by it
        "b = Softmax (a)  y = Div (u, b)",
        "b = Abs (a)  y = Reciprocal (b)",
        "b = Add (a, one)  y = Reciprocal (b)",
        "b = Mul (a, a)  y = Reciprocal (b)",
        "b = Pow (a, two)  y = Div (u, b)",
    ],
)
def test_it_goes_where_the_sign_of_a_zero_does_not_show(behind: str) -> None:
    assert removed(f"a = Add (k, x)  {behind}") == 1
    assert removed(f"b0 = Mul (x, u)  a = Add (b0, k)  {behind}") == 1


@pytest.mark.parametrize(
    "behind",
    [
        "y = Relu (a)",  # an output has its sign
        "y = Reciprocal (a)",
        "y = Div (u, a)",
        "b = MatMul (a, w)  y = Reciprocal (b)",
        "b = Relu (a)  y = Div (u, b)",
        "b = Mul (a, u)  c = Transpose (b)  y = Reciprocal (c)",
        "b = Add (a, some)  y = Reciprocal (b)",
        "y = own.Thing (a)",
        "y = Pow (a, u)",
    ],
)
def test_it_stays_where_it_may_show(behind: str) -> None:
    assert removed(f"a = Add (k, x)  {behind}") == 0


def test_what_a_branch_reads_may_show() -> None:
    branches = "then_branch = t () => (float[c,d] v) { v = Relu (a) }, else_branch = e () => (float[c,d] z) { z = Reciprocal (a) }"
    assert removed(f"a = Add (k, x)  n = ReduceSum <keepdims = 0> (u)  p = Cast <to = 9> (n)  y = If (p) <{branches}>") == 0


@pytest.mark.parametrize(
    "body", ["a = Add (wide, x)  y = Softmax (a)", "a = Add (some, x)  y = Softmax (a)", "y = Add (k, x)", "a = Sub (k, x)  y = Softmax (a)"]
)
def test_what_does_something_stays(body: str) -> None:
    assert removed(body) == 0
