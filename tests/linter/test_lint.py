"""Every rule finds the defect that is planted in a model made for it, and nothing in models without; what --fix mends is equal and clean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from defects import CLEAN, CONV, KERNEL, PLANTED, conv, dropout_with_mask, int8_operand, plain, quantized, quantizers_of_two_branches, two_quantizers
from planted import Planted

from graphcompress.errors import UsageError
from graphcompress.ir import Model, model_from_proto, to_bytes
from graphcompress.linter import RULES, check, choose, mend
from graphcompress.targets import load_target

CPU = load_target("cpu")


def read(proto: onnx.ModelProto) -> Model:
    """A model of its own."""
    return model_from_proto(onnx.load_from_string(proto.SerializeToString()))


def ids(model: onnx.ModelProto, provider: str = "cpu", **names: Any) -> set[str]:
    return {rule.id for rule, _ in check(read(model), choose(**names), CPU, provider)}


@pytest.mark.parametrize(("id", "build"), [(id, build) for _, id, build in PLANTED], ids=[name for name, _, _ in PLANTED])
def test_the_planted_defect_is_found(id: str, build: Callable[[], onnx.ModelProto]) -> None:
    assert id in ids(build())


@pytest.mark.parametrize("build", CLEAN.values(), ids=CLEAN)
def test_nothing_is_found_in_clean_models(build: Callable[[], onnx.ModelProto]) -> None:
    assert ids(build()) == set()


def test_every_rule_has_a_planted_model_and_every_id_is_its_own() -> None:
    assert {rule.id for rule in RULES} - {id for _, id, _ in PLANTED} == {"model/free-size", "model/new-opset"}
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_free_sizes_matter_to_those_who_need_fixed_ones() -> None:
    free = plain(CONV, weights={"w": KERNEL}, signature="(float[n,8,6,6] x) => (float[n,8,6,6] y)")
    assert ids(free) == ids(free, "cuda") == set()
    assert ids(free, "qnn") == ids(free, "CoreMLExecutionProvider") == {"model/free-size"}
    assert ids(plain(CONV, weights={"w": KERNEL}), "qnn") == set()


def run(model: bytes, feeds: dict[str, Any]) -> list[Any]:
    """What the graph says: nothing is fused or folded."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)


MENDED = [
    (name, id, build)
    for name, id, build in PLANTED
    if next(r for r in RULES if r.id == id).fix is not None and name not in ("two different Qs", "a float reader beside the Q")
]


@pytest.mark.parametrize(("id", "build"), [(id, build) for _, id, build in MENDED], ids=[name for name, _, _ in MENDED])
def test_what_is_mended_is_equal_and_clean(id: str, build: Callable[[], onnx.ModelProto]) -> None:
    proto = build()
    copy, mended = mend(read(proto), choose(), CPU)
    assert mended.get(id, 0) > 0
    after = onnx.load_from_string(to_bytes(copy))
    mendable = {rule.id for rule in RULES if rule.fix is not None}
    assert ids(after) & mendable == set() and id not in ids(after)
    generator = np.random.default_rng(1)
    feeds = {
        spec.name: generator.integers(0, 8, spec.shape)
        if spec.dtype == "int64"
        else np.array(True)
        if spec.dtype == "bool"
        else generator.standard_normal(spec.shape).astype(np.float32)
        for spec in read(proto).inputs
        if spec.shape is not None
    }
    if id == "qdq/opset":  # what is mended did not load before
        with pytest.raises(Exception, match=r"uint16|Type Error"):
            run(proto.SerializeToString(), feeds)
        run(after.SerializeToString(), feeds)
        return
    alone = to_bytes(mend(read(proto), choose((id,)), CPU)[0])
    for mended_bytes in (after.SerializeToString(), alone):
        for before, now in zip(run(proto.SerializeToString(), feeds), run(mended_bytes, feeds), strict=True):
            np.testing.assert_array_equal(before, now)


@pytest.mark.parametrize("build", [quantizers_of_two_branches, dropout_with_mask])
def test_what_cannot_be_mended_is_left(build: Callable[[], onnx.ModelProto]) -> None:
    proto = build()
    after = to_bytes(mend(read(proto), choose(), CPU)[0])
    x = np.random.default_rng(1).standard_normal(read(proto).inputs[0].shape).astype(np.float32)
    for k in [True, False] if len(proto.graph.input) > 1 else [None]:
        feeds = {"x": x} | ({} if k is None else {"k": np.array(k)})
        for before, now in zip(run(proto.SerializeToString(), feeds), run(after, feeds), strict=True):
            np.testing.assert_array_equal(before, now)


def test_what_was_mended_fuses_or_stays_float_as_it_should() -> None:
    """In the graph that onnxruntime makes."""

    def kernels(proto: onnx.ModelProto) -> list[str]:
        from graphcompress.ir import nodes
        from graphcompress.runtime.profile import optimized_model

        return [str(node.op) for node in nodes(optimized_model(read(proto)))]

    merged, _ = mend(read(two_quantizers(Planted(), 0.05)), choose(), CPU)
    assert "QLinearConv" in kernels(onnx.load_from_string(to_bytes(merged)))
    implicit = quantized(lambda p, x: conv(p, x, weight=p.constant(p.floats(8, 8, 3, 3))))
    float_again, _ = mend(read(implicit), choose(), CPU)
    assert "QLinearConv" in kernels(implicit) and "QLinearConv" not in kernels(onnx.load_from_string(to_bytes(float_again)))
    unsigned, _ = mend(read(int8_operand(Planted())), choose(), CPU)
    assert "QLinearAdd" in kernels(onnx.load_from_string(to_bytes(unsigned)))


def test_select_and_ignore() -> None:
    model = plain("i = Identity (x)", CONV.replace("(x", "(i"), weights={"w": KERNEL, "unused": np.ones(5, np.float32)})
    assert ids(model) == {"waste/leftover", "waste/dead-weight"}
    assert ids(model, select=("waste/leftover",)) == {"waste/leftover"} and ids(model, select=("qdq",)) == set()
    assert ids(model, ignore=("waste/leftover",)) == {"waste/dead-weight"} and ids(model, ignore=("waste",)) == set()
    with pytest.raises(UsageError, match=r"--select qdq/axes: there is no such rule. Did you mean 'qdq/axis'"):
        choose(("qdq/axes",))
