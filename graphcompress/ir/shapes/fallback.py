"""onnx's own inference of one node, for operators that have no rule here.

It is C++ that checks its arguments with assertions in places, which end the process: every operator whose inference does so for some node that a file may hold is
in `UNSAFE`, and `tests/ir/test_shape_fallback.py` looks for further ones. Large attributes and values are not passed on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, shape_inference

from graphcompress.ir.model.dimensions import Size
from graphcompress.ir.model.element_types import dtype_code, dtype_name
from graphcompress.ir.model.objects import Graph, Node
from graphcompress.ir.model.tensors import TensorData, to_tensor_proto
from graphcompress.ir.shapes.facts import Array, Fact

#: (domain, operator): inference of the installed onnx ends the process for some arguments.
UNSAFE: frozenset[tuple[str, str]] = frozenset()
LARGEST_ATTRIBUTE = 1024
LARGEST_DIMENSION = 2**63 - 1
_ERRORS = (onnx.defs.SchemaError, onnx.checker.ValidationError, shape_inference.InferenceError, ValueError, TypeError, KeyError, RuntimeError, OverflowError)


def infer_by_onnx(node: Node, inputs: list[Fact | None], opsets: dict[str, int], ir_version: int, names: SizeNames) -> list[Fact] | None:
    """Facts about the outputs; sizes that onnx does not know are None. None where onnx knows no such operator or refuses the node."""
    domain = "" if node.standard else node.domain or ""
    if (domain, node.op) in UNSAFE:
        return None
    try:
        schema = onnx.defs.get_schema(node.op, opsets.get(domain, 1), domain)
        proto = onnx.NodeProto(op_type=node.op, domain=domain)
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for index, fact in enumerate(inputs):
            name = "" if fact is None else f"i{index}"
            proto.input.append(name)
            if fact is None:
                continue
            types[name] = names.type_of(fact)
            if fact.value is not None and fact.value.dtype != object:
                data[name] = to_tensor_proto(fact.value, name)
        proto.output.extend(f"o{i}" if t.name else "" for i, t in enumerate(node.outputs))
        for key, value in node.attrs.items():
            if isinstance(value, Graph):
                continue
            attribute = _attribute(key, value)
            if attribute is None:
                return None
            proto.attribute.append(attribute)
        imports = [helper.make_opsetid(d, v) for d, v in opsets.items()]
        inferred = shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports, ir_version=ir_version)
    except _ERRORS:
        return None
    return [names.fact_of(inferred.get(f"o{i}")) for i in range(len(node.outputs))]


class SizeNames:
    """Sizes as names of dimensions, which onnx passes on without looking at them, and back. One for a whole model: the types of sequences keep such names."""

    def __init__(self) -> None:
        self.names: dict[Size, str] = {}
        self.sizes: dict[str, Size] = {}

    def type_of(self, fact: Fact) -> onnx.TypeProto:
        if fact.kind != "tensor":
            return fact.proto if fact.proto is not None else onnx.TypeProto()
        if fact.dtype is None or fact.dtype.startswith("type "):
            return onnx.TypeProto()
        shape = None if fact.shape is None else [d if isinstance(d, int) else self.name(d) for d in fact.shape]
        if shape is not None and any(isinstance(d, int) and d > LARGEST_DIMENSION for d in shape):
            shape = None
        return helper.make_tensor_type_proto(dtype_code(fact.dtype), shape)

    def name(self, size: Size) -> str:
        if size not in self.names:
            self.names[size] = size if isinstance(size, str) else f"\0{len(self.names)}"
            self.sizes[self.names[size]] = size
        return self.names[size]

    def fact_of(self, proto: onnx.TypeProto | None) -> Fact:
        which = None if proto is None else proto.WhichOneof("value")
        if proto is None or which is None:
            return Fact(None, None)
        if which != "tensor_type":
            return Fact(None, None, kind=which.removesuffix("_type"), proto=proto)
        tensor = proto.tensor_type
        shape: Any = None
        if tensor.HasField("shape"):
            shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else self.sizes.get(d.dim_param) for d in tensor.shape.dim)
        return Fact(dtype_name(tensor.elem_type) if tensor.elem_type else None, shape)


def _attribute(name: str, value: Any) -> onnx.AttributeProto | None:
    """The attribute as a message, large tensors without their elements; None for what is not passed on."""
    result: onnx.AttributeProto | None = None
    match value:
        case onnx.AttributeProto():
            result = value if not value.ref_attr_name and value.ByteSize() <= LARGEST_ATTRIBUTE else None
        case TensorData() | np.ndarray():
            result = onnx.AttributeProto(name=name, type=onnx.AttributeProto.TENSOR)
            result.t.CopyFrom(_tensor(value))
        case list() if len(value) > LARGEST_ATTRIBUTE:
            result = None
        case _:
            result = helper.make_attribute(name, value)
    return result


def _tensor(value: TensorData | Array) -> onnx.TensorProto:
    if value.nbytes <= LARGEST_ATTRIBUTE and not (isinstance(value, TensorData) and value.external):
        return to_tensor_proto(value, "")
    code = dtype_code(value.dtype_name) if isinstance(value, TensorData) else helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.TensorProto(data_type=code, dims=value.shape)
