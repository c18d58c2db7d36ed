"""x86 without VNNI in float operators: against plain integer sums, and against this processor where it is one."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphcompress import ir
from graphcompress.runtime import machine
from graphcompress.runtime.saturation import saturating
from graphcompress.runtime.session import open_session

SATURATES_HERE = platform.machine() in ("x86_64", "AMD64") and "avx2" in machine.cpu()[1] and not any("vnni" in flag for flag in machine.cpu()[1])


def layer(op: str, *, size: float = 127, bias: bool = True, odd: bool = False, zero: int = 3, kind: type = np.uint8, seed: int = 0, **attrs: Any) -> ir.Model:
    """A quantized layer between a Q and a DQ, with weights of codes up to `size`."""
    random = np.random.default_rng(seed)
    channels = 5 if odd else 6
    shape = (4, channels, 3, 3) if op == "Conv" else (channels, 4)
    if attrs.get("transB"):
        shape = shape[::-1]
    codes = random.integers(-size, size + 1, shape).astype(np.int8)
    values = {
        "s": np.float32(0.02), "z": kind(zero), "w": codes, "ws": random.uniform(0.001, 0.01, 4).astype(np.float32), "wz": np.zeros(4, np.int8),
        "b": random.integers(-9000, 9000, 4).astype(np.int32), "os": np.float32(0.05), "oz": np.uint8(120), "bz": np.zeros(4, np.int32),
    }  # fmt: skip
    values["bs"] = values["s"] * values["ws"]
    axis = 0 if op == "Conv" or attrs.get("transB") else 1
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["e"], axis=axis),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["c"], axis=0),
        helper.make_node(op, ["d", "e", *(["c"] if bias and op != "MatMul" else [])], ["h"], name="layer", **attrs),
        helper.make_node("QuantizeLinear", ["h", "os", "oz"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "os", "oz"], ["y"]),
    ]
    fed = ["n", channels, 8, 8] if op == "Conv" else ["n", 2, channels] if op == "MatMul" else ["n", channels]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, fed)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    return ir.model_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def feed(model: ir.Model, rows: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    """Codes of the whole range."""
    (x,) = model.inputs
    return {"x": np.random.default_rng(1).uniform(-0.1, 5.2, [d if isinstance(d, int) else rows for d in x.shape or ()]).astype(np.float32)}


def output(model: ir.Model, inputs: dict[str, np.ndarray[Any, Any]], optimize: Any = "all") -> np.ndarray[Any, Any]:
    with open_session(model, threads=1, optimize=optimize) as session:
        value: np.ndarray[Any, Any] = session.run(inputs)["y"]
        return value


CASES: dict[str, dict[str, Any]] = {
    "a Conv": {"op": "Conv", "pads": [1, 1, 1, 1]},
    "a Conv with a stride, dilated": {"op": "Conv", "pads": [2, 2, 0, 1], "strides": [2, 1], "dilations": [2, 1]},
    "an odd reduction": {"op": "Conv", "odd": True},
    "signed codes": {"op": "Conv", "kind": np.int8, "zero": -125, "pads": [1, 1, 1, 1]},
    "no bias": {"op": "Conv", "bias": False},
    "a Gemm": {"op": "Gemm"},
    "a Gemm with another layout": {"op": "Gemm", "transB": 1, "odd": True},
    "a MatMul": {"op": "MatMul"},
}


@pytest.mark.parametrize("case", CASES)
def test_sums_saturate_pair_by_pair(case: str) -> None:
    """Against the definition, written out in numpy for every output."""
    settings = CASES[case]
    model = layer(**settings)
    changed, names = saturating(model)
    assert names == ["layer"]
    inputs = feed(model)
    assert np.array_equal(output(changed, inputs), by_definition(model, inputs, settings)), case
    assert not np.array_equal(output(changed, inputs), output(model, inputs, "none")), "it makes a difference"


def by_definition(model: ir.Model, inputs: dict[str, np.ndarray[Any, Any]], settings: dict[str, Any]) -> np.ndarray[Any, Any]:
    value = {c.name: np.asarray(c.values) for c in model.graph.initializers.values()}
    shift = 128 if value["z"].dtype == np.int8 else 0
    low, high = (-128, 127) if shift else (0, 255)
    codes = np.clip(np.rint(inputs["x"] / value["s"]) + value["z"], low, high).astype(np.int64) + shift
    zero, weights = int(value["z"]) + shift, value["w"].astype(np.int64)
    if settings["op"] == "Conv":
        pads, strides, dilations = settings.get("pads", [0] * 4), settings.get("strides", [1, 1]), settings.get("dilations", [1, 1])
        padded = np.pad(codes, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])], constant_values=zero)
        reach = [(padded.shape[2 + i] - 2 * dilations[i] - 1) // strides[i] + 1 for i in (0, 1)]
        taps = [(i, j, c) for i in range(3) for j in range(3) for c in range(weights.shape[1])]
        columns = np.stack(
            [padded[:, c, i * dilations[0] :, j * dilations[1] :][:, :: strides[0], :: strides[1]][:, : reach[0], : reach[1]] for i, j, c in taps], axis=-1
        )
        rows = np.stack([weights[:, c, i, j] for i, j, c in taps], axis=-1)
    else:
        columns, rows = codes, weights if settings.get("transB") else weights.T
    sums = 0
    for k in range(0, rows.shape[1], 2):
        pair = sum(columns[..., None, m] * rows[:, m] for m in range(k, min(k + 2, rows.shape[1])))
        sums = sums + np.clip(pair, -(2**15), 2**15 - 1)
    floats = (sums - zero * rows.sum(1)) * (value["s"] * value["ws"])
    if settings.get("bias", True) and settings["op"] != "MatMul":
        floats = floats + value["b"] * value["bs"]
    quantized = np.clip(np.rint(floats.astype(np.float32) / value["os"]) + 120, 0, 255)
    result = ((quantized - 120) * value["os"]).astype(np.float32)
    return np.moveaxis(result, -1, 1) if settings["op"] == "Conv" else result


@pytest.mark.skipif(not SATURATES_HERE, reason="this processor is no x86 with AVX2 and without VNNI")
@pytest.mark.parametrize("case", CASES)
def test_it_is_what_such_a_processor_does(case: str) -> None:
    for seed in range(3):
        model = layer(**CASES[case], seed=seed)
        inputs = feed(model, rows=5)
        assert np.abs(output(saturating(model)[0], inputs) - output(model, inputs)).max() <= 0.0501, "at most one code apart, by rounding"
        assert np.mean(output(saturating(model)[0], inputs) != output(model, inputs)) < 0.01


def test_layers_that_cannot_saturate_stay_as_they_are() -> None:
    model = layer("Conv", size=64)
    changed, names = saturating(model)
    assert names == [] and [n.op for n in changed.graph.nodes] == [n.op for n in model.graph.nodes]


def test_what_is_not_added_in_16_bits_stays_as_it_is() -> None:
    """Groups have kernels of their own; a Conv without a Q behind it, and float weights, are computed in float."""
    grouped = layer("Conv")
    (conv,) = (n for n in grouped.graph.nodes if n.op == "Conv")
    conv.attrs["group"] = 2
    assert saturating(grouped)[1] == []
    unquantized = layer("Conv")
    (conv,) = (n for n in unquantized.graph.nodes if n.op == "Conv")
    unquantized.add("Neg", [conv.outputs[0]])
    assert saturating(unquantized)[1] == []


def test_validate_tells_the_loss_on_such_a_processor() -> None:
    import graphcompress

    model = layer("Conv", pads=[1, 1, 1, 1])
    feeds = [feed(model, rows=1 + i % 2) for i in range(8)]
    report = graphcompress.validate(model, model, feeds, without_vnni=True, kinds={"y": "values"})
    assert report.saturating == ["layer"] and "where 1 layer can saturate: layer" in " ".join(report.notes)
    assert SATURATES_HERE or (report.agreement is not None and report.agreement < 1)
    bounded = layer("Conv", size=64, pads=[1, 1, 1, 1])
    report = graphcompress.validate(bounded, bounded, feeds, without_vnni=True, kinds={"y": "values"})
    assert report.saturating == [] and report.agreement == 1.0 and "can saturate on x86" in " ".join(report.notes)
