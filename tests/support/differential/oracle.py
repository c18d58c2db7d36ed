"""What must hold between a case and what `simplify`, `quantize` and `opsets.lift` make of it; the first thing that does not is a Fault."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
from differential.program import Case, Feed
from quantized import EAGER

from graphcompress.data import Dataset
from graphcompress.engine import Rule, load_rules
from graphcompress.errors import ModelError
from graphcompress.ir import Model, model_from_proto, to_proto
from graphcompress.ir.lift import lift
from graphcompress.passes.quantize import quantize
from graphcompress.passes.simplify import run as simplify_run
from graphcompress.passes.simplify import simplify
from graphcompress.step import Context, StepResult
from graphcompress.targets import load_target, rules_root

Array = np.ndarray[Any, Any]

#: Rounding of one operation, relative, by element type.
EPSILON = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
#: How many roundings a result may be away where a rewrite sums in another order, relative to the largest magnitude in the graph.
ROUNDINGS = 64.0
#: Operators whose kernels sum in another order when an operand turns from computed into constant (and is packed at load).
PACKED = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM"))


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` and `place` tell one fault from another; `text` is for people; `result` is what was made, where it got that far."""

    kind: str
    place: str
    text: str
    result: onnx.ModelProto | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.place


class Discarded(Exception):
    """onnxruntime does not run the original."""


def session(model: onnx.ModelProto, *, optimized: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feeds: Sequence[Feed], *, optimized: bool = False) -> list[list[Array]]:
    opened = session(model, optimized=optimized)
    return [opened.run(None, feed) for feed in feeds]


def original(case: Case) -> list[list[Array]]:
    """The outputs of the case on each feed. Raises Discarded."""
    try:
        return run(case.model, case.feeds)
    except RUNTIME_ERRORS as problem:
        raise Discarded(str(problem)) from problem


# onnxruntime's exceptions have no common base of their own.
RUNTIME_ERRORS = (
    RuntimeError,
    ValueError,
    *(e for e in vars(onnxruntime.capi.onnxruntime_pybind11_state).values() if isinstance(e, type) and issubclass(e, Exception)),
)


def loaded(proto: onnx.ModelProto) -> Model:
    return model_from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))


def failure(kind: str, problem: Exception, result: onnx.ModelProto | None = None) -> Fault:
    """An exception of the product, or of onnxruntime over its result."""
    frames = [f for f in traceback.extract_tb(problem.__traceback__) if "graphcompress" in f.filename]
    place = f"{type(problem).__name__} in {frames[-1].name}" if frames else type(problem).__name__
    return Fault(kind, place, "".join(traceback.format_exception(problem))[-3000:], result)


def essence(problem: Exception) -> str:
    """A message of onnxruntime without what is particular to one model: names, numbers, places in its sources."""
    words = [w for w in re.sub(r"/\S+|0x\w+", " ", str(problem)).split() if re.fullmatch(r"[A-Za-z]+[.,:]?", w) and w != "name"]
    return " ".join(words)[:110]


def judge(case: Case) -> Fault | None:
    """The first thing wrong with what the case's kind makes of it. Raises Discarded."""
    with mock.patch.object(simplify_run, "load_rules", rules):  # reading the rule files takes ten times as long as a small graph
        return JUDGES[case.kind](case)


@cache
def rules(folder: Path, target: str | None) -> list[Rule]:
    return load_rules(folder, target)


# --- simplify -----------------------------------------------------------------------------------------------------------------------


@cache
def effects() -> dict[str, str]:
    """Rule -> effect, targets' rules included."""
    return {r.id: r.effect for t in (None, "cpu") for r in rules(rules_root() / "rewrite", t)}


def judge_simplify(case: Case) -> Fault | None:
    expected = original(case)
    context = Context(target=load_target(case.target) if case.target else None)
    try:
        step = simplify(loaded(case.model), context).boldest
    except Exception as problem:  # noqa: BLE001
        return failure("simplify raises", problem)
    result = to_proto(step.model)
    applied = "applied: " + ", ".join(sorted(step.applied)) + "\n"
    if wrong := signature(case.model, result):
        return Fault("signature", wrong.split(":")[0], applied + wrong, result)
    inexact = any(effects().get(name, "exact") != "exact" for name in step.applied)
    fault = compare(case, result, expected, Bound(case, not inexact and not _another_kernel(case.model)))
    if fault is not None:
        return Fault(fault.kind, fault.place, applied + fault.text, fault.result)
    if case.seed % 4 == 0:
        again = simplify(loaded(result), context).boldest
        if again.changed:
            return Fault("not idempotent", ",".join(sorted(again.applied)), f"{applied}a second run applies {again.applied}", result)
    return None


def _another_kernel(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime itself may round differently around a node that was removed: packed weights, and half precision, which it computes in float,
    leaving out the rounding between a Cast and a node that stand side by side."""
    return any(n.op_type in PACKED for n in nodes(model)) or _coarsest(model, "") == "float16"


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """All nodes, those of subgraphs and functions too."""
    pending = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    result = []
    while pending:
        node = pending.pop()
        result.append(node)
        pending += [n for a in node.attribute for n in a.g.node]
    return result


def signature(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """What differs in the caller's business, "" where nothing does. An input that is an initializer counts from IR version 4 on."""

    def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
        constants = {t.name for t in model.graph.initializer}
        return [i for i in model.graph.input if model.ir_version >= 4 or i.name not in constants]

    for what, old, new in (("inputs", inputs(before), inputs(after)), ("outputs", before.graph.output, after.graph.output)):
        if list(old) != list(new):
            return f"{what}: {[i.name for i in old]} became {[i.name for i in new]}, or a type changed"
    if {d.domain: d.version for d in before.opset_import} != {d.domain: d.version for d in after.opset_import}:
        return "opsets: they changed"
    return ""


# --- values -------------------------------------------------------------------------------------------------------------------------


class Bound:
    """How far outputs may differ: not at all (`exact`), or by roundings of the largest magnitude that any tensor of the original has (computed when asked for)."""

    def __init__(self, case: Case, exact: bool) -> None:
        self.case, self.exact = case, exact
        self._magnitude: float | None = None

    def magnitude(self) -> float:
        if self._magnitude is None:
            arrays = [a for outputs in run(shown(self.case.model), self.case.feeds) for a in outputs]
            self._magnitude = max([1.0, *(finite_reach(a) for a in arrays)])
        return self._magnitude


def finite_reach(array: Any) -> float:
    """The largest finite magnitude."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return 0.0
    values = np.abs(array[np.isfinite(array)].astype(np.float64))
    return float(values.max(initial=0.0))


def shown(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all tensors of the main graph as outputs."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for n in copy.graph.node for name in n.output if name)
    return copy


def compare(case: Case, result: onnx.ModelProto, expected: list[list[Array]], bound: Bound) -> Fault | None:
    """Load and run `result`, and hold its outputs against `expected`."""
    try:
        opened = session(result)
    except RUNTIME_ERRORS as problem:
        return Fault("does not load", essence(problem), str(problem), result)
    for number, (feed, outputs) in enumerate(zip(case.feeds, expected, strict=True)):
        try:
            got = opened.run(None, feed)
        except RUNTIME_ERRORS as problem:
            return Fault("does not run", essence(problem), f"feed {number}: {problem}", result)
        for info, a, b in zip(case.model.graph.output, outputs, got, strict=True):
            if wrong := difference(a, b, bound):
                return Fault("values", wrong.split(":")[0], f"output {info.name} on feed {number}: {wrong}\nexpected {a!r}\n     got {b!r}", result)
    return None


def difference(a: Array, b: Array, bound: Bound) -> str:
    if a.dtype != b.dtype:
        return f"type: {a.dtype} became {b.dtype}"
    if a.shape != b.shape:
        return f"shape: {a.shape} became {b.shape}"
    if a.dtype.kind != "f":
        return "" if np.array_equal(a, b) else "integers: they differ"
    if (np.isnan(a) != np.isnan(b)).any():
        return "NaN: at other positions"
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[a.dtype.itemsize]
    differs = (a.view(bits) if a.ndim else a.reshape(1).view(bits)) != (b.view(bits) if b.ndim else b.reshape(1).view(bits))
    differs = differs.reshape(a.shape) & ~np.isnan(a)
    if not differs.any():
        return ""
    if (np.isinf(a) != np.isinf(b)).any() or (np.isinf(a) & differs).any():
        return "infinities: they differ"
    if bound.exact:
        return "zeros: signs differ" if (a[differs] == b[differs]).all() else "bits: they differ where every rewrite is exact"
    off = float(np.abs(a[differs].astype(np.float64) - b[differs].astype(np.float64)).max())
    limit = EPSILON[_coarsest(bound.case.model, a.dtype.name)] * ROUNDINGS * bound.magnitude()
    return f"rounding: off by {off:.3g}, and {limit:.3g} is what roundings explain" if off > limit else ""


def _coarsest(model: onnx.ModelProto, dtype: str) -> str:
    """Half precision anywhere in the graph may have rounded what arrives in another type; float where the result is double too."""
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    codes = {i.type.tensor_type.elem_type for i in model.graph.input} | {t.data_type for t in model.graph.initializer}
    for node in nodes(model):
        codes |= {a.i for a in node.attribute if a.name == "to"} | {a.t.data_type for a in node.attribute if a.HasField("t")}
    return "float16" if half in codes else "float32" if single in codes else dtype


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

#: Signal to noise that eight bits leave at least, in dB, relative to the output or to a quarter of the largest quantized tensor.
DECIBEL = 10.0
#: All that fuses is quantized, for a processor that adds two products in 16 bits: the optimized sessions run on any machine.
INT8 = EAGER.model_copy(update={"weight": EAGER.weight.model_copy(update={"pair_limit": 128})})


def judge_quantize(case: Case) -> Fault | None:
    expected = original(case)
    feeds = [dict(f) for f in case.feeds]
    data = Dataset("random graphs", "0" * 64, range(len(feeds)), lambda indices: iter([dict(feeds[i]) for i in indices]))
    context = Context(target=INT8, data=data, threads=1)
    simplified = bool(case.seed % 2) or any(n.op_type == "BatchNormalization" for n in nodes(case.model))  # `quantize` refuses what `simplify` would fold
    try:
        source = loaded(case.model)
        if simplified:
            source = simplify(source, context).boldest.model
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
            exact = info.name in untouched and case.model.opset_import[0].version == result.opset_import[0].version and not optimized and not simplified
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


JUDGES: dict[str, Callable[[Case], Fault | None]] = {"simplify": judge_simplify, "quantize": judge_quantize, "lift": judge_lift}
