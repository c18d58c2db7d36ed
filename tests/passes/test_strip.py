"""strip: names and notes go, what is computed and what others see stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from graphcompress.ir import Model, graphs, lint, model_from_proto, nodes, to_bytes, to_proto
from graphcompress.passes.strip import strip
from graphcompress.runtime.evaluate import run_once
from graphcompress.step import Context, StepResult
from tests.support.weights import with_weights

LONG = "a_name_that_an_exporter_made_of_the_path_of_a_module"
TEXT = f"""(float[2,3] x, bool p) => (float[2,3] y, float[2,3] second) {{
    {LONG} = Mul (x, {LONG}_weight)
    second = If (p) <then_branch = t () => (float[2,3] {LONG}_a) {{ {LONG}_a = Add ({LONG}, inner) }}, else_branch = e () => (float[2,3] b) {{ b = Neg ({LONG}) }}>
    y = Sub ({LONG}, second)
}}"""
WEIGHTS = {f"{LONG}_weight": np.arange(3, dtype=np.float32), "t/inner": np.ones(3, np.float32)}
FEED = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "p": np.array(True)}


def noted() -> Model:
    """With everything that can be left out, and a label that an application reads."""
    proto = to_proto(with_weights(TEXT, WEIGHTS))
    proto.metadata_props.add(key="labels", value="cat,dog")
    proto.graph.doc_string = "a graph"
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info(LONG, 1, [2, 3]))
    for number, node in enumerate(proto.graph.node):
        node.name = f"/module/{number}"
        node.doc_string = "a file and a line"
        node.metadata_props.add(key="pkg.exporter", value="a stack trace")
    return model_from_proto(proto)


def stripped(model: Model) -> StepResult:
    before = to_bytes(model)
    result = strip(model, Context()).boldest
    assert to_bytes(model) == before
    lint(result.model)
    return result


def test_names_and_notes_go_and_the_outputs_stay_the_same() -> None:
    model = noted()
    result = stripped(model).model
    proto = to_proto(result)
    text = proto.SerializeToString()
    assert LONG.encode() not in text and b"/module" not in text and b"stack trace" not in text and b"a file and a line" not in text
    assert not proto.graph.value_info and not proto.graph.doc_string and not any(n.HasField("name") for n in proto.graph.node)
    assert [p.value for p in proto.metadata_props] == ["cat,dog"]
    assert (result.inputs, result.outputs) == (model.inputs, model.outputs)
    for taken in (True, False):
        feed: dict[str, Any] = {**FEED, "p": np.array(taken)}
        before, after = run_once(model, feed), run_once(result, feed)
        assert all(np.array_equal(before[name], after[name]) for name in ("y", "second"))


def test_all_names_inside_are_different_and_short() -> None:
    result = stripped(noted()).model
    names = [t for g in graphs(result) for t in (*g.initializers, *(t.name for n in g.nodes for t in n.outputs))]
    assert len(set(names)) == len(names) and all(len(name) <= 2 for name in names if name not in ("y", "second"))


def test_names_that_are_taken_by_inputs_and_outputs_are_not_given_again() -> None:
    model = with_weights("(float[2] a, float[2] c) => (float[2] b) { first = Add (a, c) d = Neg (first) b = Exp (d) }", {})
    result = stripped(model).model
    names = [t.name for n in result.graph.nodes for t in n.outputs]
    assert len({*names, "a", "c"}) == len(names) + 2 and names[-1] == "b"
    feed = {"a": np.ones(2, np.float32), "c": np.zeros(2, np.float32)}
    assert np.array_equal(run_once(model, feed)["b"], run_once(result, feed)["b"])


def test_a_new_tensor_gets_a_name_that_is_free_afterwards() -> None:
    result = stripped(noted()).model
    names = {t for g in graphs(result) for t in (*g.initializers, *(t.name for n in g.nodes for t in n.outputs))}
    assert result.fresh("a") not in names


def test_stripping_twice_changes_nothing() -> None:
    once = stripped(noted()).model
    assert not stripped(once).changed


def test_inputs_of_bodies_keep_their_names() -> None:
    model = with_weights(
        """(float[2] x, int64 n, bool c) => (float[2] y) {
            y = Loop (n, c, x) <body = l (int64 step, bool going, float[2] state) => (bool still, float[2] next) { next = Add (state, state) still = Identity (going) }> }""",
        {},
    )
    result = stripped(model).model
    feed = {"x": np.ones(2, np.float32), "n": np.array(3), "c": np.array(True)}
    assert np.array_equal(run_once(result, feed)["y"], np.full(2, 8, np.float32))
    body = next(g for g in graphs(result) if g is not result.graph)
    assert [t.name for t in body.inputs] == ["step", "going", "state"]


def test_shapes_stay_where_an_unknown_operator_may_need_them() -> None:
    proto = to_proto(noted())
    proto.opset_import.add(domain="acme", version=1)
    proto.graph.node.add(op_type="Secret", domain="acme", input=["x"], output=["unused"])
    result = stripped(model_from_proto(proto, check=False))
    assert {r.id for r in result.refusals} == {"strip/unknown-domain"} and len(list(nodes(result.model))) == 6


def test_names_stay_where_annotations_refer_to_them() -> None:
    proto = to_proto(noted())
    note = proto.graph.quantization_annotation.add(tensor_name=LONG)
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=f"{LONG}_weight")
    result = stripped(model_from_proto(proto))
    assert {r.id for r in result.refusals} == {"strip/annotated"} and f"{LONG}_weight" in result.model.graph.initializers
