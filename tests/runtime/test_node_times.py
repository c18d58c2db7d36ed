"""Times of kernels and of single nodes from the runtime's profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphcompress.ir import Model, model_from_proto, nodes, to_proto
from graphcompress.ir.files.numbered import name_tensors, numbered, numbers_in
from graphcompress.runtime import node_times as module
from graphcompress.runtime.node_times import node_times
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.profile import Kernel, _kernels, kernel_times
from tests.support.weights import with_weights


def network(width: int = 64) -> onnx.ModelProto:
    """A wide Conv and a narrow one, with what gets fused to them; nodes without names."""
    random = np.random.default_rng(0)
    wide, narrow = (random.normal(0, 0.1, shape).astype(np.float32) for shape in ((width, 3, 5, 5), (2, width, 1, 1)))
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], pads=[2] * 4),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Conv", ["q", "b"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 3, 64, 64]), ("y", None))]
    weights = [numpy_helper.from_array(wide, "a"), numpy_helper.from_array(narrow, "b")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_is_fused_counts_for_the_conv_and_the_wide_layer_takes_longest() -> None:
    model = model_from_proto(network())
    times = node_times(model, {"x": np.ones((1, 3, 64, 64), np.float32)}, LocalPlace())
    first, _, last = model.graph.nodes
    assert set(times) == {first, last}
    assert times[first] > 2 * times[last] > 0


def branches() -> Model:
    """A Conv in front of an If, others in its branches, one of which reads a tensor of the main graph."""
    weights = {"w": (np.random.default_rng(0).standard_normal((32, 32, 3, 3)) / 17).astype(np.float32)}
    return with_weights(
        """(float[1,32,48,48] x, bool c) => (float y) {
            a = Conv <pads = [1,1,1,1]> (x, w)
            y = If (c) <
                then_branch = t () => (float p) { i = Conv <pads = [1,1,1,1]> (a, w) j = Relu (i) p = Conv <pads = [1,1,1,1]> (j, w) },
                else_branch = e () => (float q) { q = Tanh (a) }
            >
        }""",
        weights,
    )


def test_names_tell_numbers_in_subgraphs_too() -> None:
    model = branches()
    before = [n.name for n in nodes(model)]
    with numbered(model) as everything:
        message = to_proto(model)
    assert [n.name for n in nodes(model)] == before and [n.op for n in everything] == ["Conv", "If", "Tanh", "Conv", "Relu", "Conv"]
    name_tensors(message.graph)
    onnx.checker.check_model(message)
    first, branch = message.graph.node
    assert list(first.output) == ["gc0x0"] and list(branch.output) == ["gc1x0"] == [message.graph.output[0].name]
    inner = next(a.g for a in branch.attribute if a.name == "then_branch")
    assert [list(n.output) for n in inner.node] == [["gc3x0"], ["gc4x0"], ["gc5x0"]] and [n.input[0] for n in inner.node] == ["gc0x0", "gc3x0", "gc4x0"]
    assert numbers_in("fused gc3x gc4x0_nchwc_kernel_time") == [3, 4] and numbers_in("Reorder_token_3") == []


def test_what_runs_in_a_branch_counts_there_and_not_for_the_if_as_well() -> None:
    model = branches()
    feed = {"x": np.ones((1, 32, 48, 48), np.float32), "c": np.array(True)}
    times = node_times(model, feed, LocalPlace())
    everything = list(nodes(model))
    outer, branch, tanh, one, relu, other = everything
    assert {outer, one, other} <= set(times) and not {tanh, relu} & set(times)
    assert times.get(branch, 0.0) < 0.5 * (times[one] + times[other])


def kernel(name: str, us: float, op: str = "", start: float | None = None) -> dict[str, Any]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "ts": next(CLOCK) if start is None else start, "args": {"op_name": op, "provider": "cpu"}}


CLOCK = iter(range(10**6))
END = {"cat": "Session", "name": "model_run", "dur": 1, "ts": 0}


def test_a_run_ends_with_its_event_and_kernels_of_one_name_are_added_up() -> None:
    events = [kernel("a", 900), END]
    for us in (9, 3, 7, 5, 8, 6, 4, 2):
        events += [kernel("a", us), kernel("a", 1), kernel("b", 10 * us), {"cat": "Node", "name": "a_fence_before", "dur": 99}, END]
    assert {k.name: k.ns for k in _kernels(events, [])} == {"a": pytest.approx(3500.0), "b": pytest.approx(25000.0)}


def test_what_a_kernel_holds_is_not_its_own_time() -> None:
    run = [kernel("in", 4, start=2), kernel("in", 3, start=7), kernel("if", 10, start=1), kernel("after", 5, start=12), END]
    assert {k.name: k.ns for k in _kernels([*run, *run], [])} == {"in": 7000.0, "if": 3000.0, "after": 5000.0}


def computed(model: Model, *named: tuple[str, str]) -> list[str | None]:
    """The names of the nodes that kernels (name, op) compute."""
    run = [kernel(name, 1, op) for name, op in named] + [END]
    return [None if k.node is None else k.node.name for k in _kernels([*run, *run], list(nodes(model)))]


CHAIN = """(float[1,4,8,8] x, float[1,4,8,8] z) => (float y) {
    [c] p = Conv (x, w)
    [s] q = Add (p, z)
    [r] r = Relu (q)
    [d] d = Conv (r, w)
    [t] t = Tanh (d)
    [m] m = MatMul (t, v)
    [b] y = Add (m, v)
}"""


@pytest.mark.parametrize(
    ("named", "nodes_"),
    [
        ([("gc0x0_nchwc", "Conv"), ("gc3x0_nchwc", "Conv")], ["c", "d"]),
        ([("gc2x0_nchwc", "Conv"), ("gc4x0_nchwc", "Conv")], ["c", "d"]),  # with what was fused behind
        ([("fused gc4xgc3x", "FusedConv"), ("gc6x/MatMulAddFusion", "Gemm")], ["d", "m"]),
        ([("gc0x", "Conv"), ("gc2x0", "Relu")], ["c", "r"]),
        ([("gc1x0_nchwc", "Conv"), ("gc2x", "Reorder"), ("Reorder_token_1", "ReorderOutput")], ["c", "r", None]),
        ([("gc0x", "Conv"), ("gc1x", "Other"), ("gc2x0", "Conv")], ["c", "s", "r"]),  # the Conv has a kernel of its own
    ],
)
def test_a_kernel_computes_the_node_whose_operator_it_is(named: Sequence[tuple[str, str]], nodes_: list[str | None]) -> None:
    model = with_weights(CHAIN, {"w": np.ones((4, 4, 1, 1), np.float32), "v": np.ones((8, 8), np.float32)})
    assert computed(model, *named) == nodes_


def test_kernels_that_the_runtime_adds_count_for_the_node_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_from_proto(network())
    first, _, last = model.graph.nodes
    kernels = [Kernel("ReorderInput", "ReorderInput", "cpu", 5e3), *(Kernel("", "", "cpu", ns, node) for ns, node in ((7e3, first), (2e3, None), (1e3, last)))]
    monkeypatch.setattr(module, "kernel_times", lambda *a, **k: [kernels])
    assert node_times(model, {}, LocalPlace()) == {first: pytest.approx(9e-6), last: pytest.approx(1e-6)}


def test_models_run_in_turn_and_large_weights_are_not_in_the_message() -> None:
    model = branches()
    one, other = kernel_times([model, model.copy()], [{"x": np.ones((1, 32, 48, 48), np.float32), "c": np.array(False)}], LocalPlace())
    assert [k.op for k in one] == [k.op for k in other] and all(k.ns > 0 for k in one if k.op == "Conv")
