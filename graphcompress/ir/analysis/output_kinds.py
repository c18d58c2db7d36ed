"""What sort of answer each output of a model is, which decides how two models are compared on it (design, section 8, "Agreement").

- "class": a float tensor made by Softmax or LogSoftmax on its last axis, or of rank 2 and made by Gemm or MatMul (and an Add of a constant) with two or
  more columns. Compared by the top-1 decision.
- "exact": an integer, bool or string tensor. Compared element by element.
- "value": everything else, sigmoids included. Compared within a tolerance.

Identity, Cast between float types and QuantizeLinear / DequantizeLinear are looked through, and If is what all its branches are. Outputs that are no tensors
are "value": a ZipMap's sequence of maps holds probabilities, and `runtime.compare` takes it as the table that it was (sequences element by element).
"""

from __future__ import annotations

from typing import Literal

from graphcompress.ir.model import walk
from graphcompress.ir.model.element_types import dtype_name
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Constant, Node, Tensor, TensorSpec
from graphcompress.ir.shapes.infer import Shapes, infer

Kind = Literal["class", "exact", "value"]

_EXACT = frozenset(
    ["bool", "string", "int2", "int4", "int8", "int16", "int32", "int64", "uint2", "uint4", "uint8", "uint16", "uint32", "uint64"],
)
_FLOATS = frozenset(["float", "double", "float16", "bfloat16"])
_FIRST_SINGLE_AXIS_SOFTMAX = 13


def output_kinds(model: Model, shapes: Shapes | None = None) -> dict[str, Kind]:
    """Output name -> how it is compared. `shapes` are those of the model where they were inferred already."""
    finder = _Finder(model, infer(model) if shapes is None else shapes)
    return {spec.name: finder.kind(tensor, spec) for tensor, spec in zip(model.graph.outputs, model.outputs, strict=True)}


class _Finder:
    def __init__(self, model: Model, shapes: Shapes) -> None:
        self.opset = model.opset
        self.shapes = shapes

    def kind(self, tensor: Tensor, stated: TensorSpec) -> Kind:
        if stated.kind != "tensor":
            return "value"
        dtype = self.shapes.dtype(tensor) or stated.dtype
        if dtype in _EXACT:
            return "exact"
        if dtype not in _FLOATS:
            return "value"
        return "class" if self.decides(tensor, stated) else "value"

    def decides(self, tensor: Tensor, stated: TensorSpec | None) -> bool:
        """Whether the largest entry along the last axis is the answer. `stated` is what the model says of the output, for what inference does not know."""
        rank, columns = self.size(tensor, stated)
        while True:
            node = walk.producer(tensor)
            if node is None:
                return False
            if self.is_softmax(node):
                return self.softmax_on_last_axis(node, rank) and columns != 1
            if node.is_op("If"):
                place = next(i for i, t in enumerate(node.outputs) if t is tensor)
                return all(self.decides(branch.outputs[place], None) for branch in walk.subgraphs(node))
            if not self.transparent(node):
                return rank == 2 and columns is not None and columns > 1 and self.is_product(node)
            tensor = node.inputs[0]
            more = self.size(tensor, None)
            rank, columns = rank if rank is not None else more[0], columns if columns is not None else more[1]

    def size(self, tensor: Tensor, stated: TensorSpec | None) -> tuple[int | None, int | None]:
        """Rank, and length of the last axis."""
        shape = self.shapes.shape(tensor)
        said = stated.shape if stated is not None else None
        rank = len(shape) if shape is not None else len(said) if said is not None else None
        lengths = [s[-1] for s in (shape, said) if s]
        return rank, next((n for n in lengths if isinstance(n, int)), None)

    def transparent(self, node: Node) -> bool:
        if node.is_op("Identity", "DequantizeLinear", "QuantizeLinear"):
            return True
        return node.is_op("Cast") and self.shapes.dtype(node.inputs[0]) in _FLOATS and dtype_name(int(node.attrs.get("to", 0))) in _FLOATS

    @staticmethod
    def is_softmax(node: Node) -> bool:
        return node.is_op("Softmax", "LogSoftmax")

    def softmax_on_last_axis(self, node: Node, rank: int | None) -> bool:
        """Up to opset 12 the operator works on all axes from `axis` (default 1) on, as one."""
        single = self.opset >= _FIRST_SINGLE_AXIS_SOFTMAX
        axis = int(node.attrs.get("axis", -1 if single else 1))
        if axis == -1:
            return True
        if rank is None:
            return False
        axis += rank if axis < 0 else 0
        if axis == rank - 1:
            return True
        shape = self.shapes.shape(node.inputs[0])
        return not single and shape is not None and all(d == 1 for d in shape[axis:-1])

    def is_product(self, node: Node) -> bool:
        """Gemm or MatMul, or the Add of a constant to one."""
        if node.is_op("Gemm", "MatMul"):
            return True
        if not node.is_op("Add"):
            return False
        first, second = node.inputs
        return (self.fixed(first) and self.from_product(second)) or (self.fixed(second) and self.from_product(first))

    def source(self, tensor: Tensor) -> Tensor:
        while (node := walk.producer(tensor)) is not None and self.transparent(node):
            tensor = node.inputs[0]
        return tensor

    def from_product(self, tensor: Tensor) -> bool:
        node = walk.producer(self.source(tensor))
        return node is not None and node.is_op("Gemm", "MatMul")

    def fixed(self, tensor: Tensor) -> bool:
        found = self.source(tensor)
        node = walk.producer(found)
        return isinstance(found, Constant) or (node is not None and node.is_op("Constant"))
