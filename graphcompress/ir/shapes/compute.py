"""Types and shapes of products, convolutions, pooling, reductions and recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

from graphcompress.ir.model import dimensions
from graphcompress.ir.model.dimensions import Dim, Size, ceil_divided, floor_divided, minus, plus, times
from graphcompress.ir.shapes.elementwise import broadcasted
from graphcompress.ir.shapes.facts import Call, Contradiction, Output, Rule, axis_in

#: Operator of ai.onnx -> rule.
RULES: dict[str, Rule] = {}
_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"

# --- products -------------------------------------------------------------------------------------------------------------------


def product_shape(a: Sequence[Size] | None, b: Sequence[Size] | None) -> list[Dim] | None:
    """The shape of numpy's matmul. Raises Contradiction where the inner sizes are different numbers."""
    if a is None or b is None:
        return None
    if not a or not b:
        raise Contradiction("a product with a scalar")
    left, right = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    _must_agree(left[-1], right[-2])
    batch = broadcasted([tuple(left[:-2]), tuple(right[:-2])])
    return [*(batch or []), *([left[-2]] if len(a) > 1 else []), *([right[-1]] if len(b) > 1 else [])]


def _must_agree(a: Dim, b: Dim) -> None:
    if isinstance(a, int) and isinstance(b, int) and a != b:
        raise Contradiction(f"sizes {a} and {b}")


def _matmul(call: Call) -> list[Output]:
    return [(call.dtype() or call.dtype(1), product_shape(call.shape(), call.shape(1)))]


def _matmul_integer(call: Call) -> list[Output]:
    return [("int32", product_shape(call.shape(), call.shape(1)))]


def _qlinear_matmul(call: Call) -> list[Output]:
    return [(call.dtype(7), product_shape(call.shape(), call.shape(3)))]


def _gemm(call: Call) -> list[Output]:
    a, b = call.shape(), call.shape(1)
    if a is None or b is None:
        return [(call.dtype(), [None, None])]
    (m, k), (k2, n) = a, b
    if call.number("transA", 0):
        m, k = k, m
    if call.number("transB", 0):
        k2, n = n, k2
    _must_agree(k, k2)
    return [(call.dtype() or call.dtype(1), [m, n])]


def _einsum(call: Call) -> list[Output]:
    """Labels of one letter, also under an ellipsis, which is broadcast."""
    left, arrow, right = call.text("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(call.inputs):
        raise Contradiction("the number of terms is not that of the inputs")
    sizes: dict[str, Dim] = {}
    hidden: list[tuple[Size, ...]] = []
    shapes = [call.shape(i) for i in range(len(terms))]
    if any(s is None for s in shapes):
        return [(call.dtype(), None if "..." in left else [None] * len(right) if arrow else None)]
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, after = term.partition("...")
        assert shape is not None
        if (not dots and len(before) != len(shape)) or len(before) + len(after) > len(shape):
            raise Contradiction("a term does not fit to its operand")
        inner = len(shape) - len(after)
        if dots:
            hidden.append(shape[len(before) : inner])
        for label, dim in [*zip(before, shape, strict=False), *zip(after, shape[inner:], strict=True)]:
            if label not in sizes or sizes[label] == 1 or (isinstance(dim, int) and dim != 1):
                sizes[label] = dim
            elif not isinstance(sizes[label], int) and sizes[label] != dim and dim != 1:
                sizes[label] = dimensions.broadcast(sizes[label], dim)
    common = broadcasted(hidden) if hidden else []
    if not arrow:
        letters = [c for c in left if c.isalpha()]
        right = ("..." if hidden else "") + "".join(sorted(c for c in sizes if letters.count(c) == 1))
    before, dots, after = right.partition("...")
    if common is None:
        return [(call.dtype(), None)]
    return [(call.dtype(), [*(sizes[c] for c in before), *(common if dots else []), *(sizes[c] for c in after)])]


# --- convolution and pooling ----------------------------------------------------------------------------------------------------


class _Window:
    """Kernel, strides, pads and dilations over the spatial axes of a node."""

    def __init__(self, call: Call, kernel: Sequence[Dim]) -> None:
        rank = len(kernel)
        self.kernel = list(kernel)
        self.strides = call.numbers("strides") or [1] * rank
        self.dilations = call.numbers("dilations") or [1] * rank
        self.pads = call.numbers("pads") or [0] * (2 * rank)
        self.auto = call.text("auto_pad", "NOTSET")
        if len(self.strides) != rank or len(self.dilations) != rank or len(self.pads) != 2 * rank or min([*self.strides, *self.dilations], default=1) < 1:
            raise Contradiction("strides, dilations or pads do not fit")

    def span(self, axis: int) -> Dim:
        """Entries from the first to the last that the kernel touches."""
        return plus(times(self.dilations[axis], minus(self.kernel[axis], 1)), 1)

    def output(self, axis: int, dim: Dim, *, ceil: bool = False) -> Dim:
        stride = self.strides[axis]
        if self.auto in ("SAME_UPPER", "SAME_LOWER"):
            return ceil_divided(dim, stride)
        padding = 0 if self.auto == "VALID" else self.pads[axis] + self.pads[axis + len(self.kernel)]
        room = minus(plus(dim, padding), self.span(axis))
        if isinstance(room, int) and room < 0:
            return None
        if not ceil:
            return plus(floor_divided(room, stride), 1)
        if stride == 1:
            return plus(room, 1)
        # Versions of the runtime differ in whether a last window that starts in the padding counts.
        up, down = ceil_divided(room, stride), floor_divided(room, stride)
        if not isinstance(up, int) or up == down:
            return plus(up, 1) if up == down else None
        return up + 1 if isinstance(dim, int) and up * stride < dim + (0 if self.auto == "VALID" else self.pads[axis]) else None


def convolved(call: Call, x: Sequence[Size] | None, w: Sequence[Size] | None) -> list[Dim] | None:
    """[N, C, ...] and weights [M, C/group, ...] to [N, M, ...]."""
    if x is None or w is None:
        known = w if x is None else x
        return None if known is None or len(known) < 2 else [x[0] if x is not None else None, w[0] if w is not None else None, *[None] * (len(known) - 2)]
    if len(x) != len(w) or len(x) < 2:
        raise Contradiction("ranks differ")
    window = _Window(call, call.numbers("kernel_shape") or w[2:])
    if len(window.kernel) != len(x) - 2:
        raise Contradiction("the kernel does not fit")
    return [x[0], w[0], *(window.output(i, d) for i, d in enumerate(x[2:]))]


def _conv(call: Call) -> list[Output]:
    return [(call.dtype() or call.dtype(1), convolved(call, call.shape(), call.shape(1)))]


def _conv_integer(call: Call) -> list[Output]:
    return [("int32", convolved(call, call.shape(), call.shape(1)))]


def _qlinear_conv(call: Call) -> list[Output]:
    return [(call.dtype(7), convolved(call, call.shape(), call.shape(3)))]


def _conv_transpose(call: Call) -> list[Output]:
    x, w = call.shape(), call.shape(1)
    if x is None or w is None:
        known = w if x is None else x
        return [(call.dtype(), None if known is None else [None] * len(known))]
    if len(x) != len(w) or len(x) < 2:
        raise Contradiction("ranks differ")
    window = _Window(call, call.numbers("kernel_shape") or w[2:])
    rank = len(x) - 2
    extra = call.numbers("output_padding") or [0] * rank
    stated = call.numbers("output_shape")
    if len(window.kernel) != rank or len(extra) != rank:
        raise Contradiction("the kernel does not fit")
    result: list[Dim] = [x[0], times(w[1], call.number("group", 1))]
    if stated is not None:
        result += stated[-rank:]
    else:
        for i, dim in enumerate(x[2:]):
            stride = window.strides[i]
            if window.auto in ("SAME_UPPER", "SAME_LOWER"):
                span = window.span(i)
                result.append(times(dim, stride) if isinstance(span, int) and span >= stride else None)
                continue
            padding = 0 if window.auto == "VALID" else window.pads[i] + window.pads[i + rank]
            result.append(plus(times(stride, minus(dim, 1)), plus(window.span(i), extra[i] - padding)))
    return [(call.dtype(), result)]


def _pool(call: Call) -> list[Output]:
    x = call.shape()
    kernel = call.numbers("kernel_shape")
    if kernel is None:
        raise Contradiction("a pool without a kernel")
    if x is None:
        shape: list[Dim] | None = [None] * (len(kernel) + 2)
    else:
        if len(kernel) != len(x) - 2:
            raise Contradiction("the kernel does not fit")
        window = _Window(call, kernel)
        ceil = bool(call.number("ceil_mode", 0))
        shape = [x[0], x[1], *(window.output(i, d, ceil=ceil) for i, d in enumerate(x[2:]))]
    return [(call.dtype(), shape), ("int64", shape)]


def _global_pool(call: Call) -> list[Output]:
    x = call.shape()
    if x is not None and len(x) < 2:
        raise Contradiction("no channels")
    return [(call.dtype(), None if x is None else [x[0], x[1], *[1] * (len(x) - 2)])]


# --- reductions -----------------------------------------------------------------------------------------------------------------


def _reduce(call: Call) -> list[Output]:
    x = call.shape()
    keep = bool(call.number("keepdims", 1))
    try:
        axes = call.axes()
    except Contradiction:
        return [(call.dtype(), None if x is None or not keep else [None] * len(x))]
    if x is None:
        return [(call.dtype(), [] if not keep and not axes and not call.number("noop_with_empty_axes", 0) else None)]
    if not axes and call.number("noop_with_empty_axes", 0):
        return [(call.dtype(), x)]
    reduced = {axis_in(a, len(x)) for a in axes} if axes else set(range(len(x)))
    return [(call.dtype(), [1 if i in reduced else d for i, d in enumerate(x) if keep or i not in reduced])]


def _arg_reduce(call: Call) -> list[Output]:
    x = call.shape()
    if x is None:
        return [("int64", None)]
    axis, keep = axis_in(call.number("axis", 0), len(x)), call.number("keepdims", 1)
    return [("int64", [1 if i == axis else d for i, d in enumerate(x) if keep or i != axis])]


def _top_k(call: Call) -> list[Output]:
    x = call.shape()
    count: Dim = None
    if call.opset < 10:
        count = call.number("k", -1)
    elif (k := call.entries(1)) is not None:
        entry = k.reshape(-1)[0]
        count = entry if isinstance(entry, str | dimensions.Polynomial) else None if entry is None else int(entry)
    if x is None:
        shape: list[Dim] | None = None
    else:
        axis = axis_in(call.number("axis", -1), len(x))
        shape = [count if i == axis else d for i, d in enumerate(x)]
    return [(call.dtype(), shape), ("int64", shape)]


def _non_zero(call: Call) -> list[Output]:
    """A scalar counts as one axis."""
    x = call.shape()
    return [("int64", [None if x is None else max(len(x), 1), None])]


def _compress(call: Call) -> list[Output]:
    x = call.shape()
    if "axis" not in call.attrs:
        return [(call.dtype(), [None])]
    return [(call.dtype(), None if x is None else [None if i == axis_in(call.number("axis", 0), len(x)) else d for i, d in enumerate(x)])]


def _one_hot(call: Call) -> list[Output]:
    indices = call.shape()
    depth = call.entries(1)
    size: Dim = None
    if depth is not None:
        entry = depth.reshape(-1)[0]
        size = entry if isinstance(entry, str | dimensions.Polynomial) else None if entry is None else int(entry)
    if indices is None:
        return [(call.dtype(2), None)]
    axis = axis_in(call.number("axis", -1), len(indices) + 1)
    return [(call.dtype(2), [*indices[:axis], size, *indices[axis:]])]


# --- recurrent layers and attention ---------------------------------------------------------------------------------------------


def _recurrent(call: Call) -> list[Output]:
    """Y [length, directions, batch, hidden], Y_h and Y_c [directions, batch, hidden]; with layout 1 the batch comes first."""
    x, r = call.shape(), call.shape(2)
    if (x is not None and len(x) != 3) or (r is not None and len(r) != 3):
        raise Contradiction("X, W and R have three axes")
    directions = 2 if call.text("direction", "forward") == "bidirectional" else 1
    hidden: Dim = call.attrs.get("hidden_size")
    if hidden is None and r is not None:
        hidden = r[2]
    length, batch = (x[0], x[1]) if x is not None else (None, None)
    if call.number("layout", 0):
        length, batch = batch, length
        y: list[Dim] = [batch, length, directions, hidden]
        state: list[Dim] = [batch, directions, hidden]
    else:
        y, state = [length, directions, batch, hidden], [directions, batch, hidden]
    dtype = call.dtype()
    return [(dtype, y), (dtype, state), (dtype, state)]


RULES.update(dict.fromkeys([f"Reduce{kind}" for kind in _REDUCTIONS.split()], _reduce))
RULES.update(dict.fromkeys(["AveragePool", "LpPool", "MaxPool"], _pool))
RULES.update(dict.fromkeys(["GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"], _global_pool))
RULES.update(dict.fromkeys(["GRU", "LSTM", "RNN"], _recurrent))
RULES.update(
    {
        "ArgMax": _arg_reduce,
        "ArgMin": _arg_reduce,
        "Compress": _compress,
        "Conv": _conv,
        "ConvInteger": _conv_integer,
        "ConvTranspose": _conv_transpose,
        "Einsum": _einsum,
        "Gemm": _gemm,
        "MatMul": _matmul,
        "MatMulInteger": _matmul_integer,
        "NonZero": _non_zero,
        "OneHot": _one_hot,
        "QLinearConv": _qlinear_conv,
        "QLinearMatMul": _qlinear_matmul,
        "TopK": _top_k,
    }
)
