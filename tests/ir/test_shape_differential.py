"""Random graphs: what is claimed of types, shapes and values is what onnxruntime makes, at several sizes of the free dimensions (0 and 1 among them)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from graphcompress.ir.files.read import model_from_proto
from graphcompress.ir.model.dimensions import evaluated
from graphcompress.ir.model.element_types import array_dtype_name
from graphcompress.ir.shapes.infer import Shapes, infer

BINDINGS = ({"N": 2, "M": 3}, {"N": 1, "M": 4}, {"N": 5, "M": 0}, {"N": 0, "M": 1})
INPUTS = {"x": ("float", ["N", 4, 6]), "u": ("float", ["N", "M", 4]), "v": ("float", ["M"]), "i": ("int64", ["N", 2]), "s": ("float", [None, 3])}
UNNAMED = 7
NODES = 14
TRIES = 60
ENLARGING = ("ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile")

Arrays = dict[str, "list[np.ndarray[Any, Any]]"]


class Builder:
    """A graph that grows by nodes which onnxruntime runs at every binding."""

    def __init__(self, seed: int, opset: int) -> None:
        self.random = random.Random(seed)
        self.opset = opset
        self.arrays: Arrays = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        numbers = np.random.default_rng(seed)
        for name, (dtype, shape) in INPUTS.items():
            self.arrays[name] = [
                numbers.integers(-2, 3, [b.get(d, UNNAMED) if not isinstance(d, int) else d for d in shape]).astype("float32" if dtype == "float" else dtype)
                for b in BINDINGS
            ]

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(value, dtype)
        self.arrays[name] = [self.constants[name]] * len(BINDINGS)
        return name

    def tensor(self, kinds: str = "fib", rank: Callable[[int], bool] = lambda r: True) -> str:
        """A tensor of one of these kinds, a recent one rather than an old one."""
        names = [n for n, a in self.arrays.items() if a[0].dtype.kind in kinds and rank(a[0].ndim)]
        if not names:
            raise LookupError
        return names[max(self.random.randrange(len(names)), self.random.randrange(len(names)))]

    def axis(self, name: str, extra: int = 0) -> int:
        rank = self.arrays[name][0].ndim + extra
        if rank == 0:
            raise LookupError
        return self.random.randrange(-rank, rank)

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> bool:
        names = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        node = helper.make_node(op, inputs, names, **attributes)
        results = [_run(node, {n: self.arrays[n][k] for n in inputs if n}, self.opset) for k in range(len(BINDINGS))]
        if any(r is None or any(a.ndim > 6 or a.size > 5000 for a in r) for r in results):
            return False
        self.nodes.append(node)
        for position, name in enumerate(names):
            self.arrays[name] = [r[position] for r in results if r is not None]
        return True

    def model(self) -> onnx.ModelProto:
        infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(self.arrays[n][0].dtype), shape) for n, (_, shape) in INPUTS.items()]
        constants = [numpy_helper.from_array(v, n) for n, v in self.constants.items()]
        last = onnx.ValueInfoProto(name=self.nodes[-1].output[0])
        graph = helper.make_graph(self.nodes, "g", infos, [last], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def _run(node: onnx.NodeProto, feed: dict[str, Any], opset: int) -> list[np.ndarray[Any, Any]] | None:
    if node.op_type in ENLARGING and any(a.size and a.dtype.kind == "i" and np.abs(a).max() > 64 for a in feed.values()):
        return None  # it would take all memory
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feed.items()]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=n) for n in node.output])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run(None, feed)
    except Exception:  # noqa: BLE001  (the runtime has one class per error)
        return None
    return [np.asarray(r) for r in results]


def _vector(b: Builder) -> str:
    """A 1-D integer tensor, or some integers."""
    if b.random.random() < 0.3:
        return b.constant([b.random.choice([0, 1, 2, 4, -1, 6]) for _ in range(b.random.randint(1, 3))])
    return b.tensor("i", lambda r: r == 1)


def _axes(b: Builder, x: str, extra: int = 0) -> list[int]:
    rank = b.arrays[x][0].ndim
    if not rank + extra:
        raise LookupError
    chosen = b.random.sample(range(rank + extra), min(b.random.randint(1, 2), rank + extra))
    return [a if b.random.random() < 0.6 else a - rank - extra for a in chosen]


def unary(b: Builder) -> bool:
    op = b.random.choice(["Neg", "Abs", "Sign", "Identity", "Floor", "Ceil", "Relu", "Softmax", "Round", "Sqrt"])
    return b.add(op, [b.tensor("f" if op not in ("Neg", "Abs", "Sign", "Identity") else "fi")])


def binary(b: Builder) -> bool:
    a = b.tensor("fi")
    kind = b.arrays[a][0].dtype.kind
    other = b.tensor(kind) if b.random.random() < 0.6 else b.constant(b.random.choice([0, 1, 2, 3, [1], [[2]]]), b.arrays[a][0].dtype)
    pair = [a, other] if b.random.random() < 0.5 else [other, a]
    ops = ["Add", "Sub", "Mul", "Max", "Min", "Equal", "Less", "Greater"]
    if kind == "i" and all((x != 0).all() for x in b.arrays[pair[1]]):
        ops += ["Div", "Mod", "Div"]
    return b.add(b.random.choice(ops), pair)


def logic(b: Builder) -> bool:
    op = b.random.choice(["And", "Or", "Xor", "Not"])
    return b.add(op, [b.tensor("b") for _ in range(1 if op == "Not" else 2)])


def where(b: Builder) -> bool:
    a = b.tensor("fi")
    return b.add("Where", [b.tensor("b"), a, b.tensor(b.arrays[a][0].dtype.kind)])


def cast(b: Builder) -> bool:
    return b.add("Cast", [b.tensor()], to=b.random.choice([1, 6, 7, 9]))


def shape(b: Builder) -> bool:
    return b.add("Shape", [b.tensor()])


def size(b: Builder) -> bool:
    return b.add("Size", [b.tensor()])


def gather(b: Builder) -> bool:
    x = b.tensor(rank=lambda r: r > 0)
    index = b.constant(b.random.choice([0, 1, -1, [0], [1, 0], [-1]]))
    return b.add("Gather", [x, index], axis=b.axis(x))


def entry(b: Builder) -> bool:
    """A piece of a shape."""
    x = b.tensor("i", lambda r: r == 1)
    if b.random.random() < 0.5:
        return b.add("Gather", [x, b.constant(b.random.choice([0, 1, -1, [0], [1, 0], [-1, 0]]))], axis=0)
    return b.add(
        "Slice", [x, *(b.constant([b.random.choice([0, 1, 2, -1, -2, 9])]) for _ in range(2)), b.constant([0]), b.constant([b.random.choice([1, 1, 2, -1])])]
    )


def concat(b: Builder) -> bool:
    x = b.tensor(rank=lambda r: r > 0)
    array = b.arrays[x][0]
    parts = [x] + [b.tensor(array.dtype.kind, lambda r: r == array.ndim) for _ in range(b.random.randint(0, 2))]
    return b.add("Concat", parts, axis=b.axis(x))


def concat_sizes(b: Builder) -> bool:
    parts = [_vector(b) for _ in range(b.random.randint(1, 3))]
    return b.add("Concat", parts, axis=0)


def squeeze(b: Builder) -> bool:
    x = b.tensor()
    return b.add("Squeeze", [x, b.constant(_axes(b, x))] if b.random.random() < 0.7 else [x])


def unsqueeze(b: Builder) -> bool:
    x = b.tensor()
    return b.add("Unsqueeze", [x, b.constant(_axes(b, x, 1))])


def reshape(b: Builder) -> bool:
    return b.add("Reshape", [b.tensor(), _vector(b)], allowzero=int(b.random.random() < 0.2))


def flatten(b: Builder) -> bool:
    x = b.tensor()
    return b.add("Flatten", [x], axis=b.axis(x))


def transpose(b: Builder) -> bool:
    x = b.tensor()
    rank = b.arrays[x][0].ndim
    return b.add("Transpose", [x], perm=b.random.sample(range(rank), rank)) if rank and b.random.random() < 0.7 else b.add("Transpose", [x])


def slice_(b: Builder) -> bool:
    x = b.tensor(rank=lambda r: r > 0)
    bounds = [b.random.choice([0, 1, 2, 3, -1, -2, 100, 2**31 - 1, 2**63 - 1, -(2**31)]) for _ in range(2)]
    step = b.random.choice([1, 1, 1, 2, -1, -2])
    starts, ends = (b.constant([v]) if b.random.random() < 0.7 else b.tensor("i", lambda r: r == 1) for v in bounds)
    return b.add("Slice", [x, starts, ends, b.constant([b.axis(x)]), b.constant([step])])


def split(b: Builder) -> bool:
    x = b.tensor(rank=lambda r: r > 0)
    if b.opset >= 18:
        return b.add("Split", [x], 2, axis=b.axis(x), num_outputs=2)
    return b.add("Split", [x], 2, axis=b.axis(x))


def expand(b: Builder) -> bool:
    return b.add("Expand", [b.tensor(), _vector(b)])


def tile(b: Builder) -> bool:
    x = b.tensor(rank=lambda r: r > 0)
    repeats = b.constant([b.random.choice([0, 1, 2]) for _ in range(b.arrays[x][0].ndim)]) if b.random.random() < 0.5 else b.tensor("i", lambda r: r == 1)
    return b.add("Tile", [x, repeats])


def constant_of_shape(b: Builder) -> bool:
    return b.add("ConstantOfShape", [_vector(b)], value=numpy_helper.from_array(np.array([b.random.randint(0, 2)], b.random.choice([np.int64, np.float32]))))


def range_(b: Builder) -> bool:
    scalars = [b.tensor("i", lambda r: r == 0) if b.random.random() < 0.5 else b.constant(v) for v in (0, b.random.randint(0, 5), b.random.choice([1, 2]))]
    return b.add("Range", scalars)


def pad(b: Builder) -> bool:
    x = b.tensor("fi", lambda r: r > 0)
    pads = b.constant([b.random.choice([0, 1, 2]) for _ in range(2 * b.arrays[x][0].ndim)]) if b.random.random() < 0.8 else b.tensor("i", lambda r: r == 1)
    return b.add("Pad", [x, pads])


def matmul(b: Builder) -> bool:
    return b.add("MatMul", [b.tensor("f"), b.tensor("f")])


def gemm(b: Builder) -> bool:
    return b.add("Gemm", [b.tensor("f", lambda r: r == 2), b.tensor("f", lambda r: r == 2)], transA=b.random.randint(0, 1), transB=b.random.randint(0, 1))


def reduce(b: Builder) -> bool:
    x = b.tensor("fi")
    op, keep = b.random.choice(["ReduceSum", "ReduceMax", "ReduceProd", "ReduceMean", "ReduceMin"]), b.random.randint(0, 1)
    axes = None if b.random.random() < 0.3 else _axes(b, x)
    if axes is None:
        return b.add(op, [x], keepdims=keep)
    if op == "ReduceSum" or b.opset >= 18:
        return b.add(op, [x, b.constant(axes)], keepdims=keep)
    return b.add(op, [x], keepdims=keep, axes=axes)


def arg_max(b: Builder) -> bool:
    x = b.tensor("f", lambda r: r > 0)
    return b.add("ArgMax", [x], axis=b.axis(x), keepdims=b.random.randint(0, 1))


def top_k(b: Builder) -> bool:
    x = b.tensor("f", lambda r: r > 0)
    return b.add("TopK", [x, b.constant([1])], 2, axis=b.axis(x))


def non_zero(b: Builder) -> bool:
    return b.add("NonZero", [b.tensor()])


def gather_more(b: Builder) -> bool:
    x = b.tensor(rank=lambda r: r > 0)
    rank = b.arrays[x][0].ndim
    if b.random.random() < 0.5:
        return b.add("GatherND", [x, b.constant([[0] * b.random.randint(1, rank)])])
    return b.add("GatherElements", [x, b.constant(np.zeros([1] * rank))], axis=b.axis(x))


def scatter(b: Builder) -> bool:
    x = b.tensor("fi", lambda r: r == 1)
    update = b.tensor(b.arrays[x][0].dtype.kind, lambda r: r == 1)
    return b.add("ScatterND", [x, b.constant([[0]]), update]) if b.random.random() < 0.5 else b.add("ScatterElements", [x, b.constant([0]), update])


def conv(b: Builder) -> bool:
    x = b.tensor("f", lambda r: r == 3)
    channels = b.arrays[x][0].shape[1]
    weight = b.constant(np.ones((2, channels, b.random.randint(1, 3))), np.float32)
    more = (
        {"auto_pad": b.random.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])}
        if b.random.random() < 0.3
        else {"pads": [b.random.randint(0, 2) for _ in range(2)]}
    )
    if b.random.random() < 0.25:
        weight = b.constant(np.ones((channels, 2, b.random.randint(1, 3))), np.float32)
        return b.add("ConvTranspose", [x, weight], strides=[b.random.randint(1, 3)], **more)
    return b.add("Conv", [x, weight], strides=[b.random.randint(1, 3)], dilations=[b.random.randint(1, 2)], **more)


def pool(b: Builder) -> bool:
    x = b.tensor("f", lambda r: r == 3)
    op = b.random.choice(["MaxPool", "AveragePool", "GlobalAveragePool"])
    if op == "GlobalAveragePool":
        return b.add(op, [x])
    kernel = b.random.randint(1, 3)
    return b.add(
        op, [x], kernel_shape=[kernel], strides=[b.random.randint(1, 3)], pads=[b.random.randrange(kernel) for _ in range(2)], ceil_mode=b.random.randint(0, 1)
    )


def resize(b: Builder) -> bool:
    x = b.tensor("f", lambda r: r in (3, 4))
    rank = b.arrays[x][0].ndim
    if b.random.random() < 0.5:
        return b.add("Resize", [x, "", b.constant([1.0] * (rank - 1) + [b.random.choice([2.0, 0.5, 1.5, 3.0])], np.float32)])
    return b.add("Resize", [x, "", "", b.tensor("i", lambda r: r == 1)])


def einsum(b: Builder) -> bool:
    equation = b.random.choice(["ij,jk->ik", "...ij,...jk->...ik", "bij->bji", "ij,j", "bi,bj->bij", "ii->i"])
    return b.add("Einsum", [b.tensor("f") for _ in range(equation.count(",") + 1)], equation=equation)


def one_hot(b: Builder) -> bool:
    return b.add("OneHot", [b.tensor("i"), b.tensor("i", lambda r: r == 0), b.constant([0, 1])], axis=b.random.choice([-1, 0]))


def cumulative_sum(b: Builder) -> bool:
    x = b.tensor("fi", lambda r: r > 0)
    return b.add("CumSum", [x, b.constant(b.axis(x))])


MAKERS: list[Callable[[Builder], bool]] = [
    *(unary, binary, binary, binary, logic, where, cast, shape, shape, shape, size, gather, entry, entry, entry, concat, concat_sizes, concat_sizes, squeeze),
    *(unsqueeze, unsqueeze, reshape, reshape, reshape, flatten, transpose, slice_, slice_, split, expand, expand, tile, constant_of_shape, range_, pad, matmul),
    *(gemm, reduce, reduce, arg_max, top_k, non_zero, gather_more, scatter, conv, conv, pool, resize, einsum, one_hot, cumulative_sum),
]


def random_graph(seed: int) -> Builder:
    b = Builder(seed, [13, 17, 18, 21][seed % 4])
    for _ in range(TRIES):
        if len(b.nodes) >= NODES:
            break
        maker = b.random.choice(MAKERS)
        try:
            maker(b)
        except LookupError:
            continue
    return b


def check(b: Builder, shapes: Shapes, tensors: dict[str, Any]) -> None:
    """Nothing that is claimed is wrong at any binding."""
    for name, arrays in b.arrays.items():
        tensor = tensors.get(name)
        spec = shapes.spec(tensor) if tensor is not None else None
        if spec is None:
            continue
        for binding, array in zip(BINDINGS, arrays, strict=True):
            assert spec.dtype in (None, array_dtype_name(array)), name
            assert spec.shape is None or len(spec.shape) == array.ndim, (name, spec.shape, array.shape)
            for dim, real in zip(spec.shape or (), array.shape, strict=False):
                number = evaluated(dim, binding)
                assert dim is None or number is not None
                assert number in (None, real), (name, tuple(map(str, spec.shape or ())), array.shape, binding)
            entries = shapes.entries(tensor)
            if entries is not None:
                assert entries.shape == array.shape, name
                for entry, real in zip(entries.reshape(-1), array.reshape(-1), strict=True):
                    number = entry if isinstance(entry, float) else evaluated(entry, binding)
                    assert number is None or number == real, (name, entries, array, binding)
            value = shapes.value(tensor)
            if value is not None:
                assert value.dtype == array.dtype
                np.testing.assert_array_equal(value, array)


@pytest.mark.parametrize("seed", range(60))
def test_claims_about_random_graphs_hold(seed: int) -> None:
    b = random_graph(seed)
    model = model_from_proto(b.model())
    tensors = {t.name: t for n in model.graph.nodes for t in n.outputs}
    check(b, infer(model), tensors)
