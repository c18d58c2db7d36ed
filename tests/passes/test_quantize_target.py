"""Every row of the cpu table fuses: a small graph per row is quantized, whatever it costs, and the runtime's optimized graph is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.quantize.certify import check_fusion
from graphcompress.passes.quantize.groups import find
from graphcompress.passes.quantize.observe import observe
from graphcompress.passes.quantize.plan import Attempt, Plan
from graphcompress.passes.quantize.ranges import MinMax
from graphcompress.passes.quantize.scales import Ranges
from graphcompress.step import silent
from graphcompress.targets import load_target

CPU = load_target("cpu")
Body = Callable[[Any, str], str]


def image(body: Body, channels: int = 16) -> Callable[[Any], Model]:
    """Conv, the body, Conv, GlobalAveragePool over float: the body stands inside an island."""

    def build(small: Any) -> Model:
        x = small.input("x", 1, 16, 12, 12)
        x = small.node("Relu", small.conv(x, 16, channels))
        x = body(small, x)
        x = small.conv(x, 16, 16)
        return small.model(small.node("Tanh", x))

    return build


def rows(body: Body, *shape: int) -> Callable[[Any], Model]:
    """Gemm or MatMul, the body, the same again: for what is no image."""
    shape = shape or (6, 32)

    def linear(small: Any, x: str) -> str:
        made: str = small.node("MatMul", x, small.weight(32, 32))
        return made

    def build(small: Any) -> Model:
        x = linear(small, small.input("x", *shape))
        x = body(small, x)
        return small.model(small.node("Tanh", linear(small, x)))

    return build


def ints(small: Any, *values: int) -> str:
    made: str = small.constant(np.array(values, np.int64))
    return made


def per_channel(small: Any) -> str:
    made: str = small.constant(small.random.uniform(0.5, 1.5, (1, 16, 1, 1)).astype(np.float32))
    return made


def conv_of(rank: int, **attrs: Any) -> Callable[[Any], Model]:
    def build(small: Any) -> Model:
        x = small.input("x", 1, 8, *([10] * rank))
        group = attrs.get("group", 1)
        for act in ("Relu", ""):
            x = small.node("Conv", x, small.weight(8, 8 // group, *([3] * rank)), small.weight(8), pads=[1] * (2 * rank), **attrs)
            x = small.node(act, x) if act else x
        return small.model(small.node("Tanh", x))

    return build


def clipped(low: float, high: float) -> Callable[[Any], Model]:
    return image(lambda s, x: s.node("Clip", s.conv(x, 16, 16), s.constant(np.float32(low)), s.constant(np.float32(high))))


def gated(small: Any, x: str) -> str:
    """x * HardSigmoid(x)."""
    made: str = small.node("Mul", x, small.node("HardSigmoid", x, alpha=1 / 6))
    return made


def gemm(**attrs: Any) -> Callable[[Any], Model]:
    def build(small: Any) -> Model:
        x = small.input("x", 4, 32)
        shape = (24, 32) if attrs.get("transB") else (32, 24)
        x = small.node("Relu", small.node("Gemm", x, small.weight(*shape), small.weight(24), **attrs))
        shape = (24, 24)
        return small.model(small.node("Gemm", x, small.weight(*shape), small.weight(24), **attrs))

    return build


def linear(rank: int, act: str, float_end: bool) -> Callable[[Any], Model]:
    def build(small: Any) -> Model:
        x = small.input("x", *((2, 5, 7)[: rank - 1]), 32)
        for i in range(2):
            x = small.node("Add", small.node("MatMul", x, small.weight(32, 32)), small.weight(32))
            if act and not (float_end and i == 1):
                x = small.node(act, x)
        return small.model(x if float_end else small.node("Tanh", small.node("MatMul", x, small.weight(32, 4))))

    return build


def attention(small: Any) -> Model:
    q, k = small.input("q", 2, 8, 16), small.input("k", 2, 16, 8)
    return small.model(small.node("MatMul", small.node("MatMul", q, k), q))


GRAPHS: dict[str, Callable[[Any], Model]] = {
    "Conv/1d": conv_of(1),
    "Conv/2d": conv_of(2),
    "Conv/3d": conv_of(3),
    "Conv/depthwise": conv_of(2, group=8),
    "Conv/grouped": conv_of(2, group=2),
    "Conv/strided": conv_of(2, strides=[2, 2]),
    "Conv/relu6": clipped(0.0, 6.0),
    "Conv/narrow clip": clipped(0.0, 0.3),
    "Conv/hard tanh": clipped(-1.0, 1.0),
    "Conv/lopsided clip": clipped(-0.1, 0.7),
    "Gemm/transB": gemm(transB=1),
    "Gemm/plain": gemm(),
    "MatMul/matrices": linear(2, "", False),
    "MatMul/matrices, relu": linear(2, "Relu", False),
    "MatMul/matrices, float end": linear(2, "Relu", True),
    "MatMul/batches": linear(3, "", False),
    "MatMul/batches, relu": linear(3, "Relu", False),
    "MatMul/batches, float end": linear(3, "", True),
    "MatMul/four axes": linear(4, "", False),
    "MatMul/without bias": rows(lambda s, x: x, 2, 3, 32),
    "MatMul/computed": attention,
    "Add/two": image(lambda s, x: s.node("Add", s.conv(x, 16, 16), x)),
    "Add/relu": image(lambda s, x: s.node("Relu", s.node("Add", s.conv(x, 16, 16), x))),
    "Add/constant": image(lambda s, x: s.node("Add", x, per_channel(s))),
    "Add/itself": image(lambda s, x: s.node("Add", x, x)),
    "Mul/two": image(lambda s, x: s.node("Mul", s.conv(x, 16, 16), x)),
    "Mul/relu": image(lambda s, x: s.node("Relu", s.node("Mul", s.conv(x, 16, 16), x))),
    "Mul/constant first": image(lambda s, x: s.node("Mul", per_channel(s), x)),
    "Concat": image(lambda s, x: s.node("Concat", s.conv(x, 8, 8), x, axis=1), channels=8),
    "Concat/relu": image(lambda s, x: s.node("Relu", s.node("Concat", s.conv(x, 8, 8), x, axis=1)), channels=8),
    "Concat/constant": image(lambda s, x: s.node("Concat", x, s.weight(1, 8, 12, 12), axis=1), channels=8),
    "Where": image(lambda s, x: s.node("Where", s.constant(s.random.random((1, 16, 12, 12)) > 0.5), x, s.conv(x, 16, 16))),
    "GlobalAveragePool": image(lambda s, x: s.node("Mul", x, s.node("GlobalAveragePool", x))),
    "AveragePool": image(lambda s, x: s.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])),
    "LeakyRelu": image(lambda s, x: s.node("LeakyRelu", s.conv(x, 16, 16), alpha=0.1)),
    "Sigmoid": image(lambda s, x: s.node("Sigmoid", x)),
    "HardSigmoid": image(lambda s, x: gated(s, s.node("Conv", x, s.constant(s.random.normal(0, 2, (16, 16, 1, 1)).astype(np.float32))))),
    "Softmax": rows(lambda s, x: s.node("Softmax", x, axis=-1)),
    "MaxPool": image(lambda s, x: s.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])),
    "Split": image(lambda s, x: s.node("Concat", *reversed(s.node("Split", x, outputs=2, axis=1)), axis=1)),
    "Resize": image(
        lambda s, x: s.node(
            "Resize", x, "", s.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
    ),
    "ReduceMax": image(lambda s, x: s.node("ReduceMax", x, axes=[2, 3])),
    "ReduceMin": image(lambda s, x: s.node("ReduceMin", s.conv(x, 16, 16), axes=[2, 3])),
    "Transpose": image(lambda s, x: s.node("Transpose", x, perm=[0, 1, 3, 2])),
    "Reshape": image(lambda s, x: s.node("Reshape", x, ints(s, 1, 16, 4, 36))),
    "Flatten": rows(lambda s, x: s.node("Flatten", x, axis=1), 6, 1, 32),
    "Flatten/behind a pool": lambda s: s.model(
        s.node("Gemm", s.node("Flatten", s.node("GlobalAveragePool", s.conv(s.input("x", 1, 16, 8, 8), 16, 16))), s.weight(10, 16), s.weight(10), transB=1)
    ),
    "Squeeze": rows(lambda s, x: s.node("Squeeze", x, ints(s, 1)), 6, 1, 32),
    "Unsqueeze": rows(lambda s, x: s.node("Unsqueeze", x, ints(s, 1))),
    "Slice": image(lambda s, x: s.node("Slice", x, ints(s, 2), ints(s, 10), ints(s, 3))),
    "Slice/three": rows(
        lambda s, x: s.node("Concat", *[s.node("Slice", x, ints(s, a), ints(s, b), ints(s, 0)) for a, b in ((0, 2), (2, 4), (4, 6))], axis=0),
    ),
    "Gather": rows(lambda s, x: s.node("Gather", x, ints(s, 2, 0, 1), axis=0)),
    "GatherElements": rows(lambda s, x: s.node("GatherElements", x, s.constant(np.zeros((6, 32), np.int64)), axis=0)),
    "Expand": rows(lambda s, x: s.node("Expand", x, ints(s, 2, 6, 32))),
    "Tile": rows(lambda s, x: s.node("Tile", x, ints(s, 2, 1))),
    "DepthToSpace": image(lambda s, x: s.node("DepthToSpace", x, blocksize=2), channels=64),
}


def written(model: Model, tools: Any) -> Attempt:
    """All groups that the table has for `model`, written in integers."""
    shapes = infer(model)
    candidates = find(model, CPU, shapes)
    tensors = [t for g in candidates.groups for t in (*g.inputs, *g.outputs)]
    observed = observe(model, tensors, tools.feeds(model), lambda t: MinMax())
    known = {t: shapes.shape(t) or (None,) * len(observed[t].shape) for t in tensors}
    plan = Plan(model, {}, candidates, known, Ranges(observed, lambda s: s.finish(), CPU), silent, next(iter(tools.feeds(model))))
    return plan.write(plan.groups)


@pytest.mark.parametrize("case", GRAPHS)
def test_the_row_fuses(case: str, tools: Any) -> None:
    op = case.split("/", maxsplit=1)[0]
    model = GRAPHS[case](tools.Small())
    made = written(model, tools)
    mine = [g for g in made.groups if g.row.op == op]
    assert mine, f"no group for {op}"
    fusion = check_fusion(made.model, made.twins, CPU, next(iter(tools.feeds(model))))
    assert not fusion.not_fused
    assert not fusion.fused_by_provider
    nodes = tools.optimized(made.model)
    constants = {o for n in nodes if n.op_type == "DequantizeLinear" and n.input[0] not in {x for m in nodes for x in m.output} for o in n.output}
    assert not constants & {x for n in nodes for x in n.input}
    # No heavy operator, no activation and nothing of this row is left on floats.
    floats = {o for n in nodes if n.op_type == "DequantizeLinear" for o in n.output} | {i.name for i in model.inputs}
    left = Counter(n.op_type for n in nodes if n.op_type in ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Relu", "Clip", op) and n.input[0] in floats)
    assert not left


def test_every_row_has_a_graph() -> None:
    assert {row.op for row in CPU.operator} == {case.split("/")[0] for case in GRAPHS}


@pytest.mark.parametrize("case", GRAPHS)
def test_fused_and_unfused_agree_and_both_are_near_float(case: str, tools: Any) -> None:
    """With session.disable_quant_qdq=1 the runtime computes what the file says; the fused kernels may differ from it by a step on ties."""
    model = GRAPHS[case](tools.Small())
    made = written(model, tools)
    feed = next(iter(tools.feeds(model)))
    reference = tools.run(model, feed)[0]
    fused = tools.run(made.model, feed)[0]
    literal = tools.run(made.model, feed, disable_quant_qdq="1")[0]
    reach = np.abs(reference).max()
    assert np.mean(np.abs(fused - literal) > 0.02 * reach) <= 0.02
    assert np.mean(np.abs(fused - literal)) <= 0.005 * reach
    noise = np.square(literal - reference).sum()
    assert 10 * np.log10(np.square(reference).sum() / max(noise, 1e-30)) > 12
