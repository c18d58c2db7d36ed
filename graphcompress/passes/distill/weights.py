"""Which weights of a student may learn, their values, and a student with others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from graphcompress.errors import UsageError
from graphcompress.gradient.prepare import weights
from graphcompress.ir import Constant, Model, Node, Tensor, constant_value, producer
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.walk import consumers
from graphcompress.step import Refusal

Array = np.ndarray[Any, Any]

LARGEST_WEIGHT = 1e4
SAFE_OFFSET = 0.1


def named_tensors(model: Model) -> dict[str, Tensor]:
    """The tensors of the main graph by name."""
    tensors: dict[str, Tensor] = {t.name: t for n in model.graph.nodes for t in n.outputs if t.name}
    return tensors | {t.name: t for t in model.graph.inputs} | dict(model.graph.initializers)


def learnable(model: Model, freeze: Sequence[str], scales: Collection[str] = (), fixed: Collection[str] = ()) -> tuple[dict[str, Array], dict[str, Refusal]]:
    """The weights that may learn, by name, and why the others may not. `scales` are no part of a formula, though they are single numbers; `fixed` are scales that stay. Raises UsageError for a pattern in `freeze` that is no regular expression or matches none."""
    patterns = [_compiled(p) for p in freeze]
    tensors = named_tensors(model)
    names = weights(model)
    for pattern in patterns:
        if not any(pattern.search(name) for name in names):
            raise UsageError(f"--freeze '{pattern.pattern}' matches no weight of {model.path or 'the model'}.")
    front = _before_logarithms(model)
    values: dict[str, Array] = {}
    frozen: dict[str, Refusal] = {}
    for name in names:
        value = constant_value(tensors[name])
        assert value is not None
        reason = _reason(tensors[name], value, front, scale=name in scales)
        if name in fixed:
            reason = "scale", "what it is the scale of hangs on its value: codes that keep a bound, or a bias"
        if any(p.search(name) for p in patterns):
            reason = "asked", "a pattern of `freeze` matches it"
        if reason is None:
            values[name] = value
        else:
            frozen[name] = Refusal(f"distill/{reason[0]}", reason[1], name)
    return values, frozen


def with_weights(model: Model, values: Mapping[str, Array]) -> Model:
    """A copy of `model` with other values of some weights."""
    copy = model.copy()
    tensors = named_tensors(copy)
    with Edits(copy) as edits:
        for name, value in values.items():
            tensor = tensors[name]
            if isinstance(tensor, Constant):
                edits.set_value(tensor, value)
            elif (node := producer(tensor)) is not None:
                node.attrs = {"value": value}
    return copy


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as problem:
        raise UsageError(f"--freeze '{pattern}' is no regular expression: {problem}.") from problem


def _reason(tensor: Tensor, value: Array, front: set[Tensor], *, scale: bool) -> tuple[str, str] | None:
    if value.dtype != np.float32:
        return "precision", f"its elements are {value.dtype.name}; float32 is learned"
    if value.ndim == 0 and not scale:
        return "scalar", "a single number is part of a formula, not a weight"
    if not np.isfinite(value).all() or np.abs(value).max(initial=0.0) > LARGEST_WEIGHT:
        return "mask", f"it has elements beyond {LARGEST_WEIGHT:g}, as masks have, not weights"
    if any(n.is_op("BatchNormalization") and any(n.input(i) is tensor for i in (3, 4)) for n in consumers(tensor)):
        return "statistics", "it is a mean or a variance of the data, not a weight"
    if tensor in front:
        return "front-end", "a logarithm follows, whose slope near 0 has no bound: a transform, not a layer"
    return None


def _before_logarithms(model: Model) -> set[Tensor]:
    """Everything that a Log is calculated from, unless something is added to its operand that keeps it from 0, as in a softplus."""
    pending = [t for n in model.graph.nodes if n.is_op("Log") and not _is_offset(n) for t in n.inputs]
    reached: set[Tensor] = set()
    while pending:
        tensor = pending.pop()
        if tensor in reached:
            continue
        reached.add(tensor)
        node = producer(tensor)
        pending.extend(() if node is None else node.inputs)
    return reached


def _is_offset(node: Node) -> bool:
    maker = producer(node.inputs[0])
    if maker is None or not maker.is_op("Add"):
        return False
    return any((v := constant_value(t)) is not None and v.size and float(v.min()) >= SAFE_OFFSET for t in maker.inputs)
