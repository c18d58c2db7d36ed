"""What a rule is, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from graphcompress.errors import DataError, ModelError, RuntimeUnavailable
from graphcompress.ir import Model, Node, Tensor, constant_data, constant_value, consumers, nodes, output_ids, producer
from graphcompress.ir.files.numbered import numbered, numbers_in
from graphcompress.ir.shapes.infer import Shapes, infer
from graphcompress.runtime import profile
from graphcompress.targets import Target

Severity = Literal["error", "warning", "info"]
Array = np.ndarray[Any, Any]
QDQ_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True, slots=True)
class Problem:
    """One place where a rule holds: the node (or tensor) and a sentence."""

    place: str
    text: str


@dataclass(frozen=True)
class LintRule:
    """`id` is stable. `title` names the defect, `why` says what comes of it and how that is known, `cure` what to do. `look` finds places, `fix` mends all of them without changing what
    the graph computes (None: it cannot be mended like that) and says how many."""

    id: str
    severity: Severity
    title: str
    why: str
    cure: str
    look: Callable[[Subject], Iterable[Problem]]
    fix: Callable[[Subject], int] | None = None


class Subject:
    """A model that is looked at. `provider` is where it is to run: some want all sizes fixed."""

    def __init__(self, model: Model, target: Target, provider: str = "cpu") -> None:
        self.model = model
        self.target = target
        self.provider = provider

    @cached_property
    def nodes(self) -> list[Node]:
        """The nodes of all graphs."""
        return list(nodes(self.model))

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes and types."""
        return infer(self.model)

    @cached_property
    def outputs(self) -> set[int]:
        """id() of the outputs of all graphs."""
        return output_ids(self.model)

    @cached_property
    def quantized(self) -> bool:
        """Whether anything is quantized at run time."""
        return any(is_quantize(node) for node in self.nodes)

    @cached_property
    def kernels(self) -> Mapping[Node, Sequence[Node]] | None:
        """What stands for each node in the graph that onnxruntime's CPU provider makes of the model; None where it does not load, or there is no onnxruntime."""
        try:
            with numbered(self.model) as everything:
                optimized = profile.optimized_model(self.model)
        except (ModelError, DataError, RuntimeUnavailable):
            return None
        stands_for: dict[Node, list[Node]] = {node: [] for node in everything}
        for kernel in nodes(optimized):
            for number in numbers_in(kernel.name):
                stands_for[everything[number]].append(kernel)
        return stands_for


def is_quantize(node: Node | None) -> bool:
    """Whether `node` is a QuantizeLinear, onnxruntime's own too."""
    return node is not None and node.op == "QuantizeLinear" and (node.domain or "") in QDQ_DOMAINS


def is_dequantize(node: Node | None) -> bool:
    """Whether `node` is a DequantizeLinear, onnxruntime's own too."""
    return node is not None and node.op == "DequantizeLinear" and (node.domain or "") in QDQ_DOMAINS


def dequantizer(tensor: Tensor | None) -> Node | None:
    """The DequantizeLinear that makes `tensor`."""
    node = None if tensor is None else producer(tensor)
    return node if is_dequantize(node) else None


def quantizers(tensor: Tensor) -> list[Node]:
    """The QuantizeLinear nodes that read `tensor`."""
    return [node for node in consumers(tensor) if is_quantize(node)]


def codes(node: Node) -> Array | None:
    """The constant codes that a DequantizeLinear reads; None where they are computed."""
    return constant_value(node.inputs[0]) if is_dequantize(node) else None


def is_constant(tensor: Tensor | None) -> bool:
    """Whether the value is in the file."""
    return tensor is not None and constant_data(tensor) is not None


def scale(node: Node) -> Array | None:
    """The constant scales of a Q or DQ."""
    return constant_value(node.input(1))


def zero_point(node: Node) -> Array | None:
    """The constant zero points of a Q or DQ; None also where there are none, which means 0."""
    return constant_value(node.input(2))


def code_type(subject: Subject, node: Node) -> str | None:
    """The element type of the codes that a Q makes or a DQ reads, as ONNX calls it."""
    if is_quantize(node):
        return subject.shapes.dtype(node.inputs[2]) if node.input(2) is not None else "uint8"
    return subject.shapes.dtype(node.inputs[0])


def weighted(subject: Subject, *ops: str) -> Iterable[tuple[Node, int]]:
    """The operators with a weight at input 1 whose rank is known, and the axis of its output channels."""
    for node in subject.nodes:
        weight = node.input(1) if node.is_op(*ops) else None
        if weight is None:
            continue
        before = dequantizer(weight)
        data = constant_data(weight) if before is None else constant_data(before.inputs[0])
        if data is not None and len(data.shape):
            yield node, output_axis(node, len(data.shape))


def output_axis(node: Node, rank: int) -> int:
    """The axis of a weight of this rank along which a Conv, ConvTranspose, Gemm or MatMul has its output channels."""
    match node.op:
        case "Conv":
            return 0
        case "Gemm":
            return 0 if node.attrs.get("transB", 0) else 1
        case "ConvTranspose":
            return 1
    return rank - 1


def end_of_group(subject: Subject, node: Node) -> tuple[Tensor, Node | None]:
    """The output behind an activation that nothing else sees (a Relu or Clip that the Q behind makes redundant), and that activation."""
    tensor: Tensor = node.outputs[0]
    readers = consumers(tensor)
    if len(readers) == 1 and readers[0].is_op("Relu", "Clip") and id(tensor) not in subject.outputs:
        return readers[0].outputs[0], readers[0]
    return tensor, None
