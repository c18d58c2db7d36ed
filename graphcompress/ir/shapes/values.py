"""What onnx's inference leaves open although the signature decides it: sizes that were computed.

onnx's data propagation knows Shape, Gather, Concat and a few more; exporters also divide, compare, reduce and choose (Div, Mod, Where, Equal, ReduceProd, Range,
If on a rank). Here such small tensors are computed, and the shapes that hang on them are inferred again, node by node: one pass over the graph in topological order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, shape_inference

from graphcompress.ir.model import walk
from graphcompress.ir.model.element_types import array_dtype_name, dtype_code
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Dim, Graph, Node, Shape, Tensor, TensorSpec, type_spec
from graphcompress.ir.model.tensors import TensorData, to_tensor_proto
from graphcompress.ir.shapes.arithmetic import OPERATIONS, entries

Array = np.ndarray[Any, Any]
Known = dict[Tensor, TensorSpec]

#: Largest tensor that is computed here.
ELEMENTS = 1024
# Operators that move the entries of their first input and change none: they work on entries that are not known.
_MOVES = frozenset(["Slice", "Reshape", "Flatten", "Transpose", "Tile", "Expand"])
_COMPUTED = """
Abs Add And Ceil Clip ConstantOfShape Div Equal Expand Floor GatherElements GatherND Greater GreaterOrEqual Less LessOrEqual
Max Min Mod Mul Neg NonZero Not Or Pow Range ReduceMax ReduceMin ReduceProd ReduceSum Round ScatterElements ScatterND Sign
Split Sqrt Sub Sum Tile Transpose Where Xor
"""
_COMPUTES = frozenset(_COMPUTED.split())
# onnx's reference is numpy code that raises what numpy raises on values that an operator does not take.
_REFUSALS = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, AttributeError, RuntimeError, NotImplementedError)


def refine(model: Model, proto: onnx.GraphProto, known: Known, symbols: set[str]) -> None:
    """Add to `known`. `proto` is the sorted message of the main graph that was given to onnx's inference; `symbols` are the signature's names."""
    _Refiner(model, known, symbols).graph(model.graph, proto)


def complete(model: Model, known: Known) -> bool:
    """Whether nothing is left to be found."""
    return all(_complete(known.get(t)) for n in walk.nodes(model) for t in n.outputs if t.name)


def _complete(spec: TensorSpec | None) -> bool:
    return spec is not None and (spec.kind != "tensor" or (spec.dtype is not None and spec.shape is not None and None not in spec.shape))


class _Refiner:
    def __init__(self, model: Model, known: Known, symbols: set[str]) -> None:
        self.known, self.symbols = known, symbols
        self.opsets = model.opsets
        self.imports = [helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        self.ir_version = model.ir_version
        #: Tensors of at most ELEMENTS elements that were computed; of object type, with ints, symbols and None, where only some entries are known.
        self.values: dict[Tensor, Array] = {}
        self.better: set[Tensor] = set()

    # --- going through -----------------------------------------------------------------------------------------------------------

    def graph(self, graph: Graph, proto: onnx.GraphProto) -> None:
        for node, node_proto in zip(walk.toposort(graph), proto.node, strict=True):
            below = walk.subgraphs(node)
            if below:
                for branch, branch_proto in zip(below, _graph_protos(node, node_proto), strict=True):
                    self.graph(branch, branch_proto)
                if node.is_op("If"):
                    self.merge_branches(node)
                continue
            if any(not _complete(self.known.get(t)) for t in node.outputs if t.name):
                self.shapes(node, node_proto)
            if node.standard:
                self.value(node, node_proto)

    def learn(self, tensor: Tensor, spec: TensorSpec) -> None:
        """Take what `spec` adds to what is known."""
        shape = spec.shape if spec.shape is None else tuple(d if isinstance(d, int) or d in self.symbols else None for d in spec.shape)
        old = self.known.get(tensor)
        new = merged(old, TensorSpec(tensor.name, spec.dtype, shape, spec.kind))
        if new != old:
            self.known[tensor] = new
            self.better.add(tensor)

    def merge_branches(self, node: Node) -> None:
        """The branch that is taken where the condition is known, else what all branches agree on."""
        condition = self.full(node.inputs[0])
        taken = {n: g for n, g in node.attrs.items() if isinstance(g, Graph)}
        chosen = list(taken.values()) if condition is None or condition.size != 1 else [taken["then_branch" if condition.reshape(-1)[0] else "else_branch"]]
        for place, tensor in enumerate(node.outputs):
            specs = [self.spec(g.outputs[place]) for g in chosen]
            first = specs[0]
            if first is None or any(s is None or s.kind != "tensor" or s.dtype != first.dtype for s in specs):
                continue
            shapes = [s.shape for s in specs if s is not None and s.shape is not None]
            if len(shapes) == len(specs) and len({len(s) for s in shapes}) == 1:
                self.learn(tensor, TensorSpec(tensor.name, first.dtype, tuple(dims[0] if len(set(dims)) == 1 else None for dims in zip(*shapes, strict=True))))
            if len(chosen) == 1 and (value := self.partial(chosen[0].outputs[place])) is not None:
                self.values[tensor] = value

    # --- shapes ------------------------------------------------------------------------------------------------------------------

    def spec(self, tensor: Tensor) -> TensorSpec | None:
        if isinstance(tensor, Constant):
            data = walk.constant_data(tensor)
            if isinstance(data, TensorData):
                return TensorSpec(tensor.name, data.dtype_name, tuple(data.shape))
            return None if data is None else TensorSpec(tensor.name, array_dtype_name(data), tuple(data.shape))
        return self.known.get(tensor)

    def shapes(self, node: Node, proto: onnx.NodeProto) -> None:
        inputs = [t for t in node.inputs if t.name]
        if not any(t in self.better or self.partial(t) is not None for t in inputs):
            return
        for tensor, spec in self.by_value(node):
            self.learn(tensor, spec)
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for tensor in inputs:
            given = self.spec(tensor)
            if given is None or given.kind != "tensor" or given.dtype is None:
                return
            types[tensor.name] = helper.make_tensor_type_proto(dtype_code(given.dtype), given.shape)
            value = self.full(tensor)
            if value is not None:
                data[tensor.name] = to_tensor_proto(value, tensor.name)
        try:
            schema = onnx.defs.get_schema(proto.op_type, self.opsets.get(proto.domain, 1), proto.domain)
            found = shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=self.imports, ir_version=self.ir_version)
        except (onnx.defs.SchemaError, onnx.checker.ValidationError, shape_inference.InferenceError):
            return
        for tensor in node.outputs:
            if tensor.name in found:
                self.learn(tensor, type_spec(tensor.name, found[tensor.name]))

    def by_value(self, node: Node) -> list[tuple[Tensor, TensorSpec]]:
        """Reshape and ConstantOfShape to sizes of which only some are known."""
        target = (
            self.partial(node.inputs[1 if node.op == "Reshape" else 0])
            if node.is_op("Reshape", "ConstantOfShape") and len(node.inputs) > (node.op == "Reshape")
            else None
        )
        if target is None or target.dtype != object or target.ndim != 1:
            return []
        dims: list[Dim] = list(target)
        spec = self.spec(node.inputs[0])
        if node.op == "Reshape":
            shape = spec.shape if spec is not None else None
            copied = shape is not None and not node.attrs.get("allowzero", 0)
            dims = [shape[i] if d == 0 and copied and shape is not None and i < len(shape) else None if d in (0, -1) else d for i, d in enumerate(dims)]
        return [(node.outputs[0], TensorSpec(node.outputs[0].name, spec.dtype if node.op == "Reshape" and spec is not None else None, tuple(dims)))]

    # --- values ------------------------------------------------------------------------------------------------------------------

    def partial(self, tensor: Tensor) -> Array | None:
        """The value, entries that are not known as None or by their symbol."""
        if tensor in self.values:
            return self.values[tensor]
        data = walk.constant_data(tensor)
        if data is None or math.prod(data.shape) > ELEMENTS:
            return None
        return data.load() if isinstance(data, TensorData) else data

    def full(self, tensor: Tensor) -> Array | None:
        """The value where every entry is known."""
        value = self.partial(tensor)
        return value if value is None or value.dtype != object else None

    def value(self, node: Node, proto: onnx.NodeProto) -> None:
        if node.op in ("Shape", "Size"):
            self.size(node)
        elif (values := [self.partial(t) for t in node.inputs if t.name]) and all(v is not None for v in values):
            self.operate(node, proto, [v for v in values if v is not None])

    def keep(self, tensor: Tensor, value: Array) -> None:
        spec = self.known.get(tensor)
        if value.dtype in (np.int64, np.int32) and spec is not None and spec.dtype in ("int32", "int64"):
            value = value.astype(spec.dtype)  # shape_ops does not care which of the two
        if tensor.name and value.size <= ELEMENTS:
            self.values[tensor] = value

    def size(self, node: Node) -> None:
        spec = self.spec(node.inputs[0])
        if spec is None or spec.kind != "tensor" or spec.shape is None:
            return
        if node.op == "Shape":
            self.keep(node.outputs[0], entries(spec.shape[node.attrs.get("start", 0) : node.attrs.get("end")]))
        elif all(isinstance(d, int) for d in spec.shape):
            self.keep(node.outputs[0], np.array(math.prod(d for d in spec.shape if isinstance(d, int)), np.int64))

    def operate(self, node: Node, proto: onnx.NodeProto, values: list[Array]) -> None:
        """By `shape_ops` for integers, which knows unknown entries, else by onnx's reference operator."""
        if node.op in OPERATIONS and all(v.dtype in (np.int64, np.int32, np.bool_, object) for v in values):
            try:
                found = OPERATIONS[node.op](node, values)
            except (ValueError, TypeError, IndexError, OverflowError):
                return
            if found is not None or any(v.dtype == object for v in values):
                if found is not None:
                    self.keep(node.outputs[0], found)
                return
        names = [t.name for t in node.inputs if t.name]
        if values[0].dtype == object and node.op in _MOVES:
            # Unknown entries take part as their own numbers: what the operator makes of the numbers, it makes of the entries.
            numbers = np.arange(values[0].size, dtype=np.int64).reshape(values[0].shape)
            result = self.run(node, proto, names, [numbers, *values[1:]])
            if result is not None and result[0].dtype == np.int64:
                items = values[0].reshape(-1).tolist()
                self.keep(node.outputs[0], entries([items[i] for i in result[0].reshape(-1)]).reshape(result[0].shape))
        elif node.op in _COMPUTES or node.op in _MOVES or node.op in OPERATIONS:
            for tensor, value in zip(node.outputs, self.run(node, proto, names, values) or (), strict=False):
                self.keep(tensor, value)

    def run(self, node: Node, proto: onnx.NodeProto, names: list[str], values: list[Array]) -> list[Array] | None:
        if any(v.dtype == object for v in values) or _explodes(node, values):
            return None
        from onnx.reference import ReferenceEvaluator

        try:
            with np.errstate(all="ignore"):
                return [np.asarray(v) for v in ReferenceEvaluator(proto, opsets=self.opsets).run(None, dict(zip(names, values, strict=True)))]
        except _REFUSALS:
            return None


def _graph_protos(node: Node, proto: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The messages of `walk.subgraphs(node)`, in its order."""
    by_name = {a.name: a for a in proto.attribute}
    found: list[onnx.GraphProto] = []
    for name, value in node.attrs.items():
        if isinstance(value, Graph):
            found.append(by_name[name].g)
        elif isinstance(value, list) and value and isinstance(value[0], Graph):
            found.extend(by_name[name].graphs)
    return found


def merged(old: TensorSpec | None, new: TensorSpec) -> TensorSpec:
    """`old`, and what `new` adds to it."""
    if old is None:
        return new
    if old.kind != "tensor" or new.kind != "tensor":
        return old
    return TensorSpec(old.name, old.dtype or new.dtype, _union(old.shape, new.shape))


def _union(old: Shape | None, new: Shape | None) -> Shape | None:
    if old is None or new is None or len(old) != len(new):
        return old if old is not None else new
    return tuple(o if o is not None else n for o, n in zip(old, new, strict=True))


def _explodes(node: Node, sizes: list[Array]) -> bool:
    """Whether the operator makes a large tensor of small ones."""
    if node.op == "ConstantOfShape":
        return math.prod(int(d) for d in sizes[0].reshape(-1)) > ELEMENTS
    if node.op in ("Expand", "Tile") and len(sizes) == 2:
        return sizes[0].size * math.prod(max(int(d), 1) for d in sizes[1].reshape(-1)) > ELEMENTS
    if node.op == "Range" and len(sizes) == 3:
        start, limit, delta = (float(v.reshape(-1)[0]) for v in sizes)
        return delta == 0 or (limit - start) / delta > ELEMENTS
    return False
