"""What the INT8 step refuses or leaves in float as a whole, and models that are lifted to another opset for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quantized import CPU, EAGER, done, precision, reason, residual, sqnr

from graphcompress.data import Dataset
from graphcompress.errors import DataError, UsageError
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize import quantize
from graphcompress.passes.quantize import run as stage
from graphcompress.passes.quantize.groups import find
from graphcompress.step import Context


def test_without_feeds_there_are_no_ranges(tools: Any) -> None:
    with pytest.raises(DataError, match="--data"):
        quantize(residual(tools), Context(target=CPU))
    with pytest.raises(DataError, match="--data"):
        quantize(residual(tools), Context(target=CPU, data=tools.feeds(residual(tools), 0)))


def test_a_value_that_is_no_number_is_named_with_its_feed(tools: Any) -> None:
    model = residual(tools)
    good = tools.feeds(model, 4)

    def read(indices: Any) -> Any:
        for i, feed in enumerate(good):
            if i == 2:
                feed["x"][0, 3, 5, 5] = np.nan
            yield feed

    result = quantize(model, Context(target=EAGER, data=Dataset("bad", "0" * 64, range(4), read))).boldest
    assert set(precision(result).values()) == {"float"}
    assert reason(result, "stem") == "quantize/not-finite: 'x' has NaN values in calibration feed 3, so no range is known for it"


def test_what_is_masked_with_infinity_stays_float(tools: Any) -> None:
    """An attention mask is -inf where nothing may look; a Softmax makes zeros of it."""
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 8, 4, 4), 8, 16, name="c"))
    masked = small.node(
        "Where", small.node("Greater", small.input("m", 1, 16, 4, 4), small.constant(np.zeros(1, np.float32))), x, small.constant(np.float32(-np.inf))
    )
    model = small.model(small.node("Exp", small.node("Add", masked, x, name="sum")))
    result = done(model, tools)
    assert precision(result) == {"c": "int8"}
    assert "quantize/add" not in result.applied
    assert "quantize/not-finite" in {r.id for r in result.refusals}


@pytest.mark.parametrize(("pattern", "says"), [("nowhere", "matches no node"), ("(", "no regular expression")])
def test_an_exclusion_must_mean_something(pattern: str, says: str, tools: Any) -> None:
    with pytest.raises(UsageError, match=says):
        done(residual(tools), tools, exclude=(pattern,))


def test_exclusion_matches_anywhere_in_the_name(tools: Any) -> None:
    result = done(residual(tools), tools, exclude=("ste",))
    assert precision(result) == {"stem": "float", "a": "int8", "b": "int8", "head": "int8"}
    assert reason(result, "stem").startswith("quantize/excluded")


def test_a_layer_with_unfolded_normalization_stays_float_with_a_hint(tools: Any) -> None:
    small = tools.Small()
    x = small.conv(small.input("x", 1, 8, 8, 8), 8, 16, name="c")
    four = [small.constant(np.ones(16, np.float32)) for _ in range(4)]
    x = small.node("Relu", small.node("BatchNormalization", x, *four, name="bn"))
    result = done(small.model(small.node("Tanh", small.conv(x, 16, 16, name="d"))), tools)
    assert precision(result) == {"c": "float", "d": "int8"}
    assert reason(result, "c").startswith("quantize/unfolded-batchnorm") and "'bn'" in reason(result, "c") and "simplify" in reason(result, "c")


@pytest.mark.parametrize(("variance", "bias"), [(np.zeros(16), np.zeros(16)), (np.full(16, np.nan), np.zeros(16))], ids=["fold overflows", "not finite"])
def test_normalization_that_simplify_must_leave_is_no_reason_to_refuse(variance: Any, bias: Any, tools: Any) -> None:
    """`compress` runs simplify first: what that cannot fold must not end the command."""
    small = tools.Small()
    x = small.node(
        "Conv", small.input("x", 1, 8, 4, 4), small.constant(np.full((16, 8, 1, 1), 1e35, np.float32)), small.constant(bias.astype(np.float32)), name="c"
    )
    scale = small.constant(np.full(16, 1e3, np.float32))
    x = small.node(
        "BatchNormalization",
        x,
        scale,
        small.constant(np.zeros(16, np.float32)),
        small.constant(np.zeros(16, np.float32)),
        small.constant(variance.astype(np.float32)),
    )
    model = small.model(x)
    assert find(model, EAGER, infer(model)).groups


@pytest.mark.parametrize("shape", [(4,), (2, 4), (3, 2, 4), (2, 2, 3, 4)])
@pytest.mark.parametrize("float_end", [False, True])
def test_a_product_with_a_bias_keeps_its_shape_in_every_rank(shape: tuple[int, ...], float_end: bool, tools: Any) -> None:
    small = tools.Small()
    x = small.node("Add", small.node("MatMul", small.input("x", *shape), small.weight(4, 6)), small.weight(6))
    model = small.model(x if float_end else small.node("Tanh", small.node("MatMul", x, small.weight(6, 3))))
    result = done(model, tools)
    assert "float" not in precision(result).values() or len(shape) == 1
    assert tools.run(result.model, next(iter(tools.feeds(model))))[0].shape == tools.run(model, next(iter(tools.feeds(model))))[0].shape
    assert sqnr(model, result, tools) > 12


def test_an_infinite_constant_is_not_put_into_codes(tools: Any) -> None:
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 8, 4, 4), 8, 16, name="c"))
    mask = np.zeros((1, 16, 4, 4), np.float32)
    mask[0, 3] = -np.inf
    model = small.model(small.node("Exp", small.node("Add", x, small.constant(mask), name="mask")))
    result = done(model, tools)
    assert precision(result) == {"c": "int8"}
    assert "quantize/add" not in result.applied


def test_normalization_that_cannot_be_folded_is_no_reason_to_refuse(tools: Any) -> None:
    small = tools.Small()
    four = [small.constant(np.ones(8, np.float32)) for _ in range(4)]
    x = small.node("Relu", small.node("BatchNormalization", small.input("x", 1, 8, 8, 8), *four))
    result = done(small.model(small.node("Tanh", small.conv(x, 8, 16, name="c"))), tools)
    assert precision(result) == {"c": "int8"}


@pytest.mark.parametrize("opset", [11, 12])
def test_an_old_opset_is_lifted_and_computes_the_same(opset: int, tools: Any) -> None:
    model = residual(tools, opset)
    result = done(model, tools)
    assert result.model.opset == 13 and model.opset == opset
    assert result.applied["quantize/lift-opset"] == 1
    assert set(precision(result).values()) == {"int8"}


def test_a_new_opset_is_left_alone(tools: Any) -> None:
    assert done(residual(tools, 17), tools).model.opset == 17


def test_a_lift_that_changes_the_outputs_leaves_the_model_in_float(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"y": np.zeros(3, np.float32)}, {"y": np.array([0, 0, 1], np.float32)}])
    monkeypatch.setattr(stage.evaluate, "run_once", lambda *a, **k: next(answers))
    model = residual(tools, 12)
    result = done(model, tools)
    assert result.model is model and not result.changed
    assert reason(result, "stem").startswith("quantize/lift-opset") and "changes output 'y'" in reason(result, "stem")


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        (np.array([1, 1000], np.float32), np.array([1.01, 1000], np.float32), True),  # within what kernels differ by, beside the largest value
        (np.array([1, 100000], np.int64), np.array([1, 100001], np.int64), False),
        (np.array(["a"], object), np.array(["b"], object), False),
    ],
)
def test_a_lift_may_move_floats_a_little_and_nothing_else(before: Any, after: Any, changed: bool, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"y": before}, {"y": after}])
    monkeypatch.setattr(stage.evaluate, "run_once", lambda *a, **k: next(answers))
    assert done(residual(tools, 12), tools).changed == changed
