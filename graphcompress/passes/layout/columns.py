"""Columns of pixels (height L, width 1) as rows (height 1, width L): kernels go along rows.

A region is what operators on columns share: Conv and pooling with kernels one pixel wide, and what works element by element or channel by channel. Inside, heights and widths
change places; the elements keep their order in memory, so that a Transpose at the border copies at most, and a Reshape needs none. Where the width is 1 in any run, a Squeeze
and an Unsqueeze stand there, which copy nothing.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from graphcompress.ir import Graph, Model, Node, Tensor, constant_value, consumers, graphs, output_ids, producer
from graphcompress.ir.model.edit import Edits, detached
from graphcompress.ir.model.unread import drop_unread
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.layout.parts import Array, count, elementwise, explicit_pads, float_constant, ints, written_pads
from graphcompress.targets import Layout

SWAP = [0, 1, 3, 2]
ROW, COLUMN = 2, 3
"""The axis that has size 1."""
FIRST_AXES_AS_INPUT = 13
POOLS = ("MaxPool", "AveragePool")
BROADCAST = ("Add", "Mul", "Sub", "Div")


def turn_columns(model: Model, sizes: Shapes, shapes: Shapes, prices: Layout) -> list[str]:
    """Turn every region that gains. `sizes` are the shapes of one feed, `shapes` those of any run. Edits the model; gives the outputs of the Convs that now go along rows."""
    outputs, turned = output_ids(model), []
    for graph in list(graphs(model)):
        for region in _regions([n for n in graph.nodes if _fits(n, sizes, shapes)]):
            convs = [n for n in region if n.is_op("Conv") and _weight(n).shape[2] > 1]
            gain = sum(prices.column * prices.mac_ns * _macs(n, sizes) for n in convs)
            crossing = partial(_crosses, members=set(region), outputs=outputs, shapes=shapes)
            borders = [t for t in dict.fromkeys(t for n in region for t in (*_data(n), n.outputs[0])) if crossing(t)]
            if convs and gain > sum(prices.floor + prices.move_ns * count(sizes.shape(t)) for t in borders):
                turned += [n.outputs[0].name for n in convs]
                _turn(model, region, graph, outputs, shapes)
    return turned


def _fits(node: Node, sizes: Shapes, shapes: Shapes) -> bool:
    """Whether `node` computes on images, whatever their width, what it would compute with heights and widths exchanged, and its images are columns at `sizes`."""
    if not node.standard or any(not (_image(t, shapes) and _column(t, sizes)) for t in (*_data(node), *node.outputs)):
        return False
    if node.is_op("Conv"):
        weight = float_constant(node.inputs[1])
        if weight is None or weight.ndim != 4 or weight.shape[3] != 1:
            return False
        return _narrow(node)
    if node.is_op(*POOLS):
        return len(node.outputs) == 1 and ints(node, "kernel_shape", [0, 0])[1] == 1 and _narrow(node)
    if node.is_op(*BROADCAST):
        return all(t in _data(node) or _per_channel(t) for t in node.inputs)
    return elementwise(node) or (node.is_op("BatchNormalization") and len(node.outputs) == 1)


def _narrow(node: Node) -> bool:
    """Neither pads nor steps along the width."""
    pads = written_pads(node)
    return explicit_pads(node) and pads[1] == pads[3] == 0 and ints(node, "strides", [1, 1])[1] == 1


def _per_channel(tensor: Tensor) -> bool:
    value = float_constant(tensor)
    return value is not None and all(d == 1 for d in value.shape[-2:])


def _data(node: Node) -> list[Tensor]:
    """The computed inputs."""
    if node.is_op(*BROADCAST):
        return [t for t in node.inputs if float_constant(t) is None]
    return list(node.inputs[:1])


def _image(tensor: Tensor, shapes: Shapes) -> bool:
    return shapes.rank(tensor) == 4 and shapes.dtype(tensor) == "float"


def _column(tensor: Tensor, shapes: Shapes) -> bool:
    shape = shapes.shape(tensor)
    return shape is not None and len(shape) == 4 and shape[3] == 1


def _weight(conv: Node) -> Array:
    weight = float_constant(conv.inputs[1])
    assert weight is not None
    return weight


def _macs(conv: Node, sizes: Shapes) -> int:
    return count(sizes.shape(conv.outputs[0])) * int(_weight(conv)[0].size)


def _regions(members: list[Node]) -> list[list[Node]]:
    """`members` in groups that are joined by tensors, each in the order of the graph."""
    readers: dict[Tensor, list[Node]] = {}
    for node in members:
        for tensor in (*_data(node), node.outputs[0]):
            readers.setdefault(tensor, []).append(node)
    left, regions = dict.fromkeys(members), []
    for start in members:
        if start not in left:
            continue
        queue, region = [start], set()
        del left[start]
        while queue:
            node = queue.pop()
            region.add(node)
            for tensor in (*_data(node), node.outputs[0]):
                for other in readers[tensor]:
                    if other in left:
                        del left[other]
                        queue.append(other)
        regions.append([n for n in members if n in region])
    return regions


def _indifferent(node: Node, tensor: Tensor, shapes: Shapes) -> bool:
    """Whether `node`, reading `tensor`, gives the same for it with height and width exchanged in any run: it takes all of a channel, or the elements of a column in their order in memory."""
    if not node.standard or node.input(0) is not tensor:
        return False
    if node.is_op("GlobalAveragePool", "GlobalMaxPool"):
        return True
    if not _column(tensor, shapes):  # the order of elements changes where there is more than one in both directions
        return False
    if node.is_op("Reshape"):
        target = _target(node)
        return target is not None and not node.attrs.get("allowzero", 0) and all(d != 0 for d in target[2:])
    return node.is_op("Flatten") and int(node.attrs.get("axis", 1)) in (0, 1, 2)


def _target(reshape: Node) -> list[int] | None:
    """The shape that a Reshape states: up to opset 4 an attribute, then an input. None where it is computed."""
    if len(reshape.inputs) < 2:
        return ints(reshape, "shape", [])
    value = constant_value(reshape.inputs[1])
    return None if value is None else [int(d) for d in value.ravel()]


def _crosses(tensor: Tensor, members: set[Node], outputs: set[int], shapes: Shapes) -> bool:
    """Whether a tensor of a region is also needed as a column, or made as one."""
    maker = producer(tensor)
    return maker not in members or id(tensor) in outputs or any(n not in members and not _indifferent(n, tensor, shapes) for n in consumers(tensor))


def _turn(model: Model, region: list[Node], graph: Graph, outputs: set[int], shapes: Shapes) -> None:
    members = set(region)
    rows = {n.outputs[0]: model.variable("row") for n in region}
    weights: list[Tensor] = []
    with Edits(model) as edits:

        def turn(source: Tensor, result: Tensor, near: Node, dropped: int) -> None:
            """Make `result` of `source`, whose axis `dropped` has size 1 at the sizes of the feed. Where it has in any run, nothing moves, and the runtime need not be told of a Transpose: it would
            join one of its own for channels-last with it, to one that is many times slower."""
            if _column(source if dropped == COLUMN else result, shapes):
                flat = model.variable("flat")
                added = [
                    _axis_view(model, "Squeeze", source, flat, dropped),
                    _axis_view(model, "Unsqueeze", flat, result, ROW if dropped == COLUMN else COLUMN),
                ]
            else:
                added = [detached("Transpose", "", {"perm": SWAP}, (source,), (result,))]
            for node in added:
                node.rank = near.rank
                edits.add(node, graph)

        for node in region:
            data = set(_data(node))
            for index, tensor in enumerate(node.inputs):
                if tensor in data:
                    if tensor not in rows:
                        rows[tensor] = model.variable("row")
                        turn(tensor, rows[tensor], node, COLUMN)
                    edits.set_input(node, index, rows[tensor])
        for node in region:
            made = node.outputs[0]
            if node.is_op("Conv"):
                weights.append(node.inputs[1])
                edits.set_input(node, 1, model.constant("w", _weight(node).transpose(SWAP)))
            if node.is_op("Conv", *POOLS):
                _swap_attributes(node)
            edits.set_output(node, 0, rows[made])
            others = [n for n in consumers(made) if n not in members]
            indifferent = [n for n in others if _indifferent(n, made, shapes)]
            for reader in indifferent:
                edits.set_input(reader, 0, rows[made])
            if id(made) in outputs or len(indifferent) < len(others):
                turn(rows[made], made, node, ROW)
    drop_unread(model, weights)


def _axis_view(model: Model, op: str, source: Tensor, result: Tensor, axis: int) -> Node:
    """A Squeeze or Unsqueeze of one axis, which is an attribute up to opset 12."""
    if model.opset < FIRST_AXES_AS_INPUT:
        return detached(op, "", {"axes": [axis]}, (source,), (result,))
    return detached(op, "", {}, (source, model.constant("axes", np.array([axis], np.int64))), (result,))


def _swap_attributes(node: Node) -> None:
    for name in ("kernel_shape", "strides", "dilations"):
        if name in node.attrs:
            node.attrs[name] = ints(node, name, [1, 1])[::-1]
    if "pads" in node.attrs:
        top, left, bottom, right = ints(node, "pads", [0] * 4)
        node.attrs["pads"] = [left, top, right, bottom]
