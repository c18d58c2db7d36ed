"""Runs of additions and multiplications by constants: one multiplication and one addition do the same.

What a run does is calculated in double precision and rounded once. It stays where that could show by more than rounding: where factors are so large or small that
results in between overflow or vanish, where what is added cancels (x + 2^23 - 2^23 rounds x to an integer), and where a number that was taken from x first, and left
little of it, would be added after x was scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.engine.values import SMALLEST_NORMAL, Value, safe, to_array
from graphcompress.ir import Graph, Model, Node, Tensor, constant_data, constant_value, graphs, label, output_ids, producer
from graphcompress.ir.inline import calls, defined_names, function_bodies
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/affine"
LARGEST = 1 << 16
"""Elements of a constant that are looked at."""
LONG = 64
"""Nodes of a run that is joined before rules look at every one of them; of shorter ones the rules put the ends into the layers before and behind first."""
LONGEST = 16
"""Nodes that are joined at once; what is made of them is joined with the next ones in the next round."""
RANGE = (2.0**-10, 2.0**10)
"""Magnitudes of factors, and of products of them."""
CANCELLED = 4.0
"""How many times smaller than the sum of its parts' magnitudes an offset may be."""
SHIFT = 16.0
"""How many times larger a shift before the first factor may be than what is added later, measured before that factor."""
# In these an addition and a multiplication are not exchanged: their range is too short for the products in between.
SHORT = frozenset(("float16", "bfloat16"))

Array = np.ndarray[Any, Any]

_ONE, _ZERO = np.ones(()), np.zeros(())


@dataclass(frozen=True, slots=True)
class _Step:
    """A node that computes `factor * operand + offset`; both in double precision. `scales`, `shifts`: what it is there for, whatever its constant."""

    node: Node
    operand: Tensor
    factor: Array
    offset: Array
    scales: bool
    shifts: bool


def join_runs(model: Model, shapes: Callable[[], Shapes], shortest: int = 2) -> int:
    """Write runs of at least `shortest` additions, subtractions, multiplications and divisions by constants with fewer nodes, in all graphs; how many parts of runs were.

    Only the end of a run may be read by anything else.
    """
    functions = set(function_bodies(model))
    candidates = [n for g in graphs(model) for n in g.nodes if n.is_op("Add", "Sub", "Mul", "Div") and not calls(n, functions)]
    if len(candidates) < shortest:
        return 0
    steps = {n: s for n in candidates if (s := _step(n, shapes())) is not None}
    if len(steps) < shortest:
        return 0
    outputs, names = output_ids(model), defined_names(model)
    count = 0
    with Edits(model) as edits:
        for graph in graphs(model):
            for run in _runs({n: steps[n] for n in graph.nodes if n in steps}, outputs):
                if len(run) >= shortest and all(names[s.node.outputs[0].name] == 1 for s in run):
                    count += _join(model, edits, graph, run, shapes())
    return count


def _step(node: Node, shapes: Shapes) -> _Step | None:
    """What a node does to the operand that is no constant, where the result has that operand's shape."""
    for index in (1, 0) if not node.is_op("Div") else (1,):
        constant, operand = node.inputs[index], node.inputs[1 - index]
        data = constant_data(constant)
        if data is None or not 0 < data.size <= LARGEST or constant_data(operand) is not None:
            continue
        dtype = shapes.dtype(operand)
        if dtype not in SMALLEST_NORMAL or not shapes.same_shape(operand, node.outputs[0]):
            return None
        value = constant_value(constant)
        if value is None or array_dtype_name(value) != dtype:
            return None
        number = np.asarray(value, np.float64)
        with np.errstate(all="ignore"):
            match node.op:
                case "Add":
                    return _Step(node, operand, _ONE, number, scales=False, shifts=True)
                case "Sub" if index == 1:
                    return _Step(node, operand, _ONE, -number, scales=False, shifts=True)
                case "Sub":
                    return _Step(node, operand, -_ONE, number, scales=True, shifts=True)
                case "Mul":
                    return _Step(node, operand, number, _ZERO, scales=True, shifts=False)
            return _Step(node, operand, 1 / number, _ZERO, scales=True, shifts=False)
    return None


def _runs(steps: dict[Node, _Step], outputs: set[int]) -> list[list[_Step]]:
    """Steps in a row, each of which alone reads the one before it."""

    def next_of(step: _Step) -> _Step | None:
        result = step.node.outputs[0]
        reader = steps.get(result.outputs[0]) if len(result.outputs) == 1 and id(result) not in outputs else None
        return reader if reader is not None and reader.operand is result else None

    runs: list[list[_Step]] = []
    for step in steps.values():
        maker = producer(step.operand)
        if maker in steps and next_of(steps[maker]) is step:
            continue
        run = [step]
        while (following := next_of(run[-1])) is not None:
            run.append(following)
        if len(run) > 1:
            runs.append(run)
    return runs


def _join(model: Model, edits: Edits, graph: Graph, run: Sequence[_Step], shapes: Shapes) -> int:
    """Write parts of a run, the longest that can be, with fewer nodes; how many parts."""
    count = start = 0
    dtype = shapes.dtype(run[0].operand) or ""
    while start < len(run) - 1:
        for sums in reversed(_sums(run[start : start + LONGEST])):
            steps = run[start : start + sums.length]
            written = _written(steps, sums, dtype)
            if written is not None and len(written) < len(steps):
                _write(model, edits, graph, steps, written)
                start += len(steps)
                count += 1
                break
        else:
            start += 1
    return count


@dataclass(frozen=True, slots=True)
class _Sums:
    """The first `length` steps of a run at once: `factor * x + offset`, and `parts`, what the magnitudes of all offsets would add up to."""

    length: int
    factor: Array
    offset: Array
    parts: Array


def _sums(steps: Sequence[_Step]) -> list[_Sums]:
    """The first 2, 3, ... of `steps` at once, as far as all factors, and the products of them in a row, are far from where numbers overflow or vanish."""
    sums: list[_Sums] = []
    factor, offset, parts = _ONE, _ZERO, _ZERO
    with np.errstate(all="ignore"):
        for length, step in enumerate(steps, 1):
            if step.scales:
                factor, offset, parts = factor * step.factor, offset * step.factor + step.offset, parts * np.abs(step.factor) + np.abs(step.offset)
                if not _moderate(step.factor) or not _moderate(factor):
                    break
            else:
                offset, parts = offset + step.offset, parts + np.abs(step.offset)
            if length > 1:
                sums.append(_Sums(length, factor, offset, parts))
    return sums


def _moderate(factor: Array) -> bool:
    magnitude = np.abs(factor)
    return bool(((magnitude >= RANGE[0]) & (magnitude <= RANGE[1])).all())


def _written(steps: Sequence[_Step], sums: _Sums, dtype: str) -> list[tuple[str, Array]] | None:
    """The operators that do the same as `steps`, with their constants; None where they would not."""
    factor, offset = sums.factor, sums.offset
    scales, shifts = any(s.scales for s in steps), any(s.shifts for s in steps)
    if (shifts and bool((np.abs(offset) * CANCELLED < sums.parts).any())) or (scales and shifts and dtype in SHORT):
        return None
    first = next((i for i, s in enumerate(steps) if s.scales), len(steps))
    shift = sum((s.offset for s in steps[:first]), _ZERO)
    later = any(s.shifts for s in steps[first:])
    if scales and first and not later:
        written = [("Add", shift), ("Mul", factor)]
    elif scales and first and bool((np.abs(shift * factor) > SHIFT * np.abs(offset - shift * factor)).any()):
        return None
    else:
        written = [*([("Mul", factor)] if scales else []), *([("Add", offset)] if shifts else [])]
    most = max(max(s.factor.size, s.offset.size) for s in steps)
    if any(c.size > most or not np.isfinite(c).all() or not safe(Value(c, dtype)) for _, c in written):
        return None
    return [(op, to_array(Value(c, dtype))) for op, c in written]


def _write(model: Model, edits: Edits, graph: Graph, steps: Sequence[_Step], written: Sequence[tuple[str, Array]]) -> None:
    """Put the new nodes in the place of `steps`."""
    last = steps[-1].node
    result, tensor = last.outputs[0], steps[0].operand
    edits.remove([s.node for s in steps])
    for index, (op, values) in enumerate(written):
        made = result if index == len(written) - 1 else model.variable(f"{result.name}.{op}")
        node = detached(op, model.fresh(last.name) if last.name else "", {}, (tensor, model.constant(f"{result.name}.{op}.constant", values)), (made,))
        node.rank, node.origin = last.rank, (STAGE, *(label(s.node) for s in steps))
        edits.add(node, graph)
        tensor = made
