"""What must hold between a case and what `simplify` and `opsets.lift` make of it; the first thing that does not is a Fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx

from differential.cutting import judge_prune
from differential.noise import judge_quantize
from differential.nonfinite import without_excused
from differential.program import Case
from differential.running import Array, Discarded, Fault, failure, loaded, nodes, original, signature
from differential.simplifying import effects, simplified
from differential.values import Bound, coarsest, compare
from graphcompress.errors import ModelError
from graphcompress.ir import to_proto
from graphcompress.ir.lift import lift
from graphcompress.step import StepResult

__all__ = ["Discarded", "Fault", "judge"]

#: Operators whose kernels sum in another order when an operand turns from computed into constant (and is packed at load).
PACKED = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM"))


def judge(case: Case) -> Fault | None:
    """The first thing wrong with what the case's kind makes of it. Raises Discarded."""
    return JUDGES[case.kind](case)


# --- simplify -----------------------------------------------------------------------------------------------------------------------


def judge_simplify(case: Case) -> Fault | None:
    expected = original(case)
    try:
        step = simplified(case)
    except Exception as problem:  # noqa: BLE001
        return failure("simplify raises", problem)
    result = to_proto(step.model)
    applied = "applied: " + ", ".join(sorted(step.applied)) + "\n"
    if "simplify/listed" in step.applied:  # every initializer was listed as an input: they are constants from here on
        case, expected = _without_overriding(case, expected)
    if wrong := signature(case.model, result):
        return Fault("signature", wrong.split(":")[0], applied + wrong, result)
    if broken := [r for r in step.refusals if r.id.endswith("/load")]:
        return Fault("left out", broken[0].id, applied + "\n".join(f"{r.id}: {r.reason}" for r in broken), result)
    inexact = any(effects().get(name, "exact") != "exact" for name in step.applied)
    bound = Bound(case, not inexact and not _another_kernel(case.model))
    fault = compare(case, result, expected, bound)
    if fault is not None and fault.kind == "values":
        fault = _without_excused(case, expected, step, bound)
    if fault is not None:
        return Fault(fault.kind, fault.place, applied + fault.text, fault.result)
    again = simplified(case, result)
    if again.changed:
        return Fault("not idempotent", ",".join(sorted(again.applied)), f"{applied}a second run applies {again.applied}", result)
    return None


def _without_excused(case: Case, expected: list[list[Array]], step: StepResult, bound: Bound) -> Fault | None:
    """What is wrong with the feeds with which no rule may change what is not finite."""
    result = to_proto(step.model)
    case, expected = without_excused(case, expected, step, result)
    return compare(case, result, expected, bound)


def _without_overriding(case: Case, expected: list[list[Array]]) -> tuple[Case, list[list[Array]]]:
    """The case with its initializers as constants, and without the feeds that override them."""
    names = {t.name for t in case.model.graph.initializer}
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    for info in [i for i in model.graph.input if i.name in names]:
        model.graph.input.remove(info)
    chosen = [i for i, f in enumerate(case.feeds) if not names & set(f)]
    return replace(case, model=model, feeds=[case.feeds[i] for i in chosen]), [expected[i] for i in chosen]


def _another_kernel(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime itself may round differently around a node that was removed: packed weights, and half precision, which it computes in float,
    leaving out the rounding between a Cast and a node that stand side by side."""
    return any(n.op_type in PACKED for n in nodes(model)) or coarsest(model, "") == "float16"


# --- lifting ------------------------------------------------------------------------------------------------------------------------

LIFTED_TO = (13, 17, 21)


def judge_lift(case: Case) -> Fault | None:
    """Equal values at newer opsets. A refusal (ModelError) that names the operator is no fault."""
    expected = original(case)
    for version in LIFTED_TO:
        try:
            model = loaded(case.model)
        except ModelError as problem:
            return failure("loading raises", problem)
        if model.opset >= version:
            continue
        try:
            lifted = lift(model, version)
        except ModelError:
            continue
        except Exception as problem:  # noqa: BLE001
            return failure(f"lift to {version} raises", problem)
        result = to_proto(lifted)
        fault = compare(case, result, expected, Bound(case, False))
        if fault is not None:
            return Fault(f"lift to {version}: {fault.kind}", fault.place, fault.text, fault.result)
    return None


# --- quantize -----------------------------------------------------------------------------------------------------------------------


JUDGES: dict[str, Callable[[Case], Fault | None]] = {
    "simplify": judge_simplify,
    "quantize": judge_quantize,
    "lift": judge_lift,
    "prune": judge_prune,
    "neutral": judge_simplify,
}
