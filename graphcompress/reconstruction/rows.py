"""A weighted node as rows times a matrix: y = x W + b, one row per output position, one matrix per group of a grouped convolution.

The forms follow the operators' definitions (https://onnx.ai/onnx/operators/): Conv and ConvTranspose of any rank, Gemm, and MatMul with a constant matrix on either
side, the Add of a constant vector after it being its bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graphcompress.ir import Constant, Node, Tensor, constant_data, sole_consumer

Array = np.ndarray[Any, Any]


class Form(Protocol):
    """How arrays become rows and matrices. `shape` = (g groups, n rows of a group's matrix, o columns); the `taps` rows of an input channel are neighbours."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def taps(self) -> int: ...

    @property
    def output_axis(self) -> int:
        """The axis of the weight that has the output channels."""
        ...

    @property
    def channel_axis(self) -> int:
        """The axis of the output that has the output channels."""
        ...

    def places(self, y_shape: Sequence[int]) -> int:
        """Number of output positions, batch included."""
        ...

    def places_from(self, x_shape: Sequence[int]) -> int:
        """The same, from the shape of the input."""
        ...

    def rows(self, x: Array, positions: Array) -> Array:
        """What the output at each of r positions (flat, row-major over batch and space) is calculated from: [g, r, n]."""
        ...

    def outputs(self, y: Array, positions: Array) -> Array:
        """The output channels at each position: [r, g * o]."""
        ...

    def matrix(self, weight: Array) -> Array:
        """The weight as [g, n, o] in float64."""
        ...

    def weight(self, matrix: Array) -> Array:
        """The inverse of `matrix`."""
        ...


@dataclass(frozen=True, slots=True)
class Layer:
    """A node with a constant weight. `x` is what it reads, `output` the rows times the matrix plus the bias.

    `bias` is the constant bias, and `bias_site` the (node, input) where one stands or could stand; None where there is none and no place for it.
    `bias_scale` is what the operator multiplies its bias by (Gemm's beta).
    """

    node: Node
    form: Form
    x: Tensor
    weight: Constant
    output: Tensor
    bias: Constant | None
    bias_site: tuple[Node, int] | None
    bias_scale: float = 1.0

    def weight_matrix(self) -> Array:
        """The weight as [g, n, o] in float64."""
        return self.form.matrix(self.weight.values)

    def outputs_first(self) -> Array:
        """The weight with the axis of its output channels first, not copied; of a transposed convolution those of one group."""
        return np.moveaxis(self.weight.values, self.form.output_axis, 0)

    def weight_from_matrix(self, matrix: Array) -> Array:
        """A matrix [g, n, o] in the weight's shape and element type."""
        return np.ascontiguousarray(self.form.weight(matrix).reshape(self.weight.shape).astype(self.weight.values.dtype))

    def bias_vector(self) -> Array:
        """What is added to the rows times the matrix: [g, o] in float64, zeros without a bias."""
        g, _, o = self.form.shape
        if self.bias is None:
            return np.zeros((g, o))
        return self.bias_scale * np.broadcast_to(np.asarray(self.bias.values, np.float64).reshape(-1), (g * o,)).reshape(g, o)

    def bias_from_vector(self, vector: Array) -> Array:
        """A bias [g, o] as the operator reads it, in the weight's element type."""
        return (vector.reshape(-1) / self.bias_scale).astype(self.weight.values.dtype)

    def grouped(self, outputs: Array) -> Array:
        """Channels [r, g * o] as [g, r, o]."""
        g, _, o = self.form.shape
        return outputs.reshape(-1, g, o).swapaxes(0, 1)

    def rows_of(self, channels: Array) -> tuple[Array, Array]:
        """For input channels [c] the group that each belongs to, [c], and its rows in that group's matrix, [c, taps]."""
        g, n, _ = self.form.shape
        per_group = n // self.form.taps
        group, channel = np.divmod(np.asarray(channels), per_group)
        return np.minimum(group, g - 1), channel[:, None] * self.form.taps + np.arange(self.form.taps)


def sample(places: int, items: int, per_item: int, random: np.random.Generator) -> Array:
    """Flat output positions, sorted: `per_item` of each of `items` inputs, without repetition, borders as likely as any; all where there are not more.

    Many inputs with few positions tell more than few inputs with many. Positions that are no multiple of `items` are drawn from all alike.
    """
    if places <= items * per_item:
        return np.arange(places)
    if places % items:
        return np.sort(random.choice(places, items * per_item, replace=False))
    each = places // items
    picks = np.stack([random.choice(each, per_item, replace=False) for _ in range(items)])
    return (np.sort(picks, axis=1) + each * np.arange(items)[:, None]).reshape(-1)


def layer_of(node: Node, outputs: set[int]) -> Layer | None:
    """`node` as a layer, None where it is none: another operator, an input that is constant, a weight that is calculated or may be overridden, a bias that differs from row to row.

    `outputs` as `ir.output_ids` gives them: what is an output of a graph is not looked through for the bias of a MatMul.
    """
    if not node.is_op(*READERS):
        return None
    layer = READERS[node.op](node, outputs)
    return None if layer is None or constant_data(layer.x) is not None else layer


# --- matrices ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dense:
    """y = scale * x W over the last axis. `flips_x`, `flips_y`: the channels stand in the last axis but one; `flips_weight`: the matrix is the weight's transpose."""

    shape: tuple[int, int, int]
    flips_x: bool = False
    flips_weight: bool = False
    flips_y: bool = False
    scale: float = 1.0
    taps: int = 1

    @property
    def output_axis(self) -> int:
        return 0 if self.flips_weight else 1

    @property
    def channel_axis(self) -> int:
        return -2 if self.flips_y else -1

    def places(self, y_shape: Sequence[int]) -> int:
        channels = y_shape[-2 if self.flips_y and len(y_shape) > 1 else -1]
        return math.prod(y_shape) // max(1, channels)

    def places_from(self, x_shape: Sequence[int]) -> int:
        return math.prod(x_shape) // max(1, self.shape[1])

    def rows(self, x: Array, positions: Array) -> Array:
        return _last(x, self.flips_x).reshape(-1, self.shape[1])[positions][None]

    def outputs(self, y: Array, positions: Array) -> Array:
        y = _last(y, self.flips_y)
        return np.asarray(y.reshape(-1, y.shape[-1])[positions])

    def matrix(self, weight: Array) -> Array:
        return self.scale * _last(np.asarray(weight, np.float64), self.flips_weight)[None]

    def weight(self, matrix: Array) -> Array:
        return _last(matrix[0], self.flips_weight) / self.scale


def _last(array: Array, flips: bool) -> Array:
    return array.swapaxes(-1, -2) if flips and array.ndim > 1 else array


def _gemm(node: Node, _: set[int]) -> Layer | None:
    weight, scale, beta = node.input(1), float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    if not isinstance(weight, Constant) or len(weight.shape) != 2 or not scale:
        return None
    flips = bool(node.attrs.get("transB", 0))
    n, o = weight.shape[::-1] if flips else weight.shape
    bias = node.input(2)
    if bias is not None and not _is_vector(bias, o):
        return None
    form = Dense((1, n, o), flips_x=bool(node.attrs.get("transA", 0)), flips_weight=flips, scale=scale)
    constant = bias if isinstance(bias, Constant) and beta else None
    return Layer(node, form, node.inputs[0], weight, node.outputs[0], constant, (node, 2) if beta else None, beta or 1.0)


def _matmul(node: Node, outputs: set[int]) -> Layer | None:
    side = next((i for i, t in enumerate(node.inputs) if isinstance(t, Constant) and len(t.shape) == 2), None)
    if side is None:
        return None
    weight = node.inputs[side]
    left = side == 0
    n, o = weight.shape[::-1] if left else weight.shape
    form = Dense((1, n, o), flips_x=left, flips_weight=left, flips_y=left)
    add = sole_consumer(node.outputs[0], outputs)
    if not left and add is not None and add.is_op("Add"):
        other = 1 if add.inputs[0] is node.outputs[0] else 0
        bias = add.inputs[other]
        # A vector of another length would widen the sum.
        if isinstance(bias, Constant) and _is_vector(bias, o):
            return Layer(node, form, node.inputs[1 - side], weight, add.outputs[0], bias, (add, other))
    return Layer(node, form, node.inputs[1 - side], weight, node.outputs[0], None, None)


def _is_vector(bias: Tensor, length: int) -> bool:
    """Whether a bias is the same for every row: a constant of one number, or of one per channel in the last axis."""
    if not isinstance(bias, Constant) or math.prod(bias.shape) not in (1, length):
        return False
    return all(d == 1 for d in bias.shape[:-1]) and len(bias.shape) <= 2


# --- convolutions -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Convolution:
    """Conv, or with `transposed` ConvTranspose: at an output position the taps of the kernel and the inputs that they meet, zeros outside.

    `begins` and `ends` are explicit pads (unused with `auto_pad` SAME_UPPER or SAME_LOWER), `extra` is ConvTranspose's output_padding, `sizes` its output_shape.
    """

    shape: tuple[int, int, int]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    auto_pad: str = "NOTSET"
    transposed: bool = False
    extra: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def output_axis(self) -> int:
        return 1 if self.transposed else 0

    @property
    def channel_axis(self) -> int:
        return 1

    def places(self, y_shape: Sequence[int]) -> int:
        return int(y_shape[0]) * math.prod(y_shape[2:])

    def places_from(self, x_shape: Sequence[int]) -> int:
        return int(x_shape[0]) * math.prod(self._axis(axis, size)[1] for axis, size in enumerate(x_shape[2:]))

    def rows(self, x: Array, positions: Array) -> Array:
        axes = [self._axis(a, size) for a, size in enumerate(x.shape[2:])]
        image, *places = np.unravel_index(positions, (len(x), *(out for _, out in axes)))
        rank = len(axes)
        indices: list[Array] = []
        inside = np.ones((len(positions),) + (1,) * rank, bool)
        for axis, (place, (begin, _)) in enumerate(zip(places, axes, strict=True)):
            at, valid = self._inputs(axis, place, begin, x.shape[2 + axis])
            around = (len(positions), *(self.kernel[axis] if a == axis else 1 for a in range(rank)))
            indices.append(at.reshape(around))
            inside = inside & valid.reshape(around)
        # Indices around the slice of channels put the channels last.
        where: tuple[Any, ...] = (image.reshape((-1,) + (1,) * rank), slice(None), *indices)
        values: Array = x[where] * inside[..., None]
        g, n, _ = self.shape
        return np.moveaxis(values, -1, 1).reshape(len(positions), g, n).swapaxes(0, 1)

    def outputs(self, y: Array, positions: Array) -> Array:
        image, *places = np.unravel_index(positions, (len(y), *y.shape[2:]))
        where: tuple[Any, ...] = (image, slice(None), *places)
        return np.asarray(y[where])

    def matrix(self, weight: Array) -> Array:
        g, n, o = self.shape
        weight = np.asarray(weight, np.float64)
        if self.transposed:
            return weight.reshape(g, n // self.taps, o, self.taps).swapaxes(2, 3).reshape(g, n, o)
        return weight.reshape(g, o, n).swapaxes(1, 2)

    def weight(self, matrix: Array) -> Array:
        g, n, o = self.shape
        if self.transposed:
            return matrix.reshape(g, n // self.taps, self.taps, o).swapaxes(2, 3).reshape(n // self.taps * g, o, *self.kernel)
        return matrix.swapaxes(1, 2).reshape(g * o, n // self.taps, *self.kernel)

    def _inputs(self, axis: int, place: Array, begin: int, size: int) -> tuple[Array, Array]:
        """Along one axis: the input index that each tap meets at each place, and whether there is such an input, both [r, k]."""
        taps, stride = np.arange(self.kernel[axis]) * self.dilations[axis], self.strides[axis]
        if self.transposed:
            at, rest = np.divmod(place[:, None] + begin - taps, stride)
        else:
            at = place[:, None] * stride - begin + taps
            rest = np.zeros_like(at)
        return np.clip(at, 0, size - 1), (at >= 0) & (at < size) & (rest == 0)

    def _axis(self, axis: int, size: int) -> tuple[int, int]:
        """(padding before the first input, output size) of an axis with `size` inputs."""
        stride, span = self.strides[axis], (self.kernel[axis] - 1) * self.dilations[axis] + 1
        same = self.auto_pad in ("SAME_UPPER", "SAME_LOWER")
        if self.transposed:
            whole = stride * (size - 1) + self.extra[axis] + span
            if not self.sizes and not same:
                return self.begins[axis], whole - self.begins[axis] - self.ends[axis]
            out = self.sizes[axis] if self.sizes else size * stride
            pads = max(0, whole - out)
            return pads // 2 if self.auto_pad == "SAME_UPPER" else pads - pads // 2, out
        if not same:
            return self.begins[axis], (size + self.begins[axis] + self.ends[axis] - span) // stride + 1
        out = -(-size // stride)
        pads = max(0, (out - 1) * stride + span - size)
        return pads // 2 if self.auto_pad == "SAME_UPPER" else pads - pads // 2, out


def _convolution(node: Node, _: set[int]) -> Layer | None:
    weight, bias = node.input(1), node.input(2)
    if not isinstance(weight, Constant) or len(weight.shape) < 3 or not (bias is None or isinstance(bias, Constant)):
        return None
    kernel = tuple(int(k) for k in weight.shape[2:])
    rank, groups, taps = len(kernel), int(node.attrs.get("group", 1)), math.prod(kernel)
    transposed = node.op == "ConvTranspose"
    first, second = weight.shape[:2]
    shape = (groups, first // groups * taps, second) if transposed else (groups, second * taps, first // groups)
    pads = _numbers(node, "pads", 2 * rank, 0)
    form = Convolution(
        shape=shape,
        kernel=kernel,
        strides=_numbers(node, "strides", rank, 1),
        dilations=_numbers(node, "dilations", rank, 1),
        begins=pads[:rank],
        ends=pads[rank:],
        auto_pad=str(node.attrs.get("auto_pad", "NOTSET")),
        transposed=transposed,
        extra=_numbers(node, "output_padding", rank, 0),
        sizes=tuple(node.attrs.get("output_shape", ()))[-rank:],
    )
    return Layer(node, form, node.inputs[0], weight, node.outputs[0], bias, (node, 2))


def _numbers(node: Node, name: str, count: int, default: int) -> tuple[int, ...]:
    return tuple(int(v) for v in node.attrs.get(name) or (default,) * count)


READERS: dict[str, Callable[[Node, set[int]], Layer | None]] = {"Conv": _convolution, "ConvTranspose": _convolution, "Gemm": _gemm, "MatMul": _matmul}
