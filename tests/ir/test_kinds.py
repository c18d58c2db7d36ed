"""Kinds of outputs: what the graph says of how an answer is used."""

from __future__ import annotations

import pytest

from graphcompress.errors import UsageError
from graphcompress.ir.analysis.output_kinds import OutputKind, output_kinds, stated_kind
from graphcompress.ir.files import text

HEAD = "g (float[N,4] x, float[N,3,4] u, float[N,5,1,4] v, float[N,3,4,4] q, bool c)"
ML = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>'
CLASSES, SEQUENCE, VALUES, PROBABILITIES, EMBEDDING = (OutputKind(name) for name in ("classes", "sequence", "values", "probabilities", "embedding"))  # type: ignore[arg-type]
LOGITS = OutputKind("classes", unsure=True)
W42 = "w = Constant <value = float[4,2] {1, 2, 3, 4, 5, 6, 7, 8}> ()"
ONE = "k = Constant <value = float {1}> ()"


def kind(body: str, opset: int = 17, head: str = HEAD) -> OutputKind:
    return output_kinds(text.parse_model(f"{head} => (y) {{ {body} }}", {"": opset}))["y"]


@pytest.mark.parametrize(
    ("opset", "body", "expected"),
    [
        (17, "y = Softmax (x)", CLASSES),
        (17, "y = Softmax (u)", SEQUENCE),
        (17, "y = Softmax <axis = 2> (u)", SEQUENCE),
        (17, "y = LogSoftmax <axis = -1> (x)", CLASSES),
        (17, "y = Softmax <axis = 1> (u)", OutputKind("classes", 1)),
        (17, "y = Softmax <axis = -3> (q)", OutputKind("classes", 1)),
        (17, "y = Softmax (q)", CLASSES),
        (12, "y = Softmax (x)", CLASSES),
        (12, "y = Softmax (u)", VALUES),
        (12, "y = Softmax <axis = 2> (u)", SEQUENCE),
        (12, "y = Softmax <axis = 2> (v)", CLASSES),
        (17, "y = Softmax <axis = 2> (v)", PROBABILITIES),
        (17, "s = Softmax (x)  y = Identity (s)", CLASSES),
        (17, "s = Softmax (x)  y = Cast <to = 10> (s)", CLASSES),
        (17, "s = Softmax (x)  y = Log (s)", CLASSES),
        (17, "s = Softmax <axis = 1> (q)  y = Transpose <perm = [0, 2, 3, 1]> (s)", CLASSES),
        (17, "i = Cast <to = 6> (x)  y = Cast <to = 1> (i)", VALUES),
        (17, "s = Softmax (x)  k = Constant <value = float {0.1}> ()  r = QuantizeLinear (s, k)  y = DequantizeLinear (r, k)", CLASSES),
        (17, "s = Softmax (x)  y = Relu (s)", VALUES),
        (17, "y = If (c) <then_branch = t () => (a) { a = Softmax (x) }, else_branch = e () => (b) { b = LogSoftmax (x) }>", CLASSES),
        (17, "y = If (c) <then_branch = t () => (a) { a = Softmax (x) }, else_branch = e () => (b) { b = Relu (x) }>", VALUES),
    ],
)
def test_softmax(opset: int, body: str, expected: OutputKind) -> None:
    assert kind(body, opset) == expected


AXES = "a = Constant <value = int64[1] {1}> ()"


@pytest.mark.parametrize(
    "body",
    [
        f"{AXES}  e = Exp (x)  s = ReduceSum (e, a)  y = Div (e, s)",
        f"{AXES}  e = Exp (x)  s = ReduceSum (e, a)  r = Reciprocal (s)  y = Mul (e, r)",
        f"{AXES}  e = Exp (x)  s = ReduceSum (e, a)  r = Reciprocal (s)  y = Mul (r, e)",
        f"{AXES}  {ONE}  e = Exp (x)  s = ReduceSum (e, a)  t = Add (s, k)  y = Div (e, t)",
        f"{AXES}  m = ReduceMax (x)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum (e, a)  h = Shape (e)  z = Expand (s, h)  y = Div (e, z)",
        f"{AXES}  e = Exp (x)  s = ReduceSum (e, a)  l = Log (s)  y = Sub (x, l)",
        "l = ReduceLogSumExp <axes = [1]> (x)  y = Sub (x, l)",
    ],
)
def test_a_softmax_that_is_written_out(body: str) -> None:
    assert kind(body) in (CLASSES, OutputKind("classes", 1))


@pytest.mark.parametrize(
    "body",
    [
        f"{AXES}  e = Exp (x)  f = Exp (x)  s = ReduceSum (f, a)  y = Div (e, s)",
        f"{AXES}  s = ReduceSum (x, a)  y = Div (x, s)",
        f"{AXES}  e = Exp (x)  s = ReduceSum (e, a)  y = Div (s, e)",
    ],
)
def test_what_is_no_softmax(body: str) -> None:
    assert kind(body) == VALUES


@pytest.mark.parametrize(
    "body",
    [
        "y = Sigmoid (q)",
        "s = Sigmoid (x)  y = Reshape (s, h)  h = Constant <value = int64[3] {-1, 2, 2}> ()",
        f"{ONE}  n = Neg (x)  e = Exp (n)  d = Add (k, e)  y = Div (k, d)",
        f"{ONE}  n = Neg (x)  e = Exp (n)  d = Add (e, k)  y = Reciprocal (d)",
        "s = Sigmoid (x)  t = Softmax (x)  y = Mul (s, t)",
        "s = Sigmoid (q)  m = GlobalMaxPool (s)  y = Flatten (m)",
        "i = If (c) <then_branch = t () => (a) { a = Sigmoid (x) }, else_branch = e () => (b) { z = Sigmoid (x)  b = Identity (z) }>  y = ReduceMean (i)",
    ],
)
def test_probabilities(body: str) -> None:
    assert kind("  ".join(sorted(body.split("  "), key=lambda part: "Constant" not in part))) == PROBABILITIES


@pytest.mark.parametrize(
    "body",
    [
        "y = Reciprocal (x)",
        f"{ONE}  y = Div (k, x)",
        "e = Exp (x)  r = Relu (e)  y = Reciprocal (r)",
        f"{ONE}  e = Exp (x)  m = Mul (e, k)  y = Div (k, m)",
        f"{ONE}  r = Relu (x)  d = Add (r, k)  y = Reciprocal (d)",
    ],
)
def test_what_is_no_sigmoid(body: str) -> None:
    assert kind(body) == VALUES


@pytest.mark.parametrize(
    "body",
    [
        "y = LpNormalization (x)",
        "n = ReduceL2 <axes = [1]> (x)  y = Div (x, n)",
        f"{ONE}  n = ReduceL2 <axes = [1]> (x)  m = Max (n, k)  h = Shape (x)  e = Expand (m, h)  y = Div (x, e)",
        f"{AXES}  m = Mul (x, x)  s = ReduceSum (m, a)  r = Sqrt (s)  y = Div (x, r)",
        f"{AXES}  {ONE}  m = Pow (x, k)  s = ReduceSum (m, a)  t = Add (s, k)  r = Sqrt (t)  y = Div (x, r)",
        "s = ReduceSumSquare <axes = [1]> (x)  r = Sqrt (s)  i = Reciprocal (r)  y = Mul (x, i)",
    ],
)
def test_vectors_of_length_one(body: str) -> None:
    assert kind(body) == EMBEDDING


def test_vectors_along_another_axis() -> None:
    assert kind("y = LpNormalization <axis = 1> (q)") == OutputKind("embedding", 1)
    assert kind("y = LpNormalization <p = 1> (q)") == VALUES


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{W42}  y = MatMul (x, w)", LOGITS),
        ("w = Constant <value = float[4,1] {1, 2, 3, 4}> ()  y = MatMul (x, w)", VALUES),
        ("w = Constant <value = float[2,4] {1, 2, 3, 4, 5, 6, 7, 8}> ()  y = Gemm <transB = 1> (x, w)", LOGITS),
        (f"{W42}  b = Constant <value = float[2] {{1, 2}}> ()  m = MatMul (x, w)  y = Add (b, m)", LOGITS),
        (f"{W42}  b = Constant <value = float[2] {{1, 2}}> ()  m = MatMul (x, w)  r = Relu (m)  y = Add (b, r)", VALUES),
        ("w = Constant <value = float[1,4] {1, 2, 3, 4}> ()  m = MatMul (w, x)  y = Add (x, m)", VALUES),
        (f"{W42}  b = Constant <value = float[2] {{1, 2}}> ()  m = MatMul (x, w)  y = BatchNormalization (m, b, b, b, b)", LOGITS),
        (f"{W42}  b = Constant <value = float[2] {{1, 2}}> ()  m = MatMul (x, w)  r = Relu (m)  y = BatchNormalization (r, b, b, b, b)", VALUES),
        (f"{W42}  y = MatMul (u, w)", VALUES),
        ("y = Relu (x)", VALUES),
    ],
)
def test_a_table_of_raw_numbers_may_hold_logits_or_values(body: str, expected: OutputKind) -> None:
    assert kind(body) == expected


@pytest.mark.parametrize(("width", "expected"), [(16, OutputKind("sequence", unsure=True)), (15, VALUES), (4, VALUES)])
def test_frames_of_raw_numbers_are_logits_where_the_width_changes(width: int, expected: OutputKind) -> None:
    weight = f"w = Constant <value = float[4,{width}] {{{', '.join('1' * 4 * width)}}}> ()"
    assert kind(f"{weight}  y = MatMul (u, w)") == expected


@pytest.mark.parametrize("body", ["y = ArgMax <axis = 1> (x)", "y = Greater (x, x)", "y = Cast <to = 8> (x)"])
def test_exact(body: str) -> None:
    assert kind(body) == OutputKind("exact")


def test_scores_that_are_joined_with_other_parts() -> None:
    body = "s = Sigmoid (u)  j = Concat <axis = 1> (u, s)  h = Constant <value = int64[2] {-1, 24}> ()  y = Reshape (j, h)"
    assert kind(body) == OutputKind("values", scores=True)
    assert kind(body.replace("Sigmoid", "Relu")) == VALUES


NMS = "keep = NonMaxSuppression (b, s)  k = Constant <value = int64 {2}> ()  i = Gather <axis = 1> (keep, k)"


def test_what_comes_out_of_non_maximum_suppression_is_a_set() -> None:
    model = text.parse_model(f"g (float[1,N,4] b, float[1,C,N] s) => (y, keep, s2) {{ {NMS}  y = Gather <axis = 1> (b, i)  s2 = Sigmoid (s) }}", {"": 17})
    assert output_kinds(model) == {"y": OutputKind("boxes"), "keep": OutputKind("boxes"), "s2": PROBABILITIES}


@pytest.mark.parametrize(("sizes", "axis"), [("[1,100]", 1), ("[1,d]", 1), ("[1,6]", -1), ("[1,100,4]", -1), ("[100]", -1), ("[d,100]", -1)])
def test_a_table_of_a_row_for_each_input_has_one_number_for_each_detection(sizes: str, axis: int) -> None:
    rank = sizes.count(",") + 1
    shape = {1: "{-1}", 2: "{-1, 100}" if sizes == "[d,100]" else "{1, -1}", 3: "{1, -1, 4}"}[rank]
    tail = f"h = Constant <value = int64[{rank}] {shape}> ()  y = Reshape (p, h)"
    model = text.parse_model(f"g (float[1,N,4] b, float[1,C,N] s) => (float{sizes} y) {{ {NMS}  p = Gather <axis = 1> (b, i)  {tail} }}", {"": 17})
    assert output_kinds(model) == {"y": OutputKind("boxes", axis)}


def test_a_number_of_rows_that_nobody_knows_is_not_that_of_the_inputs() -> None:
    body = f"{NMS}  p = Gather <axis = 1> (b, i)  h = Constant <value = int64[2] {{-1, 100}}> ()  y = Reshape (p, h)"
    model = text.parse_model(f"g (float[1,N,4] b, float[1,C,N] s, float[?,3] u) => (float[?,100] y) {{ {body} }}", {"": 17})
    assert output_kinds(model) == {"y": OutputKind("boxes", -1)}


@pytest.mark.parametrize(
    ("body", "axis"),
    [
        ("n = Shape (keep)  z = Constant <value = int64[1] {0}> ()  y = Gather (n, z)", 0),
        ("g = Gather <axis = 1> (b, i)  m = ReduceMax <keepdims = 0> (g)  h = Constant <value = int64[1] {1}> ()  y = Reshape (m, h)", -1),
    ],
)
def test_how_many_detections_there_are_is_a_number_of_them(body: str, axis: int) -> None:
    model = text.parse_model(f"g (float[1,N,4] b, float[1,C,N] s) => (y) {{ {NMS}  {body} }}", {"": 17})
    assert output_kinds(model) == {"y": OutputKind("boxes", axis)}


def test_a_stated_set_has_the_form_of_its_output_only_where_that_is_one() -> None:
    assert stated_kind("boxes", OutputKind("classes", 0)) == OutputKind("boxes") and stated_kind("boxes", OutputKind("boxes", 1)) == OutputKind("boxes", 1)
    assert stated_kind("embedding", OutputKind("classes", 1)) == OutputKind("embedding", 1)


def test_rows_that_a_topk_picks_are_a_set() -> None:
    picked = "k = Constant <value = int64[1] {2}> ()  m = ReduceMax <axes = [2], keepdims = 0> (u)  v, i = TopK (m, k)"
    model = text.parse_model(
        f"g (float[1,9,4] u) => (y, z) {{ {picked}  p = Gather <axis = 1> (u, i)  h = Constant <value = int64[3] {{1, 2, 4}}> ()  y = Reshape (p, h)  z = Relu (y) }}",
        {"": 17},
    )
    assert output_kinds(model) == {"y": OutputKind("boxes"), "z": VALUES}


def test_an_output_that_is_an_input_or_a_constant() -> None:
    model = text.parse_model("g (float[N,4] x, int64[N] i) => (x, i, k) <float[1] k = {1}> { z = Relu (x) }")
    assert output_kinds(model) == {"x": VALUES, "i": OutputKind("exact"), "k": VALUES}


def test_rank_of_the_signature_serves_where_inference_knows_none() -> None:
    """ai.onnx.ml operators without shape inference, as scikit-learn exports have them."""
    model = text.parse_model(ML + " g (float[N,4] x) => (float[N,3] y) { a = ai.onnx.ml.SVMRegressor (x)  y = Softmax <axis = 1> (a) }")
    assert output_kinds(model)["y"].name == "classes"


@pytest.mark.parametrize(
    "body",
    [
        "r = Constant <value = int64[1] {4}> ()  v = Reshape (f, r)  y = MatMul (v, v)",
        "r = Constant <value = int64[1] {1}> ()  i = Constant <value = int64 {0}> ()  s = Softmax <axis = 0> (f)  y = Gather (s, i)",
        "a = Constant <value = int64[1] {0}> ()  i = Constant <value = int64[1] {0}> ()  g = Gather (f, i)  s = Softmax <axis = 0> (g)  y = Squeeze (s, a)",
    ],
)
def test_one_number_is_a_value(body: str) -> None:
    """An output of rank 0 has no axis of classes."""
    assert kind(body, head="g (float[4] f)").name in ("values", "probabilities")


def test_classifiers_and_their_maps() -> None:
    head = ML + " g (float[N,4] x) =>"
    tree = "l, p = ai.onnx.ml.LinearClassifier <coefficients = [1.0, 1.0, 1.0, 1.0]> (x)"
    maps = "y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1]> (p)"
    assert output_kinds(text.parse_model(f"{head} (float[N,2] p) {{ {tree} }}")) == {"p": CLASSES}
    assert output_kinds(text.parse_model(f"{head} (seq(map(int64, float)) y) {{ {tree}  {maps} }}")) == {"y": CLASSES}
    assert output_kinds(text.parse_model(f"{head} (seq(float[N,4]) z) {{ z = SequenceConstruct (x) }}")) == {"z": VALUES}


def test_what_is_stated_goes_before_what_the_graph_says() -> None:
    model = text.parse_model(f"{HEAD} => (y, z) {{ y = Softmax <axis = 1> (q)  z = Relu (x) }}", {"": 17})
    assert output_kinds(model, stated={"z": "embedding"}) == {"y": OutputKind("classes", 1), "z": EMBEDDING}
    assert output_kinds(model, stated={"y": "values"})["y"].name == "values"


@pytest.mark.parametrize(("stated", "told"), [({"w": "classes"}, "no output 'w'"), ({"y": "class"}, "Did you mean 'classes'")])
def test_what_cannot_be_stated(stated: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        output_kinds(text.parse_model(f"{HEAD} => (y) {{ y = Relu (x) }}", {"": 17}), stated=stated)
