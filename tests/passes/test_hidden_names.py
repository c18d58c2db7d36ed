"""Names that a subgraph and a graph around it both define are kept apart before anything is moved."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from graphcompress.ir import Model, lint, nodes, to_bytes
from graphcompress.ir.files.text import parse_model
from graphcompress.ir.model.scopes import rename_hidden
from graphcompress.passes.simplify import Options, simplify
from graphcompress.step import Context

IF = "g (bool c, float[N,2] x) => (float[a,b] y, float[c,d] t) { y = If (c) <then_branch = a () => (float[e,f] t) { t = Neg (x) }, else_branch = b () => (float[e,f] u) { s = Identity (x) u = Abs (s) }> s = Relu (x) t = Exp (s) }"
LOOP = (
    "g (bool c, float[N,2] x) => (float[a,b] y, float[c,d] k) <int64 n = {3}> {"
    " y = Loop (n, c, x) <body = b (int64 i, bool k, float[N,2] s) => (bool d, float[N,2] w) { d = Identity (k) w = Add (s, s) }>"
    " s = Relu (x) w = Identity (s) k = Exp (w) }"
)
NESTED = (
    "g (bool c, float[N,2] x) => (float[a,b] y, float[c,d] t) {"
    " y = If (c) <then_branch = a () => (float[e,f] v) { v = If (c) <then_branch = p () => (float[e,f] t) { t = Neg (x) }, else_branch = q () => (float[e,f] v) { v = Abs (x) }> },"
    " else_branch = b () => (float[e,f] u) { u = Exp (x) }> t = Exp (x) }"
)
STORED = (
    "g (bool c, float[N,2] x) => (float[a,b] y, float[c,d] t) {"
    " y = If (c) <then_branch = a () => (float[e,f] u) <float t = {2}> { u = Mul (x, t) }, else_branch = b () => (float[e,f] u) { u = Exp (x) }> t = Exp (x) }"
)


def model_of(graph: str, opset: int = 17) -> Model:
    return parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {graph}').copy()


def outputs(model: Model, condition: bool) -> list[np.ndarray]:
    feed = {"c": np.array(condition), "x": np.array([[1, -2], [3, 0.5]], np.float32)}
    return onnxruntime.InferenceSession(to_bytes(model)).run(None, feed)


def names_of(graph: onnx.GraphProto) -> list[str]:
    """Every name that `graph` and the graphs inside it define."""
    inner = [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
    return [*(i.name for i in (*graph.input, *graph.initializer)), *(o for n in graph.node for o in n.output), *(n for g in inner for n in names_of(g))]


@pytest.mark.parametrize(("graph", "count"), [(IF, 2), (LOOP, 3), (NESTED, 2), (STORED, 1)])
def test_what_a_graph_around_defines_too_is_renamed(graph: str, count: int) -> None:
    model = model_of(graph)
    before = [outputs(model, c) for c in (True, False)]
    assert rename_hidden(model) == count
    lint(model)
    names = names_of(onnx.load_model_from_string(to_bytes(model)).graph)
    assert len(names) == len(set(names)) or graph is STORED  # whose branches, side by side, both make u
    assert rename_hidden(model) == 0
    for condition, expected in zip((True, False), before, strict=True):
        np.testing.assert_array_equal(outputs(model, condition), expected)


def test_branches_side_by_side_may_use_the_same_names() -> None:
    model = model_of(
        "g (bool c, float[N,2] x) => (float[a,b] y) { y = If (c) <then_branch = a () => (float[e,f] t) { t = Neg (x) }, else_branch = b () => (float[e,f] t) { t = Abs (x) }> }"
    )
    assert rename_hidden(model) == 0


@pytest.mark.parametrize("graph", [IF, LOOP, NESTED, STORED])
@pytest.mark.parametrize("off", [(), ("simplify/dead",)])
def test_nothing_is_left_out_for_it(graph: str, off: tuple[str, ...]) -> None:
    result = simplify(model_of(graph), Context(), Options(off=off)).boldest
    assert not [r for r in result.refusals if r.id.endswith("/load")]
    for condition in (True, False):
        np.testing.assert_array_equal(outputs(result.model, condition), outputs(model_of(graph), condition))


def test_where_nothing_else_is_done_the_model_stays() -> None:
    model = model_of(STORED)
    assert simplify(model, Context()).boldest.model is model


def test_sizes_that_nothing_reads_are_left_alone() -> None:
    """Without the stage that removes them, each round would read them anew."""
    model = model_of(
        "g (float[N,2] x) => (float[a,b] y) <int64[1] at = {0}> { s = Shape (x) n = Gather (s, at) m = Shape (x) e = Expand (x, s) k = Concat <axis = 0> (n, m) y = Neg (e) }"
    )
    result = simplify(model, Context(), Options(off=("simplify/dead", "simplify/common"))).boldest
    assert result.stop == "fixed point"
    assert len(list(nodes(result.model))) < 10
