"""Where a rewrite may change what is not finite: the rule says so (`nonfinite`), and with a feed a value that is not finite really arises in, or comes to, a node that the rule took or made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from differential.program import Case, Feed
from differential.running import RUNTIME_ERRORS, Array, run, session, shown
from differential.simplifying import library
from graphcompress.passes.simplify import affine
from graphcompress.step import StepResult


def without_excused(case: Case, expected: list[list[Array]], step: StepResult, result: onnx.ModelProto) -> tuple[Case, list[list[Array]]]:
    """The case without the feeds with which a rule of `step` may change what is not finite."""
    suspects = _Suspects(step)
    chosen = [i for i, feed in enumerate(case.feeds) if not (suspects.any and suspects.concerned(case.model, result, feed))]
    return replace(case, feeds=[case.feeds[i] for i in chosen]), [expected[i] for i in chosen]


class _Suspects:
    """The nodes of the original and of the result that rules with a `nonfinite` took and made: name -> whether infinities and NaN that come in count too."""

    def __init__(self, step: StepResult) -> None:
        self.before: dict[str, bool] = {}
        self.after: dict[str, bool] = {}
        stands_for: dict[str, set[str]] = {}  # nodes that a rule made -> those of the original
        for change in step.applications:
            rule = library().get(change.by)
            nonfinite = "overflow" if change.by == affine.STAGE else rule.nonfinite if rule is not None else None
            if rule is None and nonfinite is None:
                continue
            old = set().union(*(stands_for.get(name, {name}) for name in change.removed))
            stands_for.update(dict.fromkeys(change.added, old))
            if nonfinite:
                for names, place in ((old, self.before), (change.added, self.after)):
                    place.update({name: place.get(name, False) or nonfinite == "any" for name in names})

    @property
    def any(self) -> bool:
        return bool(self.before or self.after)

    def concerned(self, original: onnx.ModelProto, result: onnx.ModelProto, feed: Feed) -> bool:
        """Whether something that is not finite arises in a suspect, or comes to one that it may not come to."""
        return any(_met(model, names, feed) for model, names in ((original, self.before), (result, self.after)))


def _met(model: onnx.ModelProto, names: Mapping[str, bool], feed: Feed) -> bool:
    nodes = [n for n in model.graph.node if (n.name or n.output[0]) in names]
    if not nodes:
        return False
    try:
        values = _values(model, feed)
        for node in nodes:
            if not all(name in values for name in node.input if name):
                continue
            operands = {name: values[name] for name in node.input if name}
            if names[node.name or node.output[0]] and not all(map(_finite, operands.values())):
                return True
            tame = {name: np.where(np.isfinite(a), a, np.zeros_like(a)) if a.dtype.kind == "f" else a for name, a in operands.items()}
            if not all(map(_finite, _alone(model, node, tame))):
                return True
    except RUNTIME_ERRORS:  # a tensor that onnxruntime does not hand out
        return False
    return False


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _values(model: onnx.ModelProto, feed: Feed) -> dict[str, Array]:
    """What the tensors of the main graph are."""
    whole = shown(model)
    (outputs,) = run(whole, [feed])
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {**constants, **feed, **{o.name: a for o, a in zip(whole.graph.output, outputs, strict=True) if isinstance(a, np.ndarray)}}


def _alone(model: onnx.ModelProto, node: onnx.NodeProto, operands: Mapping[str, Array]) -> Iterator[Array]:
    """What one node makes of operands."""
    inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for name, a in operands.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "alone", inputs, outputs)
    yield from session(helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)).run(None, dict(operands))
