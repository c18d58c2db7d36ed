"""Constants that are expanded to a shape of the run: operators that broadcast read them as they are, and what is calculated from them alone is calculated before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphcompress.ir import Constant, Graph, Model, Node, Tensor, constant_data, constant_value, graphs, label, output_ids, producer
from graphcompress.ir.inline import calls, defined_names, function_bodies
from graphcompress.ir.model.dimensions import Size
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.element_types import PLAIN
from graphcompress.ir.model.tensors import TensorData
from graphcompress.ir.shapes.elementwise import broadcasted
from graphcompress.ir.shapes.facts import Contradiction
from graphcompress.ir.shapes.infer import Shapes

STAGE = "simplify/broadcast"
_BROADCASTING = "Add Sub Mul Div Pow Mod And Or Xor BitwiseAnd BitwiseOr BitwiseXor Equal Greater GreaterOrEqual Less LessOrEqual Min Max Sum Mean Where"
BROADCASTING = frozenset(_BROADCASTING.split())
ELEMENTWISE = BROADCASTING | frozenset(
    ["Abs", "Cast", "Ceil", "Erf", "Exp", "Floor", "IsNaN", "Log", "Neg", "Not", "Reciprocal", "Relu", "Sigmoid", "Sign", "Sqrt", "Tanh"]
)
NOT_OF_INTEGERS = frozenset(("Div", "Mod"))
"""A division by zero that no element needs must not be calculated."""
FLOATS = frozenset(("float", "double", "float16", "bfloat16"))
OLDEST_OPSET = 8
"""Before, Min, Max, Sum and Mean wanted equal shapes."""
LARGEST = 1 << 16
"""Elements of a constant that is calculated with before it is expanded."""


def skip_expands(model: Model, shapes: Callable[[], Shapes]) -> int:
    """Let elementwise operators read what an Expand expands, or the number that a ConstantOfShape repeats, where their results have the same shape in every run
    without it; and expand behind them where all else that they read are constants. How many inputs and nodes were changed."""
    if model.opset < OLDEST_OPSET or not any(n.is_op("Expand", "ConstantOfShape") for g in graphs(model) for n in g.nodes):
        return 0
    search = _Expanded(model, shapes())
    for graph in graphs(model):
        with Edits(model) as edits:
            for node in list(graph.nodes):
                if node.standard and node.op in ELEMENTWISE and not calls(node, search.functions):
                    search.look(node, graph, edits)
    return search.count


class _Expanded:
    def __init__(self, model: Model, shapes: Shapes) -> None:
        self.model, self.shapes = model, shapes
        self.functions = set(function_bodies(model))
        self.outputs, self.names = output_ids(model), defined_names(model)
        self.count = 0

    def look(self, node: Node, graph: Graph, edits: Edits) -> None:
        """Change what `node` reads, or expand behind it."""
        for index, tensor in enumerate(node.inputs):
            maker = self.maker(tensor)
            if node.op == "Where" and maker is not None and (maker.op == "ConstantOfShape" or constant_data(maker.inputs[0]) is not None):
                continue  # with a condition of one element, onnxruntime makes a +0 of a -0 that it selects
            if maker is not None and node.op in BROADCASTING and self.fits(node, {tensor: self.source_shape(maker)}, only=index):
                edits.set_input(node, index, self.source(maker))
                self.count += 1
        self.sink(node, graph, edits)

    def maker(self, tensor: Tensor) -> Node | None:
        """The node that expands something to `tensor`."""
        maker = producer(tensor)
        expands = maker is not None and maker.is_op("Expand", "ConstantOfShape") and len(maker.inputs) == (2 if maker.op == "Expand" else 1)
        return maker if maker is not None and expands and not calls(maker, self.functions) else None

    def source_shape(self, maker: Node) -> tuple[Size, ...] | None:
        """The shape of what `maker` expands."""
        if maker.op == "ConstantOfShape":
            return ()
        fact = self.shapes.fact(maker.inputs[0])
        return None if fact is None or fact.kind != "tensor" else fact.shape

    def source(self, maker: Node) -> Tensor:
        """What `maker` expands: a tensor, or the one number of a ConstantOfShape as a constant."""
        if maker.op == "Expand":
            tensor: Tensor = maker.inputs[0]
            return tensor
        value = maker.attrs.get("value")
        values = np.zeros((), np.float32) if value is None else np.asarray(value.load() if isinstance(value, TensorData) else value).reshape(())
        return self.model.constant(f"{maker.outputs[0].name}.value", values)

    def fits(self, node: Node, instead: dict[Tensor, tuple[Size, ...] | None], only: int | None = None) -> bool:
        """Whether `node` makes the same shape where operands (all that are the tensor, or the one at `only`) have the shapes of `instead`."""
        result = self.shapes.fact(node.outputs[0])
        dims = self.result(node, instead, only)
        return result is not None and dims is not None and dims == result.shape

    def result(self, node: Node, instead: dict[Tensor, tuple[Size, ...] | None], only: int | None = None) -> tuple[Size, ...] | None:
        """The shape of what `node` makes then; None where it is not known."""
        operands: list[tuple[Size, ...] | None] = []
        for place, tensor in enumerate(node.inputs):
            if tensor in instead and only in (None, place):
                operands.append(instead[tensor])
                continue
            fact = self.shapes.fact(tensor)
            operands.append(None if fact is None or fact.kind != "tensor" else fact.shape)
        if any(o is None for o in operands):
            return None
        try:
            dims = broadcasted(operands)
        except Contradiction:
            return None
        return None if dims is None or any(d is None for d in dims) else tuple(d for d in dims if d is not None)

    # --- expanding later --------------------------------------------------------------------------------------------------------

    def sink(self, node: Node, graph: Graph, edits: Edits) -> None:
        """f(Expand(c)) becomes Expand(f(c)), where c and all other operands are constants."""
        expanded = {t for t in node.inputs if t.name and constant_data(t) is None}
        if len(expanded) != 1 or len(node.outputs) != 1 or self.names[node.outputs[0].name] > 1 or any(not t.name for t in node.inputs):
            return
        (tensor,) = expanded
        maker = self.maker(tensor)
        if maker is None or (node.op in NOT_OF_INTEGERS and self.shapes.dtype(tensor) not in FLOATS):
            return
        if maker.op == "Expand" and not self.small(maker.inputs[0]):
            return
        constants = [t for t in node.inputs if t is not tensor]
        if any(not self.small(t) for t in constants) or not self.shapes.same_shape(tensor, node.outputs[0]):
            return
        if not {self.shapes.dtype(tensor), self.shapes.dtype(node.outputs[0])} <= PLAIN:  # what an Expand may move is not known to all runtimes for the others
            return
        before = self.result(node, {tensor: self.source_shape(maker)})
        if before is None or not self.expands_to(before, tensor):
            return
        source, output = self.source(maker), node.outputs[0]
        made = self.model.variable(f"{output.name}.expanded")
        inner = detached(node.op, self.fresh(node), dict(node.attrs), [source if t is tensor else t for t in node.inputs], [made], node.domain or "")
        target = maker.inputs[-1]
        outer = detached("Expand", self.fresh(maker), {}, [made, target], [output])
        for new in (inner, outer):
            new.rank, new.origin = node.rank, (STAGE, label(node), label(maker))
        edits.remove([node])
        edits.add(inner, graph)
        edits.add(outer, graph)
        self.shapes.enter(inner)
        self.count += 1

    def fresh(self, node: Node) -> str:
        return self.model.fresh(node.name) if node.name else ""

    def small(self, tensor: Tensor) -> bool:
        """Whether `tensor` is a constant that may be calculated with."""
        data = constant_data(tensor)
        return data is not None and data.size <= LARGEST and (isinstance(tensor, Constant) or constant_value(tensor) is not None)

    def expands_to(self, shape: tuple[Size, ...], tensor: Tensor) -> bool:
        """Whether an Expand of `shape` to the shape of `tensor` makes just that one."""
        fact = self.shapes.fact(tensor)
        return (
            fact is not None
            and fact.shape is not None
            and len(shape) <= len(fact.shape)
            and all(a in (1, b) for a, b in zip(reversed(shape), reversed(fact.shape), strict=False))
        )
