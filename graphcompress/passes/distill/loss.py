"""The loss as part of the student's graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from graphcompress.gradient.prepare import store_constants
from graphcompress.ir import Constant, Model, Tensor
from graphcompress.ir.model.signature import with_signature
from graphcompress.passes.distill.match import Adapter, Array, Pair
from graphcompress.passes.distill.weights import named_tensors

LOSS, OUTPUT_LOSS = "distill.loss", "distill.output_loss"
SMALLEST = 1e-7  # of a probability, before its logarithm is taken


def target_name(pair: Pair) -> str:
    """The input that the teacher's tensor is fed to."""
    return f"distill.target.{pair.name}"


def with_loss(student: Model, pairs: Sequence[Pair], shapes: Mapping[str, Sequence[int]], scales: Mapping[str, float]) -> Model:
    """A copy of `student` with the teacher's tensors as further inputs and two scalar outputs: the loss of all pairs, and that of the outputs alone.

    `shapes` are those of the teacher's side of each pair by the pair's name, `scales` its variances. The loss is the mean over outputs plus the mean over features.
    """
    model = student.copy()
    store_constants(model)  # so that they can be fed like other weights
    tensors = named_tensors(model)
    targets = {pair: model.variable(target_name(pair)) for pair in pairs}
    builder = _LossBuilder(model)
    ours = {pair: tensors[pair.name] for pair in pairs}
    ours |= {pair: builder.adapted(ours[pair], pair.view, shapes[pair.name]) for pair in pairs if isinstance(pair.view, Adapter)}
    parts = {pair: builder.part(pair, ours[pair], targets[pair], scales[pair.name]) for pair in pairs}
    outputs = builder.mean([t for pair, t in parts.items() if pair.output])
    features = [t for pair, t in parts.items() if not pair.output]
    total = builder.add("Add", outputs, builder.mean(features)) if features else outputs
    results = [builder.named(total, LOSS), builder.named(outputs, OUTPUT_LOSS)]
    inputs = [(targets[pair], "float", tuple(shapes[pair.name])) for pair in pairs]
    return with_signature(model, inputs, results)


class _LossBuilder:
    def __init__(self, model: Model) -> None:
        self.model = model

    def add(self, op: str, *inputs: Tensor) -> Tensor:
        tensor: Tensor = self.model.add(op, inputs).outputs[0]
        return tensor

    def number(self, value: float) -> Constant:
        return self.model.constant("distill.number", np.array(value, np.float32))

    def array(self, values: Array) -> Constant:
        return self.model.constant("distill.array", values.astype(np.float32))

    def ints(self, values: Sequence[int]) -> Constant:
        return self.model.constant("distill.shape", np.array(values, np.int64))

    def named(self, tensor: Tensor, name: str) -> Tensor:
        result = self.model.variable(name)
        self.model.add("Identity", [tensor], [result])
        return result

    def adapted(self, tensor: Tensor, adapter: Adapter, shape: Sequence[int]) -> Tensor:
        """The student's channels as the adapter makes the teacher's of them, in the teacher's shape."""
        assert adapter.matrix is not None and adapter.offset is not None
        ours, theirs = adapter.matrix.shape
        parts = math.prod(shape[: adapter.axis]), math.prod(shape[adapter.axis + 1 :])
        columns = self.add("Reshape", tensor, self.ints([parts[0], ours, parts[1]]))
        product = self.add("Add", self.add("MatMul", self.array(adapter.matrix.T), columns), self.array(adapter.offset.reshape(theirs, 1)))
        return self.add("Reshape", product, self.ints(shape))

    def part(self, pair: Pair, ours: Tensor, theirs: Tensor, variance: float) -> Tensor:
        if pair.kind == "probabilities":
            product = self.divergence(theirs, ours)
        elif pair.kind == "odds":
            rest = [self.add("Sub", self.number(1.0), t) for t in (theirs, ours)]
            product = self.add("Add", self.divergence(theirs, ours), self.divergence(rest[0], rest[1]))
        else:
            difference = self.add("Sub", ours, theirs)
            product = self.add("Mul", self.add("Mul", difference, difference), self.number(1 / variance))
        mean: Tensor = self.model.add("ReduceMean", [product], attrs={"keepdims": 0}).outputs[0]
        return mean

    def divergence(self, theirs: Tensor, ours: Tensor) -> Tensor:
        logs = [self.add("Log", self.add("Max", t, self.number(SMALLEST))) for t in (theirs, ours)]
        return self.add("Mul", theirs, self.add("Sub", logs[0], logs[1]))

    def mean(self, parts: Sequence[Tensor]) -> Tensor:
        total = parts[0] if len(parts) == 1 else self.add("Sum", *parts)
        return total if len(parts) == 1 else self.add("Mul", total, self.number(1 / len(parts)))
