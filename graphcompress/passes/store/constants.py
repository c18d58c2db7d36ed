"""Which constants of a model can be stored small, and why the other large ones cannot."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, TensorData, Variable, constant_data, consumers, graphs, nodes, output_ids
from graphcompress.ir.inline import called_function, function_bodies
from graphcompress.ir.model.edit import takes_initializers
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.step import Refusal

Array = np.ndarray[Any, Any]

SMALLEST = 1024
"""Bytes of a constant from which on it is looked at."""
LARGE_VECTOR = 1 << 18
"""Bytes from which on a constant with one axis (a bias, statistics, a window: little to gain, and much hangs on each value) is no small matter any more."""
LARGE_TABLES = 1 << 16
"""Bytes of all attributes of one operator's nodes (trees, support vectors, vocabularies) from which on their size is worth a word."""
# Kernels that compute on codes take the scales as they are; what they mean is not ours to round.
QUANTIZED_OPERATOR = re.compile(r"[Qq]uant|QLinear|Integer|NBits|Bnb4|^QGemm|^QAttention|^QMoE")
FLOAT = 1  # ONNX's enum of the element type


@dataclass(eq=False, slots=True)
class FloatConstant:
    """Constants of one value, type and shape. Compared by identity.

    `sources` are the tensors that hold it, each with the graph that defines it; `results` those that nodes read: the sources themselves, or, where a float16 constant is read
    by Casts to float32 alone, what these make (`wide`). `dtype` is the type in the file.
    """

    sources: list[tuple[Tensor, Graph]]
    results: list[tuple[Tensor, Graph]]
    data: TensorData | Array
    dtype: str
    wide: bool

    @property
    def name(self) -> str:
        """What it is called in records: the name of the first source."""
        return str(self.sources[0][0].name)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all copies in the file."""
        return int(self.data.nbytes) * len(self.sources)

    @property
    def readers(self) -> list[Node]:
        """The nodes that read it."""
        return [n for t, _ in self.results for n in consumers(t)]

    @property
    def values(self) -> Array:
        """The values in float32."""
        loaded = self.data.load() if isinstance(self.data, TensorData) else self.data
        return np.asarray(loaded, np.float32)

    @property
    def vector(self) -> bool:
        """Whether it has one axis only."""
        return sum(d > 1 for d in self.shape) < 2


def find(model: Model) -> tuple[list[FloatConstant], list[Refusal]]:
    """The float constants of all graphs that can be stored small, equal ones as one, the largest first; a refusal for each other large one."""
    outputs = output_ids(model)
    equal: dict[tuple[str, bool, tuple[int, ...], bytes], FloatConstant] = {}
    refusals = list(_out_of_reach(model))
    for tensor, graph in _constants(model):
        data = constant_data(tensor)
        assert data is not None
        dtype = data.dtype_name if isinstance(data, TensorData) else array_dtype_name(data)
        if dtype not in ("float", "float16") or data.nbytes < SMALLEST or not tensor.outputs:
            continue
        if id(tensor) in outputs:
            refusals.append(Refusal("store/output", f"'{tensor.name}' is an output of a graph, whose type is fixed", tensor.name))
            continue
        casts = _casts(tensor, graph, outputs) if dtype == "float16" else []
        results = [(n.outputs[0], graph) for n in casts] or [(tensor, graph)]
        constant = FloatConstant([(tensor, graph)], results, data, dtype, bool(casts))
        if constant.vector and data.nbytes < LARGE_VECTOR:
            continue
        exact = next((n for n in constant.readers if QUANTIZED_OPERATOR.search(n.op)), None)
        if exact is not None:
            refusals.append(Refusal("store/quantized", f"{exact.op} reads '{tensor.name}' as scales, or quantizes it itself", tensor.name))
            continue
        same = equal.setdefault((dtype, constant.wide, constant.shape, _digest(data)), constant)
        if same is not constant:
            same.sources += constant.sources
            same.results += constant.results
    return sorted(equal.values(), key=lambda c: -c.nbytes), refusals


def home(model: Model, constant: FloatConstant) -> Graph:
    """The graph that what is stored of `constant` belongs in: its own, or the main one, which all see, where there are several or it takes no initializers."""
    homes = {graph for _, graph in constant.sources}
    only = next(iter(homes))
    return only if len(homes) == 1 and takes_initializers(model, only) else model.graph


def channel_axes(constant: FloatConstant) -> tuple[int, ...] | None:
    """The axes along which the first reader that has such uses the weight for separate results (its output channels, or the rows of a table); None where no
    reader says. What Pads and Concats make larger on loading is read where that is."""
    rank = len(constant.shape)
    tensors = {t for t, _ in constant.results}
    readers = constant.readers
    for node in readers:
        if node.is_op("Pad", "Concat") and node.outputs[0] not in tensors:
            tensors.add(node.outputs[0])
            readers += consumers(node.outputs[0])
    for node in readers:
        index = next(i for i, t in enumerate(node.inputs) if t in tensors)
        match node.op if node.standard else "", index:
            case "Conv", 1:
                return (0,)
            case "ConvTranspose", 1:
                return (1,)
            case "Gemm", 1:
                return (0,) if node.attrs.get("transB", 0) else (1,)
            case "MatMul", 1 if rank >= 2:
                return (*range(rank - 2), rank - 1)
            case "MatMul", 0 if rank >= 2:
                return tuple(range(rank - 1))
            case "Gather", 0:
                return (int(node.attrs.get("axis", 0)) % rank,)
            case (("LSTM" | "GRU" | "RNN"), (1 | 2)):
                return (0, 1)
    return None


def _constants(model: Model) -> Iterator[tuple[Tensor, Graph]]:
    """Initializers and the outputs of Constant nodes, each with its graph."""
    for graph in graphs(model):
        yield from ((c, graph) for c in graph.initializers.values())
        yield from ((n.outputs[0], graph) for n in graph.nodes if n.is_op("Constant") and len(n.outputs) == 1 and constant_data(n.outputs[0]) is not None)


def _casts(tensor: Tensor, graph: Graph, outputs: set[int]) -> list[Node]:
    """The Casts to float32 that read `tensor` in its own graph, where nobody else does."""
    readers = consumers(tensor)
    alone = all(n.is_op("Cast") and n.attrs.get("to") == FLOAT and id(n.outputs[0]) not in outputs for n in readers)
    return readers if alone and set(readers) <= set(graph.nodes) else []


def _digest(data: TensorData | Array) -> bytes:
    content = data.raw() if isinstance(data, TensorData) else np.ascontiguousarray(data).data
    return hashlib.sha256(content).digest()


def _out_of_reach(model: Model) -> Iterator[Refusal]:
    """Large float values that are no constants of a graph."""
    for tensor in model.graph.inputs:
        default = tensor.default if isinstance(tensor, Variable) else None
        if default is not None and hasattr(default, "dims") and default.data_type == FLOAT and 4 * int(np.prod(default.dims)) >= SMALLEST:
            yield Refusal("store/overridable", f"callers may override '{tensor.name}', so it must stay what it is", tensor.name)
    called = {called_function(n) for n in nodes(model)}
    for key, body in function_bodies(model).items():
        held = [n for n in body if n.op_type == "Constant" and any(a.t.ByteSize() >= SMALLEST for a in n.attribute)]
        if held and key in called:
            reason = f"it is held by the model-local function '{key[1]}', and what functions hold stays as it is"
            yield Refusal("store/in-function", reason, held[0].output[0], len(held))
    yield from _tables(model)


def _tables(model: Model) -> Iterator[Refusal]:
    """Operators whose tables are attributes."""
    holders: dict[str, list[Node]] = {}
    sizes: Counter[str] = Counter()
    for node in nodes(model):
        if not node.is_op("Constant", "ConstantOfShape") and (size := sum(map(_table_bytes, node.attrs.values()))):
            holders.setdefault(node.op, []).append(node)
            sizes[node.op] += size
    for op, size in sizes.most_common():
        if size >= LARGE_TABLES:
            reason = f"the tables of {op} ({size:,} bytes) are attributes, and only constants that are inputs of nodes can be stored small"
            yield Refusal("store/attribute", reason, holders[op][0].name, len(holders[op]))


def _table_bytes(value: Any) -> int:
    """Bytes of an attribute that is a tensor, or too long for Python data."""
    if isinstance(value, TensorData):
        return int(value.nbytes)
    return int(value.ByteSize()) if hasattr(value, "ByteSize") else 0
