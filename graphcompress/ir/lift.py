"""Lifting a model to a newer opset of ai.onnx.

onnx.version_converter (1.23) is not used: it drops the metadata of nodes, writes invented dimensions (`unk__0`) into the model's outputs, names its new
constants `_v_N` in every scope, and works on one message of at most 2 GiB (subgraphs it does convert).
Here each operator goes through every version that changed it: an adapter of this file rewrites it, or `schemas.compatible.COMPATIBLE` says that nothing changed
for it, or the lift ends with an error that names the operator. The meaning of each change is that of the operators' change log in onnx
(docs/Changelog.md); where onnx leaves it open, onnxruntime's kernels decide (Resize 10 to 11).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphcompress.errors import ModelError
from graphcompress.ir.model import walk
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import DEFAULT_DOMAINS, Constant, Graph, Node, Tensor, Variable
from graphcompress.ir.schemas.compatible import COMPATIBLE
from graphcompress.ir.schemas.operators import boundaries, newest_opset
from graphcompress.ir.shapes.infer import Shapes, infer

OLDEST = 7


def lift(model: Model, version: int) -> Model:
    """A copy of `model` in which ai.onnx is at `version`, subgraphs included; `model` itself where it is there already, or beyond.

    The copy computes the same, bit by bit unless onnxruntime has another kernel for the newer version (AveragePool from 19 on: last bits). Node names, doc strings and metadata stay; the IR version is
    raised where the opset asks for it. Raises ModelError where an operator cannot be carried over, naming it.
    """
    old = model.opset
    if old >= version:
        return model
    newest = newest_opset()
    if version > newest:
        raise ModelError(f"{_name(model)} cannot be lifted to opset {version}: the newest that the installed onnx knows is {newest}. Install a newer onnx.")
    if old < OLDEST and any(n.standard for n in walk.nodes(model)):
        raise ModelError(f"{_name(model)} is of opset {old}; lifting starts at opset {OLDEST}. Export it again with a newer opset.")
    if model.header.training_info:
        raise ModelError(f"{_name(model)} holds training information, whose graphs cannot be lifted to opset {version}. Export it for inference.")
    lifted = model.copy()
    _Lift(lifted, old, version).run()
    for entry in [e for e in lifted.header.opset_import if e.domain in DEFAULT_DOMAINS]:
        entry.version = version
    if "" not in lifted.opsets:
        lifted.import_opset("", version)
    needed = helper.find_min_ir_version_for([helper.make_opsetid("", version)])
    lifted.header.ir_version = max(lifted.ir_version, needed)
    return lifted


class _Lift:
    """One lift: what the adapters need to know, and what they build with."""

    def __init__(self, model: Model, old: int, new: int) -> None:
        self.model, self.old, self.new = model, old, new
        self.shapes: Shapes = infer(model)  # before any edit: it answers for the tensors that were there
        self.outputs = walk.output_ids(model)
        self.upsampled: set[int] = set()
        self._ints: dict[tuple[str, tuple[int, ...]], Constant] = {}

    def run(self) -> None:
        for graph in list(walk.graphs(self.model)):
            for node in list(graph.nodes):
                if node.standard:
                    self._node(graph, node)
        for function in self.model.header.functions:
            self._function(function)

    def _node(self, graph: Graph, node: Node) -> None:
        at = self.old
        while (version := next(iter(boundaries(node.op, at, self.new)), None)) is not None:
            adapter = _ADAPTERS.get((node.op, version))
            if adapter is not None:
                adapter(self, graph, node)
            elif version not in COMPATIBLE.get(node.op, ()):
                raise self.error(node, f"changed in opset {version} in a way that has no adapter")
            at = version

    def _function(self, function: onnx.FunctionProto) -> None:
        """The body of a model-local function is no graph of ours: only its version is raised, where nothing in it changes meaning."""
        imports = [e for e in function.opset_import if e.domain in DEFAULT_DOMAINS]
        pending = list(function.node)
        while pending:
            node = pending.pop()
            for attribute in node.attribute:
                pending.extend(n for g in (attribute.g, *attribute.graphs) for n in g.node)
            if node.domain in DEFAULT_DOMAINS:
                for version in boundaries(node.op_type, min((e.version for e in imports), default=self.old), self.new):
                    if version not in COMPATIBLE.get(node.op_type, ()):
                        raise ModelError(
                            f"{_name(self.model)}: {node.op_type} in function '{function.name}' changed in opset {version}; functions are lifted only where nothing changes."
                        )
        for entry in imports:
            entry.version = max(entry.version, self.new)

    # --- for the adapters -------------------------------------------------------------------------------------------------------

    def error(self, node: Node, why: str) -> ModelError:
        return ModelError(f"{_name(self.model)} cannot be lifted from opset {self.old} to {self.new}: node '{_label(node)}' ({node.op}) {why}.")

    def dtype(self, node: Node, tensor: Tensor) -> str:
        dtype = self.shapes.dtype(tensor)
        if dtype is None:
            raise self.error(node, f"needs the element type of '{tensor.name}', which is not known")
        return dtype

    def ints(self, hint: str, values: list[int]) -> Constant:
        """A 1-D int64 constant; equal ones of one purpose are shared."""
        key = (hint, tuple(int(v) for v in values))
        if key not in self._ints:
            self._ints[key] = self.model.constant(hint, np.array(values, np.int64))
        return self._ints[key]

    def make(self, graph: Graph, near: Node, op: str, inputs: list[Tensor], attrs: dict[str, Any] | None = None, outputs: list[Tensor] | None = None) -> Tensor:
        """A node beside `near`; its first output."""
        made = self.model.add(
            op, inputs, outputs, attrs, name=f"{_label(near)}_{op}", graph=graph, near=near, origin=(f"lift/{near.op}-{self.new}", _label(near))
        )
        made_output: Tensor = made.outputs[0]
        return made_output

    def set_input(self, node: Node, index: int, tensor: Tensor) -> None:
        with Edits(self.model) as edits:
            edits.set_input(node, index, tensor)

    def in_use(self, tensor: Tensor) -> bool:
        return bool(tensor.name) and (bool(tensor.outputs) or id(tensor) in self.outputs)


Adapter = Callable[[_Lift, Graph, Node], None]
_ADAPTERS: dict[tuple[str, int], Adapter] = {}


def _adapter(version: int, *ops: str) -> Callable[[Adapter], Adapter]:
    def register(function: Adapter) -> Adapter:
        _ADAPTERS.update(((op, version), function) for op in ops)
        return function

    return register


def _name(model: Model) -> str:
    return str(model.path) if model.path else "The model"


def _label(node: Node) -> str:
    return str(node.name or next((t.name for t in node.outputs if t.name), node.op))


def _take_ints(node: Node, name: str) -> list[int] | None:
    """Remove a list attribute and return it; an empty one is kept as a message by the reader."""
    value = node.attrs.pop(name, None)
    if isinstance(value, onnx.AttributeProto):
        return list(value.ints)
    return None if value is None else [int(v) for v in value]


# --- attributes that became inputs ----------------------------------------------------------------------------------------------


def _axes_to_input(lift: _Lift, graph: Graph, node: Node) -> None:
    axes = _take_ints(node, "axes")
    if axes:
        lift.set_input(node, 1, lift.ints("axes", axes))


_adapter(13, "Squeeze", "Unsqueeze", "ReduceSum")(_axes_to_input)
_adapter(18, *(f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")))(_axes_to_input)


@_adapter(13, "Split")
def _split_13(lift: _Lift, graph: Graph, node: Node) -> None:
    sizes = _take_ints(node, "split")
    if sizes:
        lift.set_input(node, 1, lift.ints("split", sizes))


@_adapter(18, "Split")
def _split_18(lift: _Lift, graph: Graph, node: Node) -> None:
    """Without sizes the number of outputs must be said."""
    if node.input(1) is None:
        node.attrs["num_outputs"] = len(node.outputs)


@_adapter(10, "Slice")
def _slice_10(lift: _Lift, graph: Graph, node: Node) -> None:
    starts, ends, axes = (_take_ints(node, name) for name in ("starts", "ends", "axes"))
    lift.set_input(node, 1, lift.ints("starts", starts or []))
    lift.set_input(node, 2, lift.ints("ends", ends or []))
    if axes:
        lift.set_input(node, 3, lift.ints("axes", axes))


@_adapter(10, "TopK")
def _topk_10(lift: _Lift, graph: Graph, node: Node) -> None:
    lift.set_input(node, 1, lift.ints("k", [node.attrs.pop("k")]))


@_adapter(11, "Pad")
def _pad_11(lift: _Lift, graph: Graph, node: Node) -> None:
    lift.set_input(node, 1, lift.ints("pads", _take_ints(node, "pads") or []))
    value = node.attrs.pop("value", 0.0)
    if value != 0 or np.signbit(value):
        lift.set_input(node, 2, lift.model.constant("value", np.array(value, numpy_dtype(lift.dtype(node, node.inputs[0])))))


@_adapter(11, "Clip")
def _clip_11(lift: _Lift, graph: Graph, node: Node) -> None:
    """A bound that says nothing (the attribute's default) stays away: the operator's own default is the same, in every type."""
    largest = float(np.finfo(np.float32).max)
    for index, name, default in ((1, "min", -largest), (2, "max", largest)):
        value = node.attrs.pop(name, default)
        if value != default:
            lift.set_input(node, index, lift.model.constant(name, np.array(value, numpy_dtype(lift.dtype(node, node.inputs[0])))))


@_adapter(20, "DFT")
def _dft_20(lift: _Lift, graph: Graph, node: Node) -> None:
    """The default changes from 1 to -2, so the axis is always said."""
    lift.set_input(node, 2, lift.model.constant("axis", np.array(node.attrs.pop("axis", 1), np.int64)))


# --- normalization and Dropout --------------------------------------------------------------------------------------------------


@_adapter(9, "BatchNormalization")
def _batch_norm_9(lift: _Lift, graph: Graph, node: Node) -> None:
    if node.attrs.pop("spatial", 1) != 1:
        raise lift.error(node, "has spatial=0, which opset 9 took away")


@_adapter(14, "BatchNormalization")
def _batch_norm_14(lift: _Lift, graph: Graph, node: Node) -> None:
    if any(lift.in_use(t) for t in node.outputs[1:]):
        raise lift.error(node, "is in training mode (it has more than one output)")
    with Edits(lift.model) as edits:
        edits.set_outputs(node, node.outputs[:1])


@_adapter(10, "Dropout")
def _dropout_10(lift: _Lift, graph: Graph, node: Node) -> None:
    if any(lift.in_use(t) for t in node.outputs[1:]):
        raise lift.error(node, "has a mask that is used; its type changed in opset 10")


@_adapter(12, "Dropout")
def _dropout_12(lift: _Lift, graph: Graph, node: Node) -> None:
    """Before opset 12 the operator is the identity outside of training, whatever the ratio: it is dropped. What runtimes put into its mask then is another thing than afterwards."""
    if any(lift.in_use(t) for t in node.outputs[1:]):
        raise lift.error(node, "has a mask that is used; what it holds changed in opset 12")
    node.attrs.pop("ratio", None)


# --- Softmax --------------------------------------------------------------------------------------------------------------------


@_adapter(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax_13(lift: _Lift, graph: Graph, node: Node) -> None:
    """Up to opset 12 the axes from `axis` on are one: over more than one of them it needs a detour through rank 2."""
    axis = int(node.attrs.get("axis", 1))
    x = node.inputs[0]
    shape = lift.shapes.shape(x)
    if shape is not None:
        first = axis + len(shape) if axis < 0 else axis
        wide = [i for i in range(first, len(shape)) if shape[i] != 1]
        if len(wide) <= 1:
            only = wide[0] if wide else len(shape) - 1
            node.attrs["axis"] = -1 if only == len(shape) - 1 else only
            return
    elif axis == -1:
        return
    flat = lift.make(graph, node, "Flatten", [x], {"axis": axis})
    size = lift.make(graph, node, "Shape", [x])
    result = node.outputs[0]
    with Edits(lift.model) as edits:
        edits.set_input(node, 0, flat)
        edits.set_output(node, 0, lift.model.variable(f"{result.name}_flat"))
    node.attrs["axis"] = -1
    lift.make(graph, node, "Reshape", [node.outputs[0], size], outputs=[result])


# --- Upsample, Resize, and their kin --------------------------------------------------------------------------------------------


@_adapter(9, "Upsample")
def _upsample_9(lift: _Lift, graph: Graph, node: Node) -> None:
    lift.set_input(node, 1, lift.model.constant("scales", np.array(node.attrs.pop("scales"), np.float32)))


@_adapter(10, "Upsample")
def _upsample_10(lift: _Lift, graph: Graph, node: Node) -> None:
    node.op = "Resize"
    lift.upsampled.add(id(node))


@_adapter(11, "Resize")
def _resize_11(lift: _Lift, graph: Graph, node: Node) -> None:
    """Opset 10 divides coordinates by the scale ("asymmetric"); onnxruntime's nearest neighbour then rounds down where it enlarges and up where it shrinks."""
    if node.attrs.get("mode", "nearest") == "nearest":
        node.attrs["nearest_mode"] = _nearest_mode(lift, node)
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    scales = node.inputs[1]
    lift.set_input(node, 1, lift.model.constant("roi", np.zeros(0, np.float32)))
    lift.set_input(node, 2, scales)


def _nearest_mode(lift: _Lift, node: Node) -> str:
    scales = walk.constant_value(node.inputs[1])
    if id(node) in lift.upsampled or (scales is not None and (scales >= 1).all()):
        return "floor"
    if scales is not None and (scales <= 1).all():
        return "ceil"
    raise lift.error(node, "is a nearest-neighbour Resize whose scales are not known, or enlarge one axis and shrink another")


@_adapter(13, "Resize")
def _resize_13(lift: _Lift, graph: Graph, node: Node) -> None:
    """Scales and sizes exclude one another now, and the one that is not meant is absent instead of empty."""
    if node.attrs.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise lift.error(node, "has coordinate_transformation_mode tf_half_pixel_for_nn, which opset 13 took away")
    scales = node.input(2)
    if node.input(3) is not None and scales is not None and lift.shapes.shape(scales) == (0,):
        lift.set_input(node, 2, Variable(""))


@_adapter(11, "Scatter")
def _scatter_11(lift: _Lift, graph: Graph, node: Node) -> None:
    node.op = "ScatterElements"


@_adapter(16, "RoiAlign")
def _roi_align_16(lift: _Lift, graph: Graph, node: Node) -> None:
    node.attrs["coordinate_transformation_mode"] = "output_half_pixel"


@_adapter(20, "GridSample")
def _grid_sample_20(lift: _Lift, graph: Graph, node: Node) -> None:
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    if node.attrs.get("mode") in renamed:
        node.attrs["mode"] = renamed[node.attrs["mode"]]


# --- element types that went away -----------------------------------------------------------------------------------------------


def _floats_only(lift: _Lift, graph: Graph, node: Node) -> None:
    kind = lift.dtype(node, node.inputs[0])
    if "int" in kind:
        raise lift.error(node, f"computes in {kind}, which a later opset took away")


_adapter(13, "Erf")(_floats_only)
_adapter(28, "ReduceLogSum", "ReduceLogSumExp")(_floats_only)
