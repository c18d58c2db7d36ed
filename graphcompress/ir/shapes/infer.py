"""Types and shapes of all tensors of a model, as far as the signature decides them.

onnx's own inference does the work, completed by `shape_values` where sizes are computed, under conditions that make its answers safe to reason with:
- value_info, the shapes that graph outputs claim and the shapes of subgraph inputs are taken away first: inference believes them before its own result,
  and exporters leave stale ones behind. What is left as a source is the signature (`Model.input_protos`) and the constants.
- names that it invents (`unk__0`) come back as None: a named dimension is one of the signature's, a number follows from the signature and the constants.
- constants above 1 KiB are replaced by their type and dimensions, so neither weights nor external data are read and the size limit of a message does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError
from onnx import shape_inference

from graphcompress.errors import ModelError
from graphcompress.ir.files.write import to_proto
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Dim, Graph, Shape, Tensor, TensorSpec, Variable, type_spec
from graphcompress.ir.model.tensors import TensorData, to_tensor_proto
from graphcompress.ir.model.walk import constant_data, subgraphs, toposort
from graphcompress.ir.shapes.values import complete, merged, refine

INLINE_BYTES = 1024
LONGEST_PROPAGATED = 1 << 16

# Operators for which the installed onnx has no inference -> one of ai.onnx with the same types and shapes (for inference only).
_SAME_AS_FIRST_INPUT = frozenset(
    [("ai.onnx.ml", op) for op in ("Binarizer", "Imputer")]
    + [("com.microsoft", op) for op in ("Gelu", "FastGelu", "QuickGelu", "BiasGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")]
)
_FLOAT_OF_FIRST_INPUT = frozenset([("ai.onnx.ml", "Scaler"), ("ai.onnx.ml", "Normalizer")])
_RENAMED = {
    ("com.microsoft", "FusedConv"): "Conv",
    ("com.microsoft", "FusedGemm"): "Gemm",
    ("com.microsoft", "QuantizeLinear"): "QuantizeLinear",
    ("com.microsoft", "DequantizeLinear"): "DequantizeLinear",
}
# What exporters write where they know no name: two of these are not the same dimension.
_NO_NAME = frozenset(["", "?"])


class Shapes:
    """What is known of each tensor of the model it was inferred for; None where it is not. Tensors made afterwards are unknown, constants answer always."""

    def __init__(self, known: dict[Tensor, TensorSpec], complete: bool = True) -> None:
        self._known = known
        #: False where onnx's inference refused the model, so that only inputs and constants are known.
        self.complete = complete

    def spec(self, tensor: Tensor) -> TensorSpec | None:
        """Type, shape and kind of `tensor`; the kind is "tensor", "sequence", "map", "optional" or "sparse_tensor"."""
        if isinstance(tensor, Constant):
            return _constant_spec(tensor)
        return self._known.get(tensor)

    def dtype(self, tensor: Tensor) -> str | None:
        """Element type by ONNX's name ("float", "int64", ...), None where unknown or no tensor."""
        spec = self.spec(tensor)
        return spec.dtype if spec is not None and spec.kind == "tensor" else None

    def shape(self, tensor: Tensor) -> Shape | None:
        """A number, a symbol of the signature or None per axis; None where the rank is unknown. A symbol may turn out to be 0 or 1."""
        spec = self.spec(tensor)
        return spec.shape if spec is not None and spec.kind == "tensor" else None

    def rank(self, tensor: Tensor) -> int | None:
        """Number of axes."""
        shape = self.shape(tensor)
        return None if shape is None else len(shape)

    def static(self, tensor: Tensor) -> tuple[int, ...] | None:
        """The shape where every dimension is a number."""
        shape = self.shape(tensor)
        numbers = tuple(d for d in shape or () if isinstance(d, int))
        return numbers if shape is not None and len(numbers) == len(shape) else None


def infer(model: Model, inputs: Mapping[str, Sequence[Dim]] | None = None) -> Shapes:
    """Types and shapes of all tensors in all graphs of `model`. Linear in the graph; never raises for a model that onnxruntime runs.

    `inputs` replaces the shapes of inputs by name, for example by those of a feed: the answers then hold for such feeds.
    """
    inputs = inputs or {}
    symbols = {d for spec in (*model.inputs, *model.overridable) for d in inputs.get(spec.name, spec.shape or ()) if isinstance(d, str)} - _NO_NAME
    try:
        proto = _bare_proto(model, inputs)
    except ModelError:  # a cycle: nothing can be said beyond the signature
        return Shapes(_signature(model, inputs), complete=False)
    known: dict[Tensor, TensorSpec] = {}
    if not _by_onnx(model, proto, symbols, known, data_propagation=False):
        return Shapes(_signature(model, inputs), complete=False)
    known.update(_signature(model, inputs))
    if not complete(model, known):
        refine(model, proto.graph, known, symbols)
    if not complete(model, known) and not any(_long(s) for s in known.values()):
        _by_onnx(model, proto, symbols, known, data_propagation=True)
        refine(model, proto.graph, known, symbols)
    _ranks_of_outputs(model, known)
    return Shapes(known)


def _by_onnx(model: Model, proto: onnx.ModelProto, symbols: set[str], known: dict[Tensor, TensorSpec], *, data_propagation: bool) -> bool:
    """Add to `known` what onnx's inference finds; False where it refuses the model."""
    try:
        inferred = shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=data_propagation)
    except (shape_inference.InferenceError, EncodeError, ValueError, RuntimeError):
        return False
    for graph, found in _pairs(model.graph, inferred.graph):
        _collect(graph, found, symbols, known)
    return True


def _long(spec: TensorSpec) -> bool:
    """onnx 1.23's data propagation keeps a message per entry of a 1-D tensor, whatever its length: gigabytes for a waveform or a large Range."""
    return spec.shape is not None and len(spec.shape) == 1 and isinstance(spec.shape[0], int) and spec.shape[0] > LONGEST_PROPAGATED


# --- what is given to onnx ------------------------------------------------------------------------------------------------------


def _bare_proto(model: Model, inputs: Mapping[str, Sequence[Dim]]) -> onnx.ModelProto:
    """The model without values above INLINE_BYTES, without claims about shapes, in an order that runs."""
    proto = to_proto(model)
    base = model.path.parent if model.path else None
    for field in ("metadata_props", "training_info"):
        proto.ClearField(field)
    for function in proto.functions:
        function.ClearField("value_info")
        for node in function.node:
            _shrink_attributes(node, base)
    overridable = {t.name for t in model.graph.inputs if isinstance(t, Variable) and t.default is not None}
    for graph, graph_proto in _pairs(model.graph, proto.graph):
        main = graph is model.graph
        for field in ("value_info", "quantization_annotation", "metadata_props"):
            graph_proto.ClearField(field)
        for info in graph_proto.output if main else [*graph_proto.output, *graph_proto.input]:
            _forget_shape(info.type)
        _sort(graph, graph_proto)
        for node in graph_proto.node:
            _shrink_attributes(node, base)
            if "" in model.opsets:
                _translate(node)
        for tensor in graph_proto.initializer:
            _shrink(tensor, base)
        if main and overridable:  # the value is a default that callers may replace: only the declared type counts
            kept = [t for t in graph_proto.initializer if t.name not in overridable]
            del graph_proto.initializer[:]
            graph_proto.initializer.extend(kept)
    for info in proto.graph.input:
        if info.name in inputs:
            _set_shape(info.type, inputs[info.name])
        for dim in info.type.tensor_type.shape.dim:
            if (dim.HasField("dim_param") and dim.dim_param in _NO_NAME) or dim.dim_value < 0:
                dim.ClearField("value")
    return proto


def _pairs(graph: Graph, proto: onnx.GraphProto) -> Iterator[tuple[Graph, onnx.GraphProto]]:
    """Each graph with its message, outer before inner. Children are looked up after the caller has dealt with a pair, so it may reorder nodes."""
    stack = [(graph, proto)]
    while stack:
        outer, outer_proto = stack.pop()
        yield outer, outer_proto
        owners = {node.outputs[0].name: node for node in outer.nodes if node.outputs and subgraphs(node)}
        if not owners:
            continue
        for node_proto in outer_proto.node:
            owner = owners.get(node_proto.output[0]) if node_proto.output else None
            for attribute in node_proto.attribute if owner is not None else ():
                value = owner.attrs.get(attribute.name) if owner is not None else None
                if isinstance(value, Graph):
                    stack.append((value, attribute.g))
                elif isinstance(value, list) and attribute.graphs:
                    stack.extend(zip(value, attribute.graphs, strict=True))


def _sort(graph: Graph, proto: onnx.GraphProto) -> None:
    """Inference goes through the nodes once, in file order, and files may be unsorted."""
    order = [next((t.name for t in n.outputs if t.name), "") for n in toposort(graph)]
    names = [next((name for name in n.output if name), "") for n in proto.node]
    if order != names:
        place = {name: i for i, name in enumerate(order)}
        nodes = sorted(proto.node, key=lambda n: place.get(next((name for name in n.output if name), ""), len(place)))
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del proto.node[:]
        proto.node.extend(kept)


def _translate(node: onnx.NodeProto) -> None:
    key = (node.domain, node.op_type)
    if key in _RENAMED:
        node.op_type = _RENAMED[key]
    elif key in _SAME_AS_FIRST_INPUT or key in _FLOAT_OF_FIRST_INPUT:
        node.op_type = "Identity" if key in _SAME_AS_FIRST_INPUT else "Cast"
        for field in (node.input, node.output):
            del field[1:]
        del node.attribute[:]
        if key in _FLOAT_OF_FIRST_INPUT:
            node.attribute.add(name="to", i=onnx.TensorProto.FLOAT, type=onnx.AttributeProto.INT)
    else:
        return
    node.domain = ""


def _shrink_attributes(node: onnx.NodeProto, base: Path | None) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _shrink(attribute.t, base)
        for tensor in attribute.tensors:
            _shrink(tensor, base)


def _shrink(tensor: onnx.TensorProto, base: Path | None) -> None:
    """Keep small values, inline; of larger ones and of texts only type and dimensions."""
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if tensor.data_type != onnx.TensorProto.STRING and math.prod(tensor.dims) * 8 <= INLINE_BYTES:
        if external:
            values = TensorData(tensor, base).load()
            tensor.CopyFrom(to_tensor_proto(values, tensor.name))
        return
    tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))


def _forget_shape(kind: onnx.TypeProto) -> None:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        getattr(kind, which).ClearField("shape")


def _set_shape(kind: onnx.TypeProto, shape: Sequence[Dim]) -> None:
    target = kind.tensor_type.shape
    target.ClearField("dim")
    for dim in shape:
        target.dim.add(dim_value=dim) if isinstance(dim, int) else target.dim.add(dim_param=dim)


# --- what it answers ------------------------------------------------------------------------------------------------------------


def _collect(graph: Graph, found: onnx.GraphProto, symbols: set[str], known: dict[Tensor, TensorSpec]) -> None:
    tensors = {t.name: t for n in graph.nodes for t in n.outputs if t.name}
    tensors.update((t.name, t) for t in graph.inputs)
    for infos in (found.input, found.value_info, found.output):
        for info in infos:
            tensor = tensors.get(info.name)
            if tensor is not None:
                known[tensor] = merged(known.get(tensor), _believable(type_spec(info.name, info.type), symbols))


def _believable(spec: TensorSpec, symbols: set[str]) -> TensorSpec:
    """Without invented names and impossible sizes."""
    if spec.shape is None:
        return spec
    shape = tuple(d if (isinstance(d, int) and d >= 0) or d in symbols else None for d in spec.shape)
    return TensorSpec(spec.name, spec.dtype, shape, spec.kind)


def _signature(model: Model, inputs: Mapping[str, Sequence[Dim]]) -> dict[Tensor, TensorSpec]:
    specs = {s.name: s for s in (*model.inputs, *model.overridable)}
    found: dict[Tensor, TensorSpec] = {}
    for tensor in model.graph.inputs:
        spec = specs.get(tensor.name)
        if spec is not None:
            shape = tuple(inputs[tensor.name]) if tensor.name in inputs else spec.shape
            found[tensor] = _believable(TensorSpec(spec.name, spec.dtype, shape, spec.kind), {d for d in shape or () if isinstance(d, str)} - _NO_NAME)
    return found


def _ranks_of_outputs(model: Model, known: dict[Tensor, TensorSpec]) -> None:
    """Where inference has nothing, the type and the rank that the model states for an output; its dimensions may be stale."""
    for tensor, stated in zip(model.graph.outputs, model.outputs, strict=True):
        if isinstance(tensor, Constant):
            continue
        spec = known.get(tensor, TensorSpec(tensor.name, None, None, stated.kind))
        if spec.kind == "tensor" and (spec.dtype is None or spec.shape is None) and stated.kind == "tensor":
            shape = spec.shape if spec.shape is not None or stated.shape is None else (None,) * len(stated.shape)
            known[tensor] = TensorSpec(tensor.name, spec.dtype or stated.dtype, shape)


def _constant_spec(tensor: Constant) -> TensorSpec:
    data = constant_data(tensor)
    assert data is not None
    return TensorSpec(tensor.name, data.dtype_name if isinstance(data, TensorData) else array_dtype_name(data), tuple(data.shape))
