"""Initial states of recurrent operators that are zeros are left out; the results are the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from graphcompress.ir import Model, lint
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.simplify.states import leave_out_zero_states
from graphcompress.runtime.evaluate import run_once

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
SIZES = (
    "s = Shape (x)  n = Gather (s, at)  two = Constant <value_ints = [2]> ()  three = Constant <value_ints = [3]> ()  zero = Constant <value_ints = [0]> ()"
    "  one = Constant <value_ints = [1]> ()  size = Concat <axis = 0> (one, n, three)"
)


def model_of(body: str, operator: str = "GRU", gates: int = 9) -> Model:
    constants = ", ".join(
        (
            "int64[1] at = {1}",
            "float zeros = {0}",
            "float minus = {-0.0}",
            *(f"float[1,{gates},{n}] {name} = {{{', '.join(['0.25', '-0.5', '0.75'] * (gates * n // 3))}}}" for name, n in (("w", 2), ("r", 3))),
        )
    )
    return parse_model(
        f"{HEADER} g (float[T,N,2] x, float[1,N,3] u) => (float[a,b,c,d] y, float[e,f,g] last) <{constants}> {{ {SIZES} {body.replace('RNN', operator)} }}"
    )


def left_out(model: Model) -> int:
    work = model.copy()
    count = leave_out_zero_states(work, lambda: infer(work))
    lint(work)
    feed = {"x": np.random.default_rng(0).standard_normal((4, 2, 2)).astype(np.float32), "u": np.full((1, 2, 3), 0.5, np.float32)}
    before, after = run_once(model, feed), run_once(work, feed)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    return count


@pytest.mark.parametrize(
    "zeros",
    [
        "h = ConstantOfShape (size)",
        "h = ConstantOfShape <value = float[1] {0}> (size)",
        "h = Expand (zeros, size)",
        "a = ConstantOfShape (size)  b = Concat <axis = 0> (a, a)  h = Slice (b, one, two, zero)",
        "a = ConstantOfShape (size)  b = Squeeze (a, zero)  h = Unsqueeze (b, zero)",
    ],
)
def test_zeros_are_left_out(zeros: str) -> None:
    assert left_out(model_of(f'{zeros}  y, last = RNN <hidden_size = 3> (x, w, r, "", "", h)')) == 1
    assert left_out(model_of(f'{zeros}  y, last = RNN <hidden_size = 3> (x, w, r, "", "", h, h)', "LSTM", 12)) == 2


@pytest.mark.parametrize(
    "state",
    [
        "h = ConstantOfShape <value = float[1] {1}> (size)",
        "h = Expand (minus, size)",
        "h = Identity (u)",
        "a = ConstantOfShape (size)  b = Concat <axis = 0> (a, u)  h = Slice (b, one, two, zero)",
        "a = ConstantOfShape (size)  h = Mul (a, u)",  # of an infinity, 0 makes no 0
        "a = ConstantOfShape (size)  h = Exp (a)",
    ],
)
def test_anything_else_stays(state: str) -> None:
    assert left_out(model_of(f'{state}  y, last = RNN <hidden_size = 3> (x, w, r, "", "", h)')) == 0
    assert left_out(model_of(f'{state}  a0 = ConstantOfShape (size)  y, last = RNN <hidden_size = 3> (x, w, r, "", "", h, a0)', "LSTM", 12)) == 1
