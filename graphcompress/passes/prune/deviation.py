"""How far a student's outputs are from its teacher's, without labels: what sensitivities are measured by."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from graphcompress.errors import ModelError
from graphcompress.ir import Model, Tensor, producer
from graphcompress.reconstruction.batches import Batches, batches
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import Watch

Array = np.ndarray[Any, Any]


def logits(model: Model) -> list[Tensor]:
    """For each output the tensor that decides it: what goes into a Softmax or LogSoftmax (logits, since probabilities saturate), else the output itself."""
    return [_before_softmax(tensor) for tensor in model.graph.outputs]


class RelativeError:
    """Squared error of some outputs as a part of their squares, the mean over the outputs that hold floats; `update`, `merge`, `finish`."""

    def __init__(self, outputs: int) -> None:
        self._errors, self._squares = np.zeros(outputs), np.zeros(outputs)

    def update(self, teacher: Sequence[Any], student: Sequence[Any]) -> None:
        """Take in the outputs for one feed. Others than arrays of floats count nothing; of a student's output of another shape all is lost."""
        for index, (true, other) in enumerate(zip(teacher, student, strict=True)):
            if not isinstance(true, np.ndarray) or true.dtype.kind != "f":
                continue
            reference = true.astype(np.float64)
            sound = np.isfinite(reference)
            fits = isinstance(other, np.ndarray) and other.shape == true.shape
            difference = np.where(sound, reference - (other if fits else 0.0), 0.0)
            self._squares[index] += float(np.square(reference[sound]).sum())
            self._errors[index] += float(np.square(difference).sum())

    def merge(self, other: RelativeError) -> Self:
        """Add what `other` has seen of the same outputs."""
        self._errors += other._errors
        self._squares += other._squares
        return self

    def finish(self) -> float:
        """The error: 0 where nothing differs, infinite where a student's output is not finite or an output that is all zeros differs."""
        if not np.isfinite(self._errors).all():
            return float("inf")
        counted = (self._squares > 0) | (self._errors > 0)
        if not counted.any():
            return 0.0
        with np.errstate(divide="ignore"):
            return float((self._errors[counted] / self._squares[counted]).mean())


class TeacherAnswers:
    """A teacher's answers to `feeds`, which must be iterable again, calculated once and held: many students can be compared with them."""

    def __init__(self, teacher: Model, feeds: Iterable[Feed], *, threads: int | None = None) -> None:
        self._threads = threads
        self._feeds: Batches = batches(teacher, feeds, threads=threads)
        self._answers = list(self._run(teacher))

    def relative_error(self, student: Model) -> float:
        """See `RelativeError`. Infinite for a student that does not run."""
        error = RelativeError(len(student.graph.outputs))
        try:
            for true, other in zip(self._answers, self._run(student), strict=True):
                error.update(true, other)
        except ModelError:
            return float("inf")
        return error.finish()

    def _run(self, model: Model) -> Iterable[list[Any]]:
        tensors = logits(model)
        for values in Watch(model, tensors).run(self._feeds, threads=self._threads, optimize="basic", budget=sys.maxsize):
            yield [values[t] for t in tensors]


def _before_softmax(tensor: Tensor) -> Tensor:
    node = producer(tensor)
    while node is not None and node.is_op("Identity", "Cast", "Softmax", "LogSoftmax"):
        if node.is_op("Softmax", "LogSoftmax"):
            logits: Tensor = node.inputs[0]
            return logits
        node = producer(node.inputs[0])
    return tensor
