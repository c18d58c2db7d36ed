"""Convs with few output channels, several rows at once.

Kernels of processors compute a block of output channels together; with fewer channels most of the block is idle. A kernel that is taller by r - 1 steps and goes r steps at a time
holds the original one r times, shifted, as r times the channels: the same sums, and zeros. A Reshape and a Transpose bring the rows back to their places.

The taller kernel is written out where the file may grow by it. Elsewhere the file keeps the original one, and Pads and a Concat make it taller when a session loads the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, graphs, output_ids, sole_consumer
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.scopes import node_homes
from graphcompress.ir.model.unread import drop_unread
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.layout.parts import Array, count, elementwise, explicit_pads, float_constant, ints, written_pads
from graphcompress.targets import Layout

MOST_ROWS = 8
PAD_AND_CONCAT = 4
"""The opset from which on runtimes have kernels of both Pad and Concat."""
SHAPE_IS_AN_INPUT, PADS_ARE_AN_INPUT = 5, 11
"""The opsets from which on a Reshape and a Pad read what they had as an attribute before."""
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
    """Rewrite the Convs that gain. Kernels are written out, those first that save most time per element, until the parameters have grown by the part `growth`; the others become taller on
    loading. `sizes` are the shapes of one feed, `shapes` those of any run. Edits the model; gives the outputs of the Convs."""
    outputs = output_ids(model)
    room = growth * sum(math.prod(c.shape) for g in graphs(model) for c in g.initializers.values())
    choices = [sites for g in graphs(model) for n in g.nodes if (sites := _sites(n, sizes, shapes, prices))]
    names = []
    for sites in sorted(choices, key=lambda sites: sites[0].saved / max(sites[0].growth, 1), reverse=True):
        site = sites[0]
        written = site.growth <= room
        if not written and model.opset < PAD_AND_CONCAT:
            continue
        room -= site.growth if written else 0
        names.append(site.conv.outputs[0].name)
        _rewrite(model, site, outputs, written=written)
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


def _rewrite(model: Model, site: Site, outputs: set[int], *, written: bool) -> None:
    """Edit `model`; `written`: the taller kernel is a constant, instead of what Pads and a Concat make of the one that is there."""
    conv, rows = site.conv, site.rows
    graph = node_homes(model)[conv]
    weight, bias = float_constant(conv.inputs[1]), float_constant(conv.input(2))
    assert weight is not None
    stride, channels = ints(conv, "strides", [1, 1]), weight.shape[0]
    # Zeros above and below the kernel of each row.
    zeros = [(row * stride[0], (rows - 1 - row) * stride[0]) for row in range(rows)]
    last = conv  # what works element by element stays behind the Conv, where the runtime fuses it
    while (after := sole_consumer(last.outputs[0], outputs)) is not None and elementwise(after) and after in graph.nodes and after.inputs[0] is last.outputs[0]:
        last = after
    result, old = last.outputs[0], list(conv.inputs[1:])
    apart, together = [0, rows, channels, site.height // rows, site.width], [0, channels, site.height, site.width]
    with Edits(model) as edits:
        at: Tensor = model.variable("rows")
        conv.attrs.update(
            kernel_shape=[_taller(weight, rows, stride[0]), weight.shape[3]], pads=written_pads(conv), strides=[rows * stride[0], stride[1]], auto_pad="NOTSET"
        )
        if written:
            taller = np.concatenate([np.pad(weight, ((0, 0), (0, 0), around, (0, 0))) for around in zeros])
            edits.set_input(conv, 1, model.constant("w", taller))
        else:
            edits.set_input(conv, 1, _on_loading(model, edits, conv, graph, zeros))
        if bias is not None:
            edits.set_input(conv, 2, model.constant("b", np.tile(bias, rows)))
        if last is not conv:
            edits.reshape(conv.outputs[0])
        edits.set_output(last, 0, at)
        chain: tuple[tuple[str, tuple[Tensor, ...], dict[str, Any]], ...] = (
            ("Reshape", *_stated(model, "shape", apart, SHAPE_IS_AN_INPUT)),
            ("Transpose", (), {"perm": [0, 2, 3, 1, 4]}),
            ("Reshape", *_stated(model, "shape", together, SHAPE_IS_AN_INPUT)),
        )
        for number, (op, others, attrs) in enumerate(chain, 1):
            out = result if number == len(chain) else model.variable("rows")
            node = detached(op, "", attrs, (at, *others), (out,))
            node.rank = last.rank
            edits.add(node, graph)
            at = out
    drop_unread(model, old)


def _stated(model: Model, name: str, numbers: list[int], opset: int) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Inputs and attributes that state `numbers`, which are an attribute below `opset`."""
    return ((model.constant(name, np.array(numbers, np.int64)),), {}) if model.opset >= opset else ((), {name: numbers})


def _on_loading(model: Model, edits: Edits, conv: Node, graph: Graph, zeros: Sequence[tuple[int, int]]) -> Tensor:
    """The kernel of `conv` once for each of `zeros` (above, below), as nodes that a runtime folds into one constant."""
    parts: list[Tensor] = []
    nodes = []
    for above, below in zeros:
        inputs, attrs = _stated(model, "pads", [0, 0, above, 0, 0, 0, below, 0], PADS_ARE_AN_INPUT)
        parts.append(model.variable("w"))
        nodes.append(detached("Pad", "", attrs, (conv.inputs[1], *inputs), (parts[-1],)))
    taller: Tensor = model.variable("w")
    nodes.append(detached("Concat", "", {"axis": 0}, tuple(parts), (taller,)))
    for node in nodes:
        node.rank = conv.rank
        edits.add(node, graph)
    return taller
