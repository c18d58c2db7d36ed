"""Zeros in whole models: shares, patterns, what is left alone, and what it is good for."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from pydantic import ValidationError
from topologies import TOPOLOGIES

from graphcompress.errors import UsageError
from graphcompress.ir import Model, to_bytes
from graphcompress.passes.prune import Options, prune
from graphcompress.reconstruction import sweep as module
from graphcompress.step import Context, StepResult

SIZES = {"n": 2, "t": 5}
NAMES = ["residual", "shuffle_split", "excite", "unet", "packed_attention"]


def sparse(model: Model, tools: Any, count: int = 24, **options: Any) -> StepResult:
    data = tools.feeds(model, count, sizes=SIZES) if count else None
    return prune(model, Context(data=data, threads=1), Options(**options)).boldest


def error(model: Model, result: StepResult, tools: Any) -> float:
    """On feeds that were not fitted on."""
    feeds = tools.feeds(model, 30, 2, SIZES)
    return float(sum(np.square(a - b).sum() for f in feeds for a, b in zip(tools.run(model, f), tools.run(result.model, f), strict=True)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 24])
def test_the_share_holds_in_every_layer_and_shapes_stay(name: str, count: int, tools: Any) -> None:
    model = TOPOLOGIES[name][0](tools.Small())
    result = sparse(model, tools, count, sparsity=0.5)
    assert (result.model.inputs, result.model.outputs) == (model.inputs, model.outputs)
    before, after = model.graph.initializers, result.model.graph.initializers
    assert {n: (c.shape, c.values.dtype) for n, c in before.items()}.items() <= {n: (c.shape, c.values.dtype) for n, c in after.items()}.items()
    for layer in result.decisions["layers"]:
        weight = next(n for n in result.model.graph.nodes if n.name == layer["node"]).inputs[1].values
        assert (weight == 0).sum() == np.ceil(weight.size / 2) and layer["zeros"] == (weight == 0).mean()
    assert result.decisions["reached"]["sparsity"] >= 0.5
    assert [np.isfinite(y).all() for y in tools.run(result.model, next(iter(tools.feeds(model, 1, sizes=SIZES))))]


@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"pattern": "2:4"}])
def test_what_is_left_is_refitted_towards_the_original(options: dict[str, Any], tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    fitted, plain = sparse(model, tools, 64, **options), sparse(model, tools, 64, repair=False, **options)
    assert error(model, fitted, tools) < 0.5 * error(model, plain, tools)
    assert all(layer["error_after"] < layer["error_before"] for layer in fitted.decisions["layers"] if layer["method"] == "least squares")
    assert {layer["method"] for layer in plain.decisions["layers"]} == {"magnitude"}


def mixed(s: Any, sources: int, features: int) -> str:
    """Features that are mixtures of a few inputs; the layer `mix` makes them."""
    mix: str = s.node("Gemm", s.input("x", 1, sources), s.constant(s.random.normal(0, 0.4, (sources, features)).astype(np.float32)), name="mix")
    return mix


def test_a_mean_that_goes_comes_back_as_a_bias(tools: Any) -> None:
    s = tools.Small()
    model = s.model(s.node("Gemm", s.node("Sigmoid", mixed(s, 6, 16)), s.weight(4, 16), name="last", transB=1))
    result = sparse(model, tools, 64, sparsity=0.75, ignore=("mix",))
    feeds = list(tools.feeds(model, 400, 3))
    means = [np.mean([tools.run(m, f)[0] for f in feeds], axis=0) for m in (model, result.model)]
    assert np.abs(means[0] - means[1]).max() < 0.1 * np.abs(means[0]).max()
    assert result.model.graph.nodes[-1].inputs[2].values.any()


def test_without_a_place_for_a_bias_the_weights_carry_the_mean(tools: Any) -> None:
    s = tools.Small()
    model = s.model(s.node("MatMul", s.node("Sigmoid", mixed(s, 6, 16)), s.constant(s.random.normal(0, 1, (16, 4)).astype(np.float32)), name="last"))
    fitted, plain = (sparse(model, tools, count, sparsity=0.5, ignore=("mix",)) for count in (64, 0))
    assert error(model, fitted, tools) < 0.5 * error(model, plain, tools)


def test_the_second_of_two_branches_mends_what_the_first_could_not(tools: Any) -> None:
    """Against the same branches, each on its own."""

    def branches(*, add: bool) -> Model:
        s = tools.Small()
        x = s.input("x", 1, 16)
        parts = [s.node("Gemm", x, s.constant(s.random.normal(0, 1, (16, 8)).astype(np.float32)), name=name) for name in "ab"]
        return s.model(s.node("Add", *parts)) if add else s.model(*parts)

    together, apart = (sparse(branches(add=add), tools, 64, sparsity=0.5).model for add in (True, False))
    errors = [0.0, 0.0]
    for feed in tools.feeds(branches(add=True), 30, 2):
        (whole,) = tools.run(branches(add=True), feed)
        errors[0] += float(np.square(tools.run(together, feed)[0] - whole).sum())
        errors[1] += float(np.square(sum(tools.run(apart, feed)) - whole).sum())
    assert errors[0] < 0.8 * errors[1]


def test_a_pattern_is_along_the_input_channels(tools: Any) -> None:
    s = tools.Small()
    conv = s.node("Conv", s.input("x", 1, 6, 5, 5), s.weight(4, 6, 3, 3, name="conv"))
    product = s.node("MatMul", s.node("Reshape", conv, s.constant([1, 36])), s.weight(36, 8, name="product"))
    turned = s.node("Gemm", product, s.weight(3, 8, name="turned"), transB=1)
    result = sparse(s.model(turned), tools, pattern="2:4")
    weights = {name: result.model.graph.initializers[name].values != 0 for name in ("conv", "product", "turned")}
    assert (weights["conv"][:, :4].sum(axis=1) == 2).all() and weights["conv"][:, 4:].all()
    assert (weights["product"].reshape(9, 4, 8).sum(axis=1) == 2).all()
    assert (weights["turned"].reshape(3, 2, 4).sum(axis=2) == 2).all()


def test_a_depthwise_convolution_has_no_pattern_and_the_model_comes_back(tools: Any) -> None:
    s = tools.Small()
    model = s.model(s.node("Conv", s.input("x", 1, 4, 5, 5), s.weight(4, 1, 3, 3), group=4))
    result = sparse(model, tools, pattern="2:4")
    assert result.model is model and not result.changed


def test_ignored_nodes_keep_their_weights(tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    result = sparse(model, tools, sparsity=0.5, ignore=("^stem$",))
    np.testing.assert_array_equal(result.model.graph.initializers["c0"].values, model.graph.initializers["c0"].values)
    assert "stem" not in {layer["node"] for layer in result.decisions["layers"]}
    with pytest.raises(UsageError, match="matches no convolution"):
        sparse(model, tools, sparsity=0.5, ignore=("nothing",))


def test_a_weight_that_is_also_read_otherwise_stays(tools: Any) -> None:
    """An embedding that is tied to the last layer; a square matrix that is read from both sides; a product of two inputs."""
    s = tools.Small()
    x, square = s.input("x", 1, 4), s.weight(4, 4, name="square")
    both = s.node("Gemm", s.node("Gemm", x, square, name="one"), square, transB=1)
    table = s.weight(4, 5, name="table")
    rows = s.node("Transpose", s.node("MatMul", both, table, name="tied"), perm=[1, 0])
    free = s.node("MatMul", rows, x, name="free")
    model = s.model(s.node("Add", free, s.node("Transpose", table, perm=[1, 0])))
    result = sparse(model, tools, sparsity=0.5)
    assert result.model is model
    assert sorted((r.id, r.node) for r in result.refusals) == [("prune/no-layer", "free"), ("prune/shared-weight", "one"), ("prune/shared-weight", "tied")]


def test_a_weight_that_is_an_output_stays(tools: Any) -> None:
    s = tools.Small()
    weight = s.weight(8, 4, name="w")
    model = s.model(s.node("MatMul", s.input("x", 2, 8), weight, name="last"), weight)
    assert sparse(model, tools, sparsity=0.5).model is model


def test_integers_are_left_alone(tools: Any) -> None:
    s = tools.Small()
    x = s.node("Cast", s.input("x", 2, 8), to=TensorProto.INT32)
    model = s.model(s.node("Cast", s.node("MatMul", x, s.constant(np.arange(32, dtype=np.int32).reshape(8, 4)), name="whole"), to=TensorProto.FLOAT))
    result = sparse(model, tools, sparsity=0.5)
    assert result.model is model and [(r.id, r.node) for r in result.refusals] == [("prune/no-layer", "whole")]


def test_half_precision_stays_half_precision(tools: Any) -> None:
    s = tools.Small()
    x = s.node("Cast", s.input("x", 2, 8), to=TensorProto.FLOAT16)
    weight = s.constant(s.random.normal(0, 1, (8, 4)).astype(np.float16), "w")
    result = sparse(s.model(s.node("Cast", s.node("MatMul", x, weight), to=TensorProto.FLOAT)), tools, sparsity=0.5)
    values = result.model.graph.initializers["w"].values
    assert values.dtype == np.float16 and (values == 0).mean() == 0.5


def test_few_inputs_are_fitted_and_judged_on_alike(tools: Any) -> None:
    """There is no fourth input that could be kept out."""
    s = tools.Small()
    model = s.model(s.conv(s.conv(s.input("x", 1, 2, 12, 12), 2, 8, name="one"), 8, 4, name="two"))
    result = sparse(model, tools, 3, sparsity=0.5)
    assert [layer["method"] for layer in result.decisions["layers"]] == ["least squares"] * 2


@pytest.mark.parametrize("count", [0, 40])
def test_layers_that_share_a_weight_share_its_zeros(count: int, tools: Any) -> None:
    s = tools.Small()
    weight = s.weight(6, 6, name="twice")
    x = s.node("MatMul", s.node("Tanh", s.node("MatMul", s.input("x", 4, 6), weight, name="one")), weight, name="two")
    result = sparse(s.model(x), tools, count, sparsity=0.5)
    assert (result.model.graph.initializers["twice"].values == 0).mean() == 0.5
    assert [(layer["node"], layer["weights"]) for layer in result.decisions["layers"]] == [("one", 36)]


def test_a_layer_that_is_too_wide_is_told_and_goes_by_magnitude(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UNKNOWNS", 50)
    model = TOPOLOGIES["residual"][0](tools.Small())
    result = sparse(model, tools, sparsity=0.5)
    wide = {r.node for r in result.refusals if r.id == "prune/too-wide"}
    methods = {layer["node"]: layer["method"] for layer in result.decisions["layers"]}
    assert wide and {methods[node] for node in wide} == {"magnitude"} and "least squares" in methods.values()
    assert all(layer["zeros"] >= 0.5 for layer in result.decisions["layers"])


def test_a_fit_that_is_worse_on_other_inputs_is_not_used(tools: Any) -> None:
    """Inputs without correlation and few of them: all that there is to fit is noise."""
    s = tools.Small()
    model = s.model(s.node("Gemm", s.input("x", 1, 64), s.weight(64, 4, name="w"), name="last"))
    fitted, plain = sparse(model, tools, 8, sparsity=0.5), sparse(model, tools, 0, sparsity=0.5)
    assert fitted.decisions["layers"][0]["method"] == "magnitude"
    assert to_bytes(fitted.model) == to_bytes(plain.model)


def test_rows_that_are_not_finite_are_refused(tools: Any) -> None:
    s = tools.Small()
    x = s.node("Add", s.input("x", 1, 8), s.constant(np.full(8, np.nan, np.float32)))
    result = sparse(s.model(s.node("Gemm", x, s.weight(8, 4), name="last")), tools, sparsity=0.5)
    assert [(r.id, r.node) for r in result.refusals] == [("prune/not-finite", "last")]
    assert result.decisions["layers"][0]["method"] == "magnitude"


def test_gzip_makes_it_smaller(tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    result = sparse(model, tools, sparsity=0.8)
    sizes = result.decisions["gzip"]
    assert sizes["after"] < 0.6 * sizes["before"]
    data = b"".join(c.values.tobytes() for c in model.graph.initializers.values())
    assert abs(sizes["before"] - len(gzip.compress(data, 6))) < 64


def test_the_same_seed_gives_the_same_bytes(tools: Any) -> None:
    model = TOPOLOGIES["excite"][0](tools.Small())
    assert to_bytes(sparse(model, tools, sparsity=0.6).model) == to_bytes(sparse(model, tools, sparsity=0.6).model)


def test_rungs_are_less_sparse(tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    ladder = prune(model, Context(threads=1), Options(sparsity=0.8))
    assert [rung.label for rung in ladder.rungs] == ["80% zeros", "60% zeros", "40% zeros", "20% zeros"]
    assert [round(rung.result.decisions["reached"]["sparsity"], 1) for rung in ladder.rungs] == [0.8, 0.6, 0.4, 0.2]


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.5, "macs": 0.5},
        {"sparsity": 0.5, "pattern": "2:4"},
        {"sparsity": 1.0},
        {"sparsity": 0.0},
        {"pattern": "4:2"},
        {"pattern": "0:4"},
        {"pattern": "2"},
        {"sparsity": 0.5, "score": "magnitude"},
        {"pattern": "2:4", "round_to": 8},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(**options)
