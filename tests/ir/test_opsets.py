"""Lifting opsets: the lifted model computes what the old one did, on onnxruntime with optimizations off."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from graphcompress.errors import ModelError
from graphcompress.ir import to_bytes, to_proto
from graphcompress.ir.files import text
from graphcompress.ir.files.read import model_from_proto
from graphcompress.ir.lift import lift
from graphcompress.ir.model import walk
from graphcompress.ir.model.element_types import dtype_code
from graphcompress.ir.model.model import Model
from graphcompress.ir.schemas.compatible import COMPATIBLE
from graphcompress.ir.schemas.operators import boundaries
from graphcompress.ir.shapes.infer import infer

# name, opset before, opsets after, graph
CASES = [
    ("squeeze", 11, (13, 21), "g (float[2,1,3,1] x) => (y, z) { y = Squeeze <axes = [1]> (x)  z = Squeeze (x) }"),
    ("unsqueeze", 7, (12, 13, 21), "g (float[2,3] x) => (y) { y = Unsqueeze <axes = [0, 3]> (x) }"),
    ("reduce", 11, (13, 18, 21), "g (float[2,3,4] x) => (a, b, c, d) { a = ReduceSum <axes = [-1], keepdims = 0> (x)  b = ReduceMean <axes = [1, 2]> (x)  c = ReduceMax (x)  d = ReduceL2 <axes = [0]> (x) }"),
    ("split", 11, (13, 18, 21), "g (float[4,6] x) => (a, b, c, d) { a, b = Split <axis = 1, split = [2, 4]> (x)  c, d = Split (x) }"),
    ("slice", 9, (10, 13, 21), "g (float[4,6] x) => (a, b) { a = Slice <axes = [1], starts = [-3], ends = [9223372036854775807]> (x)  b = Slice <starts = [1, 0], ends = [3, -1]> (x) }"),
    ("topk", 9, (10, 11, 13, 21), "g (float[4,6] x) => (a, b) { a, b = TopK <k = 3, axis = -1> (x) }"),
    ("pad", 10, (11, 13, 18, 21), 'g (float[2,3] x) => (a, b, c) { a = Pad <pads = [0, 1, 2, 0]> (x)  b = Pad <pads = [1, 1, 1, 1], value = 2.5> (x)  c = Pad <pads = [0, 1, 0, 1], mode = "reflect"> (x) }'),
    ("pad_half", 10, (11,), "g (float16[2,3] x) => (a) { a = Pad <pads = [1, 1, 1, 1], value = 2.5> (x) }"),
    ("clip", 10, (11, 12, 13, 21), "g (float[4,6] x) => (a, b, c) { a = Clip <min = 0.0, max = 0.5> (x)  b = Clip <max = 0.25> (x)  c = Clip (x) }"),
    ("dropout", 7, (10, 12, 13, 21), "g (float[4,6] x) => (y) { y = Dropout <ratio = 0.3> (x) }"),
    ("dropout_10", 10, (12, 13), "g (float[4,6] x) => (y) { y, m = Dropout (x) }"),
    ("scatter", 10, (11, 16), "g (float[3,3] x) => (y) { i = Constant <value = int64[1,2] {2, 0}> ()  u = Constant <value = float[1,2] {9, 8}> ()  y = Scatter <axis = 1> (x, i, u) }"),
    ("upsample_7", 7, (9, 10, 11, 13, 18), "g (float[1,2,3,4] x) => (a, b) { a = Upsample <scales = [1.0, 1.0, 2.0, 1.5]> (x)  b = Upsample <mode = \"linear\", scales = [1.0, 1.0, 2.0, 2.0]> (x) }"),
    ("resize_up", 10, (11, 13, 18, 19), "g (float[1,2,3,4] x) => (a, b) { s = Constant <value = float[4] {1, 1, 2.3, 1.7}> ()  a = Resize (x, s)  b = Resize <mode = \"linear\"> (x, s) }"),
    ("resize_down", 10, (11, 13, 18, 19), "g (float[1,2,9,7] x) => (a, b) { s = Constant <value = float[4] {1, 1, 0.4, 0.7}> ()  a = Resize (x, s)  b = Resize <mode = \"linear\"> (x, s) }"),
    ("resize_sizes", 11, (13, 18, 19), "g (float[1,2,9,7] x) => (a) <float[0] roi = {}, float[0] scales = {}> { n = Constant <value = int64[4] {1, 2, 5, 9}> ()  a = Resize <mode = \"linear\", coordinate_transformation_mode = \"half_pixel\"> (x, roi, scales, n) }"),
    ("softmax_last", 11, (13, 21), "g (float[2,3,4] x) => (a, b) { a = Softmax <axis = 2> (x)  b = LogSoftmax <axis = -1> (x) }"),
    ("softmax_wide", 11, (13, 21), "g (float[2,3,4] x) => (a, b, c) { a = Softmax (x)  b = LogSoftmax <axis = 0> (x)  c = Hardmax <axis = 1> (x) }"),
    ("softmax_ones", 11, (13,), "g (float[2,3,1,1] x) => (a) { a = Softmax <axis = 1> (x) }"),
    ("batchnorm", 9, (14, 15, 21), "g (float[2,3,4] x) => (y) <float[3] s = {1, 2, 3}, float[3] v = {1, 0.5, 2}> { y = BatchNormalization (x, s, v, s, v) }"),
    ("gridsample", 16, (20,), "g (float[1,1,3,3] x) => (a, b) { g = Constant <value = float[1,1,2,2] {0.1, -0.3, 0.8, 0.2}> ()  a = GridSample <mode = \"bilinear\"> (x, g)  b = GridSample <mode = \"bicubic\"> (x, g) }"),
    ("roialign", 10, (16,), "g (float[1,1,8,8] x) => (y) { r = Constant <value = float[1,4] {0.3, 0.7, 5.2, 6.1}> ()  b = Constant <value = int64[1] {0}> ()  y = RoiAlign <output_height = 3, output_width = 3> (x, r, b) }"),
    ("dft", 17, (20,), "g (float[1,6,2] x) => (a, b) { a = DFT (x)  b = DFT <axis = 1, inverse = 1> (x) }"),
    ("pools", 7, (11, 18), "g (float[1,2,7,7] x) => (a, b) { a = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1> (x)  b = MaxPool <kernel_shape = [2, 2]> (x) }"),
    ("arithmetic", 7, (13, 21), "g (float[2,3] x) => (y) { x2 = Constant <value = float[2] {1, 2}> ()  a = Gemm <transB = 1> (x, x, x2)  b = Exp (a)  c = Concat <axis = 1> (a, b)  y = Flatten (c) }"),
    ("lstm", 7, (14, 21), "g (float[3,1,2] x, float[1,12,2] w, float[1,12,3] r) => (y) { y = LSTM <hidden_size = 3> (x, w, r) }"),
    (
        "branches",
        12,
        (13, 18, 21),
        "g (float[2,3,4] x) => (y) { c = Constant <value = bool {1}> ()  y = If (c) <then_branch = t () => (p) { a = Softmax <axis = 1> (x)  u = Unsqueeze <axes = [0]> (a)  s = Squeeze <axes = [0]> (u)  p = ReduceMean <axes = [2]> (s) },"
        " else_branch = e () => (q) { q = ReduceMean <axes = [1]> (x) }> }",
    ),
]  # fmt: skip


def run(model: Model, feed: dict[str, Any]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return list(onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"]).run(None, feed))


def feed_of(model: Model) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kinds = {"float": np.float32, "float16": np.float16}
    return {s.name: rng.standard_normal([int(d) if isinstance(d, int) else 2 for d in s.shape or ()]).astype(kinds[str(s.dtype)]) for s in model.inputs}


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pooling_across_version_19_is_equal_but_for_rounding(ceil_mode: int, count_include_pad: int) -> None:
    """onnxruntime has another kernel from 19 on; windows that hang over the edge count the same."""
    model = text.parse_model(
        f"g (float[1,2,7,8] x) => (y) {{ y = AveragePool <kernel_shape = [3, 3], strides = [2, 3], pads = [1, 1, 1, 0], ceil_mode = {ceil_mode}, count_include_pad = {count_include_pad}> (x) }}",
        {"": 11},
    )
    feed = feed_of(model)
    np.testing.assert_allclose(run(model, feed)[0], run(lift(model, 21), feed)[0], rtol=1e-5, atol=1e-6)


def check(model: Model) -> None:
    """onnx's checker, which wants the types of outputs that the texts above leave away."""
    proto = to_proto(model)
    shapes = infer(model)
    for info, tensor in zip(proto.graph.output, model.graph.outputs, strict=True):
        info.type.CopyFrom(helper.make_tensor_type_proto(dtype_code(shapes.dtype(tensor) or "float"), shapes.shape(tensor) or ()))
    onnx.checker.check_model(proto)


@pytest.mark.parametrize(("opset", "target", "source"), [pytest.param(o, t, s, id=f"{n}-{o}-{t}") for n, o, ts, s in CASES for t in ts])
def test_lifted_model_computes_the_same(opset: int, target: int, source: str) -> None:
    model = text.parse_model(source, {"": opset})
    lifted = lift(model, target)
    assert lifted is not model
    assert lifted.opset == target
    check(lifted)
    feed = feed_of(model)
    for before, after in zip(run(model, feed), run(lifted, feed), strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype


def test_softmax_over_several_axes_goes_through_rank_two_and_over_one_does_not() -> None:
    wide = lift(text.parse_model("g (float[N,3,4] x) => (y) { y = Softmax (x) }", {"": 12}), 13)
    assert sorted(n.op for n in walk.nodes(wide)) == ["Flatten", "Reshape", "Shape", "Softmax"]
    narrow = lift(text.parse_model("g (float[N,3,1] x) => (y) { y = Softmax (x) }", {"": 12}), 13)
    assert [(n.op, n.attrs["axis"]) for n in walk.nodes(narrow)] == [("Softmax", 1)]


def test_same_object_where_nothing_is_to_do_and_the_given_model_stays() -> None:
    model = text.parse_model("g (float[2,3] x) => (y) { y = Unsqueeze <axes = [0]> (x) }", {"": 12})
    before = to_bytes(model)
    assert lift(model, 12) is model
    assert lift(model, 11) is model
    lift(model, 13)
    assert to_bytes(model) == before


def test_names_metadata_and_signature_stay() -> None:
    model = text.parse_model('g (float[N,3] x) => (float[1,N,3] y) { ["n1"] y = Unsqueeze <axes = [0]> (x) }', {"": 12})
    proto = to_proto(model)
    proto.graph.node[0].doc_string = "doc"
    proto.graph.node[0].metadata_props.add(key="k", value="v")
    (node,) = (lifted := to_proto(lift(model_from_proto(proto), 13))).graph.node
    assert (node.name, node.doc_string, node.metadata_props[0].value) == ("n1", "doc", "v")
    assert lifted.graph.output == to_proto(model).graph.output


def test_ir_version_rises_where_needed_and_constants_of_ir_3_stay_constants() -> None:
    source = "g (float[2,3] x, float[3] w) => (y) <float[3] w = {1, 2, 3}> { a = Add (x, w)  y = Unsqueeze <axes = [0]> (a) }"
    model = text.parse_model('<ir_version: 3, opset_import: ["" : 8]>' + source)
    lifted = lift(model, 13)
    assert lifted.ir_version == 7
    assert [s.name for s in lifted.inputs] == ["x"]
    again = model_from_proto(to_proto(lifted))
    assert not again.overridable
    assert lift(text.parse_model('<ir_version: 10, opset_import: ["" : 12]>' + source), 13).ir_version == 10


@pytest.mark.parametrize(
    ("opset", "target", "source", "says"),
    [
        (
            8,
            9,
            "g (float[2,3] x) => (y) <float[3] s = {1, 2, 3}> { [b] y = BatchNormalization <spatial = 0> (x, s, s, s, s) }",
            "'b' (BatchNormalization) has spatial=0",
        ),
        (10, 11, "g (float[1,1,4,4] x, float[4] s) => (y) { y = Resize (x, s) }", "(Resize) is a nearest"),
        (10, 11, "g (float[1,1,4,4] x) => (y) { s = Constant <value = float[4] {1, 1, 2, 0.5}> ()  y = Resize (x, s) }", "(Resize)"),
        (
            11,
            13,
            'g (float[1,1,4,4] x) => (y) <float[0] r = {}, float[4] s = {1, 1, 2, 2}> { y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, r, s) }',
            "(Resize)",
        ),
        (9, 13, "g (int32[2] x) => (y) { y = Erf (x) }", "(Erf) computes in int32"),
        (9, 12, "g (float[2] x) => (y, m) { y, m = Dropout (x) }", "(Dropout) has a mask"),
        (11, 13, "g (float[2] x) => (y, m) { y, m = Dropout (x) }", "(Dropout) has a mask"),
        (
            8,
            9,
            "g (float[1,2,3] x) => (y) { y = Scan <num_scan_inputs = 1, body = b (float[3] a) => (float[3] c) { c = Relu (a) }> (, x) }",
            "(Scan) changed in opset 9",
        ),
        (12, 99, "g (float[2] x) => (y) { y = Relu (x) }", "newest"),
        (6, 13, "g (float[2] x) => (y) { y = Relu (x) }", "lifting starts"),
    ],
)
def test_what_cannot_be_lifted_is_named(opset: int, target: int, source: str, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        lift(text.parse_model(source, {"": opset}), target)
    assert says in str(caught.value)


def test_functions_are_lifted_where_nothing_changes_in_them() -> None:
    source = '<ir_version: 8, opset_import: ["" : 12, "d" : 1]> g (float[2,3] x) => (y) {{ y = d.f (x) }} <domain: "d", opset_import: ["" : 12]> f (a) => (b) {{ b = {} (a) }}'
    lifted = lift(text.parse_model(source.format("Relu")), 13)
    assert lifted.header.functions[0].opset_import[0].version == 13
    with pytest.raises(ModelError, match="function 'f'"):
        lift(text.parse_model(source.format("Unsqueeze <axes = [0]>")), 13)


def test_models_without_standard_operators_get_the_import() -> None:
    model = text.parse_model('<ir_version: 8, opset_import: ["ai.onnx.ml" : 1]> g (float[2,3] x) => (y) { y = ai.onnx.ml.Normalizer (x) }')
    assert lift(model, 13).opset == 13


def test_every_change_up_to_opset_21_is_either_adapted_or_listed_as_compatible_or_known_to_be_refused() -> None:
    from graphcompress.ir.lift import _ADAPTERS

    names = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""} | {"Scatter", "Upsample"}
    open_ = {(name, v) for name in names for v in boundaries(name, 7, 21) if (name, v) not in _ADAPTERS and v not in COMPATIBLE.get(name, ())}
    born = {(name, v) for name, v in open_ if not list(boundaries(name, 7, v - 1)) and not _exists(name, 7)}
    # Scan 8 batches its inputs; GroupNormalization 18 was withdrawn, and reading refuses it.
    assert open_ - born == {("Scan", 9), ("GroupNormalization", 21)}


def _exists(name: str, version: int) -> bool:
    try:
        onnx.defs.get_schema(name, version, "")
    except onnx.defs.SchemaError:
        return False
    return True


def test_nodes_of_an_if_body_are_lifted_in_their_own_graph() -> None:
    model = text.parse_model(CASES[-1][3], {"": 12})
    then, _ = (g for n in walk.nodes(lift(model, 13)) for g in walk.subgraphs(n))
    assert {"Flatten", "Shape", "Softmax", "Reshape"} <= {n.op for n in then.nodes}


def test_a_new_version_of_an_operator_that_nobody_looked_at_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPATIBLE, "Relu", frozenset())
    with pytest.raises(ModelError, match=r"\(Relu\) changed in opset 13"):
        lift(model_from_proto(_relu()), 13)


def _relu() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_empty_tensor_value_info("y")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
