"""Runs of additions and multiplications by constants: what they become, and where they stay."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from graphcompress.ir import Model, lint, nodes, to_bytes
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.simplify.affine import LONGEST, join_runs

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
SCALARS = {"two": 2, "half": 0.5, "three": 3, "minus": -3, "one": 1, "tiny": 1e-4, "none": 0, "huge": 8388608, "thousand": 1000}


def model_of(body: str, dtype: str = "float", outputs: str = "") -> Model:
    scalars = ", ".join(f"{dtype} {name} = {{{value}}}" for name, value in SCALARS.items())
    vectors = f"{dtype}[3,1,1] means = {{1, 2, 4}}, {dtype}[3,1,1] stds = {{0.5, 2, 4}}, {dtype}[1,1,1,1,1] deep = {{2}}"
    return parse_model(f"{HEADER} g ({dtype}[N,3,2,2] x) => ({dtype}[a,b,c,d] y{outputs}) <{scalars}, {vectors}> {{ {body} }}").copy()


def joined(model: Model) -> int:
    count = join_runs(model, lambda: infer(model))
    lint(model)
    return count


def operators(model: Model) -> list[str]:
    return [n.op for n in sorted(nodes(model), key=lambda n: n.rank)]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("a = Mul (x, two)  y = Mul (three, a)", ["Mul"]),
        ("a = Div (x, two)  y = Div (a, stds)", ["Mul"]),
        ("a = Add (x, two)  y = Add (a, means)", ["Add"]),
        ("a = Sub (x, two)  y = Sub (a, three)", ["Add"]),
        ("a = Mul (x, two)  b = Add (a, three)  y = Mul (b, half)", ["Mul", "Add"]),
        ("a = Div (x, two)  b = Sub (a, means)  c = Div (b, stds)  y = Add (c, minus)", ["Mul", "Add"]),
        ("a = Sub (x, means)  b = Div (a, stds)  y = Mul (b, half)", ["Add", "Mul"]),
        ("a = Add (x, two)  b = Mul (a, half)  y = Add (b, three)", ["Mul", "Add"]),
        ("a = Sub (one, x)  b = Mul (a, two)  y = Add (b, three)", ["Mul", "Add"]),
        ("a = Sub (minus, x)  b = Sub (three, a)  y = Add (b, two)", ["Mul", "Add"]),
        ("a = Relu (x)  b = Mul (a, two)  c = Mul (b, two)  y = Relu (c)", ["Relu", "Mul", "Relu"]),
    ],
)
@pytest.mark.parametrize("dtype", ["float", "double"])
def test_a_run_becomes_at_most_one_product_and_one_sum(body: str, left: list[str], dtype: str) -> None:
    model = model_of(body, dtype)
    feed = {"x": np.random.default_rng(0).normal(0, 3, (2, 3, 2, 2)).astype(np.float32 if dtype == "float" else np.float64)}
    before = onnxruntime.InferenceSession(to_bytes(model)).run(None, feed)[0]
    assert joined(model) == 1
    assert operators(model) == left
    after = onnxruntime.InferenceSession(to_bytes(model)).run(None, feed)[0]
    np.testing.assert_allclose(after, before, rtol=1e-6 if dtype == "float" else 1e-14, atol=2e-6 if dtype == "float" else 1e-14)
    assert joined(model) == 0


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul (x, two)  y = Add (a, three)",  # nothing is gained
        "a = Add (x, two)  y = Mul (a, three)",
        "a = Add (x, huge)  y = Sub (a, huge)",  # rounds to integers
        "a = Add (x, huge)  b = Sub (a, huge)  y = Mul (b, two)",
        "a = Mul (x, half)  b = Add (a, three)  y = Add (b, minus)",
        "a = Mul (x, tiny)  y = Mul (a, two)",  # far from 1
        "a = Mul (x, thousand)  y = Mul (a, thousand)",
        "a = Mul (x, none)  y = Mul (a, two)",
        "a = Div (two, x)  y = Mul (a, two)",  # no constant divides
        "a = Add (x, thousand)  b = Mul (a, half)  y = Add (b, one)",  # what is left of x near -1000 is exact
        "a = Mul (x, x)  y = Mul (a, two)",
        "a = Mul (two, half)  y = Mul (x, a)",  # folding's
    ],
)
def test_a_run_stays(body: str) -> None:
    assert joined(model_of(body)) == 0


def test_only_the_end_may_be_read() -> None:
    assert joined(model_of("a = Mul (x, two)  y = Mul (a, two)", outputs=", float[a,b,c,d] a")) == 0
    assert joined(model_of("a = Mul (x, two)  b = Mul (a, two)  y = Add (a, b)")) == 0
    branches = "then_branch = t () => (float[c,d] v) { v = Relu (a) }, else_branch = e () => (float[c,d] z) { z = Neg (a) }"
    inside = f"a = Mul (x, two)  b = Mul (a, two)  s = ReduceSum <keepdims = 0> (b)  p = Cast <to = 9> (s)  y = If (p) <{branches}>"
    assert joined(model_of(inside)) == 0


def test_the_shape_is_kept() -> None:
    model = parse_model(
        f"{HEADER} g (float[N,2] x) => (float[a,b,c] y) <float[1,1,1] deep = {{2}}, float two = {{2}}> {{ a = Mul (x, deep)  y = Mul (a, two) }}"
    ).copy()
    assert joined(model) == 0


def test_integers_stay() -> None:
    model = parse_model(f"{HEADER} g (int32[N] x) => (int32[a] y) <int32 two = {{2}}> {{ a = Mul (x, two)  y = Mul (a, two) }}").copy()
    assert joined(model) == 0


@pytest.mark.parametrize(("body", "count"), [("a = Mul (x, two)  b = Add (a, three)  y = Mul (b, half)", 0), ("a = Mul (x, two)  y = Mul (a, three)", 1)])
def test_sums_and_products_of_halves_are_not_exchanged(body: str, count: int) -> None:
    bits = {name: int(np.float16(SCALARS[name]).view(np.uint16)) for name in ("two", "three", "half")}
    constants = ", ".join(f"float16 {name} = {{{value}}}" for name, value in bits.items())
    assert joined(parse_model(f"{HEADER} g (float16[N,2] x) => (float16[a,b] y) <{constants}> {{ {body} }}").copy()) == count


def test_a_subgraph_has_runs_of_its_own() -> None:
    branches = "then_branch = t () => (float[c,d,e,f] v) { a = Mul (x, two)  v = Mul (a, two) }, else_branch = e () => (float[c,d,e,f] z) { b = Mul (h, two)  z = Neg (b) }"
    model = model_of(f"h = Mul (x, half)  s = ReduceSum <keepdims = 0> (x)  p = Cast <to = 9> (s)  y = If (p) <{branches}>")
    assert joined(model) == 1


def test_a_long_run_is_joined_in_parts() -> None:
    body = "  ".join(f"t{i} = Mul ({'x' if i == 0 else f't{i - 1}'}, one)" for i in range(3 * LONGEST)) + f"  y = Relu (t{3 * LONGEST - 1})"
    model = model_of(body)
    assert joined(model) == 3
    assert joined(model) == 1
