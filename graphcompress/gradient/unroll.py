"""LSTM, GRU and RNN over a known number of steps, written out in plain operators, so that their gradients follow from those of the parts.

What each gate computes is the operators' definition (https://onnx.ai/onnx/operators/). Weights stay where they are: what is sliced out of them is part of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphcompress.gradient.build import GradientBuilder, NoGradient
from graphcompress.ir import Model, Node, Tensor
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.shapes.infer import Shapes

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
MOST_STEPS = 256


def unroll(model: Model, shapes: Shapes) -> None:
    """Write out the recurrent operators of the main graph that can be. The others stay, and have no gradient."""
    for node in [n for n in model.graph.nodes if n.is_op(*GATES)]:
        try:
            recurrence = _described(node, shapes)
        except NoGradient:
            continue
        _written(recurrence, GradientBuilder(model, shapes))


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A recurrent node in numbers: steps, batch and hidden size; `backward` says of each direction whether it begins at the end."""

    node: Node
    steps: int
    batch: int
    hidden: int
    backward: tuple[bool, ...]


def _described(node: Node, shapes: Shapes) -> Recurrence:
    x, r = shapes.static(node.inputs[0]), shapes.static(node.inputs[2])
    if x is None or r is None or not 1 <= x[0] <= MOST_STEPS:
        raise NoGradient("dynamic-shape", "the number of steps is not known, or large")
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(str(node.attrs.get("direction", "forward")))
    activations = node.attrs.get("activations") or DEFAULTS[node.op] * len(backward or ())
    plain = activations == DEFAULTS[node.op] * len(backward or ()) and not any(node.attrs.get(a) for a in ("layout", "input_forget", "clip"))
    if backward is None or not plain or node.input(4) is not None or node.input(7) is not None:
        raise NoGradient("variant", "lengths, peepholes and other activations are not written out")
    return Recurrence(node, x[0], x[1], r[2], backward)


def _written(of: Recurrence, build: GradientBuilder) -> None:
    """Replace the node."""
    node, add, ints = of.node, build.add, build.ints
    directions = [_direction(of, build, d, backward) for d, backward in enumerate(of.backward)]
    steps = [add("Concat", *(add("Unsqueeze", d.states[t], ints([0, 1])) for d in directions), axis=1) for t in range(of.steps)]
    results: list[Tensor | None] = [None, None, None]
    if _used(node, 0):
        results[0] = add("Concat", *steps, axis=0)
    if _used(node, 1):
        results[1] = add("Concat", *(add("Unsqueeze", d.last, ints([0])) for d in directions), axis=0)
    if _used(node, 2):
        results[2] = add("Concat", *(add("Unsqueeze", d.cell, ints([0])) for d in directions if d.cell is not None), axis=0)
    with Edits(build.model) as edits:
        outputs = list(node.outputs)
        edits.remove([node])
        for old, new in zip(outputs, results, strict=False):
            if new is not None:
                maker = new.inputs[0]
                edits.set_output(maker, 0, old)


def _used(node: Node, index: int) -> bool:
    return index < len(node.outputs) and bool(node.outputs[index].name)


@dataclass(frozen=True, slots=True)
class Direction:
    """The hidden states [batch, hidden] in the order of the input, the last one, and an LSTM's last cell."""

    states: Sequence[Tensor]
    last: Tensor
    cell: Tensor | None


def _direction(of: Recurrence, build: GradientBuilder, index: int, backward: bool) -> Direction:
    add, ints, node = build.add, build.ints, of.node
    gates, dtype = GATES[node.op], build.shapes.dtype(node.inputs[0]) or "float"

    def part(place: int) -> Tensor | None:
        tensor = node.input(place)
        return None if tensor is None else add("Gather", tensor, ints(index), axis=0)

    def start(place: int) -> Tensor:
        initial = part(place)
        return initial if initial is not None else add("Expand", build.number(0.0, dtype), ints([of.batch, of.hidden]))

    weight, recurrent, bias = part(1), part(2), part(3)
    assert weight is not None and recurrent is not None
    from_input = add("MatMul", node.inputs[0], add("Transpose", weight, perm=[1, 0]))
    back = add("Transpose", recurrent, perm=[1, 0])
    # A GRU that resets after the product has the recurrent bias inside of it.
    inner: Tensor | None = None
    if bias is not None:
        outer, inner = build.add_several("Split", 2, bias, ints([gates * of.hidden] * 2), axis=0)
        from_input = add("Add", from_input, outer)
    h = start(5)
    cell = start(6) if node.op == "LSTM" else None
    order = range(of.steps)[::-1] if backward else range(of.steps)
    states: dict[int, Tensor] = {}
    for t in order:
        x = add("Gather", from_input, ints(t), axis=0)
        if node.op == "GRU":
            h = _gru(of, build, x, h, back, inner)
        else:
            sums = add("Add", x, add("MatMul", h, back))
            sums = sums if inner is None else add("Add", sums, inner)
            if cell is None:
                h = add("Tanh", sums)
            else:
                i, o, f, c = build.add_several("Split", 4, sums, ints([of.hidden] * 4), axis=1)
                cell = add("Add", add("Mul", add("Sigmoid", f), cell), add("Mul", add("Sigmoid", i), add("Tanh", c)))
                h = add("Mul", add("Sigmoid", o), add("Tanh", cell))
        states[t] = h
    return Direction([states[t] for t in range(of.steps)], h, cell)


def _gru(of: Recurrence, build: GradientBuilder, x: Tensor, h: Tensor, back: Tensor, inner: Tensor | None) -> Tensor:
    """h' = (1 - z) n + z h, with update z, reset r and new n, in the order z, r, n."""
    add, n = build.add, of.hidden
    sizes = build.ints([n] * 3)
    xz, xr, xn = build.add_several("Split", 3, x, sizes, axis=1)
    wz, wr, wn = build.add_several("Split", 3, back, sizes, axis=1)
    bz, br, bn = (None, None, None) if inner is None else build.add_several("Split", 3, inner, sizes, axis=0)

    def product(state: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result = add("MatMul", state, weight)
        return result if bias is None else add("Add", result, bias)

    update = add("Sigmoid", add("Add", xz, product(h, wz, bz)))
    reset = add("Sigmoid", add("Add", xr, product(h, wr, br)))
    if of.node.attrs.get("linear_before_reset", 0):
        new = add("Tanh", add("Add", xn, add("Mul", reset, product(h, wn, bn))))
    else:
        new = add("Tanh", add("Add", xn, product(add("Mul", reset, h), wn, bn)))
    return add("Add", new, add("Mul", update, add("Sub", h, new)))
