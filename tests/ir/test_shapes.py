"""Shape inference: the signature decides, stale claims do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphcompress.ir.files import text
from graphcompress.ir.files.read import load, model_from_proto
from graphcompress.ir.model import walk
from graphcompress.ir.model.model import Model
from graphcompress.ir.shapes.infer import Shapes, infer


def shapes_by_name(model: Model, shapes: Shapes | None = None) -> dict[str, tuple[str | None, object]]:
    shapes = shapes or infer(model)
    return {t.name: (shapes.dtype(t), shapes.shape(t)) for n in walk.nodes(model) for t in n.outputs}


def test_symbols_of_the_signature_and_constants_reach_all_tensors() -> None:
    model = text.parse_model(
        "g (float[N,3,4] x, float[4,5] w) => (y) { s = Shape (x)  i = Constant <value_ints = [0]> ()  n = Gather <axis = 0> (s, i)"
        "  m = Constant <value_ints = [12]> ()  t = Concat <axis = 0> (n, m)  y = Reshape (x, t)  z = MatMul (x, w) }"
    )
    found = shapes_by_name(model)
    assert found["y"] == ("float", ("N", 12))
    assert found["z"] == ("float", ("N", 3, 5))
    assert found["s"] == ("int64", (3,))


def test_stale_value_info_and_stale_outputs_are_not_believed() -> None:
    model = text.parse_model("g (float[N,4] x) => (float[1,4] y) { a = Relu (x)  y = Abs (a) }")
    model.graph.shell.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 4]))
    assert shapes_by_name(model) == {"a": ("float", ("N", 4)), "y": ("float", ("N", 4))}


def test_unknown_sizes_are_none_and_never_an_invented_name() -> None:
    model = text.parse_model("g (float[?,4] x, float[unk__0] u) => (y, z) { a = NonZero (x)  y = Transpose (a)  b = Concat <axis = 0> (x, x)  z = Relu (u) }")
    found = shapes_by_name(model)
    assert found["a"] == ("int64", (2, None))
    assert found["y"] == ("int64", (None, 2))
    assert found["b"] == ("float", (None, 4))
    assert found["z"] == ("float", ("unk__0",))


def test_a_question_mark_is_no_symbol() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, ["?", -1, 3])], [helper.make_empty_tensor_value_info("y")]
    )
    model = model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), check=False)
    assert infer(model).shape(model.graph.inputs[0]) == (None, None, 3)
    assert infer(model).shape(model.graph.outputs[0]) == (None, None, 3)


def test_an_overridable_initializer_gives_no_values() -> None:
    source = "g (float[2,6] x, int64[2] shape) => (y) <int64[2] shape = {3, 4}> { y = Reshape (x, shape) }"
    free = text.parse_model('<ir_version: 8, opset_import: ["" : 17]>' + source)
    fixed = text.parse_model('<ir_version: 3, opset_import: ["" : 17]>' + source)
    assert infer(free).shape(free.graph.outputs[0]) == (None, None)
    assert infer(fixed).shape(fixed.graph.outputs[0]) == (3, 4)


def test_branches_are_told_apart_where_names_are_shadowed() -> None:
    model = text.parse_model(
        "g (float[N,4] x, bool c) => (y) { y = If (c) <then_branch = t () => (float[7,8] p) { r = Relu (x) p = Abs (r) },"
        " else_branch = e () => (p) { r = Concat <axis = 1> (x, x) p = Abs (r) }> }"
    )
    shapes = infer(model)
    then, other = walk.subgraphs(model.graph.nodes[0])
    assert [shapes.shape(n.outputs[0]) for n in then.nodes] == [("N", 4), ("N", 4)]
    assert [shapes.shape(n.outputs[0]) for n in other.nodes] == [("N", 8), ("N", 8)]
    assert shapes.shape(model.graph.outputs[0]) == ("N", None)


def test_inputs_of_a_loop_body_claim_nothing() -> None:
    model = text.parse_model(
        "g (float[N,4] x, int64 trip, bool k) => (y) { y = Loop (trip, k, x) <body = b (int64 i, bool c, float[1,4] v) => (d, w) { d = Identity (c)  w = Concat <axis = 0> (v, v) }> }"
    )
    shapes = infer(model)
    (body,) = walk.subgraphs(model.graph.nodes[0])
    assert shapes.shape(body.inputs[2]) in (None, (None, None), (None, 4))
    assert shapes.dtype(body.inputs[2]) == "float"
    assert shapes.shape(model.graph.outputs[0]) in (None, (None, None), (None, 4))


def test_inputs_can_be_set_for_a_feed() -> None:
    model = text.parse_model("g (float[N,4] x) => (y) { y = Flatten <axis = 0> (x) }")
    assert infer(model, {"x": (3, 4)}).static(model.graph.outputs[0]) == (1, 12)
    assert infer(model).static(model.graph.outputs[0]) is None


def test_unknown_operators_leave_unknowns_but_an_output_keeps_its_stated_rank() -> None:
    model = text.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "foo" : 1]> g (float[N,4] x) => (double[5,4] y, z) { y = foo.Bar (x)  a = foo.Bar (x)  z = Relu (x) }'
    )
    found = shapes_by_name(model)
    assert found["y"] == ("double", (None, None))
    assert found["a"] == (None, None)
    assert found["z"] == ("float", ("N", 4))


def test_scaler_and_fused_conv_have_shapes() -> None:
    model = text.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1, "com.microsoft" : 1]> g (double[N,3,8,8] x, float[5,3,3,3] w) => (y)'
        ' { a = ai.onnx.ml.Scaler <scale = [1.0], offset = [0.0]> (x)  y = com.microsoft.FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (a, w) }'
    )
    assert shapes_by_name(model) == {"a": ("float", ("N", 3, 8, 8)), "y": ("float", ("N", 5, 8, 8))}


def test_sequences_are_no_tensors() -> None:
    model = text.parse_model("g (float[N,4] x) => (seq(float[N,4]) y) { y = SequenceConstruct (x) }")
    shapes = infer(model)
    assert shapes.rank(model.graph.outputs[0]) is None
    spec = shapes.spec(model.graph.outputs[0])
    assert spec is not None and spec.kind == "sequence"


def test_a_new_constant_answers_and_a_new_variable_is_unknown() -> None:
    model = text.parse_model("g (float[N,4] x) => (y) { y = Relu (x) }").copy()
    shapes = infer(model)
    made = model.constant("c", np.zeros((2, 0), np.float16))
    assert (shapes.dtype(made), shapes.shape(made)) == ("float16", (2, 0))
    assert shapes.spec(model.variable("v")) is None


def test_unsorted_graph() -> None:
    nodes = [helper.make_node("Abs", ["a"], ["y"]), helper.make_node("Relu", ["x"], ["a"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 4])], [helper.make_empty_tensor_value_info("y")])
    model = model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), check=False)
    assert infer(model).shape(model.graph.outputs[0]) == ("N", 4)


def test_contradictions_do_not_raise() -> None:
    model = text.parse_model("g (float[N,4] x, float[5,3] w) => (y, z) { a = MatMul (x, w)  y = Relu (a)  z = Abs (x) }")
    shapes = infer(model)
    assert shapes.shape(model.graph.outputs[1]) == ("N", 4)


def test_weights_beyond_the_size_of_a_message_are_not_read(tmp_path: Path) -> None:
    """4 GiB of external data in a sparse file; small external integers are read, because shapes hang on them."""
    data = tmp_path / "w.data"
    with open(data, "wb") as file:
        file.write(np.array([-1, 8], np.int64).tobytes())
        file.truncate(2**32 + 4096)
    tensors = [TensorProto(name="w", data_type=1, dims=[8, 2**27]), TensorProto(name="s", data_type=7, dims=[2])]
    for tensor, offset, length in zip(tensors, ("4096", "0"), (str(2**32), "16"), strict=True):
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.data"), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Reshape", ["x", "s"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 4, 2])], [helper.make_empty_tensor_value_info("y")], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    assert infer(model).shape(model.graph.outputs[0]) in ((None, 2**27), ("N", 2**27))


@pytest.mark.parametrize("reverse", [False, True])
def test_twenty_thousand_nodes(reverse: bool) -> None:
    nodes = [helper.make_node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(20_000)]
    graph = helper.make_graph(
        nodes[::-1] if reverse else nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 4])], [helper.make_empty_tensor_value_info("t20000")]
    )
    model = model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), check=False)
    assert infer(model).shape(model.graph.outputs[0]) == ("N", 4)
