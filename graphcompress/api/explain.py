"""explain: where a model spends its time, in which precision, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcompress.api.documents import ExplainReport, NodeTime, Precision
from graphcompress.api.inputs import AnyData, AnyModel, open_feeds, open_model
from graphcompress.errors import UsageError, cause
from graphcompress.random_feeds import random_feeds
from graphcompress.targets import load_target
from graphcompress.version import __version__

if TYPE_CHECKING:
    from graphcompress.ir import Node
    from graphcompress.runtime.profile import Kernel

FEEDS = 4
"""Feeds that are timed."""
MOVERS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "Transpose",
    "ReorderInput",
    "ReorderOutput",
    "Cast",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Slice",
    "Gather",
    "Split",
)
"""Kernels that compute nothing: conversions, layouts, data movement."""
SENSITIVE = 5
"""Layers that are named for what INT8 costs there."""
WORTH = 0.03
"""The part of the time from which on a node is worth an advice."""
GAINLESS = ("slower", "does not pay", "timed as the fastest", "saves too little")
"""Parts of reasons that say that nothing is to be gained."""
UNQUANTIZED = "the model is not quantized"
BORDERS = "(conversions and layouts)"


def explain(model: AnyModel, data: AnyData | None = None, *, record: str | os.PathLike[str] | None = None, target: str = "cpu", seed: int = 0) -> ExplainReport:
    """Where `model` spends its time on onnxruntime's CPU provider with one thread: per node the share, the precision, and why it is float. Without `data` it runs on random numbers.

    `record` is the file of the run that made the model: its reasons go before those found in the graph. Raises UsageError for a file that is no record, ModelError or DataError where
    the model does not run.
    """
    from graphcompress.ir import nodes
    from graphcompress.linter import INTEGER, Subject, reasons_for_float
    from graphcompress.passes.quantize.groups import node_name
    from graphcompress.runtime.place import LocalPlace
    from graphcompress.runtime.profile import kernel_times

    source = open_model(model)
    table = load_target(target)
    steps = [] if record is None else recorded_steps(Path(record))
    stated = recorded_reasons(steps)
    feeds = list(random_feeds(source.model, 1, seed) if data is None else open_feeds(data, source.model).take(FEEDS))
    (kernels,) = kernel_times([source.model], feeds, LocalPlace())
    of_node: dict[Node | None, list[Kernel]] = {}
    for kernel in kernels:
        of_node.setdefault(kernel.node, []).append(kernel)
    total = sum(kernel.ns / 1000 for kernel in kernels) or 1.0
    reasons = {node_name(node): reason for node, reason in reasons_for_float(Subject(source.model, table)).items()} | stated
    quantized = any(node.op == "QuantizeLinear" for node in nodes(source.model)) or any(kernel.op.startswith(INTEGER) for kernel in kernels)
    any_float = any(kernel.op in table.heavy for kernel in kernels)
    rows = []
    precisions: dict[Precision, float] = {"int8": 0.0, "float": 0.0, "moves data": 0.0}
    for node, own in of_node.items():
        time = sum(kernel.ns / 1000 for kernel in own)
        computing = [kernel for kernel in own if kernel.op not in MOVERS]
        precision: Precision = "moves data" if not computing else "int8" if any(kernel.op.startswith(INTEGER) for kernel in computing) else "float"
        precisions[precision] += time / total
        name = BORDERS if node is None else node_name(node)
        important = node is not None and node.op in table.heavy and precision == "float"
        reason = reasons.get(name, UNQUANTIZED if not quantized else "it is not between Q and DQ") if important else ""
        rows.append(
            NodeTime(
                node=name,
                op="" if node is None else str(node.op),
                kernels=list(dict.fromkeys(kernel.op for kernel in own)),
                share=time / total,
                microseconds=time,
                precision=precision,
                reason=reason,
                advice=advice_for(precision, reason, time / total, quantized and precision == "moves data" and any_float, quantized),
            )
        )
    rows.sort(key=lambda row: -row.microseconds)
    return ExplainReport(
        graphcompress=__version__,
        model=source.file,
        provider="cpu",
        microseconds=total,
        precisions=precisions,
        nodes=rows,
        advice=[*overall_advice(precisions, quantized), *_sensitive(steps)],
        notes=[] if data is not None else ["Timed on random numbers in the shapes of the signature; --data times real inputs."],
    )


def recorded_steps(path: Path) -> list[Mapping[str, Any]]:
    """The steps of the record in a file. Raises UsageError where it is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UsageError(f"--record {path} cannot be read: {cause(problem)}. Give the file that --record of compress or quantize wrote.") from problem
    steps = document.get("steps") if isinstance(document, Mapping) else None
    if not isinstance(steps, list):
        raise UsageError(f"--record {path} is no record: it has no 'steps'. Give the file that --record of compress or quantize wrote.")
    return [step for step in steps if isinstance(step, Mapping)]


def recorded_reasons(steps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Why operators stayed float, by the certificate of the last step of a record that has one."""
    certificates = [step["certificate"] for step in steps if step.get("certificate")]
    operators = certificates[-1]["operators"] if certificates else []
    return {operator["node"]: operator["reason"] for operator in operators if operator["precision"] == "float"}


def _sensitive(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which layers cost most accuracy in INT8: known where the boldest placement was not faithful, and noise at the outputs was measured layer by layer."""
    noises = [step["decisions"]["noise"] for step in steps if step.get("in_result") and "noise" in step.get("decisions", ())]
    if not noises:
        return []
    worst = sorted(noises[-1].items(), key=lambda item: -item[1])[:SENSITIVE]
    named = ", ".join(f"{name} {share:.0%}" for name, share in worst if share >= 0.01)
    return [f"Of the noise that INT8 everywhere would make at the outputs, by the record: {named}. --exclude REGEX keeps a layer float."] if named else []


def advice_for(precision: Precision, reason: str, share: float, borders: bool, quantized: bool) -> str:
    """What to do about a node that takes `share` of the time: empty where there is nothing; `borders` where it stands between float and INT8, `quantized` where anything is in INT8."""
    if share < WORTH or precision == "int8":
        return ""
    if precision == "moves data":
        return "fewer borders between float and INT8: see its float neighbours" if borders else "" if quantized else "graphcompress simplify may remove it"
    if not reason:
        return ""
    if not quantized and reason == UNQUANTIZED:
        return ""
    if "no INT8" in reason or "QDQ form" in reason:
        return "no integer kernel: fewer channels (graphcompress prune) or another operator"
    if any(part in reason for part in GAINLESS):
        return "leave it"
    return "mend what the reason says, or leave it"


def overall_advice(precisions: Mapping[Precision, float], quantized: bool) -> list[str]:
    """What to do about the model as a whole."""
    advice = []
    if not quantized:
        advice.append(
            "Nothing is quantized. graphcompress compress MODEL -o OUT --data DATA tries INT8 and returns it only where it is faithful and not slower."
        )
    if precisions["moves data"] > 0.2:
        reason = "islands of INT8 are too small, or the graph was not simplified" if quantized else "graphcompress simplify may remove some of it"
        advice.append(f"{precisions['moves data']:.0%} of the time goes into conversions, layouts and data movement: {reason}.")
    if quantized and precisions["float"] > 0.5:
        advice.append(
            f"{precisions['float']:.0%} of the time is spent in float: the reasons above say why; graphcompress prune makes float layers cheaper as well."
        )
    return advice
