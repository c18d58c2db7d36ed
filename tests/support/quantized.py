"""Running the INT8 step on small models, and reading what came of it. `tools` is the fixture of tests/support/small.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphcompress.ir import Model
from graphcompress.passes.quantize import Options, quantize
from graphcompress.step import Context, StepResult
from graphcompress.targets import Target, load_target

CPU = load_target("cpu")
# All that fuses pays: placement is not what these tests are about.
EAGER: Target = CPU.model_copy(
    update={
        "boundary": CPU.boundary.model_copy(update={"quantize": 0.0, "dequantize": 0.0, "layout": 0.0, "floor": 0.0}),
        "operator": tuple(
            row.model_copy(update={"follows": False, "price": (row.price[-1].model_copy(update={"ratio": 0.5, "float_ns": 1.0}),)}) for row in CPU.operator
        ),
    }
)
INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")


def context(model: Model, tools: Any, target: Target = EAGER, **more: Any) -> Context:
    return Context(target=target, data=tools.feeds(model, **more), threads=1)


def done(model: Model, tools: Any, *, exclude: tuple[str, ...] = (), target: Target = EAGER, **options: Any) -> StepResult:
    return quantize(model, context(model, tools, target), Options(exclude=exclude, **options)).boldest


def precision(result: StepResult) -> dict[str, str]:
    assert result.certificate is not None
    return {o.node: o.precision for o in result.certificate.operators}


def reason(result: StepResult, node: str) -> str:
    assert result.certificate is not None
    return next(f"{o.id}: {o.reason}" for o in result.certificate.operators if o.node == node and o.precision == "float")


def sqnr(model: Model, result: StepResult, tools: Any) -> float:
    worst = 1e9
    for feed in tools.feeds(model, 3):  # among those of the calibration: nothing lies outside a range
        for a, b in zip(tools.run(model, feed), tools.run(result.model, feed), strict=True):
            worst = min(worst, 10 * np.log10(np.square(a, dtype=np.float64).sum() / max(np.square(a.astype(np.float64) - b).sum(), 1e-30)))
    return float(worst)


def residual(tools: Any, opset: int = 17) -> Model:
    """Two Convs with a shortcut, pooling, a Gemm; names stem, a, b, head."""
    small = tools.Small(opset)
    x = small.node("Relu", small.conv(small.input("x", 1, 8, 12, 12), 8, 32, name="stem"))
    y = small.node("Relu", small.conv(x, 32, 32, name="a"))
    z = small.node("Relu", small.node("Add", small.conv(y, 32, 32, name="b"), x))
    z = small.node("Flatten", small.node("GlobalAveragePool", z))
    return small.model(small.node("Gemm", z, small.weight(10, 32), small.weight(10), transB=1, name="head"))
