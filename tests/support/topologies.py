"""Small networks of the shapes that people prune, each built with `Small` of tests/support/small.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphcompress.ir import Model


def norm(s: Any, x: str, c: int) -> str:
    positive = [s.constant(s.random.uniform(0.5, 1.5, c).astype(np.float32)) for _ in range(2)]
    return str(s.node("BatchNormalization", x, positive[0], s.weight(c), s.weight(c), positive[1]))


def linear(s: Any, x: str, n: int, o: int, name: str = "") -> str:
    return str(s.node("Add", s.node("MatMul", x, s.weight(n, o), name=name), s.weight(o)))


def head(s: Any, x: str, c: int, classes: int = 7) -> Model:
    x = s.node("Flatten", s.node("GlobalAveragePool", x))
    return s.model(s.node("Gemm", x, s.weight(classes, c), s.weight(classes), transB=1, name="head"))  # type: ignore[no-any-return]


def residual(s: Any) -> Model:
    x = s.node("Relu", norm(s, s.conv(s.input("x", 1, 3, 8, 8), 3, 8, bias=False, name="stem"), 8))
    y = s.node("Relu", norm(s, s.conv(x, 8, 10, bias=False, name="a"), 10))
    y = norm(s, s.conv(y, 10, 8, bias=False, name="b"), 8)
    return head(s, s.node("Relu", s.node("Add", x, y)), 8)


def dense(s: Any) -> Model:
    x = s.conv(s.input("x", 1, 3, 8, 8), 3, 6, name="stem")
    for index in range(3):
        y = s.conv(s.node("Relu", x), 6 + 4 * index, 4, name=f"d{index}")
        x = s.node("Concat", x, y, axis=1)
    return head(s, x, 18)


def inception(s: Any) -> Model:
    x = s.node("Relu", s.conv(s.input("x", 1, 3, 8, 8), 3, 8, name="stem"))
    parts = [s.conv(x, 8, c, kernel=k, name=f"p{c}") for c, k in ((5, 1), (6, 3), (7, 5))]
    parts.append(s.node("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    return head(s, s.node("Relu", s.node("Concat", *parts, axis=1)), 26)


def shuffle_split(s: Any) -> Model:
    """ShuffleNet v2: split, two ways, concat, channel shuffle."""
    x = s.node("Relu", s.conv(s.input("x", "n", 3, 8, 8), 3, 12, name="stem"))
    a, b = s.node("Split", x, s.constant(np.array([6, 6], np.int64)), outputs=2, axis=1)
    b = s.node("Relu", s.conv(b, 6, 6, kernel=1, name="in"))
    b = s.conv(b, 1, 6, group=6, name="deep")
    b = s.node("Relu", s.conv(b, 6, 6, kernel=1, name="out"))
    y = s.node("Concat", a, b, axis=1)
    y = s.node("Reshape", y, s.constant(np.array([-1, 2, 6, 8, 8], np.int64)))
    y = s.node("Reshape", s.node("Transpose", y, perm=[0, 2, 1, 3, 4]), s.constant(np.array([0, 12, 8, 8], np.int64)))
    return head(s, s.conv(y, 12, 9, name="last"), 9)


def grouped(s: Any) -> Model:
    """ResNeXt: a convolution in four groups."""
    x = s.node("Relu", s.conv(s.input("x", 1, 3, 8, 8), 3, 16, name="stem"))
    x = s.node("Relu", s.conv(x, 4, 32, group=4, name="grouped"))
    return head(s, s.conv(x, 32, 9, kernel=1, name="last"), 9)


def excite(s: Any) -> Model:
    """MobileNet v3: depthwise convolution, squeeze and excite."""
    x = s.node("HardSwish", s.conv(s.input("x", 1, 3, 8, 8), 3, 10, name="stem"))
    x = s.node("Relu", s.conv(x, 1, 10, group=10, name="deep"))
    gate = s.node("Relu", s.conv(s.node("GlobalAveragePool", x), 10, 4, kernel=1, name="squeeze"))
    x = s.node("Mul", x, s.node("HardSigmoid", s.conv(gate, 4, 10, kernel=1, name="excite")))
    return head(s, s.conv(x, 10, 9, kernel=1, name="last"), 9)


def unet(s: Any) -> Model:
    a = s.node("Relu", s.conv(s.input("x", 1, 3, 8, 8), 3, 6, name="down"))
    b = s.node("Relu", s.conv(s.node("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 6, 8, name="deep"))
    up = s.node("ConvTranspose", b, s.weight(8, 5, 2, 2), s.weight(5), strides=[2, 2], name="up")
    other = s.node("Resize", b, "", s.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    return s.model(s.conv(s.node("Concat", a, up, other, axis=1), 19, 4, name="out"))  # type: ignore[no-any-return]


def pixels(s: Any) -> Model:
    x = s.node("Relu", s.conv(s.input("x", 1, 3, 8, 8), 3, 8, name="a"))
    x = s.node("DepthToSpace", s.conv(x, 8, 20, name="b"), blocksize=2)
    return s.model(s.conv(s.node("Relu", x), 5, 3, name="c"))  # type: ignore[no-any-return]


def flat(s: Any) -> Model:
    """VGG: Flatten of a map, then dense layers."""
    x = s.node("Relu", s.conv(s.input("x", "n", 3, 4, 4), 3, 6, name="a"))
    x = s.node("Relu", s.node("Gemm", s.node("Flatten", x), s.weight(96, 11), s.weight(11), name="b"))
    return s.model(s.node("Gemm", x, s.weight(11, 5), name="c"))  # type: ignore[no-any-return]


def _heads(s: Any, x: str, heads: int, size: int) -> str:
    x = s.node("Reshape", x, s.constant(np.array([0, 0, heads, size], np.int64)))
    return str(s.node("Transpose", x, perm=[0, 2, 1, 3]))


def _attend(s: Any, q: str, k: str, v: str, scale: float, width: int) -> str:
    scores = s.node("Mul", s.node("MatMul", q, s.node("Transpose", k, perm=[0, 1, 3, 2])), s.constant(np.float32(scale)))
    y = s.node("Transpose", s.node("MatMul", s.node("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return str(s.node("Reshape", y, s.constant(np.array([0, 0, width], np.int64))))


def _mlp(s: Any, x: str, width: int, hidden: int) -> str:
    gate, up = s.node("Split", linear(s, x, width, 2 * hidden, "gate_up"), s.constant(np.array([hidden, hidden], np.int64)), outputs=2, axis=-1)
    return linear(s, s.node("Mul", s.node("Sigmoid", gate), up), hidden, width, "down")


def _layer_norm(s: Any, x: str, width: int) -> str:
    return str(s.node("LayerNormalization", x, s.weight(width), s.weight(width)))


def packed_attention(s: Any) -> Model:
    """One projection for q, k and v; a gated MLP whose halves are packed."""
    x = s.input("x", "n", "t", 16)
    y = s.node("Reshape", linear(s, _layer_norm(s, x, 16), 16, 48, "qkv"), s.constant(np.array([0, 0, 3, 4, 4], np.int64)))
    y = s.node("Transpose", y, perm=[2, 0, 3, 1, 4])
    q, k, v = (s.node("Gather", y, s.constant(np.array(i, np.int64)), axis=0) for i in range(3))
    x = s.node("Add", x, linear(s, _attend(s, q, k, v, 0.5, 16), 16, 16, "proj"))
    return s.model(s.node("Add", x, _mlp(s, _layer_norm(s, x, 16), 16, 12)))  # type: ignore[no-any-return]


def separate_attention(s: Any) -> Model:
    x = s.input("x", "n", "t", 16)
    y = _layer_norm(s, x, 16)
    q, k, v = (_heads(s, linear(s, y, 16, 16, name), 4, 4) for name in "qkv")
    x = s.node("Add", x, linear(s, _attend(s, q, k, v, 0.5, 16), 16, 16, "proj"))
    return s.model(linear(s, x, 16, 5, "out"))  # type: ignore[no-any-return]


def grouped_query(s: Any) -> Model:
    """Two heads of keys and values for four of queries, with a rotary embedding."""
    x = s.input("x", "n", 6, 16)
    q = _heads(s, s.node("MatMul", x, s.weight(16, 16), name="q"), 4, 4)
    k, v = (_heads(s, s.node("MatMul", x, s.weight(16, 8), name=name), 2, 4) for name in "kv")
    angles = np.outer(np.arange(6), [1.0, 0.1]).astype(np.float32)
    cos, sin = (s.constant(np.concatenate([f(angles), f(angles)], -1)[None, None]) for f in (np.cos, np.sin))

    def rotated(t: str) -> str:
        low, high = (s.node("Slice", t, *(s.constant(np.array([i], np.int64)) for i in bounds)) for bounds in ((0, 2, 3), (2, 9, 3)))
        turned = s.node("Concat", s.node("Neg", high), low, axis=3)
        return str(s.node("Add", s.node("Mul", t, cos), s.node("Mul", turned, sin)))

    def repeated(t: str) -> str:
        t = s.node("Unsqueeze", t, s.constant(np.array([2], np.int64)))
        t = s.node("Expand", t, s.constant(np.array([1, 2, 2, 6, 4], np.int64)))
        return str(s.node("Reshape", t, s.constant(np.array([0, 4, 6, 4], np.int64))))

    y = _attend(s, rotated(q), repeated(rotated(k)), repeated(v), 0.5, 16)
    return s.model(s.node("MatMul", y, s.weight(16, 5), name="out"))  # type: ignore[no-any-return]


def normalized(s: Any) -> Model:
    """Instance normalization goes through; of a group normalization's groups (as exported: over a Reshape) only whole ones could go."""
    x = s.conv(s.input("x", 1, 3, 8, 8), 3, 8, name="a")
    x = s.node("Relu", s.node("InstanceNormalization", x, s.weight(8), s.weight(8)))
    x = s.conv(x, 8, 12, name="b")
    y = s.node("Reshape", x, s.constant(np.array([0, 4, -1], np.int64)))
    y = s.node("InstanceNormalization", y, s.constant(np.ones(4, np.float32)), s.constant(np.zeros(4, np.float32)))
    y = s.node("Reshape", y, s.constant(np.array([1, 12, 8, 8], np.int64)))
    return head(s, s.node("Mul", y, s.weight(12, 1, 1)), 12)


def recurrent(s: Any) -> Model:
    x = s.node("Transpose", s.input("x", 1, 5, 9), perm=[2, 0, 1])
    y = s.node("LSTM", x, s.weight(2, 24, 5), s.weight(2, 24, 6), s.weight(2, 48), outputs=3, hidden_size=6, direction="bidirectional", name="lstm")[0]
    y = s.node("Reshape", s.node("Transpose", y, perm=[0, 2, 1, 3]), s.constant(np.array([0, 0, -1], np.int64)))
    y = s.node("GRU", y, s.weight(1, 12, 12), s.weight(1, 12, 4), s.weight(1, 24), outputs=2, hidden_size=4, name="gru")[1]
    y = s.node("Reshape", y, s.constant(np.array([1, 4], np.int64)))
    return s.model(s.node("Gemm", y, s.weight(4, 3), name="out"))  # type: ignore[no-any-return]


def sums(s: Any) -> Model:
    """Sums over channels, an Einsum, a Tile, a Where between maps."""
    x = s.node("Relu", s.conv(s.input("x", 1, 3, 4, 4), 3, 6, name="a"))
    tiled = s.node("Tile", x, s.constant(np.array([1, 2, 1, 1], np.int64)))
    y = s.conv(tiled, 12, 6, name="b")
    y = s.node("Where", s.node("Greater", y, s.weight(6, 1, 1)), y, x)
    z = s.node("Einsum", y, s.weight(6, 5), equation="nchw,cd->nhwd")
    return s.model(s.node("ReduceSum", y, s.constant(np.array([1], np.int64))), s.node("MatMul", z, s.weight(5, 2), name="c"))  # type: ignore[no-any-return]


# Name -> (network, sizes of its groups).
TOPOLOGIES: dict[str, tuple[Callable[[Any], Model], list[int]]] = {
    "residual": (residual, [8, 10]),
    "dense": (dense, [4, 4, 4, 6]),
    "inception": (inception, [5, 6, 7, 8]),
    "shuffle_split": (shuffle_split, [6, 6, 9]),
    "grouped": (grouped, [4, 8, 9]),
    "excite": (excite, [4, 9, 10]),
    "unet": (unet, [5, 6, 8]),
    "pixels": (pixels, [5, 8]),
    "flat": (flat, [6, 11]),
    "packed_attention": (packed_attention, [4, 12]),
    "separate_attention": (separate_attention, [4, 4]),
    "grouped_query": (grouped_query, [2, 4]),
    "normalized": (normalized, [4, 8]),
    "recurrent": (recurrent, [4, 6]),
    "sums": (sums, [5, 6]),
}
