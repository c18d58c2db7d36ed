"""The engine itself: symbolic sizes through the idioms of exporters, bodies of control flow and functions, and answers after an edit."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from graphcompress.ir import Constant, Model, model_from_proto
from graphcompress.ir.files import text
from graphcompress.ir.model import walk
from graphcompress.ir.model.dimensions import Dim, unknown
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.objects import Tensor
from graphcompress.ir.shapes import facts
from graphcompress.ir.shapes.infer import Shapes, infer

SIZES = "s = Shape (x)  zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()  f = Constant <value_ints = [0]> ()  n = Gather (s, zero)  m = Gather (s, one)"
VECTORS = f"{SIZES} nv = Unsqueeze (n, f)  mv = Unsqueeze (m, f)"
X = "float[batch, seq, 768] x"


def named(model: Model) -> dict[str, Tensor]:
    return {t.name: t for n in walk.nodes(model) for t in n.outputs}


def texts(shapes: Shapes, tensor: Tensor) -> tuple[str, ...] | None:
    shape = shapes.shape(tensor)
    return None if shape is None else tuple(str(d) for d in shape)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{VECTORS} h = Constant <value_ints = [12, 64]> ()  t = Concat <axis = 0> (nv, mv, h)  y = Reshape (x, t)", ("batch", "seq", "12", "64")),
        ("t = Constant <value_ints = [0, 0, 12, -1]> ()  y = Reshape (x, t)", ("batch", "seq", "12", "64")),
        ("t = Constant <value_ints = [-1, 768]> ()  y = Reshape (x, t)", ("batch*seq", "768")),
        ("t = Constant <value_ints = [-1, 768]> ()  r = Reshape (x, t)  u = Shape (x)  y = Reshape (r, u)", ("batch", "seq", "768")),
        ("y = Concat <axis = 1> (x, past)", ("batch", "past + seq", "768")),
        ("c = Concat <axis = 1> (past, x)  s = Shape <start = 1, end = 2> (x)  e = Constant <value_ints = [9223372036854775807]> ()  a = Constant <value_ints = [1]> ()"
         "  y = Slice (past, s, e, a)", ("batch", "past - min(past, seq)", "768")),
        (f"{SIZES} y = Range (zero, m, one)", ("seq",)),
        (f"{VECTORS} y = ConstantOfShape (mv)", ("seq",)),
        (f"{VECTORS} k = Constant <value = float[1] {{1}}> ()  t = Concat <axis = 0> (mv, nv)  y = Expand (k, t)", ("seq", "batch")),
        (f"{VECTORS} k = Constant <value = float[2] {{1, 2}}> ()  y = Tile (k, mv)", ("2*seq",)),
        (f"{VECTORS} two = Constant <value_ints = [2]> ()  q = Mul (mv, two)  p = Equal (q, nv)  w = Where (p, q, two)  y = ConstantOfShape (w)", ("None",)),
        (f"{VECTORS} g = Constant <value_ints = [-1]> ()  p = Equal (mv, g)  o = Constant <value_ints = [1]> ()  w = Where (p, o, mv)  y = ConstantOfShape (w)", ("seq",)),
        (f"{SIZES} i = Gather (s, m)  y = Range (zero, i, one)", ("None",)),
        (f"{SIZES} l = Constant <value = float[1,512] {{{', '.join(['0'] * 512)}}}> ()  b = Constant <value_ints = [1]> ()  mv = Unsqueeze (m, f)  p = Slice (l, f, mv, b)  q = Shape (p)"
         "  y = ConstantOfShape (q)", ("1", "min(seq, 512)")),
        ("w = Constant <value = float[4,768,3] {" + ", ".join(["0"] * 4 * 768 * 3) + "}> ()  t = Transpose <perm = [0, 2, 1]> (x)  y = Conv <strides = [2], pads = [1, 1]> (t, w)",
         ("batch", "4", "(seq + 1)//2")),
    ],
)  # fmt: skip
def test_symbolic_sizes_reach_through(body: str, expected: tuple[str, ...]) -> None:
    model = text.parse_model(f"g ({X}, float[batch, past, 768] past) => (y) {{ {body} }}")
    assert texts(infer(model), model.graph.outputs[0]) == expected


def test_a_target_that_may_be_zero_beside_a_minus_one_says_nothing() -> None:
    """For seq = 0 the entry copies the axis of size 12, and the -1 becomes 0."""
    model = text.parse_model(
        f"g (float[12, seq, 64] x) => (y) {{ {VECTORS} h = Constant <value_ints = [-1, 64]> ()  t = Concat <axis = 0> (mv, h)  y = Reshape (x, t) }}"
    )
    assert texts(infer(model), model.graph.outputs[0]) == ("None", "None", "64")


def test_values_are_handed_out_fully_and_in_part() -> None:
    model = text.parse_model(f"g (float[batch, 3, ?] x) => (y) {{ {SIZES} c = Shape <start = 1, end = 2> (x)  y = Concat <axis = 0> (s, c) }}")
    shapes, tensors = infer(model), named(model)
    value = shapes.value(tensors["c"])
    assert value is not None and value.dtype == np.int64 and value.tolist() == [3]
    assert shapes.value(tensors["y"]) is None
    entries = shapes.entries(tensors["y"])
    assert entries is not None and entries.tolist() == ["batch", 3, None, 3]


def test_unnamed_sizes_take_part_and_are_not_handed_out() -> None:
    model = text.parse_model(
        f"g (float[?, 4, 6] x) => (y, z) {{ {SIZES} nv = Unsqueeze (n, f)  k = Constant <value_ints = [-1]> ()  t = Concat <axis = 0> (nv, k)  y = Reshape (x, t)  z = Add (x, x) }}"
    )
    shapes = infer(model)
    assert [shapes.shape(t) for t in model.graph.outputs] == [(None, 24), (None, 4, 6)]


def test_what_a_loop_carries_keeps_the_sizes_that_its_body_keeps() -> None:
    model = text.parse_model(
        "g (float[N,4] x, int64 trip, bool k) => (v, s) { v, s = Loop (trip, k, x)"
        " <body = b (int64 i, bool c, w) => (d, o, q) { d = Identity (c)  o = Relu (w)  q = NonZero (w) }> }"
    )
    shapes = infer(model)
    assert [shapes.shape(t) for t in model.graph.outputs] == [("N", 4), (None, 2, None)]


@pytest.mark.parametrize(("trips", "expected"), [("trip", (None, None, 4)), ("three", (None, "N", 4))])
def test_a_loop_that_may_not_run_says_no_symbols_of_what_it_scans(trips: str, expected: tuple[object, ...]) -> None:
    """onnxruntime 1.32 makes [0, 0, 4] of it."""
    model = text.parse_model(
        f"g (float[N,4] x, int64 trip) => (v, s) {{ three = Constant <value_int = 3> ()  v, s = Loop ({trips}, , x)"
        " <body = b (int64 i, bool c, w) => (d, o, q) { d = Identity (c)  o = Relu (w)  q = Abs (w) }> }"
    )
    assert infer(model).shape(model.graph.outputs[1]) == expected


def test_scanned_tensors_have_the_length_of_what_is_scanned() -> None:
    model = text.parse_model(
        "g (float[N,4] h, float[T,N,4] x) => (v, s) { v, s = Scan <num_scan_inputs = 1, body = b (a, e) => (o, q) { o = Add (a, e)  q = Concat <axis = 1> (a, e) }> (h, x) }"
    )
    shapes = infer(model)
    assert [shapes.shape(t) for t in model.graph.outputs] == [("N", 4), ("T", "N", 8)]


def test_functions_are_looked_into_with_the_attributes_of_the_call() -> None:
    model = text.parse_model(
        '<ir_version: 9, opset_import: ["" : 17, "local" : 1]> g (float[N,4] x) => (y, z) { y = local.twice <axis = 1> (x)  z = local.twice <axis = 0> (x) }'
        ' <opset_import: ["" : 17], domain: "local"> twice <axis> (a) => (b) { c = Relu (a)  b = Concat <axis: int = @axis> (c, a) }'
    )
    shapes = infer(model)
    assert [texts(shapes, t) for t in model.graph.outputs] == [("N", "8"), ("2*N", "4")]


# --- after an edit --------------------------------------------------------------------------------------------------------------


def chain(length: int) -> Model:
    nodes = [helper.make_node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(length)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 4])], [helper.make_empty_tensor_value_info(f"t{length}")])
    return model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), check=False)


def test_what_is_made_later_is_inferred_when_it_is_asked_for() -> None:
    model = chain(2)
    shapes = infer(model)
    first = model.graph.nodes[0].outputs[0]
    tensor: Tensor = first
    for _ in range(20_000):
        tensor = model.add("Abs", [tensor]).outputs[0]
    assert shapes.shape(model.add("Flatten", [tensor], attrs={"axis": 0}).outputs[0]) is not None
    assert shapes.shape(tensor) == ("N", 4)


def test_a_node_that_its_tensors_do_not_know_of_yet() -> None:
    from graphcompress.ir.model.edit import detached

    model = chain(1)
    shapes = infer(model)
    new = model.variable("new")
    assert shapes.shape(new) is None
    shapes.enter(detached("Concat", "", {"axis": 1}, model.graph.inputs * 2, [new]))
    assert shapes.shape(new) == ("N", 8)


def test_only_what_hangs_on_a_changed_tensor_is_inferred_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = text.parse_model(
        "g (float[2,3] x, float[N] u, bool c) => (y, z) <int64[1] t = {6}> { r = Reshape (x, t)  y = If (c) <then_branch = a () => (p) { p = Relu (r) }, else_branch = b () => (q) { q = Abs (r) }>  z = Neg (u) }"
    )
    shapes, tensors = infer(model), named(model)
    assert shapes.shape(tensors["y"]) == (6,)
    (target,) = (c for c in model.graph.initializers.values() if c.name == "t")
    with Edits(model) as edits:
        edits.set_value(target, np.array([3, 2]))
    again: list[str] = []
    run = Shapes._run
    monkeypatch.setattr(Shapes, "_run", lambda self, node: (again.append(node.op), run(self, node))[1])
    shapes.forget([target])
    assert [shapes.shape(tensors[name]) for name in ("y", "p", "z")] == [(3, 2), (3, 2), ("N",)]
    assert sorted(again) == ["Abs", "If", "Relu", "Reshape"]


def test_a_tensor_keeps_its_answer_when_another_node_makes_it() -> None:
    model = chain(1)
    shapes = infer(model)
    output = model.graph.outputs[0]
    with Edits(model) as edits:
        edits.remove(model.graph.nodes)
    model.add("Unknown", model.graph.inputs, [output], domain="foo")
    assert shapes.shape(output) == ("N", 4)


# --- bounds ---------------------------------------------------------------------------------------------------------------------


def test_large_constants_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = numpy_helper.from_array(np.zeros((64, 64), np.int64), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 7, ["N", 64])],
        [helper.make_empty_tensor_value_info("y")],
        [weight],
    )
    model = model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), check=False)
    monkeypatch.setattr(facts.TensorData, "load", lambda self: pytest.fail("decoded"))
    assert infer(model).shape(model.graph.outputs[0]) == (64, 64)


def test_a_constant_in_a_missing_file_has_a_shape_and_no_value() -> None:
    proto = numpy_helper.from_array(np.array([2, 3]), "t")
    proto.ClearField("raw_data")
    proto.data_location = 1
    proto.external_data.add(key="location", value="gone.data")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "t"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, [6])], [helper.make_empty_tensor_value_info("y")], [proto]
    )
    model = model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), check=False)
    shapes = infer(model)
    assert shapes.shape(model.graph.outputs[0]) == (None, None)
    assert isinstance(model.graph.initializers["t"], Constant)


@pytest.mark.parametrize(
    ("first", "second", "agree"),
    [
        (("N", 2), ("N", 2), True),
        (("N", 2), ("M", 2), False),
        (("N", 2), (3, 2), False),
        (("N", 2), (None, 2), False),
        ((None, None), (unknown(99), unknown(98)), True),
        ((None, None), (unknown(99), unknown(99)), False),
        ((unknown(99), unknown(99)), (None, None), False),
    ],
)
def test_two_inferences_agree_where_they_say_the_same_whatever_sizes_without_a_name_are_called(
    first: tuple[Dim, ...], second: tuple[Dim, ...], agree: bool
) -> None:
    model = text.parse_model("(float[N,2] x) => (z) <float k = {nan}> { a = Relu (x)  s = Shape (a)  n = Neg (k)  z = Cast <to = 1> (s) }", {"": 17})
    assert infer(model, {"x": first}).agrees(infer(model, {"x": second}), model) is agree
