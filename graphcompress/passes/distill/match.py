"""Which tensors of the student are held against which of the teacher."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from graphcompress.errors import ModelError, UsageError, shown, suggestion
from graphcompress.ir import Model, Tensor, constant_data, producer
from graphcompress.ir.analysis.spellings import is_logistic, softmax_axis
from graphcompress.ir.model.dimensions import Dim
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.distill.weights import named_tensors

Array: TypeAlias = np.ndarray[Any, Any]

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LOGARITHMS = ("Log", "LogSoftmax", "Sub")  # ends of a Softmax that give logarithms
MOST_FEATURES = 16
LEAST_ADAPTED = 2  # channels; fewer tell nothing of others


@dataclass(frozen=True, slots=True)
class Selection:
    """The teacher's channels that the student has: indices along an axis."""

    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A linear map from the student's channels along `axis` to the teacher's. `matrix` [ours, theirs] and `offset` [theirs] are None until they are fitted."""

    axis: int
    matrix: Array | None = None
    offset: Array | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Tensors of the two main graphs: `name` is the student's, `teacher` the teacher's. `kind` says how the loss compares them: "values" by the squared difference over the teacher's
    variance, "probabilities" and "odds" (one against the rest, as a sigmoid gives) by the divergence. `view`: what is compared where their widths differ."""

    name: str
    kind: Literal["values", "probabilities", "odds"]
    output: bool
    teacher: str
    view: Selection | Adapter | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Correspondence:
    """What is known of how a student was made: the teacher's channels by the name of the tensor, and pairs of names (student's, teacher's) that somebody stated."""

    channels: Mapping[str, Selection] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


def stated_matching(match: str, earlier: Iterable[Mapping[str, Any]]) -> Correspondence:
    """What `match` says ("auto", "outputs", or a file), beside the decisions of earlier steps. A file is a record of `prune`, or JSON with pairs of tensors: {"pairs": {student's: teacher's}}.

    Raises UsageError where it cannot be read, or holds neither.
    """
    decisions, names = list(earlier), {}
    if match not in ("auto", "outputs"):
        document = _document(match)
        decisions = [step["decisions"] for step in document.get("steps", ()) if isinstance(step, dict) and isinstance(step.get("decisions"), dict)]
        names = document.get("pairs", {})
        if not isinstance(names, dict) or not (names or any("channels" in d for d in decisions)):
            raise UsageError(f'--match {shown(match)}: it has neither "pairs" of tensors nor the channels that `graphcompress prune --record` writes.')
    channels = {t: Selection(c["axis"], tuple(c["kept"])) for d in decisions for c in d.get("channels", ()) for t in c["tensors"]}
    return Correspondence(channels, {str(ours): str(theirs) for ours, theirs in names.items()})


def _document(path: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as problem:
        raise UsageError(f"--match {shown(path)} cannot be read as JSON: {problem}") from problem
    return document if isinstance(document, dict) else {}


def pairs(student: Model, teacher: Model, shapes: tuple[Shapes, Shapes], matching: Correspondence, *, features: bool) -> list[Pair]:
    """The float outputs of both, what a Softmax that ends the models is calculated from, and (`features`) up to 16 tensors that layers with weights read, spread over the depth: those with names stated, with a
    record of their channels, of equal name and shape, and of equal name and another width along one axis, which need an adapter.

    `shapes` are those of student and teacher on the same inputs. Raises ModelError where no output can be compared, UsageError for a stated name that one of them has not.
    """
    ours, theirs = named_tensors(student), named_tensors(teacher)
    result = [
        Pair(o.name, _kind(ours[o.name], theirs[o.name], student.opset, teacher.opset), True, o.name)
        for o in student.outputs
        if o.name in theirs and shapes[0].dtype(ours[o.name]) == "float" and _view(ours[o.name], theirs[o.name], shapes, None) is None
    ]
    if not result:
        raise ModelError(
            f"{student.path or 'The student'} and {teacher.path or 'the teacher'} have no output of float32 with equal name and shape, so there is nothing to learn from."
        )
    for name, other in matching.names.items():
        for key, known, model in ((name, ours, student), (other, theirs, teacher)):
            if key not in known:
                raise UsageError(f"--match: {model.path or 'the model'} has no tensor '{key}' in its main graph. {suggestion(key, known)}")
    outputs = {pair.name for pair in result}
    result += [p for pair in result if pair.kind == "probabilities" for p in _logits(pair, ours, theirs, shapes)]
    if not features:
        return result
    layers = [n for n in student.graph.nodes if n.is_op(*HEAVY) and constant_data(before_codes(n.inputs[1])) is not None]
    read = [t.name for n in layers if producer(t := before_codes(n.inputs[0])) is not None]
    chosen: list[Pair] = []
    for name in dict.fromkeys((*read, *matching.names)):
        other = matching.names.get(name, name)
        if name in outputs or other not in theirs or shapes[0].dtype(ours[name]) != "float":
            continue
        view = _view(ours[name], theirs[other], shapes, matching.channels.get(name))
        if not isinstance(view, str):
            chosen.append(Pair(name, "values", False, other, view))
    count = min(len(chosen), MOST_FEATURES)
    return result + [chosen[(i + 1) * len(chosen) // count - 1] for i in range(count)]


def before_codes(tensor: Tensor) -> Tensor:
    """The floats that were rounded to codes, where a tensor is made of codes."""
    while (node := producer(tensor)) is not None and node.is_op("DequantizeLinear", "QuantizeLinear"):
        tensor = node.inputs[0]
    return tensor


def _logits(pair: Pair, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], shapes: tuple[Shapes, Shapes]) -> list[Pair]:
    """What the Softmax of an output reads, where that has the same shape in both: it tells more than probabilities near 0 and 1."""
    makers = [producer(before_codes(t)) for t in (ours[pair.name], theirs[pair.teacher])]
    if any(m is None or not m.is_op("Softmax") for m in makers):
        return []
    first, second = (m.inputs[0] for m in makers if m is not None)
    known = producer(first) is not None and producer(second) is not None and _view(first, second, shapes, None) is None
    return [Pair(first.name, "values", True, second.name)] if known else []


def _view(ours: Tensor, theirs: Tensor, shapes: tuple[Shapes, Shapes], channels: Selection | None) -> Selection | Adapter | str | None:
    """How two tensors are compared: None as they are, "" not at all."""
    first, second = shapes[0].static(ours), shapes[1].static(theirs)
    if first is None or second is None or len(first) != len(second):
        return ""
    if channels is not None and channels.axis < len(first) and _differing(first, second) in ([], [channels.axis]):
        fits = len(channels.indices) == first[channels.axis] and max(channels.indices, default=0) < second[channels.axis]
        if fits:
            return channels
    differing = _differing(first, second)
    if not differing:
        return None
    axis = differing[0]
    return Adapter(axis) if len(differing) == 1 and axis and min(first[axis], second[axis]) >= LEAST_ADAPTED else ""


def _differing(first: tuple[Dim, ...] | tuple[int, ...], second: tuple[Dim, ...] | tuple[int, ...]) -> list[int]:
    return [axis for axis, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]


def _kind(ours: Tensor, theirs: Tensor, *opsets: int) -> Literal["values", "probabilities", "odds"]:
    makers = [m for m in (producer(before_codes(t)) for t in (ours, theirs)) if m is not None and not m.is_op(*LOGARITHMS)]
    if len(makers) < len(opsets):
        return "values"
    if all(softmax_axis(m, opset) is not None for m, opset in zip(makers, opsets, strict=True)):
        return "probabilities"
    return "odds" if all(is_logistic(m) for m in makers) else "values"
