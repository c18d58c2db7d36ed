"""What must hold between a case and its INT8 form."""

from __future__ import annotations

import numpy as np
import onnx
from quantized import EAGER

from differential.program import Case
from differential.running import RUNTIME_ERRORS, Array, Fault, essence, failure, loaded, nodes, original, run, session, shown, signature
from differential.simplifying import simplified
from graphcompress.data import Dataset
from graphcompress.ir import to_proto
from graphcompress.passes.quantize import quantize
from graphcompress.step import Context, StepResult

#: Signal to noise that eight bits leave at least, in dB, relative to the output or to a quarter of the largest quantized tensor.
DECIBEL = 15.0
#: All that fuses is quantized, for a processor that adds two products in 16 bits: the optimized sessions run on any machine.
INT8 = EAGER.model_copy(update={"weight": EAGER.weight.model_copy(update={"pair_limit": 128})})


def judge_quantize(case: Case) -> Fault | None:
    expected = original(case)
    feeds = [dict(f) for f in case.feeds]
    data = Dataset("random graphs", "0" * 64, range(len(feeds)), lambda indices: iter([dict(feeds[i]) for i in indices]))
    context = Context(target=INT8, data=data, threads=1)
    folded = bool(case.seed % 2) or any(n.op_type == "BatchNormalization" for n in nodes(case.model))  # `quantize` refuses what `simplify` would fold
    try:
        source = simplified(case).model if folded else loaded(case.model)
        step = quantize(source, context).boldest
    except Exception as problem:  # noqa: BLE001
        return failure("quantize raises", problem)
    result = to_proto(step.model)
    if not step.changed:
        return None if step.model is source else Fault("changed", "", "nothing was applied, and another model is returned", result)
    if wrong := signature_without_opset(case.model, result):
        return Fault("signature", wrong.split(":")[0], wrong, result)
    untouched = independent(result)
    reach = _reach(case, step, result)
    for optimized in (False, True):
        try:
            got = run(result, case.feeds, optimized=optimized)
        except RUNTIME_ERRORS as problem:
            return Fault("does not load or run, " + ("optimized" if optimized else "unoptimized"), essence(problem), str(problem), result)
        for position, info in enumerate(case.model.graph.output):
            exact = info.name in untouched and case.model.opset_import[0].version == result.opset_import[0].version and not optimized and not folded
            wrong = _noise([o[position] for o in expected], [o[position] for o in got], exact, reach)
            if wrong:
                how = "optimized" if optimized else "unoptimized"
                return Fault(f"values, {how}", wrong.split(":")[0], f"applied {step.applied}\noutput {info.name}: {wrong}", result)
    return None


def signature_without_opset(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    wrong = signature(before, after)
    return "" if wrong.startswith("opsets") else wrong


def independent(model: onnx.ModelProto) -> set[str]:
    """Tensors of the main graph that no QuantizeLinear or DequantizeLinear stands above."""
    touched: set[str] = set()
    changed = True
    while changed:
        changed = False
        for node in model.graph.node:
            inside = {name for n in nodes(onnx.ModelProto(graph=onnx.GraphProto(node=[node]))) for name in n.input}
            if (node.op_type in ("QuantizeLinear", "DequantizeLinear") or inside & touched) and not set(node.output) <= touched:
                touched |= set(node.output)
                changed = True
    return {name for n in model.graph.node for name in n.output} - touched


def _reach(case: Case, step: StepResult, result: onnx.ModelProto) -> float:
    """Root mean square of the largest tensor of the original that is quantized now."""
    names = {n.input[0] for n in result.graph.node if n.op_type == "QuantizeLinear"}
    first = shown(case.model)
    produced = {o.name for o in first.graph.output}
    wanted = sorted(names & produced)
    sizes = [_rms([f[name] for f in case.feeds]) for name in names if name in case.feeds[0]]
    if wanted:
        opened = session(first)
        values = [opened.run(wanted, feed) for feed in case.feeds]
        sizes += [_rms([v[i] for v in values]) for i in range(len(wanted))]
    return max(sizes, default=0.0)


def _rms(arrays: list[Array]) -> float:
    flat = np.concatenate([np.zeros(0), *(np.asarray(a, np.float64).ravel() for a in arrays)])
    flat = flat[np.isfinite(flat)]
    return float(np.sqrt(np.mean(np.square(flat)))) if flat.size else 0.0


def _noise(expected: list[Array], got: list[Array], exact: bool, reach: float) -> str:
    for a, b in zip(expected, got, strict=True):
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"type: {a.dtype}{a.shape} became {b.dtype}{b.shape}"
        if exact and a.tobytes() != b.tobytes():
            return "bits: an output that is not quantized differs"
        if a.dtype.kind == "f" and (np.isfinite(a) != np.isfinite(b)).any():
            return "infinite: NaN or infinities at other positions"
    if expected[0].dtype.kind != "f":
        return ""
    noise = _rms([a.astype(np.float64) - b.astype(np.float64) for a, b in zip(expected, got, strict=True) if np.isfinite(a).all()])
    signal = max(_rms(expected), reach / 4)
    if noise > signal * 10 ** (-DECIBEL / 20):
        return f"noise: {noise:.3g} for a signal of {_rms(expected):.3g}, the largest quantized tensor having {reach:.3g}"
    return ""
