"""store: which weights become small, that the runtime makes floats of them when it loads the model, and why others stay."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from graphcompress.errors import ModelError
from graphcompress.ir import Model, TensorData, graphs, lint, model_from_proto, nodes, to_bytes, to_proto, toposort
from graphcompress.passes.simplify import simplify
from graphcompress.passes.store import Options, store
from graphcompress.passes.store.run import OVERHEAD
from graphcompress.runtime import profile
from graphcompress.runtime.session import open_session
from graphcompress.step import Context, StepResult
from graphcompress.targets import load_target
from tests.support.weights import with_weights

R = np.random.default_rng(3)
F32 = np.float32


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Whichever tests ran before."""
    R.bit_generator.state = np.random.default_rng(3).bit_generator.state


def weight(*shape: int, scale: float = 0.1) -> np.ndarray[Any, Any]:
    return (R.standard_normal(shape) * scale).astype(F32)


def stored(model: Model, **options: Any) -> StepResult:
    before = to_bytes(model)
    result = store(model, Context(), Options(**options)).boldest
    assert to_bytes(model) == before
    lint(result.model)
    return result


def run(model: Model, feed: dict[str, Any], optimize: Any = "all") -> dict[str, Any]:
    with open_session(model, optimize=optimize, threads=1) as session:
        return session.run(feed)


def close(model: Model, result: Model, feed: dict[str, Any], tolerance: float = 0.03) -> None:
    """The same outputs, nearly, as before; and the same, but for the order of sums, whether the optimizer is on or off."""
    expected, folded, unfolded = run(model, feed), run(result, feed), run(result, feed, "none")
    for name, value in expected.items():
        reach = np.abs(value.astype(F32)).max()
        assert np.abs(folded[name].astype(F32) - value.astype(F32)).max() <= tolerance * reach
        assert np.abs(folded[name].astype(F32) - unfolded[name].astype(F32)).max() <= 2e-3 * reach
        assert not np.array_equal(folded[name], value)


def types(model: Model) -> dict[str, str]:
    """Types of the large initializers, by name."""
    return {
        name: c.data.dtype_name if isinstance(c.data, TensorData) else str(c.values.dtype)
        for g in graphs(model)
        for name, c in g.initializers.items()
        if c.nbytes >= 256
    }


def order(model: Model) -> list[str]:
    """The operators, in an order that runs."""
    return [n.op for n in toposort(model.graph)]


def refused(result: StepResult) -> dict[str, str]:
    return {r.id: r.node for r in result.refusals}


MODELS = {
    "conv": ("(float[1,8,9,9] x) => (float[1,16,7,7] y) { y = Conv (x, w, b) }", {"w": weight(16, 8, 3, 3), "b": weight(16)}, (16, 1, 1, 1)),
    "transposed conv": ("(float[1,8,9,9] x) => (float[1,16,11,11] y) { y = ConvTranspose (x, w) }", {"w": weight(8, 16, 3, 3)}, (1, 16, 1, 1)),
    "gemm": ("(float[3,40] x) => (float[3,50] y) { y = Gemm (x, w, b) }", {"w": weight(40, 50), "b": weight(50)}, (1, 50)),
    "gemm, transposed": ("(float[3,40] x) => (float[3,50] y) { y = Gemm <transB = 1> (x, w, b) }", {"w": weight(50, 40), "b": weight(50)}, (50, 1)),
    "matmul": ("(float[2,3,40] x) => (float[2,3,50] y) { y = MatMul (x, w) }", {"w": weight(40, 50)}, (1, 50)),
    "matmul of stacks": ("(float[2,3,40] x) => (float[2,3,50] y) { y = MatMul (x, w) }", {"w": weight(2, 40, 50)}, (2, 1, 50)),
    "matmul from the left": ("(float[40,3] x) => (float[50,3] y) { y = MatMul (w, x) }", {"w": weight(50, 40)}, (50, 1)),
    "table": ("(int64[3] x) => (float[3,40] y) { y = Gather (w, x) }", {"w": weight(50, 40)}, (50, 1)),
    "table, by columns": ("(int64[3] x) => (float[50,3] y) { y = Gather <axis = -1> (w, x) }", {"w": weight(50, 40)}, (1, 40)),
    "recurrent": (
        '(float[5,1,16] x) => (float[5,2,1,16] y) { y, h = GRU <hidden_size = 16, direction = "bidirectional"> (x, w, r) }',
        {"w": weight(2, 48, 16), "r": weight(2, 48, 16)},
        (2, 48, 1),
    ),
    "lstm": (
        "(float[5,1,16] x) => (float[5,1,1,16] y) { y = LSTM <hidden_size = 16> (x, w, r) }",
        {"w": weight(1, 64, 16), "r": weight(1, 64, 16)},
        (1, 64, 1),
    ),
    "rnn": ("(float[5,1,24] x) => (float[5,1,1,24] y) { y = RNN <hidden_size = 24> (x, w, r) }", {"w": weight(1, 24, 24), "r": weight(1, 24, 24)}, (1, 24, 1)),
    "what nobody multiplies": ("(float[1,40,50] x) => (float[1,40,50] y) { y = Add (x, w) }", {"w": weight(40, 50) * np.arange(1, 51, dtype=F32)}, (1, 50)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("opset", [9, 17])
def test_a_weight_becomes_codes_with_a_scale_per_output_channel(name: str, opset: int) -> None:
    text, weights, scales = MODELS[name]
    model = with_weights(text, weights, opset=opset)
    result = stored(model)
    assert result.changed and {n.op for n in nodes(result.model)} - {n.op for n in nodes(model)} == {"Cast", "Mul"}
    assert set(types(result.model).values()) <= {"int8", "float32"} and "int8" in types(result.model).values()
    assert [tuple(c.shape) for c in result.model.graph.initializers.values() if c.name.startswith("s")] == [scales] * result.applied["store/int8"]
    spec = model.inputs[0]
    feed = R.integers(0, 40, spec.shape) if spec.dtype == "int64" else R.standard_normal(spec.shape).astype(F32)
    close(model, result.model, {"x": feed})
    left = profile.optimized_model(result.model)
    assert {n.op for n in nodes(left)}.isdisjoint({"Cast", "Mul"}) and not any(t.startswith("q") for g in graphs(left) for t in g.initializers)


def test_slices_of_unlike_size_along_a_second_axis_get_factors() -> None:
    """An input channel whose weights are a hundred times the others' would take all codes."""
    sizes = np.exp(R.normal(0, 1.5, (1, 40, 1, 1))).astype(F32)
    model = with_weights("(float[1,40,9,9] x) => (float[1,30,7,7] y) { y = Conv (x, w) }", {"w": weight(30, 40, 3, 3) * sizes})
    result = stored(model).model
    assert order(result) == ["Cast", "Mul", "Mul", "Conv"]
    assert sorted(c.shape for c in result.graph.initializers.values()) == [(1, 40, 1, 1), (30, 1, 1, 1), (30, 40, 3, 3)]
    close(model, result, {"x": R.standard_normal((1, 40, 9, 9)).astype(F32)})
    assert not any(n.op in ("Cast", "Mul") for n in nodes(profile.optimized_model(result)))


def test_a_float16_form_is_a_cast_alone() -> None:
    text, weights, _ = MODELS["conv"]
    model = with_weights(text, weights)
    result = stored(model, weights="float16")
    assert result.applied == {"store/float16": 1} and order(result.model) == ["Cast", "Conv"]
    close(model, result.model, {"x": R.standard_normal((1, 8, 9, 9)).astype(F32)}, 2e-3)


def test_the_weight_keeps_its_name_and_its_readers() -> None:
    text, weights, _ = MODELS["conv"]
    model = with_weights(text, weights)
    conv = next(n for n in stored(model).model.graph.nodes if n.op == "Conv")
    assert [t.name for t in conv.inputs] == ["x", "w", "b"]


@pytest.mark.parametrize("again", [False, True])
def test_storing_twice_changes_nothing(again: bool) -> None:
    """Nor does simplify undo it in between."""
    model = with_weights(*MODELS["conv"][:2])
    once = stored(model).model
    if again:
        simple = simplify(once, Context()).boldest
        assert not simple.changed
        once = simple.model
    assert not stored(once).changed


# --- where weights stand ----------------------------------------------------------------------------------------------------------

BRANCHES = """(float[2,40] x, bool p) => (float[2,50] y) {
    y = If (p) <then_branch = t () => (float[2,50] a) { a = MatMul (x, w) }, else_branch = e () => (float[2,50] b) { b = MatMul (x, w) }> }"""


def test_weights_of_branches_are_stored_where_they_stand() -> None:
    model = with_weights(BRANCHES, {"t/w": weight(40, 50), "e/w": weight(40, 50)})
    result = stored(model).model
    assert not result.graph.initializers and list(types(result).values()).count("int8") == 2
    for taken in (True, False):
        close(model, result, {"x": weight(2, 40), "p": np.array(taken)})


def test_equal_weights_of_branches_are_stored_once_for_all() -> None:
    values = weight(40, 50)
    model = with_weights(BRANCHES, {"t/w": values, "e/w": values})
    result = stored(model).model
    assert list(types(result).values()).count("int8") == 1 and "int8" in [str(c.values.dtype) for c in result.graph.initializers.values()]
    for taken in (True, False):
        close(model, result, {"x": weight(2, 40), "p": np.array(taken)})


def test_weights_of_branches_go_to_the_main_graph_where_a_branch_takes_no_initializers() -> None:
    model = with_weights(BRANCHES, {"w": weight(40, 50)}, ir_version=3, opset=9)
    result = stored(model).model
    assert not any(g.initializers for g in graphs(result) if g is not result.graph)
    close(model, result, {"x": weight(2, 40), "p": np.array(True)})


def test_the_weight_of_a_loop_is_made_once() -> None:
    model = with_weights(
        """(float[2,40] x, int64 n, bool c) => (float[2,40] y) {
            y = Loop (n, c, x) <body = l (int64 i, bool ci, float[2,40] h) => (bool co, float[2,40] o) { m = MatMul (h, w) o = Tanh (m) co = Identity (ci) }> }""",
        {"l/w": weight(40, 40, scale=0.3)},
    )
    result = stored(model)
    assert result.applied == {"store/int8": 1} and not refused(result)
    close(model, result.model, {"x": weight(2, 40, scale=1), "n": np.array(3), "c": np.array(True)}, 0.05)


def test_a_weight_of_two_readers_and_equal_weights_are_stored_once() -> None:
    values = weight(40, 40)
    model = with_weights(
        "(float[2,40] x) => (float[2,40] y) { a = MatMul (x, w) b = Relu (a) c = MatMul (b, w) d = Tanh (c) y = MatMul (d, v) }",
        {"w": values, "v": values.copy()},
    )
    result = stored(model)
    assert result.applied == {"store/int8": 1} and len(result.model.graph.initializers) == 2
    close(model, result.model, {"x": weight(2, 40, scale=1)})


def test_weights_in_constant_nodes_are_stored_too() -> None:
    model = with_weights("(float[2,40] x) => (float[2,50] y) { y = MatMul (x, w) }", {"w": weight(40, 50)})
    proto = to_proto(model)
    constant = proto.graph.node.add(op_type="Constant", output=["w"])
    attribute = constant.attribute.add(name="value", type=4)
    attribute.t.CopyFrom(proto.graph.initializer[0])
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, proto.graph.node.pop())
    made = model_from_proto(proto)
    result = stored(made).model
    assert "Constant" not in {n.op for n in nodes(result)}
    close(made, result, {"x": weight(2, 40, scale=1)})


# --- float16 models ---------------------------------------------------------------------------------------------------------------


def test_a_float16_weight_behind_a_cast_becomes_codes() -> None:
    values = weight(40, 50)
    model = with_weights("(float[2,40] x) => (float[2,50] y) { f = Cast <to = 1> (w) y = MatMul (x, f) }", {"w": values.astype(np.float16)})
    result = stored(model)
    assert order(result.model) == ["Cast", "Mul", "MatMul"] and set(types(result.model).values()) == {"int8"}
    close(model, result.model, {"x": weight(2, 40, scale=1)})
    assert not stored(model, weights="float16").changed


def test_a_weight_of_a_float16_model_stays_float16_for_its_readers() -> None:
    model = with_weights("(float16[2,40] x) => (float16[2,50] y) { y = MatMul (x, w) }", {"w": weight(40, 50).astype(np.float16)})
    result = stored(model)
    assert order(result.model) == ["Cast", "Mul", "Cast", "MatMul"] and not refused(result)
    close(model, result.model, {"x": weight(2, 40, scale=1).astype(np.float16)})


def test_a_float16_weight_of_two_sorts_of_readers_keeps_its_casts() -> None:
    model = with_weights(
        "(float16[2,40] x, float[2,40] z) => (float16[2,50] y, float[2,50] u) { y = MatMul (x, w) f = Cast <to = 1> (w) u = MatMul (z, f) }",
        {"w": weight(40, 50).astype(np.float16)},
    )
    result = stored(model)
    assert result.applied == {"store/int8": 1}
    close(model, result.model, {"x": weight(2, 40, scale=1).astype(np.float16), "z": weight(2, 40, scale=1)})


# --- what stays -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        (
            "(float[1,400] x) => (float[1,400] y, float[20,20] w) { v = Reshape (w, s) y = Add (x, v) }",
            {"w": weight(20, 20), "s": np.array([1, 400])},
            "store/output",
        ),
        (
            "(float[20,20] x) => (float[20,20] y) { q = QuantizeLinear (x, k) d = DequantizeLinear (q, k) y = Add (d, w) }",
            {"k": np.float32(0.1), "w": weight(20, 2)[:, :1]},
            "",
        ),
        ("(float[2,40] x) => (float[2,400] y) { y = MatMul (x, w) }", {"w": np.full((40, 400), np.nan, F32) * 1e30}, ""),
        ("(float[2,40] x) => (float[2,50] y) { y = MatMul (x, w) }", {"w": np.where(np.eye(40, 50), 1e30, -np.inf).astype(F32)}, "store/no-form"),
        ("(float[2,500] x) => (float[2,500] y) { y = Add (x, w) }", {"w": weight(500)}, ""),
        ("(float[2,5] x) => (float[2,5] y) { y = MatMul (x, w) }", {"w": weight(5, 5)}, ""),
    ],
)
def test_what_stays_float_says_why_where_it_is_large(text: str, weights: dict[str, Any], reason: str) -> None:
    result = stored(with_weights(text, weights))
    if reason:
        assert not result.changed and set(refused(result)) == {reason}
    else:
        assert not refused(result) and "store/int8" not in result.applied


def test_scales_of_quantized_tensors_are_not_rounded() -> None:
    model = with_weights(
        "(float[2,4000] x) => (float[2,4000] y) { w = DequantizeLinear <axis = 1, block_size = 2> (q, s) y = Add (x, w) }",
        {"q": np.ones((2, 4000), np.int8), "s": weight(2, 2000) ** 2},
        opset=21,
    )
    result = stored(model)
    assert not result.changed and refused(result) == {"store/quantized": "s"}


def test_what_callers_may_override_stays() -> None:
    proto = to_proto(with_weights("(float[2,40] x) => (float[2,50] y) { y = MatMul (x, w) }", {"w": weight(40, 50)}))
    entry = proto.graph.input.add(name="w")
    entry.type.tensor_type.elem_type = 1
    entry.type.tensor_type.shape.dim.add(dim_value=40)
    entry.type.tensor_type.shape.dim.add(dim_value=50)
    result = stored(model_from_proto(proto))
    assert not result.changed and refused(result) == {"store/overridable": "w"}


def test_a_mask_of_infinities_becomes_float16() -> None:
    mask = np.where(np.tri(40), 0, -np.inf).astype(F32)
    model = with_weights("(float[40,40] x) => (float[40,40] y) { m = Add (x, w) y = Softmax (m) }", {"w": mask})
    result = stored(model)
    assert result.applied == {"store/float16": 1}
    feed = {"x": weight(40, 40)}
    assert np.array_equal(run(model, feed)["y"], run(result.model, feed)["y"])


def test_what_the_provider_does_not_fold_goes_back_to_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that keeps one of the two as it is written."""
    model = with_weights("(float[2,40] x) => (float[2,50] y) { a = MatMul (x, w) y = MatMul (a, v) }", {"w": weight(40, 50), "v": weight(50, 50)})
    genuine = profile.optimized_model

    def lazy(written: Model, *arguments: Any, **settings: Any) -> Model:
        folded = genuine(written, *arguments, **settings)
        folded.graph.initializers.update({n: c for n, c in written.graph.initializers.items() if c.shape == (50, 50) and n.startswith("q")})
        return folded

    monkeypatch.setattr(profile, "optimized_model", lazy)
    result = stored(model)
    assert refused(result) == {"store/not-folded": "v"}
    assert result.applied == {"store/int8": 1} and types(result.model)["v"] == "float"


def test_a_model_that_does_not_load_with_small_weights_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Model:
        raise ModelError("no such kernel")

    monkeypatch.setattr(profile, "optimized_model", broken)
    result = stored(with_weights(*MODELS["conv"][:2]))
    assert not result.changed and set(refused(result)) == {"store/load"}


def test_a_target_whose_graph_cannot_be_seen_gets_no_small_weights() -> None:
    target = load_target("cpu").model_copy(update={"certificate": "none"})
    model = with_weights(*MODELS["conv"][:2])
    result = store(model, Context(target=target)).boldest
    assert not result.changed and result.model is model and set(refused(result)) == {"store/not-checked"}


# --- the ladder -------------------------------------------------------------------------------------------------------------------

TWO = "(float[1,40] x) => (float[1,40] y) { a = MatMul (x, w) b = MatMul (x, v) c = Mul (b, k) y = Add (a, c) }"


def forms(result: StepResult) -> dict[str, str]:
    chosen: dict[str, str] = result.decisions["weights"]
    return chosen


@pytest.mark.parametrize(("gain", "first"), [(100.0, "v"), (0.01, "w")])
def test_the_weight_that_moves_the_outputs_most_is_the_first_in_float16(tools: Any, gain: float, first: str) -> None:
    model = with_weights(TWO, {"w": weight(40, 40), "v": weight(40, 40), "k": np.array(gain, F32)})
    ladder = store(model, Context(data=tools.feeds(model, 4)))
    assert ladder.rungs[0].label == "weights stored in int8" and ladder.monotone
    assert forms(ladder.rungs[0].result) == {"w": "int8", "v": "int8"}
    second = forms(ladder.rungs[1].result)
    assert second[first] == "float16" and sorted(second.values()) == ["float16", "int8"]
    assert set(forms(ladder.rungs[-1].result).values()) == {"float16"}


def test_the_rungs_move_the_outputs_less_and_less(tools: Any) -> None:
    model = with_weights(
        "(float[1,40] x) => (float[1,40] y) { a = MatMul (x, u) b = Tanh (a) c = MatMul (b, v) d = Tanh (c) y = MatMul (d, w) }",
        {"u": weight(40, 40), "v": weight(40, 80), "w": weight(80, 40)},
    )
    data = tools.feeds(model, 4)
    distances = []
    for rung in store(model, Context(data=data)).rungs:
        pairs = [(run(model, feed)["y"], run(rung.result.model, feed)["y"]) for feed in data]
        distances.append(sum(float(np.square(a - b).sum()) for a, b in pairs))
    assert all(b <= a for a, b in itertools.pairwise(distances)) and distances[-1] < 1e-2 * distances[0]


def test_without_data_the_noise_of_the_weights_decides() -> None:
    skewed = weight(40, 40)
    skewed[np.arange(40), np.arange(40)] *= 50
    ladder = store(with_weights(TWO, {"w": weight(40, 40), "v": skewed, "k": np.array(1.0, F32)}), Context())
    assert forms(ladder.rungs[1].result) == {"v": "float16", "w": "int8"}


def test_no_rung_is_expected_to_gain_time() -> None:
    """So that a search for speed does not try them."""
    assert {r.gain_ns for r in store(with_weights(*MODELS["conv"][:2]), Context()).rungs} == {0.0}


def test_one_stored_weight_costs_fewer_bytes_than_are_reckoned_with() -> None:
    """So that what is expected to make the file smaller does."""
    for text, weights, _ in MODELS.values():
        model = with_weights(text, weights)
        result = stored(model)
        codes = sum(c.nbytes for c in result.model.graph.initializers.values() if c.nbytes < c.values.size * 4 or c.name.startswith("s"))
        floats = sum(c.nbytes for name, c in model.graph.initializers.items() if name not in result.model.graph.initializers)
        assert len(to_bytes(result.model)) - codes < len(to_bytes(model)) - floats + OVERHEAD * result.applied["store/int8"]
