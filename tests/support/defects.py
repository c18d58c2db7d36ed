"""Models made to hold one defect each that `lint` knows, and models that hold none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from planted import Planted


def conv(p: Planted, x: str, *, weight: str | None = None, bias: str = "", **attrs: Any) -> str:
    return p.node("Conv", x, weight or p.codes(8, 8, 3, 3), *([bias] if bias else []), pads=[1, 1, 1, 1], name="conv", **attrs)


def quantized(build: Callable[[Planted, str], str], opset: int = 17, *shape: int) -> onnx.ModelProto:
    """A Q-DQ input, what `build` makes of it, and a Q-DQ behind."""
    p = Planted(opset)
    return p.model(p.pair(build(p, p.pair(p.input("x", *(shape or (1, 8, 6, 6)))))))


def gemm(p: Planted, x: str, *, axis: int = 1, bias: str = "", **attrs: Any) -> str:
    return p.node("Gemm", x, p.codes(8, 8, axis=axis), *([bias] if bias else []), name="gemm", **attrs)


def plain(
    *lines: str, opset: int = 17, ir: int = 8, weights: dict[str, Any] | None = None, signature: str = "(float[1,8,6,6] x) => (float[1,8,6,6] y)"
) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}, "com.microsoft": 1, "acme": 1]> g {signature} {{ {" ".join(lines)} }}')
    for name, values in (weights or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    return model


KERNEL = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32)
CONV = "c = Conv <pads = [1,1,1,1]> (x, w) y = Relu (c)"
NORM = {name: np.ones(8, np.float32) for name in ("s", "b", "m", "v")}


def two_layers_one_bias(p: Planted) -> onnx.ModelProto:
    bias = p.bias(8)
    x = p.pair(p.input("x", 1, 8, 6, 6))
    y = p.pair(conv(p, x, bias=bias), 0.2)
    return p.model(p.pair(conv(p, y, bias=bias)))


def two_quantizers(p: Planted, second: float) -> onnx.ModelProto:
    y = conv(p, p.pair(p.input("x", 1, 8, 6, 6)))
    return p.model(p.pair(y), p.dequantize(p.quantize(y, second), second))


def behind_relu(p: Planted, x: str) -> str:
    return p.node("Relu", conv(p, x))


def float16(*lines: str, **weights: Any) -> onnx.ModelProto:
    return plain(*lines, weights=weights, signature="(float16[4,4096] x) => (float16[4,n] y)")


def with_notes(text: str) -> onnx.ModelProto:
    model = plain(CONV, weights={"w": KERNEL})
    model.graph.node[0].doc_string = text
    return model


def listed() -> onnx.ModelProto:
    model = plain(CONV, weights={"w": KERNEL})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, KERNEL.shape))
    return model


def sixteen_bit_product(p: Planted) -> onnx.ModelProto:
    x = p.node("QuantizeLinear", p.input("x", 4, 32), p.constant(np.float32(0.001)), p.constant(np.uint16(0)))
    x = p.node("DequantizeLinear", x, p.constant(np.float32(0.001)), p.constant(np.uint16(0)))
    return p.model(p.node("MatMul", x, p.codes(32, 8, axis=1), name="product"))


def int8_operand(p: Planted) -> onnx.ModelProto:
    x = p.pair(p.input("x", 1, 8, 6, 6), 0.05, 0, np.int8)
    return p.model(p.pair(p.node("Add", x, p.codes(8, 1, 1, axis=None), name="add"), 0.05, 0, np.int8))


def wide_below_21(p: Planted) -> onnx.ModelProto:
    return p.model(p.pair(p.node("Relu", p.pair(p.input("x", 1, 8), 0.001, 32768, np.uint16)), 0.001, 32768, np.uint16))


def half_scale(p: Planted) -> onnx.ModelProto:
    x = p.input("x", 1, 8, kind=TensorProto.FLOAT16)
    q = p.node("QuantizeLinear", x, p.constant(np.float16(0.05)), p.constant(np.uint8(0)))
    return p.model(p.node("DequantizeLinear", q, p.constant(np.float16(0.05)), p.constant(np.uint8(0))))


def embedding(p: Planted) -> onnx.ModelProto:
    rows = p.node("Gather", p.codes(64, 16, axis=None), p.input("i", 4, kind=TensorProto.INT64))
    return p.model(p.node("Relu", rows))


def no_quantizer(p: Planted) -> onnx.ModelProto:
    return p.model(p.node("Sigmoid", conv(p, p.pair(p.input("x", 1, 8, 6, 6)))))


def per_channel_activation(p: Planted) -> onnx.ModelProto:
    codes = p.quantize(p.input("x", 1, 8, 6, 6), [0.05] * 8, [128] * 8, axis=1)
    return p.model(p.pair(conv(p, p.dequantize(codes, [0.05] * 8, [128] * 8, axis=1))))


def float_reader(p: Planted) -> onnx.ModelProto:
    y = conv(p, p.pair(p.input("x", 1, 8, 6, 6)))
    return p.model(p.pair(y), p.node("Sigmoid", y))


def unsigned_relu(p: Planted) -> onnx.ModelProto:
    return p.model(p.pair(behind_relu(p, p.pair(p.input("x", 1, 8, 6, 6))), 0.05, 0))


def kept_float(p: Planted) -> onnx.ModelProto:
    x = p.dequantize(p.quantize(p.input("x", 1, 8, 6, 6)), [0.05] * 8, [128] * 8, axis=1)
    return p.model(p.pair(conv(p, x, weight=p.constant(p.floats(8, 8, 3, 3)))))


def int8_operand_by_channel(p: Planted) -> onnx.ModelProto:
    """Its scales lie along an axis, and its DQ has no zero point."""
    x = p.pair(p.input("x", 1, 8, 6, 6), 0.05, 0, np.int8)
    stored, scales = p.constant(np.arange(-4, 4, dtype=np.int8).reshape(1, 8, 1, 1)), p.constant(np.full(8, 0.01, np.float32))
    return p.model(p.pair(p.node("Add", x, p.node("DequantizeLinear", stored, scales, axis=1), name="add"), 0.05, 0, np.int8))


def float8_table() -> onnx.ModelProto:
    """Codes with fractions."""
    values = helper.make_tensor("codes", TensorProto.FLOAT8E4M3FN, [4, 2], [0.5, -1.5, 0.25, 3, 0.125, -0.75, 7, 1])
    model = plain("w = DequantizeLinear (codes, scale)", "y = MatMul (x, w)", opset=21, ir=10, signature="(float[3,4] x) => (float[3,2] y)")
    model.graph.initializer.extend([values, onnx.numpy_helper.from_array(np.float32(1.5), "scale")])
    return model


def in_branch(build: Callable[[Planted, str], str], opset: int = 17) -> onnx.ModelProto:
    """What `build` makes of the main graph's input stands in a branch."""
    p = Planted(opset)
    x = p.input("x", 1, 8, 6, 6)
    result = build(p, x)
    then = helper.make_graph(p.nodes, "then", [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, (1, 8, 6, 6))])
    other = helper.make_graph([helper.make_node("Abs", [x], ["a"])], "else", [], [helper.make_tensor_value_info("a", TensorProto.FLOAT, (1, 8, 6, 6))])
    p.nodes = [helper.make_node("If", [p.input("k", kind=TensorProto.BOOL)], ["y"], then_branch=then, else_branch=other)]
    return p.model("y")


def equal_quantizers(p: Planted, x: str) -> str:
    y = conv(p, p.pair(x))
    return p.node("Add", p.pair(y), p.node("Neg", p.pair(y)))


def quantizers_of_two_branches() -> onnx.ModelProto:
    """Two equal Qs of one Conv that no place sees both of."""
    p = Planted()
    y = conv(p, p.pair(p.input("x", 1, 8, 6, 6)))
    count, branches = len(p.nodes), []
    for name in ("then", "else"):
        begin = len(p.nodes)
        p.node("Neg", p.pair(y), out=name)
        branches.append(helper.make_graph(p.nodes[begin:], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8, 6, 6))]))
    p.nodes[count:] = [helper.make_node("If", [p.input("k", kind=TensorProto.BOOL)], ["y"], then_branch=branches[0], else_branch=branches[1])]
    return p.model("y")


def dropout_with_mask() -> onnx.ModelProto:
    return plain("d, mask = Dropout (x)", "y = Relu (d)", signature="(float[1,8] x) => (float[1,8] y, bool[1,8] mask)")


PLANTED: list[tuple[str, str, Callable[[], onnx.ModelProto]]] = [
    ("scales of a Conv along its inputs", "qdq/axis", lambda: quantized(lambda p, x: conv(p, x, weight=p.codes(8, 8, 3, 3, axis=1)))),
    ("scales of a Gemm along its inputs", "qdq/axis", lambda: quantized(lambda p, x: gemm(p, x, axis=0), 17, 4, 8)),
    ("scales of a transposed Gemm along its inputs", "qdq/axis", lambda: quantized(lambda p, x: gemm(p, x, axis=1, transB=1), 17, 4, 8)),
    ("the bias scale of a Gemm is twice too large", "qdq/bias-scale", lambda: quantized(lambda p, x: gemm(p, x, bias=p.bias(8, np.full(8, 0.001))), 17, 4, 8)),
    ("the bias scale of a Conv is 1% off", "qdq/bias-scale", lambda: quantized(lambda p, x: conv(p, x, bias=p.bias(8, np.full(8, 0.000505))))),
    ("one bias for two layers", "qdq/shared-bias", lambda: two_layers_one_bias(Planted())),
    ("a float Conv between DQ and Q", "qdq/implicit", lambda: quantized(lambda p, x: conv(p, x, weight=p.constant(p.floats(8, 8, 3, 3))))),
    (
        "a float Conv with Relu between DQ and Q",
        "qdq/implicit",
        lambda: quantized(lambda p, x: p.node("Relu", conv(p, x, weight=p.constant(p.floats(8, 8, 3, 3))))),
    ),
    ("a float Gemm between DQ and Q", "qdq/implicit", lambda: quantized(lambda p, x: p.node("Gemm", x, p.constant(p.floats(8, 8)), transB=1), 17, 4, 8)),
    (
        "a float MatMul with bias between DQ and Q",
        "qdq/implicit",
        lambda: quantized(lambda p, x: p.node("Add", p.node("MatMul", x, p.constant(p.floats(8, 8))), p.constant(p.floats(8))), 17, 4, 8),
    ),
    ("a float ConvTranspose between DQ and Q", "qdq/implicit", lambda: quantized(lambda p, x: p.node("ConvTranspose", x, p.constant(p.floats(8, 4, 3, 3))))),
    ("two ranges one behind the other", "qdq/requantized", lambda: quantized(lambda p, x: p.node("Relu", p.pair(x, 0.07)))),
    ("two zero points one behind the other", "qdq/requantized", lambda: quantized(lambda p, x: p.node("Relu", p.pair(x, 0.05, 100)))),
    ("a 16-bit activation on a product", "qdq/16-bit", lambda: sixteen_bit_product(Planted(21))),
    ("a negative scale", "qdq/scale", lambda: quantized(lambda p, x: conv(p, x, weight=p.codes(8, 8, 3, 3, scale=np.full(8, -0.01))))),
    ("an infinite scale", "qdq/scale", lambda: quantized(lambda p, x: conv(p, x, weight=p.codes(8, 8, 3, 3, scale=[0.01] * 7 + [np.inf])))),
    ("an activation scale of zero", "qdq/scale", lambda: quantized(lambda p, x: p.node("Relu", p.pair(p.node("Abs", x), 0.0)))),
    ("a clipped bias", "qdq/bias-overflow", lambda: quantized(lambda p, x: conv(p, x, bias=p.bias(8, code=2**31 - 1)))),
    (
        "a scale per channel on an activation",
        "qdq/per-channel-activation",
        lambda: per_channel_activation(Planted()),
    ),
    ("a quantized Conv without Q", "qdq/no-quantize", lambda: no_quantizer(Planted())),
    ("two equal Qs", "qdq/output-shared", lambda: two_quantizers(Planted(), 0.05)),
    ("two different Qs", "qdq/output-shared", lambda: two_quantizers(Planted(), 0.06)),
    (
        "a float reader beside the Q",
        "qdq/output-shared",
        lambda: float_reader(Planted()),
    ),
    ("a table that is dequantized at each run", "qdq/constant", lambda: embedding(Planted())),
    (
        "a ConvTranspose with a quantized weight",
        "qdq/constant",
        lambda: quantized(lambda p, x: p.node("ConvTranspose", x, p.codes(8, 4, 3, 3, axis=1))),
    ),
    ("a Relu and a signed range", "qdq/relu", lambda: quantized(behind_relu)),
    ("an int8 constant", "qdq/int8-constant", lambda: int8_operand(Planted())),
    ("an int8 constant with a scale per channel", "qdq/int8-constant", lambda: int8_operand_by_channel(Planted())),
    ("a float8 table", "qdq/constant", float8_table),
    ("16 bits in opset 17, in a branch", "qdq/opset", lambda: in_branch(lambda p, x: p.pair(p.node("Relu", x), 0.001, 32768, np.uint16))),
    (
        "a float Conv between DQ and Q, in a branch",
        "qdq/implicit",
        lambda: in_branch(lambda p, x: p.pair(conv(p, p.pair(x), weight=p.constant(p.floats(8, 8, 3, 3))))),
    ),
    ("two equal Qs in a branch", "qdq/output-shared", lambda: in_branch(equal_quantizers)),
    ("float16 scales", "qdq/float16-scale", lambda: half_scale(Planted(19))),
    ("16 bits in opset 17", "qdq/opset", lambda: wide_below_21(Planted(17))),
    ("weights that saturate", "qdq/saturates", lambda: quantized(lambda p, x: conv(p, x, weight=p.codes(8, 8, 3, 3, limit=127)))),
    ("a Conv that stays float", "float/heavy", lambda: no_quantizer(Planted())),
    ("NaN among weights", "numbers/nan", lambda: plain(CONV, weights={"w": np.where(KERNEL > 2, np.nan, KERNEL).astype(np.float32)})),
    ("denormal weights", "numbers/denormal", lambda: plain(CONV, weights={"w": np.where(KERNEL > 1, np.float32(1e-40), KERNEL).astype(np.float32)})),
    ("infinity in float16", "fp16/infinite", lambda: float16("y = Add (x, w)", w=np.array([np.inf], np.float16))),
    ("a weight of minus infinity", "fp16/infinite", lambda: float16("y = Mul (x, w)", w=np.array([-np.inf], np.float16))),
    ("a mask that is subtracted, too", "fp16/infinite", lambda: float16("m = Add (x, w)", "y = Sub (m, w)", w=np.array([-np.inf], np.float16))),
    ("a clipped float16 weight", "fp16/clipped", lambda: float16("y = Add (x, w)", w=np.array([65504], np.float16))),
    ("a square in float16", "fp16/range", lambda: float16("y = Pow (x, two)", two=np.array(2, np.float32))),
    ("an exponential in float16", "fp16/range", lambda: float16("y = Exp (x)")),
    ("a long sum in float16", "fp16/range", lambda: float16("y = ReduceSum <keepdims = 1> (x, a)", a=np.array([1], np.int64))),
    ("a mask beyond float16", "fp16/mask", lambda: plain("y = Add (x, w)", weights={"w": np.array([-3.4e38], np.float32)})),
    ("a node that nothing reads", "waste/dead-node", lambda: plain(CONV, "z = Sigmoid (c)", weights={"w": KERNEL})),
    ("a weight that nothing reads", "waste/dead-weight", lambda: plain(CONV, weights={"w": KERNEL, "unused": np.ones(5, np.float32)})),
    (
        "one weight twice",
        "waste/duplicate",
        lambda: plain("a = Conv <pads = [1,1,1,1]> (x, w)", "y = Conv <pads = [1,1,1,1]> (a, v)", weights={"w": KERNEL, "v": KERNEL}),
    ),
    ("an Identity", "waste/leftover", lambda: plain("i = Identity (x)", CONV.replace("(x", "(i"), weights={"w": KERNEL})),
    ("a Dropout", "waste/leftover", lambda: plain("i = Dropout (x)", CONV.replace("(x", "(i"), weights={"w": KERNEL})),
    ("a cast to the same type", "waste/leftover", lambda: plain("i = Cast <to = 1> (x)", CONV.replace("(x", "(i"), weights={"w": KERNEL})),
    (
        "an unfolded BatchNormalization",
        "waste/batchnorm",
        lambda: plain("c = Conv <pads = [1,1,1,1]> (x, w)", "y = BatchNormalization (c, s, b, m, v)", weights={"w": KERNEL, **NORM}),
    ),
    ("two Transposes", "waste/transpose", lambda: plain("a = Transpose <perm = [0,2,3,1]> (x)", "b = Transpose <perm = [0,3,1,2]> (a)", "y = Relu (b)")),
    ("arithmetic on fixed sizes", "waste/shape", lambda: plain("s = Shape (x)", "y = Reshape (x, s)")),
    ("paths in doc strings", "waste/notes", lambda: with_notes('File "/home/someone/project/net.py", line 3, in forward')),
    ("long doc strings", "waste/notes", lambda: with_notes("a long story " * 300)),
    (
        "BatchNormalization in training mode",
        "model/training-mode",
        lambda: plain("y, a, d = BatchNormalization <training_mode = 1> (x, s, b, m, v)", weights=NORM),
    ),
    ("weights listed as inputs", "model/listed-weights", listed),
    (
        "what onnxruntime fused",
        "model/runtime-operators",
        lambda: plain('y = com.microsoft.FusedConv <activation = "Relu", pads = [1,1,1,1]> (x, w)', weights={"w": KERNEL}),
    ),
    ("an operator of nobody", "model/unknown-operator", lambda: plain("y = acme.Frob (x)")),
]


CLEAN: dict[str, Callable[[], onnx.ModelProto]] = {
    "float Conv": lambda: plain(CONV, weights={"w": KERNEL}),
    "free batch": lambda: plain(CONV, weights={"w": KERNEL}, signature="(float[n,8,6,6] x) => (float[n,8,6,6] y)"),
    "two float layers": lambda: plain("a = Conv <pads = [1,1,1,1]> (x, w)", "y = Conv <pads = [1,1,1,1]> (a, v)", weights={"w": KERNEL, "v": KERNEL + 1}),
    "quantized Conv": lambda: quantized(conv),
    "quantized Conv with bias": lambda: quantized(lambda p, x: conv(p, x, bias=p.bias(8))),
    "quantized Conv with Relu": lambda: unsigned_relu(Planted()),
    "quantized Gemm": lambda: quantized(lambda p, x: gemm(p, x, bias=p.bias(8)), 17, 4, 8),
    "quantized transposed Gemm": lambda: quantized(lambda p, x: gemm(p, x, axis=0, transB=1), 17, 4, 8),
    "quantized MatMul": lambda: quantized(lambda p, x: p.node("MatMul", x, p.codes(8, 8, axis=1)), 17, 4, 8),
    "quantized Add": lambda: quantized(lambda p, x: p.node("Add", x, p.codes(8, 1, 1, axis=None, kind=np.uint8)), 17, 1, 8, 6, 6),
    "float Conv kept float": lambda: kept_float(Planted()),
    "float16": lambda: float16("s = Softmax (x)", "y = ReduceMean <axes = [1]> (s)"),
    "a float16 mask of infinity": lambda: float16(
        "m = Slice (w, b, e)",
        "s = Add (x, m)",
        "y = Softmax (s)",
        w=np.triu(np.full((8, 4096), -np.inf), 1).astype(np.float16),
        b=np.array([0]),
        e=np.array([4]),
    ),
    "a float16 mask of the least number": lambda: float16(
        "o = Sub (one, x)", "m = Mul (o, w)", "s = Add (x, m)", "y = Softmax (s)", w=np.float16(-65504), one=np.float16(1)
    ),
    "float16 bounds": lambda: float16("y = Max (x, w)", w=np.float16(-np.inf)),
    "16 bits in opset 21": lambda: wide_below_21(Planted(21)),
    "Cast between types": lambda: plain("i = Cast <to = 10> (x)", "j = Cast <to = 1> (i)", "y = Relu (j)"),
    "an Identity that is an output": lambda: plain("y = Identity (x)"),
}
