"""The student's graph with its loss and gradients, in sessions: what a step of learning runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphcompress.gradient.reverse import Gradient, gradient
from graphcompress.ir import Model, Tensor
from graphcompress.ir.model.signature import with_signature
from graphcompress.passes.distill.batches import Feed
from graphcompress.passes.distill.loss import LOSS, OUTPUT_LOSS, target_name, with_loss
from graphcompress.passes.distill.match import Pair, Selection
from graphcompress.passes.distill.weights import named_tensors
from graphcompress.runtime.session import LocalSession, open_session
from graphcompress.step import Refusal

Array: TypeAlias = np.ndarray[Any, Any]
SMALLEST_VARIANCE = 1e-12


class Lesson:
    """Teacher, student and gradients for feeds of one shape. Weights are inputs of the sessions, so these stay open while the weights change. Close it.

    `scales` has the teacher's variance by pair, and gets those that it lacks, so that all lessons of a course weigh alike.
    """

    def __init__(
        self,
        student: Model,
        teacher: Model,
        pairs: Sequence[Pair],
        feed: Feed,
        fixed: Feed,
        weights: Mapping[str, Array],
        scales: dict[str, float],
        *,
        threads: int | None,
    ) -> None:
        shapes = {name: array.shape for name, array in feed.items()}
        self.pairs = pairs
        self._teacher, self._targets = teacher_session(teacher, self.pairs, threads)
        targets = self.targets(feed)
        for name, target in targets.items():
            scales.setdefault(name, max(float(np.var(target, dtype=np.float64)), SMALLEST_VARIANCE))
        judged = with_loss(student, self.pairs, {name: t.shape for name, t in targets.items()}, scales)
        free = {name: shape for name, shape in shapes.items() if name not in fixed}
        self.gradient: Gradient = gradient(judged, [LOSS], weights, shapes=free, fixed=fixed, fed=True)
        self._step = open_session(self.gradient.model, threads=threads)
        tensors = named_tensors(judged)
        fed = [(tensors[name], "float", weights[name].shape) for name in self.gradient.gradients]
        self._loss = open_session(with_signature(judged, fed, judged.graph.outputs), threads=threads)

    @property
    def frozen(self) -> Mapping[str, Refusal]:
        return self.gradient.frozen

    @property
    def trained(self) -> list[str]:
        """Names of the weights that get gradients."""
        return list(self.gradient.gradients)

    def targets(self, feed: Feed) -> dict[str, Any]:
        """The teacher's side of the pairs, by their names."""
        values = self._teacher.run({i.name: feed[i.name] for i in self._teacher.inputs})
        return {name: values[output] for name, output in self._targets.items()}

    def gradients(self, feed: Feed, weights: Mapping[str, Array]) -> tuple[float, dict[str, Array]]:
        """The loss and its gradients under `weights`."""
        values = self._run(self._step, feed, weights)
        return float(values[LOSS]), {name: values[output] for name, output in self.gradient.gradients.items()}

    def output_loss(self, feed: Feed, weights: Mapping[str, Array]) -> float:
        """The loss of the outputs alone."""
        return float(self._run(self._loss, feed, weights)[OUTPUT_LOSS])

    def close(self) -> None:
        for session in (self._teacher, self._step, self._loss):
            session.close()

    def _run(self, session: LocalSession, feed: Feed, weights: Mapping[str, Array]) -> dict[str, Any]:
        targets = self.targets(feed)
        everything = {**feed, **weights, **{target_name(p): targets[p.name] for p in self.pairs}}
        return session.run({i.name: everything[i.name] for i in session.inputs})


def teacher_session(teacher: Model, chosen: Sequence[Pair], threads: int | None) -> tuple[LocalSession, dict[str, str]]:
    """A session that gives what the teacher's side of each pair is, and by the pair's name that of its output there."""
    model = teacher.copy()
    tensors = named_tensors(model)
    outputs: dict[str, Tensor] = {}
    for pair in chosen:
        tensor = tensors[pair.teacher]
        if isinstance(pair.view, Selection):
            indices = model.constant("distill.channels", np.array(pair.view.indices, np.int64))
            tensor = model.add("Gather", [tensor, indices], attrs={"axis": pair.view.axis}).outputs[0]
        outputs[pair.name] = tensor
    return open_session(with_signature(model, [], list(dict.fromkeys(outputs.values()))), threads=threads), {name: t.name for name, t in outputs.items()}
