"""Which tensors of the student are held against which of the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphcompress.errors import ModelError
from graphcompress.ir import Model, Tensor, constant_data, producer
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.distill.weights import named_tensors

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOST_FEATURES = 16


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor of this name in both models. `kind` says how the loss compares them: "values" by the squared difference over the teacher's variance, "probabilities" by the divergence."""

    name: str
    kind: Literal["values", "probabilities"]
    output: bool


def pairs(student: Model, teacher: Model, shapes: tuple[Shapes, Shapes], *, features: bool) -> list[Pair]:
    """The float outputs of both, and (`features`) up to 16 tensors of equal name and shape that layers with weights read, spread over the depth.

    `shapes` are those of student and teacher on the same inputs. Raises ModelError where no output can be compared.
    """
    ours, theirs = named_tensors(student), named_tensors(teacher)
    result = [
        Pair(o.name, "probabilities" if _is_softmax(ours[o.name]) and _is_softmax(theirs[o.name]) else "values", output=True)
        for o in student.outputs
        if o.name in theirs and shapes[0].dtype(ours[o.name]) == "float" and _alike(ours[o.name], theirs[o.name], shapes)
    ]
    if not result:
        raise ModelError(
            f"{student.path or 'The student'} and {teacher.path or 'the teacher'} have no output of float32 with equal name and shape, so there is nothing to learn from."
        )
    if features:
        outputs = {pair.name for pair in result}
        read = dict.fromkeys(n.inputs[0].name for n in student.graph.nodes if n.is_op(*HEAVY) and constant_data(n.input(1)) is not None)
        names = [
            n
            for n in read
            if n in theirs and n not in outputs and producer(ours[n]) is not None and _alike(ours[n], theirs[n], shapes) and shapes[0].dtype(ours[n]) == "float"
        ]
        count = min(len(names), MOST_FEATURES)
        result += [Pair(names[(i + 1) * len(names) // count - 1], "values", output=False) for i in range(count)]
    return result


def _alike(ours: Tensor, theirs: Tensor, shapes: tuple[Shapes, Shapes]) -> bool:
    first = shapes[0].static(ours)
    return first is not None and first == shapes[1].static(theirs)


def _is_softmax(tensor: Tensor) -> bool:
    node = producer(tensor)
    return node is not None and node.is_op("Softmax")
