"""Conv and ConvTranspose.

The gradient of a convolution's input is a transposed convolution and the other way round. The gradient of the weight correlates x with dy; three forms of it:
- one product per tap of the kernel. x and dy are laid out on one padded grid per phase of the stride, with the positions of all images in one row, so that a tap is a shift of
  that row. Zeros in dy where no window begins keep what wraps around out of the sum. Best for dense kernels of few taps.
- for depthwise kernels of few taps, one sum of products per tap, each channel of each image being a row.
- a convolution of x by dy with the batch as the channels that are summed over, strides and dilations exchanged. For other groups, which a single product has not, and for long kernels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from graphcompress.gradient.build import FARTHEST, NodeGradient
from graphcompress.gradient.mappers.registry import mapper
from graphcompress.gradient.mappers.windows import Windows, windows
from graphcompress.ir import Tensor

MOST_TAPS, MOST_DEPTHWISE_TAPS = 64, 25


@mapper
def convolution(call: NodeGradient) -> Mapping[int, Tensor]:
    x, w, dy = call.x, call.input(1), call.dy
    shape = windows(call, call.sizes(w, 2), x, call.y)
    group = int(call.attr("group", 1))
    gradients: dict[int, Tensor] = {}
    if 0 in call.targets:
        gradients[0] = scattered(call, dy, w, shape, group)
    if 1 in call.targets:
        gradients[1] = weight_gradient(call, x, dy, shape, group)
    if 2 in call.targets:
        gradients[2] = channel_sums(call, dy)
    return gradients


@mapper
def transposed_convolution(call: NodeGradient) -> Mapping[int, Tensor]:
    """Its weight [in, out / group, ...] is that of the convolution of which it is the transposition."""
    x, w, dy = call.x, call.input(1), call.dy
    shape = of_transposed(call, w)
    group = int(call.attr("group", 1))
    gradients: dict[int, Tensor] = {}
    if 0 in call.targets:
        pads = [*shape.before, *(a - s for a, s in zip(shape.after, shape.surplus, strict=True))]
        fitting, pads = fitted(call, dy, pads)
        gradients[0] = call.add("Conv", fitting, w, strides=list(shape.strides), dilations=list(shape.dilations), group=group, pads=pads)
    if 1 in call.targets:
        gradients[1] = weight_gradient(call, dy, x, shape, group)
    if 2 in call.targets:
        gradients[2] = channel_sums(call, dy)
    return gradients


def of_transposed(call: NodeGradient, w: Tensor) -> Windows:
    """The windows of a ConvTranspose: those of the convolution that would give its input's sizes from its output's."""
    shape = windows(call, call.sizes(w, 2), call.y, call.x)
    auto = call.attr("auto_pad", "NOTSET")
    extra = [int(p) for p in call.attr("output_padding") or [0] * shape.rank]
    if call.attr("output_shape") or auto in ("SAME_UPPER", "SAME_LOWER"):  # pads follow from the output's size
        total = [(n - 1) * s + e + r - size for n, s, e, r, size in zip(shape.small, shape.strides, extra, shape.reach, shape.large, strict=True)]
        half = [t // 2 for t in total]
        rest = [t - h for t, h in zip(total, half, strict=True)]
        before, after = (half, rest) if auto == "SAME_UPPER" else (rest, half)
        return Windows(shape.kernel, shape.strides, shape.dilations, tuple(before), tuple(after), shape.large, shape.small)
    return shape


def fitted(call: NodeGradient, tensor: Tensor, pads: list[int]) -> tuple[Tensor, list[int]]:
    """`tensor` cut where `pads` are negative, which Conv does not take, and what is left of them."""
    rank = len(pads) // 2
    cut = {axis: min(0, pads[axis]) for axis in range(rank)}, {axis: min(0, pads[rank + axis]) for axis in range(rank)}
    shifted = [{axis + 2: n for axis, n in side.items()} for side in cut]
    return call.pad(tensor, shifted[0], shifted[1], rank + 2), [max(0, p) for p in pads]


def scattered(call: NodeGradient, dy: Tensor, w: Tensor, shape: Windows, group: int) -> Tensor:
    """The gradient of a convolution's input. With stride one it is a convolution by the flipped weight, for which runtimes have faster kernels than for ConvTranspose."""
    pads = [r - 1 - b for r, b in zip(shape.reach, shape.before, strict=True)]
    ends = [r - 1 - a + s for r, a, s in zip(shape.reach, shape.after, shape.surplus, strict=True)]
    if all(s == 1 for s in shape.strides) and all(p >= 0 for p in (*pads, *ends)):
        return call.add("Conv", dy, flipped(call, w, shape, group), dilations=list(shape.dilations), group=group, pads=[*pads, *ends])
    extra = [max(0, s) for s in shape.surplus]
    whole = call.add(
        "ConvTranspose",
        dy,
        w,
        strides=list(shape.strides),
        dilations=list(shape.dilations),
        group=group,
        kernel_shape=list(shape.kernel),
        pads=[0] * (2 * shape.rank),
    )
    # Cut here, not by `pads`, and with zeros where no window reaches: runtimes differ in what they take as output_padding.
    before = {axis + 2: -b for axis, b in enumerate(shape.before)}
    after = {axis + 2: e - a for axis, (e, a) in enumerate(zip(extra, shape.after, strict=True))}
    return call.pad(whole, before, after, shape.rank + 2)


def flipped(call: NodeGradient, w: Tensor, shape: Windows, group: int) -> Tensor:
    """The weight [out, in / group, ...] as [in, out / group, ...], its taps in reverse order."""
    m, c = call.size(w, 0), call.size(w, 1)
    axes = [axis + 2 for axis, k in enumerate(shape.kernel) if k > 1]
    if axes:
        least = -(2**31)
        w = call.add("Slice", w, call.ints([-1] * len(axes)), call.ints([least] * len(axes)), call.ints(axes), call.ints([-1] * len(axes)))
    spatial = [*shape.kernel]
    if group == 1:
        return call.transpose(w, [1, 0, *range(2, shape.rank + 2)])
    if m == group and c == 1:
        return w
    parts = call.transpose(call.reshape(w, [group, m // group, c, *spatial]), [0, 2, 1, *range(3, shape.rank + 3)])
    return call.reshape(parts, [group * c, m // group, *spatial])


def channel_sums(call: NodeGradient, dy: Tensor) -> Tensor:
    return call.add("ReduceSum", dy, call.ints([axis for axis in range(call.rank(dy)) if axis != 1]), keepdims=0)


def weight_gradient(call: NodeGradient, x: Tensor, dy: Tensor, shape: Windows, group: int) -> Tensor:
    """[out, in / group, ...] from x [N, in, ...] and dy [N, out, ...]."""
    taps = math.prod(shape.kernel)
    if group == 1 and taps <= MOST_TAPS:
        return by_taps(call, x, dy, shape)
    if group == call.size(x, 1) == call.size(dy, 1) and taps <= MOST_DEPTHWISE_TAPS and all(s == 1 for s in shape.strides):
        return by_rows(call, x, dy, shape)
    return by_exchange(call, x, dy, shape, group)


def by_exchange(call: NodeGradient, x: Tensor, dy: Tensor, shape: Windows, group: int) -> Tensor:
    m, c = call.size(dy, 1), call.size(x, 1) // group
    axes = range(2, shape.rank + 2)
    if group == 1:
        data = call.transpose(x, [1, 0, *axes])
    else:  # [in / group, group * N, ...]
        parts = call.reshape(x, [-1, group, c, *shape.large])
        data = call.reshape(call.transpose(parts, [2, 1, 0, *(a + 1 for a in axes)]), [c, -1, *shape.large])
    after = [a - s for a, s in zip(shape.after, shape.surplus, strict=True)]
    data, pads = fitted(call, data, [*shape.before, *after])
    kernel = call.transpose(dy, [1, 0, *axes])
    result = call.add("Conv", data, kernel, strides=list(shape.dilations), dilations=list(shape.strides), group=group, pads=pads)
    return call.reshape(call.transpose(result, [1, 0, *axes]), [m, c, *shape.kernel])


def by_rows(call: NodeGradient, x: Tensor, dy: Tensor, shape: Windows) -> Tensor:
    """Of a depthwise convolution with stride one: each channel of each image is a row, in which a tap is a shift."""
    m, rank = call.size(dy, 1), shape.rank
    spread = [(k - 1) * d for k, d in zip(shape.kernel, shape.dilations, strict=True)]
    cells = [n + q for n, q in zip(shape.small, spread, strict=True)]
    steps = [math.prod(cells[axis + 1 :]) for axis in range(rank)]
    whole = math.prod(cells)
    length = whole - sum(q * s for q, s in zip(spread, steps, strict=True))  # behind it dy has only zeros
    before = {axis + 2: b for axis, b in enumerate(shape.before)}
    after = {axis + 2: n - size - b for axis, (n, size, b) in enumerate(zip(cells, shape.large, shape.before, strict=True))}
    table = call.reshape(call.pad(x, before, after, rank + 2), [-1, whole])
    rows = call.reshape(call.pad(dy, {}, {axis + 2: q for axis, q in enumerate(spread)}, rank + 2), [-1, whole])
    rows = call.add("Slice", rows, call.ints([0]), call.ints([length]), call.ints([1]))
    sums = []
    for tap in itertools.product(*(range(k) for k in shape.kernel)):
        shift = sum(t * d * s for t, d, s in zip(tap, shape.dilations, steps, strict=True))
        part = call.add("Slice", table, call.ints([shift]), call.ints([shift + length]), call.ints([1]))
        sums.append(call.add("ReduceSum", call.add("Mul", part, rows), call.ints([1]), keepdims=1))
    images = call.reshape(call.add("Concat", *sums, axis=1), [-1, m, len(sums)])
    return call.reshape(call.add("ReduceSum", images, call.ints([0]), keepdims=0), [m, 1, *shape.kernel])


def by_taps(call: NodeGradient, x: Tensor, dy: Tensor, shape: Windows) -> Tensor:
    m, c = call.size(dy, 1), call.size(x, 1)
    rank = shape.rank
    if all(k == 1 for k in shape.kernel) and all(s == 1 for s in shape.strides) and not any(shape.pads):
        return call.reshape(product(call, rows_of(call, dy, m, rank), rows_of(call, x, c, rank)), [m, c, *shape.kernel])
    # The grid: as many cells along each axis as the windows of one phase need, and a multiple of the stride behind it.
    spread = [((k - 1) * d) // s for k, d, s in zip(shape.kernel, shape.dilations, shape.strides, strict=True)]
    cells = [n + q for n, q in zip(shape.small, spread, strict=True)]
    before = {axis + 2: b for axis, b in enumerate(shape.before)}
    after = {axis + 2: n * s - size - b for axis, (n, s, size, b) in enumerate(zip(cells, shape.strides, shape.large, shape.before, strict=True))}
    grid = call.pad(x, before, after, rank + 2)
    strided = math.prod(shape.strides) > 1
    table = by_phase(call, grid, cells, shape) if strided else rows_of(call, grid, c, rank)
    rows = rows_of(call, call.pad(dy, {}, {axis + 2: q for axis, q in enumerate(spread)}, rank + 2), m, rank)
    steps = [math.prod(cells[axis + 1 :]) for axis in range(rank)]
    farthest = sum(q * s for q, s in zip(spread, steps, strict=True))
    kinds: dict[int, Tensor] = {}
    taps = []
    for tap in itertools.product(*(range(k) for k in shape.kernel)):
        offsets = [t * d for t, d in zip(tap, shape.dilations, strict=True)]
        phase = 0
        for offset, stride in zip(offsets, shape.strides, strict=True):
            phase = phase * stride + offset % stride
        if phase not in kinds:
            part = call.add("Gather", table, call.ints(phase), axis=0) if strided else table
            kinds[phase] = call.pad(part, {}, {1: farthest}, 2)
        shift = sum((o // s) * step for o, s, step in zip(offsets, shape.strides, steps, strict=True))
        end = call.ints([shift - farthest] if shift < farthest else [FARTHEST])
        taps.append(product(call, rows, call.add("Slice", kinds[phase], call.ints([shift]), end, call.ints([1]))))
    joined = call.add("Concat", *(call.add("Unsqueeze", t, call.ints([2])) for t in taps), axis=2)
    return call.reshape(joined, [m, c, *shape.kernel])


def by_phase(call: NodeGradient, grid: Tensor, cells: list[int], shape: Windows) -> Tensor:
    """[phase, channels, positions of all images]: the grid [N, channels, ...], every stride-th position of an axis in one phase."""
    c, rank = call.size(grid, 1), shape.rank
    phases = call.reshape(grid, [-1, c, *itertools.chain.from_iterable(zip(cells, shape.strides, strict=True))])
    inner, outer = [2 + 2 * i for i in range(rank)], [3 + 2 * i for i in range(rank)]
    return call.reshape(call.transpose(phases, [*outer, 1, 0, *inner]), [math.prod(shape.strides), c, -1])


def product(call: NodeGradient, first: Tensor, second: Tensor) -> Tensor:
    """The product of one matrix with the transposition of another, which onnxruntime computes in one kernel: rows of channels need no transposition in memory."""
    return call.add("MatMul", first, call.transpose(second, [1, 0]))


def rows_of(call: NodeGradient, dy: Tensor, channels: int, rank: int) -> Tensor:
    """[channels, positions of all images]."""
    return call.reshape(call.transpose(dy, [1, 0, *range(2, rank + 2)]), [channels, -1])
