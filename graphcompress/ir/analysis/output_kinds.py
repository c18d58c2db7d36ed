"""What sort of answer each output of a model is, which decides how two models are compared on it (`runtime.compare`).

- "classes": probabilities or logits of classes along an axis: any spelling of Softmax (`spellings`), classifiers of ai.onnx.ml, and what Gemm, MatMul or Conv
  leave as a table (rank 2, two or more columns). Of such a table the graph does not say whether it holds logits or values (`unsure`): the numbers do.
- "sequence": classes along the last axis of rank 3: a class for each frame, token or anchor. Raw logits, too, where a MatMul with a constant changes the width
  to 16 or more (`unsure`).
- "probabilities": sigmoids, one decision each; products of probabilities, and what pooling makes of some.
- "embedding": vectors that are divided by their Euclidean norm; their users compare directions.
- "boxes": rows whose number and order depend on the data: what comes out of NonMaxSuppression, or is picked by a TopK (rank 3). Compared as a set.
  With `axis` 1 each row of a table holds the scores (or classes) of one input's detections, with `axis` 0 the numbers are how many there are.
- "exact": integers, booleans, texts.
- "values": everything else. `scores`: probabilities are joined with other parts in it (a detector's boxes and scores).

Identity, Cast between floats, QuantizeLinear / DequantizeLinear, Clip, Log and changes of shape are looked through, and If is what all its branches are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from graphcompress.errors import UsageError, suggestion
from graphcompress.ir.analysis.spellings import is_logistic, is_normalization, softmax_axis
from graphcompress.ir.model import walk
from graphcompress.ir.model.element_types import dtype_name
from graphcompress.ir.model.model import Model
from graphcompress.ir.model.objects import Node, Tensor, TensorSpec
from graphcompress.ir.shapes.infer import Shapes, infer

KindName = Literal["classes", "sequence", "probabilities", "boxes", "values", "embedding", "exact"]
KIND_NAMES: tuple[str, ...] = get_args(KindName)

_EXACT = frozenset(
    ["bool", "string", "int2", "int4", "int8", "int16", "int32", "int64", "uint2", "uint4", "uint8", "uint16", "uint32", "uint64"],
)
_FLOATS = frozenset(["float", "double", "float16", "bfloat16"])
_SAME = ("Identity", "DequantizeLinear", "QuantizeLinear")
_SHAPE = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Expand", "Split")
_PICKS = ("Gather", "GatherElements", "GatherND")
_POOLS = ("ReduceMean", "ReduceMax", "ReduceMin", "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
_CLASSIFIERS = ("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")
_COUNTS = ("ReduceSum", "Shape", "Size")
FEWEST_LOGITS = 16
"""From this many columns on, frames of raw numbers may be logits: fewer are coordinates as often as classes."""
WIDEST_ROW = 7
"""Numbers of one detection, at most: input, four of the place, score and class. A row that is longer holds one number of each of several detections."""


@dataclass(frozen=True, slots=True)
class OutputKind:
    """How an output is compared. `axis`: of the classes, or of the vectors. See the module for `unsure` and `scores`."""

    name: KindName
    axis: int = -1
    unsure: bool = False
    scores: bool = False


VALUES = OutputKind("values")


def output_kinds(model: Model, shapes: Shapes | None = None, stated: Mapping[str, str] | None = None) -> dict[str, OutputKind]:
    """Output name -> how it is compared. `shapes` are those of the model where they were inferred already; `stated` are kinds by output that go before what
    the graph says.

    Raises UsageError for an output or a kind that does not exist.
    """
    finder = _Finder(model, infer(model) if shapes is None else shapes)
    kinds = {spec.name: finder.kind(tensor, spec) for tensor, spec in zip(model.graph.outputs, model.outputs, strict=True)}
    for name, kind in (stated or {}).items():
        if name not in kinds:
            raise UsageError(f"The model has no output '{name}' whose kind could be stated. {suggestion(name, kinds)}")
        kinds[name] = stated_kind(kind, kinds[name])
    return kinds


def stated_kind(name: str, known: OutputKind = VALUES) -> OutputKind:
    """A kind by its name; the axis and the parts are those that the graph tells. Raises UsageError for a name that is none."""
    for known_name in get_args(KindName):
        if name == known_name:
            return replace(known, name=known_name, unsure=False, axis=-1 if name == "boxes" and known.name != "boxes" else known.axis)
    raise UsageError(f"'{name}' is no kind of output. {suggestion(name, KIND_NAMES)}")


class _Finder:
    def __init__(self, model: Model, shapes: Shapes) -> None:
        self.opset = model.opset
        self.shapes = shapes
        self.inputs, self.specs = model.graph.inputs, model.inputs
        self.selected = _downstream(node for node in walk.nodes(model) if node.op == "NonMaxSuppression")

    def kind(self, tensor: Tensor, stated: TensorSpec) -> OutputKind:
        if stated.kind != "tensor":
            maps = walk.producer(tensor)
            return OutputKind("classes") if maps is not None and maps.op == "ZipMap" else VALUES
        if tensor in self.selected:
            return OutputKind("boxes", 0 if self.is_count(tensor) else 1 if self.is_column(tensor, stated) else -1)
        dtype = self.shapes.dtype(tensor) or stated.dtype
        if dtype in _EXACT:
            return OutputKind("exact")
        return self.floats(tensor, stated) if dtype in _FLOATS else VALUES

    def is_count(self, tensor: Tensor) -> bool:
        """Whether it comes from sums and sizes."""
        makers = self.makers(tensor, (*_SAME, *_SHAPE, *_PICKS, "Cast", "Min", "Add", "Sub"))
        known = [node for node in makers if not node.is_op("Constant")]
        return bool(known) and all(node.is_op(*_COUNTS) for node in known)

    def is_column(self, tensor: Tensor, stated: TensorSpec) -> bool:
        """Whether a table of detections has a row for each input, and in it one number for each detection: more than a row of places, score and class is
        long."""
        width = (self.shape(tensor, stated) or ())[1:]
        if len(width) != 1 or (width[0] is not None and width[0] <= WIDEST_ROW):
            return False
        inputs = [shape for t, spec in zip(self.inputs, self.specs, strict=True) for shape in (self.shapes.shape(t), spec.shape)]
        batches, rows = ({str(s[0]) for s in shapes if s and s[0] is not None} for shapes in (inputs, (self.shapes.shape(tensor), stated.shape)))
        return bool(batches & rows)

    def floats(self, tensor: Tensor, stated: TensorSpec | None) -> OutputKind:
        """The kind of a float tensor. `stated` is what the model says of the output, for what inference does not know."""
        shape = self.shape(tensor, stated)
        source, moved = self.source(tensor)
        node = walk.producer(source)
        if node is None:
            return VALUES
        if node.is_op("If"):
            place = next(i for i, t in enumerate(node.outputs) if t is source)
            kinds = {self.floats(branch.outputs[place], None) for branch in walk.subgraphs(node)}
            return kinds.pop() if len(kinds) == 1 else VALUES
        axis = softmax_axis(node, self.opset)
        if axis is not None:
            return self.classes(source, axis, shape, moved)
        if node.op in _CLASSIFIERS or (node.op == "Normalizer" and not is_normalization(node)):
            return OutputKind("classes")
        if self.is_probability(node):
            return OutputKind("probabilities")
        if is_normalization(node):
            return OutputKind("embedding", int(node.attrs.get("axis", -1)))
        if shape is not None and len(shape) == 3 and self.is_picked(tensor):
            return OutputKind("boxes")
        return self.logits(node, shape) or replace(VALUES, scores=self.has_scores(tensor))

    def classes(self, source: Tensor, axis: int, shape: tuple[int | None, ...] | None, moved: bool) -> OutputKind:
        """What a Softmax along `axis` of `source` is in the output's shape. Up to opset 12 the operator works on all axes from `axis` on, as one."""
        inner = self.shape(source, None)
        rank = len(shape) if shape is not None else None
        if not inner or shape is None or rank is None:
            return self.decisions(shape, -1) if axis == -1 or rank in (None, 2) else VALUES
        node = walk.producer(source)
        place = axis % len(inner)
        if self.opset < 13 and node is not None and node.is_op("Softmax", "LogSoftmax") and place < len(inner) - 1:
            if any(d != 1 for d in inner[place:-1]):
                return VALUES
            place = len(inner) - 1
        if not moved:
            return self.decisions(shape, place)
        places = [i for i, d in enumerate(shape) if d is not None and d == inner[place]]
        return self.decisions(shape, places[0]) if len(places) == 1 else self.decisions(shape, len(shape) - 1)

    @staticmethod
    def decisions(shape: tuple[int | None, ...] | None, axis: int) -> OutputKind:
        """Classes along `axis` of an output; one class is none, and one number has no axis."""
        if shape is None:
            return OutputKind("classes", axis)
        if not shape:
            return VALUES
        if shape[axis] == 1:
            return OutputKind("probabilities")
        last = axis in (-1, len(shape) - 1)
        return OutputKind("sequence") if len(shape) == 3 and last else OutputKind("classes", -1 if last else axis)

    def logits(self, node: Node, shape: tuple[int | None, ...] | None) -> OutputKind | None:
        """A table, or frames, of what a heavy operator leaves; None where the width says nothing."""
        weight = self.weight(node)
        if weight is None or not shape or shape[-1] is None:
            return None
        if len(shape) == 2 and shape[-1] > 1:
            return OutputKind("classes", unsure=True)
        width = self.shape(weight, None)
        if len(shape) == 3 and shape[-1] >= FEWEST_LOGITS and width is not None and len(width) == 2 and width[0] != width[1]:
            return OutputKind("sequence", unsure=True)
        return None

    def weight(self, node: Node) -> Tensor | None:
        """The weight of the Gemm, MatMul or Conv that a tensor comes out of, a constant being added or multiplied or not."""
        while node.is_op("Add", "Sub", "Mul", "BatchNormalization"):
            rest = [t for t in node.inputs[: 1 if node.is_op("BatchNormalization") else 2] if walk.constant_data(self.source(t)[0]) is None]
            below = walk.producer(self.source(rest[0])[0]) if len(rest) == 1 else None
            if below is None:
                return None
            node = below
        return node.inputs[1] if node.is_op("Gemm", "MatMul", "Conv") else None

    def source(self, tensor: Tensor) -> tuple[Tensor, bool]:
        """Where the numbers of a tensor come from, and whether their axes may be others there."""
        moved = False
        while (node := walk.producer(tensor)) is not None:
            if node.is_op(*_SHAPE):
                moved = True
            elif not (node.is_op(*_SAME) or node.is_op("Clip") or self.is_float_cast(node)):
                break
            tensor = node.inputs[0]
        return tensor, moved

    def is_float_cast(self, node: Node) -> bool:
        return node.is_op("Cast") and self.shapes.dtype(node.inputs[0]) in _FLOATS and dtype_name(int(node.attrs.get("to", 0))) in _FLOATS

    def is_probability(self, node: Node) -> bool:
        """A sigmoid, the product of two probabilities, or what pooling makes of some."""
        if is_logistic(node):
            return True
        if node.is_op(*_POOLS):
            return self.floats(node.inputs[0], None).name == "probabilities"
        if not node.is_op("Mul"):
            return False
        makers = [walk.producer(self.source(t)[0]) for t in node.inputs]
        return all(m is not None and (is_logistic(m) or softmax_axis(m, self.opset) is not None) for m in makers)

    def is_picked(self, tensor: Tensor) -> bool:
        """Whether a TopK chose the rows: nothing heavy stands between it and the output."""
        return any(node.is_op("TopK") for node in self.makers(tensor, (*_SAME, *_SHAPE, *_PICKS, "Cast", "Concat", "Add", "Sub", "Mul", "Div", "Mod")))

    def has_scores(self, tensor: Tensor) -> bool:
        """Whether probabilities are joined into a tensor."""
        return any(self.is_probability(n) or softmax_axis(n, self.opset) is not None for n in self.makers(tensor, (*_SAME, *_SHAPE, "Cast", "Concat")))

    def makers(self, tensor: Tensor, through: tuple[str, ...]) -> list[Node]:
        """The nodes that a tensor comes from by operators of `through` only, without those."""
        found: list[Node] = []
        visited: set[Tensor] = set()
        stack = [tensor]
        while stack:
            if (tensor := stack.pop()) in visited:
                continue
            visited.add(tensor)
            node = walk.producer(tensor)
            if node is not None and node.is_op(*through):
                stack.extend(t for t in node.inputs if t.name)
            elif node is not None:
                found.append(node)
        return found

    def shape(self, tensor: Tensor, stated: TensorSpec | None) -> tuple[int | None, ...] | None:
        """Sizes, None where they are free."""
        shapes = [s for s in (self.shapes.shape(tensor), stated.shape if stated is not None else None) if s is not None]
        if not shapes:
            return None
        sizes: list[int | None] = [d if isinstance(d, int) else None for d in shapes[0]]
        for other in shapes[1:]:
            if len(other) == len(sizes):
                sizes = [a if a is not None else b if isinstance(b, int) else None for a, b in zip(sizes, other, strict=True)]
        return tuple(sizes)


def _downstream(roots: Iterable[Node]) -> set[Tensor]:
    """Every tensor that depends on one of the nodes `roots`."""
    reached: set[Tensor] = set()
    stack = list(roots)
    while stack:
        for tensor in stack.pop().outputs:
            if tensor not in reached:
                reached.add(tensor)
                stack.extend(walk.consumers(tensor))
    return reached
