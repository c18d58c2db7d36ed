"""The cut: a model without the removed units, and what each tensor lost."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.ir import Constant, Model, Node, Tensor, constant_data, constant_value, toposort
from graphcompress.ir.model.edit import Edits
from graphcompress.ir.model.twins import Twins
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.prune.axes.algebra import Algebra
from graphcompress.passes.prune.axes.labels import Array, Axis

STEP = "prune"


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """`model` without the units that are not in `keep` [units]; `twins`: what each node and tensor of the original is in it; `algebra` is that of the original."""

    model: Model
    twins: Twins
    algebra: Algebra
    keep: Array

    def indices(self, tensor: Tensor, axis: int) -> Array | None:
        """Indices that are left of an axis of the original, None where all are."""
        axes = self.algebra.axes.get(tensor)
        mask = self.mask(axes[axis]) if axes is not None and axis < len(axes) else None
        return None if mask is None or mask.all() else np.flatnonzero(mask)

    def mask(self, axis: Axis) -> Array | None:
        """[length] True for each index that is left; None for an axis without labels."""
        return self.keep[self.algebra.components.unit[axis]] if isinstance(axis, np.ndarray) else None

    def taken(self, tensor: Tensor, values: Array) -> Array:
        """`values` of a constant of the original without what it loses. Indices of an axis with more labels than indices are counted within blocks of the first axis."""
        axes = self.algebra.axes.get(tensor) or ()
        masks = {axis: mask for axis, labels in enumerate(axes) if (mask := self.mask(labels)) is not None and not mask.all()}
        for axis, mask in sorted(masks.items(), reverse=True):  # the first axis, whose blocks are counted in, comes last
            values = values.take(np.flatnonzero(mask), axis) if len(mask) == values.shape[axis] else _within_blocks(values, axis, mask)
        return np.ascontiguousarray(values)

    def channels(self, but: Container[str] = ()) -> list[dict[str, Any]]:
        """What is left of the axes of activations, as JSON data: sets of tensors of the original with the same axis, length and indices that are left, without those named in `but`. Tensors of the
        cut model have the same names."""
        sets: dict[tuple[int, bytes], dict[str, Any]] = {}
        for tensor, axes in self.algebra.axes.items():
            for axis in range(len(axes or ()) if constant_data(tensor) is None and tensor.name not in but else 0):
                mask = self.mask((axes or ())[axis])
                if mask is not None and not mask.all():
                    entry = {"axis": axis, "length": len(mask), "kept": np.flatnonzero(mask).tolist(), "tensors": []}
                    sets.setdefault((axis, mask.tobytes()), entry)["tensors"].append(tensor.name)
        return list(sets.values())


def _within_blocks(values: Array, axis: int, mask: Array) -> Array:
    """`values` whose first axis is made of as many blocks as `mask` [blocks * length of `axis`] has: each with the indices of its own block."""
    blocks = len(mask) // values.shape[axis]
    parts = zip(np.split(values, blocks), mask.reshape(blocks, -1), strict=True)
    return np.concatenate([part.take(np.flatnonzero(own), axis) for part, own in parts])


def cut(algebra: Algebra, keep: Array) -> Cut:
    """Remove the units that are not in `keep` [units] from a copy of the model: one `take` per axis of a constant, new sizes, offsets and attributes."""
    model, twins = algebra.model.clone()
    result = Cut(model, twins, algebra, keep)
    _Cutter(result).operate()
    return result


class _Cutter:
    """Edits the copy."""

    def __init__(self, result: Cut) -> None:
        self.cut = result
        self.model = result.model
        self.algebra = result.algebra

    def operate(self) -> None:
        with Edits(self.model) as edits:
            self.weights(edits)
            self.attributes(edits)
        # Sizes are inferred in the order of the graph, each after what it hangs on has been put right.
        self.shapes = Shapes(self.model, {})
        with Edits(self.model) as edits:
            for node in toposort(self.algebra.model.graph):
                rewrite = _REWRITES.get(node.op) if node.standard else None
                if rewrite is not None and (any(self.changed(t) for t in (*node.inputs, *node.outputs)) or any(self.of_changed(t) for t in node.inputs)):
                    rewrite(self, edits, node)
            for tensor in self.algebra.axes:
                if constant_data(tensor) is None and self.changed(tensor):
                    edits.reshape(self.cut.twins.tensor(tensor))

    # --- what is left -----------------------------------------------------------------------------------------------------------

    def changed(self, tensor: Tensor) -> bool:
        return any(m is not None and not m.all() for m in map(self.cut.mask, self.algebra.axes.get(tensor) or ()))

    def of_changed(self, tensor: Tensor) -> bool:
        """Whether `tensor` holds the length of a cut axis."""
        return any(entry is not None and self.mask(*entry) is not None for entry in self.algebra.lengths(tensor))

    def mask(self, tensor: Tensor, axis: int) -> Array | None:
        axes = self.algebra.axes.get(tensor)
        mask = None if axes is None else self.cut.mask(axes[axis])
        return None if mask is None or mask.all() else mask

    def twin(self, node: Node) -> Node:
        return self.cut.twins.node(node)

    # --- constants and attributes -----------------------------------------------------------------------------------------------

    def weights(self, edits: Edits) -> None:
        for tensor in self.algebra.axes:
            if constant_data(tensor) is None or not self.changed(tensor):
                continue
            values = constant_value(tensor)
            assert values is not None
            values = self.cut.taken(tensor, values)
            twin = self.cut.twins.tensor(tensor)
            if isinstance(twin, Constant):
                edits.set_value(twin, values)
            else:
                edits.replace(twin, self.model.constant(tensor.name, values))

    def attributes(self, edits: Edits) -> None:
        for application in self.algebra.applications:
            for name, letter in application.form.attributes.items():
                axis = application.vectors.get(letter)
                mask = None if axis is None else self.cut.mask(axis)
                if mask is not None and not mask.all():
                    node = self.twin(application.form.node)
                    node.attrs[name] = int(mask.sum())

    # --- sizes and positions ----------------------------------------------------------------------------------------------------

    def target(self, edits: Edits, node: Node, index: int = 1) -> None:
        """The size of each cut axis of the output in the shape that input `index` states (Reshape, Expand, Resize), and those of others that it takes from a cut axis."""
        y, twin = node.outputs[0], self.twin(node)
        if twin.input(index) is None:
            return
        tensor = twin.inputs[index]
        lengths, over = self.algebra.lengths(node.inputs[index]), self.stated_axes(node, index)
        sizes: dict[int, int] = {}  # by the place of the entry
        for place, axis in enumerate(over):
            mask, length = self.mask(y, axis), (self.algebra.shape(y) or ())[axis]
            if mask is not None:
                sizes[place] = int(mask.sum())
            elif isinstance(length, int) and place < len(lengths) and (source := lengths[place]) is not None and self.mask(*source) is not None:
                sizes[place] = length
        stated = self.shapes.entries(tensor)
        value = constant_value(tensor)
        if value is not None:
            stated = value.astype(object)
        if stated is None:
            self.patch(edits, node, index, sizes, len(over))
            return
        before = self.algebra.axes.get(node.inputs[0]) or ()
        wrong = {}
        for place, size in sizes.items():
            entry = stated.reshape(-1)[place]
            if entry == 0 and node.op == "Reshape" and not node.attrs.get("allowzero", 0) and place < len(before):
                mask = self.mask(node.inputs[0], place)
                entry = int(mask.sum()) if mask is not None else 0
            if entry not in (size, -1):
                wrong[place] = size
        if value is not None and wrong:
            sized = value.astype(np.int64)
            sized[list(wrong)] = list(wrong.values())
            edits.set_input(twin, index, self.model.constant(tensor.name, sized))
        else:
            self.patch(edits, node, index, wrong, len(over))

    def stated_axes(self, node: Node, index: int) -> list[int]:
        """The axes of the output for which input `index` has entries: those of the attribute of a Resize, the last ones of an Expand whose target is of lower rank."""
        rank = len(self.algebra.shape(node.outputs[0]) or ())
        if node.op == "Resize" and "axes" in node.attrs:
            return [int(a) % rank for a in node.attrs["axes"]]
        count = (self.algebra.shape(node.inputs[index]) or (rank,))[0]
        return list(range(rank))[-count if isinstance(count, int) and count else rank :]

    def patch(self, edits: Edits, node: Node, index: int, sizes: dict[int, int], count: int) -> None:
        """Write sizes over some of the `count` entries of a shape that is computed."""
        if not sizes:
            return
        twin = self.twin(node)
        tensor = twin.inputs[index]
        chosen = np.zeros(count, bool)
        values = np.zeros(count, np.int64)
        chosen[list(sizes)] = True
        values[list(sizes)] = list(sizes.values())
        where = self.model.add(
            "Where",
            [self.model.constant(f"{tensor.name}_cut", chosen), self.model.constant(f"{tensor.name}_sizes", values), tensor],
            name=f"{twin.name or twin.op}_shape",
            near=twin,
            origin=(STEP, twin.name),
        )
        edits.set_input(twin, index, where.outputs[0])

    def resize(self, edits: Edits, node: Node) -> None:
        if len(node.inputs) > 3 and node.input(3) is not None:
            self.target(edits, node, 3)

    def split(self, edits: Edits, node: Node) -> None:
        axes = self.algebra.axes[node.inputs[0]] or ()
        axis = self.axis(node, 0)
        if self.mask(node.inputs[0], axis) is None:
            return
        labels = axes[axis]
        assert isinstance(labels, np.ndarray)
        mask = self.cut.mask(labels)
        assert mask is not None
        sizes, begin = [], 0
        for tensor in node.outputs:
            shape = self.algebra.shape(tensor)
            assert shape is not None
            length = shape[axis]
            assert isinstance(length, int)
            sizes.append(int(mask[begin : begin + length].sum()))
            begin += length
        twin = self.twin(node)
        twin.attrs.pop("num_outputs", None)
        if self.algebra.opset >= 13:
            edits.set_input(twin, 1, self.model.constant("split", np.array(sizes, np.int64)))
        else:
            twin.attrs["split"] = sizes

    def slice(self, edits: Edits, node: Node) -> None:
        """New bounds of the cut axes: what a Slice takes without a step lies together after the cut as well."""
        twin, rank = self.twin(node), len(self.algebra.axes[node.inputs[0]] or ())
        bounds: dict[int, tuple[int, int]] = {}
        for axis in range(rank):
            mask, picked = self.mask(node.inputs[0], axis), self.algebra.picks.get((node, axis))
            if mask is not None and picked is not None:
                bounds[axis] = int(mask[: picked[0]].sum()), int(mask[: picked[-1] + 1].sum())
        if not bounds:
            return
        if "starts" in node.attrs:
            over = list(node.attrs.get("axes") or range(len(node.attrs["starts"])))
        else:
            value = self.algebra.value(node.input(3))
            over = list(range(rank)) if value is None else value.reshape(-1).tolist()
        for index, name in enumerate(("starts", "ends")):
            if name in node.attrs:
                numbers = list(node.attrs[name])
            else:
                stated = self.algebra.value(node.inputs[index + 1])
                assert stated is not None
                dtype, numbers = stated.dtype, stated.reshape(-1).tolist()
            for axis, pair in bounds.items():
                numbers[[a % rank for a in over].index(axis)] = pair[index]
            if name in node.attrs:
                twin.attrs[name] = numbers
            else:
                edits.set_input(twin, index + 1, self.model.constant(node.inputs[index + 1].name, np.array(numbers, dtype)))

    def gather(self, edits: Edits, node: Node) -> None:
        axis = self.axis(node, 0)
        mask = self.mask(node.inputs[0], axis)
        if mask is None:
            return
        index = self.algebra.value(node.inputs[1])
        assert index is not None
        flat = index.reshape(-1) % len(mask)
        rank = np.cumsum(mask) - 1
        places = rank[flat[mask[flat]]].astype(index.dtype)
        edits.set_input(self.twin(node), 1, self.model.constant(node.inputs[1].name, places if index.ndim == 1 else places.reshape(index.shape)))

    def axis(self, node: Node, default: int) -> int:
        value = node.attrs.get("axis", default)
        return int(value) % len(self.algebra.axes[node.inputs[0]] or ())


_REWRITES: dict[str, Callable[[_Cutter, Edits, Node], None]] = {
    "Reshape": _Cutter.target,
    "Expand": _Cutter.target,
    "Resize": _Cutter.resize,
    "Split": _Cutter.split,
    "Slice": _Cutter.slice,
    "Gather": _Cutter.gather,
}
