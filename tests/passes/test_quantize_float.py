"""What stays float, and what the runtime makes of it between layers in integers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from quantized import EAGER, INTEGER, context, done, precision, reason, residual, sqnr

from graphcompress.ir import Constant, Model, constant_value, producer
from graphcompress.passes.quantize import Options, quantize
from graphcompress.runtime import profile

# --- layers that stay float ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_a_float_layer_between_integer_ones_really_stays_float(kind: str, tools: Any) -> None:
    """The provider would quantize it by itself, per tensor: its own DQ with a scale per channel keeps it from that."""
    small = tools.Small()
    if kind.startswith("Conv"):
        x = small.node("Relu", small.conv(small.input("x", 1, 16, 8, 8), 16, 16, name="before"))
        weight = small.weight(16, 16, 3, 3)
        x = small.node("Relu", small.node(kind, x, weight, small.weight(16), pads=[1] * 4, name="middle"))
        model = small.model(small.node("Tanh", small.conv(x, 16, 16, name="behind")))
    else:
        x = small.node("Relu", small.node("Gemm", small.input("x", 4, 32), small.weight(32, 32), small.weight(32), name="before"))
        weight = small.weight(32, 32)
        x = (
            small.node("Gemm", x, weight, small.weight(32), name="middle")
            if kind == "Gemm"
            else small.node("Add", small.node("MatMul", x, weight, name="middle"), small.weight(32))
        )
        model = small.model(small.node("Gemm", x, small.weight(32, 8), name="behind"))
    result = done(model, tools, exclude=("^middle$",) if kind != "ConvTranspose" else ())
    assert precision(result) == {"before": "int8", "middle": "float", "behind": "int8"}
    assert reason(result, "middle").startswith("quantize/excluded" if kind != "ConvTranspose" else "quantize/no-int8-kernel")
    nodes = tools.optimized(result.model)
    assert sum(n.op_type in INTEGER for n in nodes) == 2
    kept = next(t for t in result.model.graph.initializers.values() if t.name == weight)
    assert constant_value(kept) is not None and constant_value(kept).dtype == np.float32  # type: ignore[union-attr]
    assert result.applied["quantize/protect-float"] == 1


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_a_layer_whose_weight_is_in_codes_already_runs_in_integers(op: str, tools: Any) -> None:
    small = tools.Small()
    x = small.node("Relu", small.node("Gemm", small.input("x", 4, 32), small.weight(32, 32), small.weight(32), name="before"))
    codes = small.constant(small.random.integers(-127, 128, (32, 32)).astype(np.int8))
    weight = small.node("DequantizeLinear", codes, small.constant(np.float32(0.01)), small.constant(np.int8(0)))
    x = small.node("Add", small.node(op, x, weight, name="middle"), small.weight(32))
    result = done(small.model(small.node("Gemm", x, small.weight(32, 8), name="behind")), tools)
    assert "quantize/protect-float" not in result.applied
    assert precision(result)["middle"] == "int8"


def test_the_unprotected_layer_would_have_been_quantized(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above guards against does happen, and reading back sees it and sends the neighbour to float."""
    from graphcompress.passes.quantize import insert

    monkeypatch.setattr(insert.Inserter, "_vector", lambda self, tensor, node, scale: None)
    small = tools.Small()
    x = small.node("Relu", small.conv(small.input("x", 1, 16, 8, 8), 16, 16, name="before"))
    x = small.node("Relu", small.conv(x, 16, 16, name="middle"))
    model = small.model(small.node("Tanh", small.conv(x, 16, 16, name="behind")))
    result = done(model, tools, exclude=("middle",))
    assert precision(result) == {"before": "float", "middle": "float", "behind": "int8"}
    assert sum(n.op_type in INTEGER for n in tools.optimized(result.model)) == 1


def test_a_group_that_misses_its_fusion_goes_back_to_float(tools: Any) -> None:
    """A table that promises too much: what the provider does not fuse is not in the result, and the certificate says why."""
    row = next(r for r in EAGER.operator if r.op == "GlobalAveragePool")
    wrong = EAGER.model_copy(update={"operator": (*EAGER.operator, row.model_copy(update={"op": "Elu", "becomes": ("QLinearElu",)}))})
    small = tools.Small()
    x = small.node("Elu", small.conv(small.input("x", 1, 8, 12, 12), 8, 32, name="a"))
    model = small.model(small.node("Tanh", small.conv(x, 32, 8, name="b")))
    result = done(model, tools, target=wrong)
    assert precision(result) == {"a": "int8", "b": "int8"}
    assert "quantize/elu" not in result.applied
    assert [r.id for r in result.refusals] == ["quantize/missed-fusion"]


@pytest.mark.parametrize(("certificate", "taken", "refused"), [("nodes-taken", True, False), ("nodes-taken", False, True), ("none", False, False)])
def test_the_target_says_how_it_is_known_what_runs_in_integers(
    tools: Any, monkeypatch: pytest.MonkeyPatch, certificate: str, taken: bool, refused: bool
) -> None:
    """Elu fuses nowhere. By the nodes that a provider took that is not seen where it took the Elu; where nothing is asked it is never seen."""
    row = next(r for r in EAGER.operator if r.op == "GlobalAveragePool")
    promising = EAGER.model_copy(
        update={"operator": (*EAGER.operator, row.model_copy(update={"op": "Elu", "becomes": ("QLinearElu",)})), "certificate": certificate}
    )
    small = tools.Small()
    x = small.node("Elu", small.conv(small.input("x", 1, 8, 12, 12), 8, 32, name="a"))
    model = small.model(small.node("Tanh", small.conv(x, 32, 8, name="b")))
    nodes_taken = profile.nodes_taken

    def without_elu(model: Model, *arguments: Any, **more: Any) -> list[str]:
        elu = [n.name for n in model.graph.nodes if n.op == "Elu"]
        return [name for name in nodes_taken(model, *arguments, **more) or () if taken or name not in elu]

    monkeypatch.setattr(profile, "nodes_taken", without_elu)
    result = done(model, tools, target=promising)
    assert ("quantize/elu" in result.applied) is not refused
    assert ("quantize/missed-fusion" in [r.id for r in result.refusals]) is refused


def test_no_constant_is_dequantized_in_front_of_a_float_operator(tools: Any) -> None:
    small = tools.Small()
    shared = small.weight(16, 16, 3, 3)
    x = small.input("x", 1, 16, 8, 8)
    a = small.node("Relu", small.node("Conv", x, shared, pads=[1] * 4, name="int"))
    b = small.node("ConvTranspose", small.node("Tanh", a), shared, pads=[1] * 4, name="float")
    result = done(small.model(small.node("Tanh", b)), tools)
    assert precision(result) == {"int": "int8", "float": "float"}
    optimized = profile.optimized_model(result.model)
    transposed = next(n for n in optimized.graph.nodes if n.op == "ConvTranspose")
    assert isinstance(transposed.inputs[1], Constant)


def test_one_weight_and_bias_for_two_layers_with_different_inputs(tools: Any) -> None:
    small = tools.Small()
    weight, bias = small.weight(16, 16, 1, 1), small.weight(16)
    x = small.input("x", 1, 16, 8, 8)
    y = small.node("Relu", small.node("Conv", x, weight, bias, name="one"))
    y = small.node("Mul", y, small.constant(np.float32(9.0)))
    model = small.model(small.node("Tanh", small.node("Conv", y, weight, bias, name="two")))
    result = done(model, tools)
    assert precision(result) == {"one": "int8", "two": "int8"}
    first, second = (n for n in result.model.graph.nodes if n.op == "Conv")
    assert producer(first.inputs[1]).inputs[0] is producer(second.inputs[1]).inputs[0]  # type: ignore[union-attr]
    assert producer(first.inputs[2]).inputs[0] is not producer(second.inputs[2]).inputs[0]  # type: ignore[union-attr]
    assert sqnr(model, result, tools) > 18
    assert {weight, bias} & set(result.model.graph.initializers) == set()


@pytest.mark.parametrize(
    ("attrs", "why"),
    [({"alpha": 0.5}, "alpha = 0.5"), ({"beta": 2.0}, "beta = 2.0"), ({"transA": 1}, "transA = 1")],
)
def test_a_gemm_that_does_not_fuse_is_refused_with_the_attribute(attrs: dict[str, Any], why: str, tools: Any) -> None:
    small = tools.Small()
    x = small.input("x", 32, 32)
    model = small.model(small.node("Gemm", x, small.weight(32, 8), small.weight(8), name="g", **attrs))
    result = done(model, tools)
    assert not result.changed
    assert why in reason(result, "g")


def test_a_weight_that_callers_may_override_is_no_constant(tools: Any) -> None:
    small = tools.Small()
    x = small.input("x", 4, 32)
    weight = small.weight(32, 32)
    small.inputs.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, (32, 32)))
    model = small.model(small.node("Gemm", x, weight, name="g"))
    assert reason(done(model, tools), "g").startswith("quantize/not-constant")


def test_float16_and_double_layers_stay_as_they_are(tools: Any) -> None:
    small = tools.Small()
    x = small.node("Cast", small.input("x", 4, 32), to=TensorProto.DOUBLE)
    y = small.node("MatMul", x, small.constant(np.ones((32, 8))), name="double")
    model = small.model(small.node("Cast", y, to=TensorProto.FLOAT))
    assert reason(done(model, tools), "double").startswith("quantize/not-float32")


def test_what_is_quantized_already_stays_as_it_is(tools: Any) -> None:
    once = done(residual(tools), tools, exclude=("^b$",))
    again = quantize(once.model, context(once.model, tools), Options()).boldest
    assert Counter(n.op for n in again.model.graph.nodes)["QuantizeLinear"] >= Counter(n.op for n in once.model.graph.nodes)["QuantizeLinear"]
    assert sqnr(once.model, again, tools) > 30
    for node in again.model.graph.nodes:
        if node.op == "QuantizeLinear":
            before = producer(node.inputs[0])
            assert before is None or before.op not in ("DequantizeLinear", "QuantizeLinear")


def test_what_onnxruntime_fused_before_is_named_in_the_certificate(tools: Any) -> None:
    small = tools.Small()
    x = small.input("x", 1, 8, 6, 6)
    fused = small.node("FusedConv", x, small.weight(8, 8, 3, 3), small.weight(8), domain="com.microsoft", activation="Relu", pads=[1] * 4, name="fused")
    result = done(small.model(small.conv(fused, 8, 8, name="plain")), tools)
    assert reason(result, "fused").startswith("quantize/runtime-operator: FusedConv of com.microsoft")
