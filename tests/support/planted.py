"""Quantized models with one defect each: a Conv, Gemm or MatMul between Q and DQ, built right unless told otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


class Planted:
    """A model under construction."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, values: Any, name: str = "") -> str:
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def half(self, *shape: int) -> Array:
        return (self.random.standard_normal(shape) * 0.1).astype(np.float16)

    def floats(self, *shape: int) -> Array:
        return (self.random.standard_normal(shape) * 0.1).astype(np.float32)

    def node(self, op: str, *inputs: str, name: str = "", out: str = "", domain: str = "", **attrs: Any) -> str:
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name or f"n{len(self.nodes)}", domain=domain, **attrs))
        return out

    def quantize(self, x: str, scale: Any = 0.05, zero: Any = 128, kind: Any = np.uint8, **attrs: Any) -> str:
        return self.node("QuantizeLinear", x, self.constant(np.asarray(scale, np.float32)), self.constant(np.asarray(zero, kind)), **attrs)

    def dequantize(self, q: str, scale: Any = 0.05, zero: Any = 128, kind: Any = np.uint8, **attrs: Any) -> str:
        return self.node("DequantizeLinear", q, self.constant(np.asarray(scale, np.float32)), self.constant(np.asarray(zero, kind)), **attrs)

    def pair(self, x: str, scale: Any = 0.05, zero: Any = 128, kind: Any = np.uint8) -> str:
        return self.dequantize(self.quantize(x, scale, zero, kind), scale, zero, kind)

    def codes(self, *shape: int, axis: int | None = 0, limit: int = 60, scale: Any = None, name: str = "", kind: Any = np.int8) -> str:
        """A weight behind its DQ; the scales are 0.01 per channel of `axis`."""
        low = -limit if np.iinfo(kind).min < 0 else 0
        stored = self.constant(self.random.integers(low, limit + 1, shape).astype(kind), name)
        scales = np.full(() if axis is None else shape[axis], 0.01, np.float32) if scale is None else np.asarray(scale, np.float32)
        more = {} if axis is None else {"axis": axis}
        return self.node("DequantizeLinear", stored, self.constant(scales), self.constant(np.zeros_like(scales, kind)), **more)

    def bias(self, channels: int, scale: Any = None, code: int = 100) -> str:
        scales = np.full(channels, np.float32(0.05) * np.float32(0.01), np.float32) if scale is None else np.asarray(scale, np.float32)
        more = {"axis": 0} if scales.ndim else {}
        return self.node("DequantizeLinear", self.constant(np.full(channels, code, np.int32)), self.constant(scales), **more)

    def model(self, *outputs: str, ir_version: int = 8) -> onnx.ModelProto:
        infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "planted", self.inputs, infos, self.initializers)
        domains = sorted({node.domain for node in self.nodes})
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains if domain)]
        return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=ir_version))
