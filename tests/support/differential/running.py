"""Running models on onnxruntime as they are written, and what a judgement is made of."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime

from differential.program import Case, Feed
from graphcompress.ir import Model, model_from_proto

Array = np.ndarray[Any, Any]


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


def shown(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all tensors of the main graph as outputs, without what it says of the inner ones (it may be stale)."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    declared = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for n in copy.graph.node for name in n.output if name and name not in declared)
    del copy.graph.value_info[:]
    return copy
