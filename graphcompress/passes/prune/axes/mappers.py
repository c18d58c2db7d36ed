"""Mappers: what operators do to axes where shapes, attributes or values decide.

A mapper returns a `AxisForm`, True where it has set the axes of the outputs itself, or False for a barrier.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphcompress.ir import Node, Tensor
from graphcompress.ir.schemas.operators import operator_definition
from graphcompress.passes.prune.axes.forms import AxisForm, Letter, Slot
from graphcompress.passes.prune.axes.reshape import refine
from graphcompress.passes.prune.axes.state import AxisStore


def attribute(store: AxisStore, node: Node, name: str, default: object = None) -> object:
    """An attribute of `node`, or its default in the model's opset."""
    if name in node.attrs:
        return node.attrs[name]
    definition = operator_definition(node.op, "", store.opset) if node.standard else None
    entry = None if definition is None else definition.attributes.get(name)
    return default if entry is None or entry.default is None else entry.default


def integer(store: AxisStore, node: Node, name: str, default: int = 0) -> int:
    """An attribute that is a number."""
    value = attribute(store, node, name, default)
    return value if isinstance(value, int) else default


def axes_of(store: AxisStore, node: Node, rank: int, index: int = 1) -> list[int] | None:
    """The axes that an attribute or, in newer opsets, a constant input states; [] where neither is there, None where they are computed."""
    stated = node.attrs.get("axes")
    if stated is None and node.input(index) is not None:
        value = store.value(node.input(index))
        if value is None:
            return None
        stated = value.reshape(-1).tolist()
    return sorted({int(a) % rank for a in list(stated or [])})


# --- the same elements in another shape -----------------------------------------------------------------------------------------


def reshape(store: AxisStore, node: Node) -> AxisForm | bool:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    x, y = node.inputs[0], node.outputs[0]
    lengths = store.lengths(x)
    if lengths:
        store.set_lengths(y, lengths)
        return True
    before, after = store.shape(x), store.shape(y)
    if before is None or after is None:
        return False
    refined = refine(before, after)
    if None in (*refined.before, *refined.after):
        sizes_before, sizes_after = store.sample_shape(x), store.sample_shape(y)
        if sizes_before is not None and sizes_after is not None:
            refined = refine(sizes_before, sizes_after)
    sizes = dict(refined.sizes)
    # Letters of axes whose lengths are no numbers. (A sample gives them numbers.)
    free = zip((*refined.before, *refined.after), (*before, *after), strict=True)
    frozen: set[Letter] = {letter for letters, dim in free if not isinstance(dim, int) for letter in letters or ()}

    def slots(tensor: Tensor, axes: list[tuple[Letter, ...] | None], side: str) -> tuple[Slot, ...]:
        result = []
        for axis, letters in enumerate(axes):
            if letters is None:
                letters = (f"{side}{axis}",)
                sizes[letters[0]] = None
                frozen.add(letters[0])
            result.append(Slot(tensor, axis, letters))
        return tuple(result)

    return AxisForm(node, slots(x, refined.before, "b"), slots(y, refined.after, "a"), sizes, frozenset(frozen))


def transpose(store: AxisStore, node: Node) -> bool:
    axes = store.get(node.inputs[0])
    if axes is None:
        return False
    order = list(node.attrs.get("perm") or range(len(axes))[::-1])
    store.set(node.outputs[0], [axes[a] for a in order])
    return True


def depth_to_space(store: AxisStore, node: Node) -> AxisForm | bool:
    """DepthToSpace and SpaceToDepth of [n, c, h, w]: a channel of the deep side is a channel of the other and a place in a block."""
    deep, wide = (node.outputs[0], node.inputs[0]) if node.op == "SpaceToDepth" else (node.inputs[0], node.outputs[0])
    shape = store.shape(wide)
    channels = None if shape is None or len(shape) != 4 else shape[1]
    if not isinstance(channels, int):
        return False
    block = int(node.attrs["blocksize"])
    product = ("c", "p") if node.op == "DepthToSpace" and node.attrs.get("mode") in ("CRD", b"CRD") else ("p", "c")
    sizes: dict[Letter, int | None] = {"c": channels, "p": block * block, "n": shape[0] if shape and isinstance(shape[0], int) else None}
    sizes |= dict.fromkeys(("h", "w", "i", "j"))
    of_deep = (Slot(deep, 0, ("n",)), Slot(deep, 1, product), Slot(deep, 2, ("h",)), Slot(deep, 3, ("w",)))
    of_wide = (Slot(wide, 0, ("n",)), Slot(wide, 1, ("c",)), Slot(wide, 2, ("i",)), Slot(wide, 3, ("j",)))
    inputs, outputs = (of_wide, of_deep) if node.op == "SpaceToDepth" else (of_deep, of_wide)
    return AxisForm(node, inputs, outputs, sizes, frozenset("phwij"))


# --- axes that are one unit, the others going through ---------------------------------------------------------------------------


def normalization(store: AxisStore, node: Node) -> AxisForm | bool:
    """Softmax, LayerNormalization and their like: the statistics run over the axes from `axis` on (one axis, for those of a single one)."""
    shape = store.shape(node.inputs[0])
    if shape is None:
        return False
    rank = len(shape)
    first = integer(store, node, "axis", -1) % rank
    single = node.op in ("LpNormalization", "LogSoftmax", "Softmax", "Hardmax", "CumSum", "TopK") and (
        store.opset >= 13 or node.op in ("LpNormalization", "TopK")
    )
    over = {first} if single else set(range(first, rank))
    return _through(store, node, over)


def cum_sum(store: AxisStore, node: Node) -> AxisForm | bool:
    axis, shape = store.value(node.inputs[1]), store.shape(node.inputs[0])
    return False if axis is None or shape is None else _through(store, node, {int(axis.reshape(-1)[0]) % len(shape)}, data=1)


def channel_window(store: AxisStore, node: Node) -> AxisForm | bool:
    """LRN: a window over neighbouring channels."""
    return _through(store, node, {1})


def last_two(store: AxisStore, node: Node) -> AxisForm | bool:
    """Trilu: positions of matrices."""
    shape = store.shape(node.inputs[0])
    return False if shape is None else _through(store, node, {len(shape) - 1, len(shape) - 2}, data=1)


def top_k(store: AxisStore, node: Node) -> AxisForm | bool:
    shape = store.shape(node.inputs[0])
    return False if shape is None else _through(store, node, {integer(store, node, "axis", -1) % len(shape)}, data=1)


def _through(store: AxisStore, node: Node, over: set[int], data: int | None = None) -> AxisForm | bool:
    """All axes go through but those of `over`, which are frozen. Inputs after the first `data` ones are no tensors of such axes; others (scale, bias) stand for the last axes."""
    shape = store.shape(node.inputs[0])
    if shape is None:
        return False
    sizes: dict[Letter, int | None] = {f"x{a}": d if isinstance(d, int) else None for a, d in enumerate(shape)}
    rank = len(shape)

    def slots(tensors: Sequence[Tensor]) -> list[Slot] | None:
        result = []
        for tensor in tensors:
            of_tensor = store.shape(tensor)
            if of_tensor is None or len(of_tensor) > rank:
                return None
            shift = rank - len(of_tensor)
            result += [Slot(tensor, a, (f"x{a + shift}",)) for a in range(len(of_tensor))]
        return result

    inputs = slots([t for t in node.inputs[:data] if t.name])
    outputs = slots([t for t in node.outputs if t.name])
    if inputs is None or outputs is None:
        return False
    # An output of length 1 where the input is longer (a mean) has no letter there.
    written = []
    for slot in outputs:
        dim = (store.shape(slot.tensor) or ())[slot.axis]
        written.append(Slot(slot.tensor, slot.axis, ()) if dim == 1 else slot)
    return AxisForm(node, tuple(inputs), tuple(written), sizes, frozenset(f"x{a}" for a in over))


# --- reductions -----------------------------------------------------------------------------------------------------------------

_NEUTRAL_ZERO = frozenset(["ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"])


def reduction(store: AxisStore, node: Node) -> AxisForm | bool:
    """Reduced axes of a sum may lose indices (a zero adds nothing); those of other reductions are frozen."""
    x, y = node.inputs[0], node.outputs[0]
    shape = store.shape(x)
    axes = None if shape is None else axes_of(store, node, max(1, len(shape)))
    if shape is None or axes is None:
        return False
    if node.op in ("ArgMax", "ArgMin"):
        axes = [integer(store, node, "axis") % len(shape)]
    elif not axes:
        if integer(store, node, "noop_with_empty_axes"):
            return False
        axes = list(range(len(shape)))
    keep = integer(store, node, "keepdims", 1)
    sizes: dict[Letter, int | None] = {f"x{a}": d if isinstance(d, int) else None for a, d in enumerate(shape)}
    inputs = tuple(Slot(x, a, (f"x{a}",)) for a in range(len(shape)))
    left = [a for a in range(len(shape)) if keep or a not in axes]
    outputs = tuple(Slot(y, i, () if a in axes else (f"x{a}",)) for i, a in enumerate(left))
    return AxisForm(node, inputs, outputs, sizes, frozenset() if node.op in _NEUTRAL_ZERO else frozenset(f"x{a}" for a in axes))


# --- others ---------------------------------------------------------------------------------------------------------------------


def resize(store: AxisStore, node: Node) -> AxisForm | bool:
    """Resize and Upsample: axes whose length stays go through, the others are frozen."""
    before, after = store.shape(node.inputs[0]), store.shape(node.outputs[0])
    mode = node.attrs.get("coordinate_transformation_mode")
    if before is None or after is None or mode in ("tf_crop_and_resize", b"tf_crop_and_resize"):
        return False
    sizes: dict[Letter, int | None] = {f"x{a}": d if isinstance(d, int) else None for a, d in enumerate(before)}
    frozen = {f"x{a}" for a, (b, c) in enumerate(zip(before, after, strict=True)) if b != c}
    outputs = []
    for a, dim in enumerate(after):
        letter = f"y{a}" if f"x{a}" in frozen else f"x{a}"
        sizes.setdefault(letter, dim if isinstance(dim, int) else None)
        outputs.append(Slot(node.outputs[0], a, (letter,)))
    return AxisForm(
        node,
        tuple(Slot(node.inputs[0], a, (f"x{a}",)) for a in range(len(before))),
        tuple(outputs),
        sizes,
        frozenset({x for x in sizes if x.startswith("y")} | frozen),
    )


def einsum(store: AxisStore, node: Node) -> AxisForm | bool:
    """The equation is the signature; a letter that one operand has twice (a diagonal) is frozen."""
    equation = node.attrs["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, arrow, right = text.partition("->")
    if not arrow or "." in text:
        return False
    terms = left.split(",")
    sizes: dict[Letter, int | None] = {}
    inputs = []
    for tensor, term in zip(node.inputs, terms, strict=True):
        shape = store.shape(tensor)
        if shape is None or len(shape) != len(term):
            return False
        for axis, (letter, dim) in enumerate(zip(term, shape, strict=True)):
            size = dim if isinstance(dim, int) else None
            sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter] if size is not None else None
            inputs.append(Slot(tensor, axis, (letter,)))
    outputs = tuple(Slot(node.outputs[0], axis, (letter,)) for axis, letter in enumerate(right))
    frozen = frozenset(x for term in (*terms, right) for x in term if term.count(x) > 1)
    store.bind(AxisForm(node, tuple(inputs), outputs, sizes, frozen), tuple(sizes))
    return True
