"""Going through protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from google.protobuf.message import Message

# Messages that hold tensors, directly or further down. `tests/ir/test_files.py` compares them with the descriptors of the installed onnx.
TENSOR_HOLDERS = frozenset(f"onnx.{name}Proto" for name in ("Model", "Function", "TrainingInfo", "Graph", "Node", "Attribute", "SparseTensor", "Tensor"))
_PLAIN_ATTRIBUTES = frozenset(
    onnx.AttributeProto.AttributeType.Value(name) for name in ("FLOAT", "INT", "STRING", "FLOATS", "INTS", "STRINGS", "TYPE_PROTO", "TYPE_PROTOS")
)


def tensor_protos(message: Message) -> Iterator[onnx.TensorProto]:
    """Every TensorProto in `message`, at any depth, in the order of the file: initializers, sparse ones, attributes; in subgraphs, functions and training
    information."""
    stack: list[Any] = [message]
    while stack:
        item = stack.pop()
        if isinstance(item, onnx.TensorProto):
            yield item
        elif isinstance(item, onnx.NodeProto):
            stack.extend(reversed(item.attribute))
        elif not isinstance(item, onnx.AttributeProto) or item.type not in _PLAIN_ATTRIBUTES:
            stack.extend(reversed([child for _, children in tensor_fields(item) for child in children]))


def node_protos(roots: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """`roots` and every node in the graphs of their attributes, at any depth."""
    stack = list(roots)
    while stack:
        node = stack.pop()
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                stack.extend(attribute.g.node)
            for graph in attribute.graphs:
                stack.extend(graph.node)


def tensor_fields(message: Message) -> Iterator[tuple[int, list[Message]]]:
    """The filled fields of `message` that may hold tensors: number and messages of each."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.full_name in TENSOR_HOLDERS:
            yield field.number, list(value) if field.is_repeated else [value]
