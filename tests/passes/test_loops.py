"""Loops that run once or not at all are written out; all others stay."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from graphcompress.ir import Model, lint, nodes, to_bytes
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.simplify import simplify
from graphcompress.passes.simplify.loops import inline_single_trips
from graphcompress.step import Context

CONSTANTS = "int64 once = {1}, int64 never = {0}, int64 twice = {2}, int64[1] listed = {1}, bool yes = {1}, bool no = {0}, float two = {2}"
BODY = "body = b (int64 i, bool c, float[N,2] s, float[N,2] r) => (bool d, float[N,2] s2, float[N,2] r2, float[N,2] o) {{ f = Cast <to = 1> (i) o = Add (s, f) s2 = Mul (o, two) r2 = Identity (s) d = Identity ({going}) }}"


def model_of(call: str, body: str = BODY, going: str = "c", opset: int = 17, inputs: str = "") -> Model:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,2] x{inputs}) => (float[a,b] y, float[c,d] z, float[e,f,g] w) <{CONSTANTS}> {{ v = Neg (x)  {call} <{body.format(going=going)}> }}'
    return parse_model(text).copy()


def written_out(model: Model) -> int:
    count = inline_single_trips(model, lambda: infer(model))
    lint(model)
    return count


def outputs(model: Model) -> list[np.ndarray]:
    feed = {"x": np.array([[1, -2], [3, 0.5], [0, 7]], np.float32)}
    return onnxruntime.InferenceSession(to_bytes(model)).run(None, {**feed, **({"n": np.int64(1)} if len(model.inputs) > 1 else {})})


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize(
    ("call", "going"),
    [
        ('y, z, w = Loop (once, "", x, v)', "c"),
        ("y, z, w = Loop (once, yes, x, v)", "c"),
        ("y, z, w = Loop (listed, yes, x, x)", "c"),
        ("y, z, w = Loop (twice, yes, x, v)", "no"),
        ('y, z, w = Loop ("", yes, x, v)', "no"),
    ],
)
def test_one_that_runs_once(call: str, going: str, opset: int) -> None:
    model = model_of(call, going=going, opset=opset)
    before = outputs(model)
    assert written_out(model) == 1
    assert not any(n.op == "Loop" for n in nodes(model))
    after = outputs(model)
    whole = outputs(simplify(model_of(call, going=going, opset=opset), Context()).boldest.model)
    for expected, *others in zip(before, after, whole, strict=True):
        for other in others:
            np.testing.assert_array_equal(other, expected)


@pytest.mark.parametrize(
    ("call", "going", "inputs"),
    [
        ("y, z, w = Loop (twice, yes, x, v)", "c", ""),
        ('y, z, w = Loop (n, "", x, v)', "c", ", int64 n"),
        ("y, z, w = Loop (n, yes, x, v)", "no", ", int64 n"),  # it may be 0
        ("y, z, w = Loop (never, yes, x, v)", "c", ""),  # what is collected is empty, of a shape that the body alone knows
        ("y, z, w = Loop (once, no, x, v)", "c", ""),
    ],
)
def test_others_stay(call: str, going: str, inputs: str) -> None:
    assert written_out(model_of(call, going=going, inputs=inputs)) == 0


def test_a_condition_that_is_computed_decides_at_run_time() -> None:
    body = "p = ReduceSum <keepdims = 0> (x)  q = Cast <to = 9> (p)  y, z, w = Loop (once, q, x, v)"
    assert written_out(model_of(body)) == 0


@pytest.mark.parametrize("call", ["y, z = Loop (never, yes, x, v)", "y, z = Loop (once, no, x, v)"])
def test_one_that_does_not_run_hands_on_what_it_was_given(call: str) -> None:
    body = "body = b (int64 i, bool c, float[N,2] s, float[N,2] r) => (bool d, float[N,2] s2, float[N,2] r2) {{ s2 = Relu (s) r2 = Neg (r) d = Identity ({going}) }}"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[a,b] y, float[c,d] z) <{CONSTANTS}> {{ v = Neg (x)  {call} <{body.format(going="c")}> }}'
    model = parse_model(text).copy()
    before = outputs(model)
    assert written_out(model) == 1
    for after, expected in zip(outputs(model), before, strict=True):
        np.testing.assert_array_equal(after, expected)


def test_names_of_the_body_that_others_have_too_are_made_unique() -> None:
    branches = "then_branch = t () => (float[c,d] s2) { s2 = Relu (y0) }, else_branch = e () => (float[c,d] o) { o = Neg (y0) }"
    call = f"p = ReduceSum <keepdims = 0> (x)  q = Cast <to = 9> (p)  y = If (q) <{branches}>  y0, z, w = Loop (once, yes, x, v)"
    model = model_of(call)
    before = outputs(model)
    assert written_out(model) == 1
    for after, expected in zip(outputs(model), before, strict=True):
        np.testing.assert_array_equal(after, expected)


def test_a_loop_inside_another_is_written_out_in_its_turn() -> None:
    inner = "o = Add (s, s) s2 = Loop (once, yes, s) <body = l (int64 j, bool k, float[N,2] u) => (bool m, float[N,2] u2) {{ u2 = Mul (u, two) m = Identity (k) }}> r2 = Identity (r) d = Identity ({going})"
    body = f"body = b (int64 i, bool c, float[N,2] s, float[N,2] r) => (bool d, float[N,2] s2, float[N,2] r2, float[N,2] o) {{{{ {inner} }}}}"
    model = model_of("y, z, w = Loop (once, yes, x, v)", body=body)
    before = outputs(model)
    assert [written_out(model) for _ in range(3)] == [1, 1, 0]
    for after, expected in zip(outputs(model), before, strict=True):
        np.testing.assert_array_equal(after, expected)


def test_what_a_single_run_tells_is_known_in_the_same_pass() -> None:
    body = "body = b (int64 i, bool c, float[2] s) => (bool d, float[2] s2, int64[1] n) { s2 = Neg (s) n = Shape (s) d = Identity (c) }"
    model = parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[a] y, int64[b,c] z) <{CONSTANTS}> {{ y, z = Loop (once, yes, x) <{body}> }}'
    )
    result = simplify(model, Context()).boldest.model
    assert sorted(n.op for n in nodes(result)) == ["Constant", "Neg"]
    assert not simplify(result, Context()).boldest.changed
