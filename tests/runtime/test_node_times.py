"""Times of single nodes from the runtime's profile."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from graphcompress.ir import model_from_proto
from graphcompress.ir.files.numbered import name_by_number, number_in
from graphcompress.runtime.node_times import _kernel_times, node_times


def network(width: int = 64) -> object:
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


def test_what_is_fused_keeps_a_number_and_the_wide_layer_takes_longest() -> None:
    model = model_from_proto(network())  # type: ignore[arg-type]
    times = node_times(model, {"x": np.ones((1, 3, 64, 64), np.float32)})
    first, relu, last = model.graph.nodes
    assert set(times) <= {first, relu, last} and last in times
    assert times.get(first, 0.0) + times.get(relu, 0.0) > 2 * times[last] > 0


def test_names_tell_numbers() -> None:
    message = network()
    name_by_number(message.graph)  # type: ignore[attr-defined]
    nodes = message.graph.node  # type: ignore[attr-defined]
    assert [number_in(node.name) for node in nodes] == [0, 1, 2]
    assert number_in(f"fused {nodes[1].output[0]}_nchwc_kernel_time") == 1 and number_in("Reorder_token_3") is None
    assert nodes[0].input[0] == "x" and nodes[2].output[0] == message.graph.output[0].name  # type: ignore[attr-defined]


def test_kernels_that_the_runtime_adds_count_for_the_node_before() -> None:
    def event(name: str, ts: int, dur: int, cat: str = "Node") -> dict[str, object]:
        return {"ph": "X", "name": name, "ts": ts, "dur": dur, "cat": cat}

    run = [event("model_run", 0, 99, "Session"), event("gcnode4__kernel_time", 1, 7), event("Reorder_kernel_time", 9, 2), event("gcnode5__kernel_time", 12, 1)]
    again = [event("model_run", 100, 99, "Session"), event("gcnode4__kernel_time", 101, 5)]
    assert _kernel_times([*run, *again]) == {4: [9.0, 5.0], 5: [1.0, 0.0]}
