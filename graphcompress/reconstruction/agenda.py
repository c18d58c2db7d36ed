"""Which layers are refitted, in which order, and to what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.ir import Constant, Model, Node, Tensor, constant_data, output_ids, producer, sole_consumer, toposort
from graphcompress.reconstruction.flat import Flat, flat_after
from graphcompress.reconstruction.frontier import upstream
from graphcompress.reconstruction.gram import Array
from graphcompress.reconstruction.rows import Layer, layer_of
from graphcompress.step import Refusal


@dataclass(frozen=True, slots=True)
class RepairLayer:
    """A layer of the student and its twin in the teacher. `channels` are the twin's output channels that the student has, in order (None: all); `rank` is what its weight may
    have (None: any)."""

    teacher: Node
    student: Node
    channels: Array | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """An Add that a layer feeds: the teacher's `total` and `branch` (its other side), and the student's tensor that `branch` is the twin of."""

    total: Tensor
    branch: Tensor
    student_branch: Tensor


@dataclass(eq=False, slots=True)
class Job:
    """A layer to be refitted, with a `rank` or any, to the teacher's `output`; where `sum` is not None, to the total less the student's branch. `teacher_outputs`: see
    `ir.output_ids`."""

    layer: Layer
    channels: Array | None
    output: Tensor
    sum: Sum | None
    teacher_outputs: set[int]
    rank: int | None = None

    @property
    def flat(self) -> Flat | None:
        """The activation after what is fitted, where it is flat somewhere."""
        return flat_after(self.target, self.teacher_outputs)

    @property
    def target(self) -> Tensor:
        """What is watched in the teacher."""
        return self.output if self.sum is None else self.sum.total

    @property
    def reads(self) -> list[Tensor]:
        """What is watched in the student."""
        return [self.layer.x] if self.sum is None else [self.layer.x, self.sum.student_branch]


def agenda(teacher: Model, student: Model, layers: Sequence[RepairLayer]) -> tuple[list[Job], list[Refusal]]:
    """The jobs in an order in which whatever a layer reads stands before it, those without a weight of their own refused.

    A layer that has lost nothing, and neither has what it or the other side of its sum is calculated from, is left out.

    Where a layer feeds a sum whose other side is final by then, the sum is its target. So the order puts short ways first: the long one of two branches, which has
    more weights to do it with, mends what the short one left.
    """
    refusals: list[Refusal] = []
    teacher_outputs, student_outputs = output_ids(teacher), output_ids(student)
    main = set(student.graph.nodes)
    candidates: dict[Node, tuple[RepairLayer, Layer, Layer]] = {}
    for entry in layers:
        twin, layer = layer_of(entry.teacher, teacher_outputs), layer_of(entry.student, student_outputs)
        if twin is None or layer is None or entry.student not in main:
            refusals.append(
                Refusal("prune/no-layer", "it has no constant weight in the main graph that rows of its input could be fitted with", _name(entry.student))
            )
        else:
            candidates[entry.student] = entry, twin, layer
    weights = {node: layer.weight for node, (_, _, layer) in candidates.items()}
    for node, weight in weights.items():
        if any(weights.get(reader) is not weight for reader in weight.outputs):
            del candidates[node]
            refusals.append(Refusal("prune/shared-weight", f"its weight '{weight.name}' is also read by a node that is not refitted", _name(node)))
    lost = {node for node, (entry, twin, layer) in candidates.items() if entry.rank is not None or not _same_columns(twin, layer, entry.channels)}
    jobs: list[Job] = []
    place = {node: index for index, node in enumerate(_by_depth(student, candidates))}
    for node, index in place.items():
        entry, twin, layer = candidates[node]
        total = _sum(twin, layer, teacher_outputs, student_outputs) if len(layer.weight.outputs) == 1 else None
        if total is not None and any(place.get(other, -1) >= index for other in upstream([total.student_branch])):
            total = None
        job = Job(layer, entry.channels, twin.output, total, teacher_outputs, entry.rank)
        if node in lost or lost & upstream(job.reads):
            jobs.append(job)
    return jobs, refusals


def by_weight(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs that share a weight together, in the order of each weight's first."""
    groups: dict[Constant, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.layer.weight, []).append(job)
    return list(groups.values())


def _by_depth(model: Model, layers: Mapping[Node, object]) -> list[Node]:
    """The layers by the number of layers on the longest way to each, then as they run."""
    depth: dict[Node, int] = {}
    order = toposort(model.graph)
    for node in order:
        before = [depth[maker] + (maker in layers) for t in node.inputs if (maker := producer(t)) is not None and maker in depth]
        depth[node] = max(before, default=0)
    return sorted((n for n in order if n in layers), key=lambda n: depth[n])


def _same_columns(twin: Layer, layer: Layer, channels: Array | None) -> bool:
    """Whether the weights and biases of a layer are those of its twin, for the outputs that it has."""
    all_outputs = slice(None) if channels is None else channels
    (student_weights, student_biases), (weights, biases) = (
        (part.weight_matrix().swapaxes(1, 2).reshape(-1, part.form.shape[1]), part.bias_vector().reshape(-1)) for part in (layer, twin)
    )
    return np.array_equal(student_weights, weights[all_outputs]) and np.array_equal(student_biases, biases[all_outputs])


def _sum(twin: Layer, layer: Layer, teacher_outputs: set[int], student_outputs: set[int]) -> Sum | None:
    here, there = _added(layer.output, student_outputs), _added(twin.output, teacher_outputs)
    return None if here is None or there is None else Sum(there[0], there[1], here[1])


def _added(tensor: Tensor, outputs: set[int]) -> tuple[Tensor, Tensor] | None:
    """(sum, other side) of the Add that alone reads `tensor`."""
    add = sole_consumer(tensor, outputs)
    if add is None or not add.is_op("Add"):
        return None
    other = add.inputs[1 if add.inputs[0] is tensor else 0]
    return None if constant_data(other) is not None else (add.outputs[0], other)


def _name(node: Node) -> str:
    return str(node.name or node.op)
