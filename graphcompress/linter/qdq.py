"""The parts of quantized layers: Q and DQ, their codes, scales and zero points, weights and what stands behind."""

from __future__ import annotations

from collections.abc import Iterable

from graphcompress.ir import Node, Tensor, constant_data, constant_value, consumers, producer
from graphcompress.linter.rule import Array, Subject

QDQ_DOMAINS = ("", "ai.onnx", "com.microsoft")


def is_quantize(node: Node | None) -> bool:
    """Whether `node` is a QuantizeLinear, onnxruntime's own too."""
    return node is not None and node.op == "QuantizeLinear" and (node.domain or "") in QDQ_DOMAINS


def quantized(subject: Subject) -> bool:
    """Whether anything is quantized at run time."""
    return any(is_quantize(node) for node in subject.nodes)


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
