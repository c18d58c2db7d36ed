"""store with fewer than 8 bits: what is written, that it is folded, and that weights are refitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from topologies import TOPOLOGIES

from graphcompress.ir import Model, lint, to_bytes
from graphcompress.passes.store import Options, store
from graphcompress.passes.store.codes import packed
from graphcompress.passes.store.run import PACKED_OVERHEAD
from graphcompress.step import Context, StepResult
from tests.support.weights import with_weights

TWO = """(float[n,48] x) => (float[n,16] y)
{
    p = Gemm (x, w1, b1)
    h = Relu (p)
    y = MatMul (h, w2)
}"""


def net(opset: int = 13, hidden: int = 65) -> Model:
    rng = np.random.default_rng(1)
    w = {"w1": rng.standard_normal((48, hidden)) / 7, "b1": rng.standard_normal(hidden) / 7, "w2": rng.standard_normal((hidden, 64)) / 8}
    return with_weights(TWO.replace("float[n,16]", "float[n,64]"), {k: v.astype(np.float32) for k, v in w.items()}, opset=opset)


def inputs(model: Model, count: int, seed: int) -> list[dict[str, Any]]:
    """Mixtures of a few sources, as real inputs are."""
    rng = np.random.default_rng(3)
    mixing = rng.standard_normal((12, 48)).astype(np.float32)
    rng = np.random.default_rng(seed)
    return [{"x": (rng.standard_normal((1, 12)) @ mixing + 0.1 * rng.standard_normal((1, 48))).astype(np.float32)} for _ in range(count)]


def narrow(model: Model, weights: str, data: Any = None) -> StepResult:
    before = to_bytes(model)
    result = store(model, Context(data=data, threads=1), Options(weights=weights)).boldest
    assert to_bytes(model) == before
    lint(result.model)
    return result


def error(model: Model, other: Model, feeds: Any, tools: Any) -> float:
    pairs = [(tools.run(model, f)[0], tools.run(other, f)[0]) for f in feeds]
    return float(sum(np.square(a - b).sum() for a, b in pairs) / sum(np.square(a).sum() for a, _ in pairs))


@pytest.mark.parametrize("bits", [3, 4])
def test_codes_are_packed_into_words_the_first_in_the_lowest_bits(bits: int) -> None:
    codes = np.array([[-(1 << bits - 1), 0, (1 << bits - 1) - 1]] * 5, np.int8)
    words = packed(codes, bits)
    assert words.dtype == np.uint32 and words.shape == (-(-15 // (32 // bits)), 1)
    flat = [(int(words[i // (32 // bits), 0]) >> bits * (i % (32 // bits))) % (1 << bits) - (1 << bits - 1) for i in range(15)]
    assert flat == codes.reshape(-1).tolist()


@pytest.mark.parametrize("opset", [11, 13, 21])
@pytest.mark.parametrize("weights", ["int4", "int3"])
def test_weights_become_words_that_the_runtime_makes_floats_of_when_it_loads(weights: str, opset: int, tools: Any) -> None:
    model = net(opset)
    result = narrow(model, weights)
    assert result.applied == {f"store/{weights}": 2} and result.decisions["weights"] == {"w1": weights, "w2": weights}
    assert {n.op for n in result.model.graph.nodes} >= {"BitShift", "Mod", "Cast", "Sub", "Mul"}
    words = [c.values for c in result.model.graph.initializers.values() if c.values.dtype == np.uint32 and c.values.size > 32]
    assert sorted(w.size for w in words) == sorted(-(-size // (32 // int(weights[-1]))) for size in (48 * 65, 65 * 64))
    assert not {n.op_type for n in tools.optimized(result.model)} & {"BitShift", "Mod", "Cast", "Sub", "Mul", "Slice", "Reshape"}
    assert error(model, result.model, inputs(model, 20, 5), tools) < (0.02 if weights == "int4" else 0.1)


def test_what_is_written_is_what_was_fitted(tools: Any) -> None:
    """With the optimizer and without it, the weight of a node has the values that codes and scales stand for."""
    model = net()
    result = narrow(model, "int4", tools_data(model))
    feed = inputs(model, 1, 8)[0]
    np.testing.assert_allclose(tools.run(result.model, feed)[0], tools.run(result.model, feed, level="ORT_DISABLE_ALL")[0], rtol=1e-4, atol=1e-5)


def tools_data(model: Model, count: int = 96) -> Any:
    from graphcompress.data import memory_data

    return memory_data(inputs(model, count, 6), model.inputs)


@pytest.mark.parametrize("weights", ["int4", "int3"])
def test_with_data_weights_are_refitted_and_errors_fed_back(weights: str, tools: Any) -> None:
    model = net()
    feeds = inputs(model, 60, 9)
    fitted, nearest = narrow(model, weights, tools_data(model)), narrow(model, weights)
    assert error(model, fitted.model, feeds, tools) < 0.4 * error(model, nearest.model, feeds, tools)
    assert [layer["method"] for layer in fitted.decisions["layers"]] == ["least squares"] * 2
    assert all(layer["error_after"] < layer["error_before"] for layer in fitted.decisions["layers"])
    assert {layer["method"] for layer in nearest.decisions["layers"]} == {"nearest"}


@pytest.mark.parametrize("name", ["residual", "unet", "packed_attention"])
def test_whole_networks_come_through(name: str, tools: Any) -> None:
    model = TOPOLOGIES[name][0](tools.Small())
    sizes = {"n": 2, "t": 5}
    result = narrow(model, "int4", tools.feeds(model, 16, sizes=sizes))
    assert (result.model.inputs, result.model.outputs) == (model.inputs, model.outputs)
    for feed in tools.feeds(model, 2, 2, sizes):
        for ours, theirs in zip(tools.run(result.model, feed), tools.run(model, feed), strict=True):
            assert np.isfinite(ours).all() and ours.shape == theirs.shape


def test_the_ladder_goes_on_with_eight_bits() -> None:
    ladder = store(net(), Context(threads=1), Options(weights="int4"))
    assert ladder.rungs[0].label == "weights stored in int4"
    assert ladder.rungs[1].result.applied == {"store/int8": 2}


def test_what_is_not_folded_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    monkeypatch.setattr("graphcompress.passes.store.run.profile.optimized_model", lambda model, *a, **k: model)
    result = narrow(model, "int4")
    assert not result.changed and result.model is model
    assert {r.id for r in result.refusals} >= {"store/not-folded"}


def test_one_packed_weight_costs_fewer_bytes_than_are_reckoned_with() -> None:
    model = net()
    result = narrow(model, "int4")
    codes = sum(4 * -(-size // 8) + 4 * columns for size, columns in ((48 * 65, 65), (65 * 64, 64)))
    biases = 4 * 65
    assert len(to_bytes(result.model)) - codes - biases < 2 * PACKED_OVERHEAD + 400


PRODUCTS = """(float[n,48] x) => (float[n,64] y)
{
    h = MatMul (x, w1)
    r = Relu (h)
    y = MatMul (r, w2)
}"""


@pytest.mark.parametrize(
    ("weights", "opset", "stored", "refused"),
    [
        ("int4", 10, "int8", {"int4": 11}),
        ("int3", 7, "int8", {"int3": 11}),
        ("int4", 11, "int4", {}),
        ("int8", 7, "int8", {}),
        ("int4", 6, "float16", {"int8": 7, "int4": 11}),
        ("int8", 6, "float16", {"int8": 7}),
    ],
)
def test_a_form_whose_nodes_the_opset_lacks_gives_way_to_the_next(weights: str, opset: int, stored: str, refused: dict[str, int], tools: Any) -> None:
    rng = np.random.default_rng(1)
    values = {"w1": rng.standard_normal((48, 65)).astype(np.float32), "w2": rng.standard_normal((65, 64)).astype(np.float32)}
    model = with_weights(PRODUCTS, values, opset=opset, ir_version=4)
    result = narrow(model, weights)
    assert result.applied.keys() == {f"store/{stored}"}
    reasons = [r.reason for r in result.refusals if r.id == "store/opset"]
    assert reasons == [f"{form} needs opset {needed}, and the model has opset {opset}: export it with a newer one" for form, needed in refused.items()]
    assert error(model, result.model, inputs(model, 5, 5), tools) < 0.05
