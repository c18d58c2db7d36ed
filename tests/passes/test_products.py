"""products: MatMul and Gemm as integer products without ranges, in the form that the runtime makes one operator of; everything else stays."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphcompress.errors import UsageError
from graphcompress.ir import Model, lint, to_bytes
from graphcompress.ir.analysis.statistics import statistics
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize import ProductOptions, products
from graphcompress.passes.quantize.nbits import packed_blocks
from graphcompress.reconstruction.rounding import round_to_nearest
from graphcompress.runtime import profile
from graphcompress.runtime.session import open_session
from graphcompress.step import Context, StepResult
from tests.support.weights import with_weights

F32 = np.float32
R = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Whichever tests ran before."""
    R.bit_generator.state = np.random.default_rng(11).bit_generator.state


def weight(*shape: int) -> np.ndarray[Any, Any]:
    return (R.standard_normal(shape) / np.sqrt(shape[0])).astype(F32)


FORMS = {
    "matmul": ("(float[2,7,96] x) => (float[2,7,64] y) { y = MatMul (x, w) }", {"w": weight(96, 64)}),
    "gemm": ("(float[N,96] x) => (float[N,64] y) { y = Gemm (x, w, b) }", {"w": weight(96, 64), "b": weight(64)}),
    "transposed": ("(float[N,96] x) => (float[N,64] y) { y = Gemm <transB = 1> (x, w, b) }", {"w": weight(64, 96), "b": weight(1, 64)}),
    "no bias": ("(float[N,90] x) => (float[N,50] y) { y = Gemm (x, w) }", {"w": weight(90, 50)}),
}
KERNELS = {"dynamic": "DynamicQuantizeMatMul", "int4": "MatMulNBits"}


def done(model: Model, **options: Any) -> StepResult:
    before = to_bytes(model)
    result = products(model, Context(), ProductOptions(**options)).boldest
    assert to_bytes(model) == before
    lint(result.model)
    return result


def error(model: Model, other: Model) -> float:
    feed = {i.name: R.standard_normal([d if isinstance(d, int) else 5 for d in i.shape or ()]).astype(F32) for i in model.inputs}
    with open_session(model, threads=1) as first, open_session(other, threads=1) as second:
        (a,), (b,) = first.run(feed).values(), second.run(feed).values()
    assert a.shape == b.shape
    return float(np.square(a - b).sum() / np.square(a).sum())


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("form", "most"), [("dynamic", 4e-4), ("int4", 1.5e-2)])
def test_each_form_becomes_one_kernel_and_computes_nearly_the_same(name: str, form: str, most: float) -> None:
    model = with_weights(*FORMS[name])
    result = done(model, form=form)
    assert result.applied == {f"products/{form}": 1}
    assert Counter(n.op for n in profile.optimized_model(result.model).graph.nodes)[KERNELS[form]] == 1
    assert 0 < error(model, result.model) < most
    assert len(to_bytes(result.model)) < len(to_bytes(model)) / (2.5 if form == "dynamic" else 3.5)
    assert result.certificate is not None and result.certificate.integer == 1


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("states", [False, True])
def test_a_layer_of_lstm_becomes_one_kernel_and_computes_nearly_the_same(direction: str, states: bool) -> None:
    count = 2 if direction == "bidirectional" else 1
    more = f", float[{count},N,24] h, float[{count},N,24] c" if states else ""
    text = f"""(float[L,N,40] x{more}) => (float[L,{count},N,24] y, float[{count},N,24] last) {{
        y, last, cell = LSTM <hidden_size = 24, direction = "{direction}"> (x, w, r, b{", , h, c" if states else ""})
    }}"""
    scaled = {"w": 0.4 * R.standard_normal((count, 96, 40)), "r": 0.3 * R.standard_normal((count, 96, 24)), "b": 0.1 * R.standard_normal((count, 192))}
    model = with_weights(text, {k: v.astype(F32) for k, v in scaled.items()})
    result = done(model)
    assert [n.op for n in result.model.graph.nodes] == ["DynamicQuantizeLSTM"]
    assert result.certificate is not None and result.certificate.integer == 1
    assert len(to_bytes(result.model)) < len(to_bytes(model)) / 2
    feed = {i.name: R.standard_normal([{"L": 5, "N": 3}.get(str(d), d) for d in i.shape or ()]).astype(F32) for i in model.inputs}
    with open_session(model, threads=1) as first, open_session(result.model, threads=1) as second:
        expected, outputs = first.run(feed), second.run(feed)
    shapes = {name: value.shape for name, value in feed.items()}
    assert statistics(result.model, shapes).macs == statistics(model, shapes).macs
    assert infer(result.model).shape(result.model.graph.outputs[0]) == infer(model).shape(model.graph.outputs[0])
    for name, value in expected.items():
        assert 0 < np.square(value - outputs[name]).sum() / np.square(value).sum() < 1e-3


def test_layers_of_one_size_share_their_zero_points() -> None:
    text = "(float[L,N,24] x) => (float y) { a = LSTM <hidden_size = 24> (x, w, r) b = Squeeze (a, one) y = LSTM <hidden_size = 24> (b, w, r) }"
    result = done(with_weights(text, {"w": weight(1, 96, 24), "r": weight(1, 96, 24), "one": np.array([1])}))
    first, second = (n for n in result.model.graph.nodes if n.op == "DynamicQuantizeLSTM")
    assert first.inputs[9] is first.inputs[11] is second.inputs[9] is second.inputs[11]


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ("hidden_size = 24", "no constants"),
        ("hidden_size = 24, layout = 1", "batch comes first"),
        ("hidden_size = 24", "NaN"),
        ("hidden_size = 4", "fewer than"),
    ],
)
def test_other_lstms_stay_with_a_reason(attributes: str, says: str) -> None:
    weights = {"w": weight(1, 16, 40), "r": weight(1, 16, 4)} if says == "fewer than" else {"w": weight(1, 96, 40), "r": weight(1, 96, 24)}
    if says == "NaN":
        weights["r"][0, 0, 0] = np.nan
    computed = "v = Neg (w)" if says == "no constants" else "v = Identity (x)"
    read = "v" if says == "no constants" else "w"
    result = done(with_weights(f"(float[5,3,40] x) => (float y) {{ {computed} y = LSTM <{attributes}> (x, {read}, r) }}", weights))
    assert not result.changed
    assert [says in r.reason for r in result.refusals] == [True]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(float[4,96] x) => (float y) { y = Gemm <alpha = 0.5> (x, w) }", "factors"),
        ("(float[96,4] x) => (float y) { y = Gemm <transA = 1> (x, w) }", "factors"),
        ("(float[4,96] x, float[96,64] v) => (float y) { y = MatMul (x, v) }", "no constant"),
        ("(float[4,30] x) => (float y) { y = MatMul (x, small) }", "fewer than"),
        ("(float[64,96] x) => (float y) { y = MatMul (w, v) z = Identity (x) }", "first input"),
        ("(float[4,96] x) => (float y) { y = MatMul (x, wild) }", "NaN"),
        ("(double[4,96] x) => (double y) { y = MatMul (x, double) }", "float32"),
    ],
)
def test_the_others_stay_with_a_reason(text: str, says: str) -> None:
    weights = {"w": weight(96, 64), "v": weight(64, 96), "small": weight(30, 30), "wild": np.full((96, 64), np.nan, F32), "double": np.ones((96, 64))}
    model = with_weights(text, weights)
    result = done(model)
    assert result.model is model and not result.changed
    assert [says in r.reason for r in result.refusals] == [True]


def test_a_shared_weight_is_read_by_others_still_and_products_in_branches_are_written_there() -> None:
    model = with_weights(
        """(float[4,96] x, bool c) => (float[4,96] y, float[4,64] z) {
            z = MatMul (x, w)
            y = If (c) <then_branch = yes () => (float[4,96] p) { p = Gemm <transB = 1> (z, w) }, else_branch = no () => (float[4,96] q) { q = Identity (x) }>
        }""",
        {"w": weight(96, 64)},
    )
    result = done(model)
    assert result.applied == {"products/dynamic": 2}
    with open_session(model, threads=1) as first, open_session(result.model, threads=1) as second:
        for taken in (True, False):
            feed = {"x": R.standard_normal((4, 96)).astype(F32), "c": np.array(taken)}
            expected, outputs = first.run(feed), second.run(feed)
            assert all(np.abs(expected[k] - outputs[k]).max() < 0.1 for k in expected)


def test_excluded_nodes_stay_and_patterns_must_match() -> None:
    model = with_weights(*FORMS["gemm"])
    assert [r.reason for r in done(model, exclude=("^y$",)).refusals] == ["it was excluded"]
    with pytest.raises(UsageError, match="matches no node"):
        done(model, exclude=("nothing",))


def test_before_opset_11_there_is_no_dynamic_form() -> None:
    text, weights = FORMS["matmul"]
    (refusal,) = done(with_weights(text, weights, opset=10)).refusals
    assert refusal.id == "products/opset"


def test_codes_of_blocks() -> None:
    levels = round_to_nearest(weight(90, 20)[None], 4, 32)
    packed = packed_blocks(levels)
    assert packed.shape == (20, 3, 16) and packed.dtype == np.uint8
    assert packed[3, 1, 0] & 15 == levels.codes[0, 32, 3] + 8 and packed[3, 1, 0] >> 4 == levels.codes[0, 33, 3] + 8
    assert (packed[:, 2, 13:] == 0x88).all()


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("block", [16, 32, 128])
def test_four_bits_are_blocks_of_standard_operators_where_the_opset_has_them(opset: int, name: str, block: int) -> None:
    model = with_weights(*FORMS[name], opset=opset)
    result = done(model, form="int4", block=block)
    ops = {n.op for n in result.model.graph.nodes}
    standard = opset == 21 and name != "transposed"  # whose bias of two axes keeps onnxruntime from folding it
    assert ("DequantizeLinear" in ops, "MatMulNBits" in ops) == (standard, not standard)
    kernels = Counter(n.op for n in profile.optimized_model(result.model).graph.nodes)
    assert kernels["MatMulNBits"] == 1 and not kernels["DequantizeLinear"]
    assert 0 < error(model, result.model) < {16: 0.011, 32: 0.014, 128: 0.02}[block]


def test_what_is_not_folded_is_the_runtimes_operator() -> None:
    """One of two products of one weight would be expanded at each run: then both are written as the runtime's own operator, the third stays standard."""
    text = "(float[N,96] x) => (float[N,64] y, float[N,64] z, float[N,64] v) { y = Gemm (x, w, b) u = Relu (x) z = MatMul (u, w) v = MatMul (x, other) }"
    model = with_weights(text, {"w": weight(96, 64), "b": weight(1, 64), "other": weight(96, 64)}, opset=21)
    result = done(model, form="int4")
    assert Counter(n.op for n in result.model.graph.nodes if n.op in ("MatMulNBits", "DequantizeLinear")) == {"MatMulNBits": 2, "DequantizeLinear": 1}
    kernels = Counter(n.op for n in profile.optimized_model(result.model).graph.nodes)
    assert kernels["MatMulNBits"] == 3 and not kernels["DequantizeLinear"]


@pytest.mark.parametrize("form", ["dynamic", "int4"])
@pytest.mark.parametrize("opset", [13, 21])
def test_a_weight_of_several_products_is_stored_once(form: str, opset: int) -> None:
    """As in networks whose layers share their weights."""
    model = with_weights(
        "(float[N,64] x) => (float[N,64] y) { a = MatMul (x, w) b = Relu (a) c = MatMul (b, w) d = Relu (c) y = MatMul (d, w) }",
        {"w": weight(64, 64)},
        opset=opset,
    )
    result = done(model, form=form)
    assert result.applied == {f"products/{form}": 3}
    assert sum(c.values.size >= 1024 for c in result.model.graph.initializers.values()) == 1
    assert 0 < error(model, result.model) < (1e-3 if form == "dynamic" else 0.1)


def in_nodes(model: Model) -> None:
    """Let Constant nodes hold all weights."""
    with Edits(model) as edits:
        for constant in list(model.graph.initializers.values()):
            del model.graph.initializers[constant.name]
            edits.replace(constant, model.add("Constant", [], attrs={"value": constant.values}).outputs[0])


@pytest.mark.parametrize("form", ["dynamic", "int4"])
def test_floats_of_constant_nodes_do_not_stay(form: str) -> None:
    """Some exporters keep all weights in nodes."""
    text, weights = FORMS["gemm"]
    model = with_weights(text, weights)
    in_nodes(model)
    result = done(model, form=form)
    assert result.changed and len(to_bytes(result.model)) < len(to_bytes(model)) / 2.5
    assert [n.op for n in result.model.graph.nodes].count("Constant") == 1


MIXED = R.standard_normal((8, 96)).astype(F32)


def mixtures(count: int, seed: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Inputs made of a few sources, as real ones are."""
    rng = np.random.default_rng(seed)
    return [{"x": (rng.standard_normal((6, 8)) @ MIXED + 0.1 * rng.standard_normal((6, 96))).astype(F32)} for _ in range(count)]


@pytest.mark.parametrize(("opset", "nodes"), [(13, False), (21, False), (13, True)])
def test_with_data_weights_of_four_bits_are_fitted(opset: int, nodes: bool) -> None:
    """Weights that Constant nodes hold as well."""
    text = "(float[6,96] x) => (float[6,40] y) { h = MatMul (x, w) g = Relu (h) y = Gemm <transB = 1> (g, v, b) }"
    model = with_weights(text, {"w": weight(96, 64), "v": weight(40, 64), "b": weight(40)}, opset=opset)
    if nodes:
        in_nodes(model)
    nearest = done(model, form="int4")
    before = to_bytes(model)
    fitted = products(model, Context(data=mixtures(64, 1), threads=1), ProductOptions(form="int4")).boldest
    assert to_bytes(model) == before
    lint(fitted.model)
    assert [layer["method"] for layer in fitted.decisions["layers"]] == ["least squares"] * 2
    errors = []
    for other in (nearest.model, fitted.model):
        with open_session(model, threads=1) as first, open_session(other, threads=1) as second:
            pairs = [(first.run(f)["y"], second.run(f)["y"]) for f in mixtures(20, 2)]
        errors.append(sum(float(np.square(a - b).sum()) for a, b in pairs))
    assert errors[1] < 0.3 * errors[0]
    assert Counter(n.op for n in profile.optimized_model(fitted.model).graph.nodes)["MatMulNBits"] == 2


def test_a_block_of_zeros_is_zeros() -> None:
    matrix = weight(64, 4)
    matrix[:32, 2] = 0
    assert not round_to_nearest(matrix[None], 4, 32).values[0, :32, 2].any()
