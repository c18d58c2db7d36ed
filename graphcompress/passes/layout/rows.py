"""Convs with few output channels, several rows at once.

Kernels of processors compute a block of output channels together; with fewer channels most of the block is idle. A kernel that is taller by r - 1 steps and goes r steps at a time
holds the original one r times, shifted, as r times the channels: the same sums, and zeros. A Reshape and a Transpose bring the rows back to their places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.ir import Model, Node, Tensor, graphs, output_ids, sole_consumer
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.scopes import node_homes
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.layout.parts import Array, count, drop_unread, elementwise, explicit_pads, float_constant, ints, written_pads
from graphcompress.targets import Layout

MOST_ROWS = 8
WORTH = 0.8  # of the Conv's time, what is left at most


@dataclass(frozen=True, slots=True)
class Site:
    """A Conv whose output has `height` rows and `width` columns (-1: a number that differs between runs), how many rows at once, ns that this saves, and elements by which the weight grows."""

    conv: Node
    height: int
    width: int
    rows: int
    saved: float
    growth: int


def join_rows(model: Model, sizes: Shapes, shapes: Shapes, prices: Layout, growth: float) -> list[str]:
    """Rewrite the Convs that gain, those first that save most time per element, until the parameters have grown by the part `growth`. `sizes` are the shapes of one feed, `shapes` those
    of any run. Edits the model; gives the outputs of the Convs."""
    outputs = output_ids(model)
    room = growth * sum(math.prod(c.shape) for g in graphs(model) for c in g.initializers.values())
    choices = [sites for g in graphs(model) for n in g.nodes if (sites := _sites(n, sizes, shapes, prices))]
    names = []
    for sites in sorted(choices, key=lambda sites: sites[0].saved / max(sites[0].growth, 1), reverse=True):
        site = next((s for s in sites if s.growth <= room), None)
        if site is not None:
            room -= site.growth
            names.append(site.conv.outputs[0].name)
            _rewrite(model, site, outputs)
    return names


def _sites(conv: Node, sizes: Shapes, shapes: Shapes, prices: Layout) -> list[Site]:
    """The numbers of rows that are worth it for `conv`, the fastest first; none where one row at a time is best, or this is no Conv that can have more."""
    weight = float_constant(conv.inputs[1]) if conv.is_op("Conv") else None
    if weight is None or weight.ndim != 4 or weight.shape[0] > prices.lanes // 2 or weight.shape[2] < 2 or int(conv.attrs.get("group", 1)) != 1:
        return []
    if not explicit_pads(conv) or ints(conv, "dilations", [1, 1])[0] != 1 or (conv.input(2) is not None and float_constant(conv.input(2)) is None):
        return []
    shape = shapes.shape(conv.outputs[0])
    if shape is None or len(shape) != 4 or not isinstance(shape[2], int):
        return []
    if not isinstance(shape[3], int) and not (isinstance(shape[0], int) and shape[0] > 0):
        return []  # a Reshape finds the width out only where nothing else is empty
    elements = count(sizes.shape(conv.outputs[0]))
    channels, depth, _, width = (int(d) for d in weight.shape)
    positions, step = elements / channels, ints(conv, "strides", [1, 1])[0]

    def time(rows: int) -> float:
        blocks = math.ceil(rows * channels / prices.lanes)
        # A further block costs half of the first: kernels for several blocks read their input once.
        return positions / rows * _taller(weight, rows, step) * depth * width * prices.block_ns * (1 + blocks) / 2

    moved = prices.floor + elements * prices.move_ns
    sites = []
    for rows in range(2, MOST_ROWS + 1):
        saved = time(1) - time(rows) - moved
        if shape[2] % rows == 0 and saved > (1 - WORTH) * time(1):
            sites.append(
                Site(
                    conv,
                    shape[2],
                    shape[3] if isinstance(shape[3], int) else -1,
                    rows,
                    saved,
                    weight.size * (rows * _taller(weight, rows, step) - weight.shape[2]) // weight.shape[2],
                )
            )
    return sorted(sites, key=lambda site: -site.saved)


def _taller(weight: Array, rows: int, step: int) -> int:
    """Height of the kernel that computes so many rows."""
    return int(weight.shape[2]) + (rows - 1) * step


def _rewrite(model: Model, site: Site, outputs: set[int]) -> None:
    conv, rows = site.conv, site.rows
    graph = node_homes(model)[conv]
    weight, bias = float_constant(conv.inputs[1]), float_constant(conv.input(2))
    assert weight is not None
    stride, (channels, _, height, _) = ints(conv, "strides", [1, 1]), weight.shape
    wide = np.zeros((channels * rows, weight.shape[1], _taller(weight, rows, stride[0]), weight.shape[3]), np.float32)
    for row in range(rows):
        wide[row::rows, :, row * stride[0] : row * stride[0] + height] = weight
    last = conv  # what works element by element stays behind the Conv, where the runtime fuses it
    while (after := sole_consumer(last.outputs[0], outputs)) is not None and elementwise(after) and after in graph.nodes and after.inputs[0] is last.outputs[0]:
        last = after
    result, old = last.outputs[0], list(conv.inputs[1:])
    apart = model.constant("shape", np.array([0, channels, rows, site.height // rows, site.width], np.int64))
    together = model.constant("shape", np.array([0, channels, site.height, site.width], np.int64))
    with Edits(model) as edits:
        at: Tensor = model.variable("rows")
        conv.attrs.update(kernel_shape=list(wide.shape[2:]), pads=written_pads(conv), strides=[rows * stride[0], stride[1]], auto_pad="NOTSET")
        edits.set_input(conv, 1, model.constant("w", wide))
        if bias is not None:
            edits.set_input(conv, 2, model.constant("b", np.repeat(bias, rows)))
        if last is not conv:
            edits.reshape(conv.outputs[0])
        edits.set_output(last, 0, at)
        chain: tuple[tuple[str, tuple[Tensor, ...], dict[str, Any]], ...] = (
            ("Reshape", (apart,), {}),
            ("Transpose", (), {"perm": [0, 1, 3, 2, 4]}),
            ("Reshape", (together,), {}),
        )
        for number, (op, others, attrs) in enumerate(chain, 1):
            out = result if number == len(chain) else model.variable("rows")
            node = detached(op, "", attrs, (at, *others), (out,))
            node.rank = last.rank
            edits.add(node, graph)
            at = out
    drop_unread(model, old)
