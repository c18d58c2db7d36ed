"""Mappers of operators that pick, join or repeat indices, and of those that handle sizes. See `mappers`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphcompress.ir import Node, Tensor, constant_data
from graphcompress.passes.prune.axes.forms import AxisForm
from graphcompress.passes.prune.axes.labels import Array, Axis
from graphcompress.passes.prune.axes.mappers import axes_of, integer
from graphcompress.passes.prune.axes.state import AxisStore, Length


def concat(store: AxisStore, node: Node) -> bool:
    """The joined axis has the labels of the parts one after the other; the other axes are tied."""
    if any(store.lengths(t) for t in node.inputs):
        return _joined_lengths(store, node)
    parts = [store.get(t) for t in node.inputs]
    shapes = [store.shape(t) for t in node.inputs]
    if any(p is None for p in parts) or any(s is None for s in shapes):
        return False
    known, rank = [p for p in parts if p is not None], len(parts[0] or ())
    axis = int(node.attrs["axis"]) % rank
    result: list[Axis] = []
    for a in range(rank):
        if a != axis:
            for part in known[1:]:
                store.labels.tie(known[0][a], part[a])
            result.append(next((p[a] for p in known if p[a] is not None), None))
            continue
        single = store.reason(node, "position", "Concat takes it whole: it is one index long")
        labels = [store.as_labels(single if p[a] is None else p[a], (s or ())[a]) for p, s in zip(known, shapes, strict=True)]
        arrays = [x for x in labels if isinstance(x, np.ndarray)]
        if len(arrays) == len(labels):
            result.append(np.concatenate(arrays))
            continue
        number = next((x for x in labels if isinstance(x, int)), store.reason(node, "position", "Concat joins axes whose lengths are not known"))
        for array in arrays:
            store.labels.freeze(array, number)
        result.append(number)
    store.set(node.outputs[0], result)
    return True


def split(store: AxisStore, node: Node) -> bool:
    x = node.inputs[0]
    axes, shape = store.get(x), store.shape(x)
    if axes is None or shape is None:
        return False
    axis = integer(store, node, "axis") % len(axes)
    labels, begin = axes[axis], 0
    for y in node.outputs:
        out = store.shape(y)
        length = None if out is None else out[axis]
        part: Axis = labels
        if isinstance(labels, np.ndarray):
            if not isinstance(length, int):
                return False
            part = labels[begin : begin + length]
            begin += length
        if length == 1:
            _freeze_single(store, node, part)
            part = None
        store.set(y, [part if a == axis else other for a, other in enumerate(axes)])
    return True


def slice_(store: AxisStore, node: Node) -> bool:
    x, y = node.inputs[0], node.outputs[0]
    lengths = store.lengths(x)
    axes, shape, out = store.get(x), store.shape(x), store.shape(y)
    if axes is None or shape is None or out is None:
        return False
    bounds = _bounds(store, node, len(axes))
    if lengths:
        part = None if bounds is None else bounds.get(0)
        if part is None:
            store.use_lengths(node, x)
            store.freeze_new(y, store.labels.reasons[store.reason(node, "size", "Slice takes sizes")])
            return True
        store.set_lengths(y, lengths[part])
        return True
    if bounds is None:
        return False
    result: list[Axis] = []
    for a, labels in enumerate(axes):
        if a in bounds:
            index = bounds[a]
            if isinstance(labels, np.ndarray):
                picked = np.arange(len(labels))[index] if index is not None else np.zeros(0, np.int64)
                if index is None or index.step not in (None, 1) or not len(picked):
                    number = store.reason(node, "position", "Slice takes positions that are computed, or in steps")
                    store.labels.freeze(labels, number)
                    labels = number
                else:
                    store.picks[node, a] = picked
                    labels = labels[picked]
            if out[a] == 1:
                _freeze_single(store, node, labels)
                labels = None
        result.append(labels)
    store.set(y, result)
    return True


def _bounds(store: AxisStore, node: Node, rank: int) -> dict[int, slice | None] | None:
    """Sliced axis -> its indices, None where they are computed; None where not even the axes are known."""
    if "starts" in node.attrs:
        starts, ends = list(node.attrs["starts"]), list(node.attrs["ends"])
        over, steps = list(node.attrs.get("axes") or range(len(starts))), [1] * len(starts)
        return {int(a) % rank: slice(s, e) for a, s, e in zip(over, starts, ends, strict=True)}
    stated = [store.value(node.input(i)) for i in range(1, 5)]
    absent = [node.input(i) is None for i in range(1, 5)]
    spec = store.shape(node.inputs[1])
    if spec is None or len(spec) != 1 or not isinstance(spec[0], int) or (stated[2] is None and not absent[2]):
        return None
    count = spec[0]
    over = list(range(count)) if stated[2] is None else stated[2].reshape(-1).tolist()
    if stated[0] is None or stated[1] is None or (stated[3] is None and not absent[3]):
        return dict.fromkeys((int(a) % rank for a in over), None)
    steps = [1] * count if stated[3] is None else stated[3].reshape(-1).tolist()
    bounds: dict[int, slice | None] = {}
    for a, start, end, step in zip(over, stated[0].reshape(-1).tolist(), stated[1].reshape(-1).tolist(), steps, strict=True):
        # A negative end beyond the first index means the first one included, which Python writes as None.
        bounds[int(a) % rank] = slice(int(start), None if step < 0 and end < -(2**31) else int(end), int(step))
    return bounds


def gather(store: AxisStore, node: Node) -> bool:
    """Constant indices pick labels; computed ones (an embedding) freeze the axis that they address."""
    x, i, y = node.inputs[0], node.inputs[1], node.outputs[0]
    index = store.value(i)
    lengths = store.lengths(x)
    if lengths:
        if index is None:
            store.use_lengths(node, x)
            store.freeze_new(y, store.labels.reasons[store.reason(node, "size", "Gather takes sizes")])
        else:
            store.set_lengths(y, [lengths[int(k)] for k in index.reshape(-1)])
        return True
    axes, places = store.get(x), store.get(i)
    if axes is None or places is None:
        return False
    axis = integer(store, node, "axis") % len(axes)
    labels = axes[axis]
    middle: tuple[Axis, ...] = places
    if isinstance(labels, np.ndarray):
        if index is not None and index.ndim == 1 and index.size > 1:
            middle = (labels[index],)
        elif index is not None:
            _freeze_single(store, node, labels[index.reshape(-1)])
        else:
            store.labels.freeze(labels, store.reason(node, "position", "Gather takes positions that are computed"))
    elif isinstance(labels, int) and index is not None and index.ndim == 1 and index.size > 1:
        middle = (labels,)
    for place in places:
        store.labels.freeze(place, store.reason(node, "position", "Gather takes positions"))
    store.set(y, [*axes[:axis], *middle, *axes[axis + 1 :]])
    return True


def pad(store: AxisStore, node: Node) -> bool:
    """Padded axes are frozen."""
    axes, out = store.get(node.inputs[0]), store.shape(node.outputs[0])
    shape = store.shape(node.inputs[0])
    if axes is None or out is None or shape is None:
        return False
    pads = node.attrs.get("pads")
    if pads is None:
        value = store.value(node.input(1))
        pads = None if value is None else value.reshape(-1).tolist()
    over = axes_of(store, node, len(axes), index=3) or list(range(len(axes)))
    moved = set(over if pads is None else (a for k, a in enumerate(over) if pads[k] or pads[k + len(over)]))
    number = store.reason(node, "position", "Pad adds indices to it")
    for a in moved:
        store.labels.freeze(axes[a], number)
    store.set(node.outputs[0], [(None if out[a] == 1 else number) if a in moved else axis for a, axis in enumerate(axes)])
    return True


def expand(store: AxisStore, node: Node) -> bool:
    """Axes of the same length go through; one of length 1 becomes an axis of its own, whose length the target states."""
    x, y = node.inputs[0], node.outputs[0]
    axes, shape, out = store.get(x), store.shape(x), store.shape(y)
    if axes is None or shape is None or out is None:
        return False
    if constant_data(node.inputs[1]) is None:  # what is computed from another tensor's shape would lose what that loses
        store.use_lengths(node, node.inputs[1])
    shift = len(out) - len(axes)
    result: list[Axis] = []
    for a, dim in enumerate(out):
        before = shape[a - shift] if a >= shift else 1
        if before == 1:
            result.append(None if dim == 1 else store.labels.fresh(dim) if isinstance(dim, int) else store.reason(node, "size", "its length is computed"))
        else:
            result.append(axes[a - shift])
    store.set(y, result)
    return True


def tile(store: AxisStore, node: Node) -> bool:
    axes, shape, out = store.get(node.inputs[0]), store.shape(node.inputs[0]), store.shape(node.outputs[0])
    repeats = store.value(node.input(1))
    if axes is None or shape is None or out is None:
        return False
    number = store.reason(node, "position", "Tile repeats it")
    result: list[Axis] = []
    for a, labels in enumerate(axes):
        times = None if repeats is None else int(repeats.reshape(-1)[a])
        if times == 1:
            result.append(labels)
        elif isinstance(labels, np.ndarray) and times is not None:
            result.append(np.tile(labels, times))
        else:
            store.labels.freeze(labels, number)
            result.append(None if out[a] == 1 else number)
    store.set(node.outputs[0], result)
    return True


# --- sizes ----------------------------------------------------------------------------------------------------------------------


def shape_of(store: AxisStore, node: Node) -> bool:
    x = node.inputs[0]
    shape = store.shape(x)
    if shape is None:
        return False
    begin, end = integer(store, node, "start"), node.attrs.get("end")
    picked = list(range(len(shape)))[begin : None if end is None else int(end)]
    store.set_lengths(node.outputs[0], [(x, a) for a in picked])
    return True


def same_sizes(store: AxisStore, node: Node) -> AxisForm | bool:
    """Cast and Identity of sizes keep them; of anything else they work element by element."""
    x = node.inputs[0]
    if store.lengths(x) and store.shapes.dtype(node.outputs[0]) in ("int64", "int32"):
        store.set_lengths(node.outputs[0], store.lengths(x))
        return True
    store.use_lengths(node, x)
    axes = store.get(x)
    if axes is None:
        store.freeze_new(node.outputs[0], store.labels.reasons[store.reason(node, "unknown", "its rank is not known")])
        return True
    if store.shapes.dtype(node.outputs[0]) in ("int64", "int32", "string"):  # labels are for values
        number = store.reason(node, "position", f"{node.op} makes positions of it")
        for axis in axes:
            store.labels.freeze(axis, number)
        axes = tuple(None if a is None else number for a in axes)
    store.set(node.outputs[0], axes)
    return True


def from_size(store: AxisStore, node: Node) -> bool:
    """ConstantOfShape, Range, random tensors: axes that follow the size, which therefore must stay. Size: of all axes of its input."""
    number = store.reason(node, "size", f"{node.op} makes it from a size")
    for axis in (store.get(node.inputs[0]) or ()) if node.op == "Size" else ():
        store.labels.freeze(axis, number)
    store.freeze_new(node.outputs[0], store.labels.reasons[number])
    return True


def _joined_lengths(store: AxisStore, node: Node) -> bool:
    joined: list[Length | None] = []
    for tensor in node.inputs:
        lengths = store.lengths(tensor)
        if not lengths:
            shape = store.shape(tensor)
            count = None if shape is None or not all(isinstance(d, int) for d in shape) else math.prod(d for d in shape if isinstance(d, int))
            if count is None:
                for other in node.inputs:
                    store.use_lengths(node, other)
                count = 0
            lengths = [None] * count
        joined += lengths
    store.set_lengths(node.outputs[0], joined)
    return True


def _freeze_single(store: AxisStore, node: Node, labels: Axis | Array | Sequence[Tensor]) -> None:
    """What a scalar index takes must stay, or nothing would be left of the output."""
    if isinstance(labels, np.ndarray):
        store.labels.freeze(labels, store.reason(node, "position", f"{node.op} takes one index of it"))
