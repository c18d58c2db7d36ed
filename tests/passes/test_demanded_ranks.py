"""An If of whose branches one gives a rank that nothing behind it can take."""

from __future__ import annotations

import numpy as np
import pytest

from graphcompress.ir import lint, nodes
from graphcompress.passes.simplify import Options, simplify
from graphcompress.runtime import evaluate
from graphcompress.step import Context
from tests.support.weights import with_weights

F32 = np.float32
SQUEEZE = """c = Shape <start = 2, end = 3> (x) e = Equal (c, one)
    s = If (e) <then_branch = a () => (float t) { t = Squeeze (x, last) }, else_branch = b () => (float u) { u = Identity (x) }>"""
AGAIN = """r = Shape (s) n = Size (r) f = Cast <to = 1> (n) q = Equal (f, rank)
    v = If (q) <then_branch = c () => (t2) { t2 = Identity (s) }, else_branch = d () => (u2) { u2 = Unsqueeze (s, first) }>"""
LSTM = "z = Unsqueeze (v, first) y, h = LSTM <hidden_size = 2> (z, w, r0)"


def ops(body: str, output: str = "y") -> list[str]:
    rng = np.random.default_rng(5)
    constants = {
        "one": np.array([1], np.int64),
        "last": np.array([-1], np.int64),
        "first": np.array([0], np.int64),
        "rank": np.array(2, F32),
        "w": rng.standard_normal((1, 8, 3)).astype(F32),
        "r0": rng.standard_normal((1, 8, 2)).astype(F32),
        "k": rng.standard_normal((2, 3, 1)).astype(F32),
        "m": rng.standard_normal((3, 2)).astype(F32),
    }
    model = with_weights(f"(float[N,3,L] x) => (float {output}) {{ {body} }}", constants)
    result = simplify(model, Context(), Options()).boldest.model
    lint(result)
    feed = {"x": rng.standard_normal((4, 3, 1)).astype(F32)}
    before, after = evaluate.run_once(model, feed), evaluate.run_once(result, feed)
    np.testing.assert_allclose(before[output], after[output], rtol=1e-6)
    return [n.op for n in nodes(result)]


def test_a_squeeze_that_depends_on_a_size_is_one_where_an_lstm_reads_it() -> None:
    assert sorted(ops(f"{SQUEEZE} v = Identity (s) {LSTM}")) == ["LSTM", "Reshape"]


def test_through_another_if_that_depends_on_the_rank() -> None:
    assert "If" not in ops(f"{SQUEEZE} {AGAIN} {LSTM}")


def test_through_activations() -> None:
    assert "If" not in ops(f"{SQUEEZE} v = Relu (s) {LSTM}")


@pytest.mark.parametrize("reader", ["y = Conv (s, k)", "y = Transpose <perm = [0, 2, 1]> (s)"])
def test_what_takes_three_axes_only(reader: str) -> None:
    other = SQUEEZE.replace("Squeeze (x, last)", "Unsqueeze (x, first)").replace("Equal (c, one)", "Less (c, one)")
    assert "If" not in ops(f"{other} {reader}")


@pytest.mark.parametrize(
    "reader",
    [
        "y = Relu (s)",  # takes any rank
        "y = MatMul (s, m)",
        "g = If (e) <then_branch = c () => (float p) { z = Unsqueeze (s, first) p, h = LSTM <hidden_size = 2> (z, w, r0) }, else_branch = d () => (float q) { q = Identity (x) }> y = Abs (g)",
    ],
)
def test_an_if_that_may_go_either_way_stays(reader: str) -> None:
    body = SQUEEZE.replace("Identity (x)", "Transpose <perm = [0, 2, 1]> (x)") if "MatMul" in reader else SQUEEZE
    assert "If" in ops(f"{body} {reader}")
