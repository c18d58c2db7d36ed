"""What the inputs and attributes of an operator may look like: shapes, element types and values that fit the inputs that are there already.

A function per operator (or family) of patterns; an operator without one is taken for an elementwise one. They need not fit always: what does not load is no case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphcompress.engine.proof import layers
from graphcompress.engine.proof.choices import Choices
from graphcompress.engine.proof.draft import Attributes, Dims, Draft, NoCase, Operands, axis_of


def elementwise(draft: Draft, names: Sequence[str]) -> Attributes:
    """One or more operands that broadcast."""
    known = [d for n in names if (d := draft.dims(n)) is not None]
    whole = max(known, key=len) if known else draft.data(next(n for n in names if n))
    for name in names:
        if name and draft.dims(name) is None:
            draft.data(name, draft.choices.pick([whole[-1:], (1,)]) if draft.uniform else part_of(draft.choices, whole))
    return {}


def part_of(choices: Choices, dims: Dims) -> Dims:
    """A shape that broadcasts with `dims`, mostly into it."""
    rank = len(dims)
    along = tuple(1 if axis != 1 else d for axis, d in enumerate(dims))
    some = tuple(d if choices.below(2) else 1 for d in dims)
    shapes: list[Dims] = [
        (1,),
        dims,
        (),
        dims[-1:],
        along[1:],
        along,
        (1,) * rank,
        some,
        (1, *dims),
        (1,) * (rank + 1),
        (3, *(1,) * (rank - 1)) if rank else (3,),
    ]
    return choices.pick(shapes)


def selection(draft: Draft, names: Sequence[str]) -> Attributes:
    """Where: a condition and two operands."""
    whole = draft.data(names[1])
    draft.plain(names[0], [bool(draft.choices.below(2)) for _ in range(whole[-1])] if whole else bool(draft.choices.below(2)), "bool")
    draft.data(names[2], part_of(draft.choices, whole))
    return {}


def along_axis(draft: Draft, names: Sequence[str]) -> Attributes:
    """Softmax and its like."""
    dims = draft.data(names[0])
    return {"axis": axis_of(draft, dims)} if draft.choices.below(3) else {}


def padding(draft: Draft, names: Sequence[str]) -> Attributes:
    """Pad (x, pads, value, axes)."""
    x = draft.data(names[0])
    choices = draft.choices
    amounts = [0 if choices.below(3) else choices.pick([1, 2, -1]) for _ in range(2 * len(x))]
    mode: Attributes = {"mode": choices.pick(["constant", "reflect", "edge"])} if choices.below(4) == 3 else {}
    if draft.opset < 11:
        return mode | {"pads": amounts}
    axes = names[3] if len(names) > 3 else ""
    if axes and not draft.left_out(axes):
        chosen = [a for a in range(len(x)) if choices.below(2)] or [0]
        draft.plain(axes, chosen)
        amounts = amounts[: 2 * len(chosen)]
    draft.plain(names[1], amounts)
    if len(names) > 2:
        draft.data(names[2], ())
    return mode


def reshape(draft: Draft, names: Sequence[str]) -> Attributes:
    """Reshape (x, shape)."""
    x = draft.data(names[0])
    whole = 1
    for size in x:
        whole *= size
    forms: list[list[int]] = [list(x), [-1], [0] * len(x), [*x[:-1], -1], [-1, *x[1:]], [0, -1], [1, *x], [whole], list(x[::-1])]
    draft.plain(names[1], draft.choices.pick(forms))
    return {}


def transpose(draft: Draft, names: Sequence[str]) -> Attributes:
    """Transpose: any order of the axes."""
    left = list(range(len(draft.data(names[0]))))
    if draft.choices.below(4) == 3:
        return {}
    return {"perm": [left.pop(draft.choices.below(len(left))) for _ in range(len(left))]}


def _axes(draft: Draft, names: Sequence[str], axes: list[int], from_opset: int) -> Attributes:
    """Axes as an attribute or, from an opset on, as the second input."""
    if draft.opset < from_opset:
        return {"axes": axes}
    if len(names) > 1:
        draft.plain(names[1], axes)
    return {}


def squeeze(draft: Draft, names: Sequence[str]) -> Attributes:
    """Squeeze (x, axes)."""
    choices = draft.choices
    x = draft.data(names[0], choices.pick([(2, 1, 3), (1, 2), (1, 1, 2), (2, 1, 1, 3)]))
    ones = [a for a, d in enumerate(x) if d == 1]
    if not ones:
        raise NoCase
    chosen = [a for a in ones if choices.below(2)] or ones[:1]
    return _axes(draft, names, [a - len(x) if choices.below(3) == 2 else a for a in chosen], 13)


def unsqueeze(draft: Draft, names: Sequence[str]) -> Attributes:
    """Unsqueeze (x, axes)."""
    x = draft.data(names[0])
    count = draft.choices.pick([1, 1, 2])
    places = list(range(len(x) + count))
    chosen = sorted(places.pop(draft.choices.below(len(places))) for _ in range(count))
    return _axes(draft, names, chosen, 13)


def reduction(draft: Draft, names: Sequence[str], from_opset: int = 18) -> Attributes:
    """ReduceMean and its like."""
    x = draft.data(names[0])
    choices = draft.choices
    if draft.uniform and x:
        return {"keepdims": 1} | _axes(draft, names, [-1], from_opset)
    attributes: Attributes = {"keepdims": choices.below(2)} if choices.below(2) else {}
    if not x or choices.below(5) == 4:
        return attributes
    axes = choices.pick([[-1], [0], list(range(2, len(x))) or [0], [len(x) - 1], list(range(1, len(x))) or [0], list(range(len(x)))])
    return attributes | _axes(draft, names, axes, from_opset)


def sum_reduction(draft: Draft, names: Sequence[str]) -> Attributes:
    """ReduceSum, whose axes became an input earlier."""
    return reduction(draft, names, 13)


def concat(draft: Draft, names: Sequence[str]) -> Attributes:
    """Concat: equal shapes but for one axis."""
    x = next((d for n in names if (d := draft.dims(n)) is not None), None) or draft.data(names[0])
    axis = axis_of(draft, x)
    for name in names:
        dims = list(x)
        dims[axis] = draft.choices.pick([1, 2, 3])
        draft.data(name, dims)
    return {"axis": axis}


def split(draft: Draft, names: Sequence[str]) -> Attributes:
    """Split (x, sizes), into one part or two."""
    x = draft.data(names[0])
    axis = axis_of(draft, x)
    if len(names) > 1 and draft.opset >= 13:
        draft.plain(names[1], draft.choices.pick([[x[axis]], [1, x[axis] - 1]]))
    return {"axis": axis}


def slice_(draft: Draft, names: Sequence[str]) -> Attributes:
    """Slice (x, starts, ends, axes, steps)."""
    x = draft.data(names[0])
    axis = axis_of(draft, x)
    choices = draft.choices
    start, end = choices.pick([0, 1, -1, -2]), choices.pick([2**31, x[axis], 1, -1, 2])
    if draft.opset < 10:
        return {"starts": [start], "ends": [end], "axes": [axis]}
    for name, values in zip(names[1:], ([start], [end], [axis], [choices.pick([1, 1, 2, -1])]), strict=False):
        draft.plain(name, values)
    return {}


def gather(draft: Draft, names: Sequence[str]) -> Attributes:
    """Gather (x, indices)."""
    x = draft.data(names[0])
    axis = axis_of(draft, x)
    draft.plain(names[1], draft.choices.pick([[0], 0, [0, -1], -1]))
    return {"axis": axis}


def expand(draft: Draft, names: Sequence[str]) -> Attributes:
    """Expand (x, shape)."""
    x = draft.data(names[0])
    draft.plain(names[1], draft.choices.pick([list(x), [1] * len(x), [2, *x], [d if d != 1 else 3 for d in x], [1]]))
    return {}


def tile(draft: Draft, names: Sequence[str]) -> Attributes:
    """Tile (x, repeats)."""
    x = draft.data(names[0])
    draft.plain(names[1], [draft.choices.pick([1, 1, 2]) for _ in x])
    return {}


def clip(draft: Draft, names: Sequence[str]) -> Attributes:
    """Clip (x, min, max)."""
    draft.data(names[0])
    if draft.opset < 11:
        return {"min": draft.choices.pick([0.0, -1.0]), "max": draft.choices.pick([6.0, 1.0, -2.0])}
    for name in names[1:]:
        draft.data(name, ())
    return {}


def cast(draft: Draft, names: Sequence[str]) -> Attributes:
    """Cast to any type."""
    draft.data(names[0])
    return {"to": draft.choices.pick([1, 11, 10, 7, 6, 9, 2])}


def dropout(draft: Draft, names: Sequence[str]) -> Attributes:
    """Dropout (x, ratio, training)."""
    draft.data(names[0])
    if draft.opset < 12:
        return {"ratio": draft.choices.pick([0.5, 0.1])}
    if len(names) > 1:
        draft.plain(names[1], draft.choices.pick([0.5, 0.0]), "float")
    if len(names) > 2:
        draft.plain(names[2], bool(draft.choices.below(2)), "bool")
    return {}


def slope(draft: Draft, names: Sequence[str]) -> Attributes:
    """PRelu (x, slope): broadcast in one direction."""
    x = draft.data(names[0])
    draft.data(names[1], draft.choices.pick([(1,), (x[1], *(1,) * (len(x) - 2)) if len(x) > 1 else (1,), x, x[-1:]]))
    return {}


def flatten(draft: Draft, names: Sequence[str]) -> Attributes:
    """Flatten at any axis."""
    x = draft.data(names[0])
    return {"axis": draft.choices.pick([1, 0, *range(2, len(x) + 1)])} if draft.choices.below(2) else {}


def leaky(draft: Draft, names: Sequence[str]) -> Attributes:
    """LeakyRelu, Elu and others with one number."""
    draft.data(names[0])
    return {"alpha": draft.choices.pick([0.1, 1.0, -0.5])} if draft.choices.below(2) else {}


#: Operators that are defined for floats only; other patterns are tried with integers and booleans too.
FLOATS_ONLY = frozenset(
    (
        "Conv",
        "ConvTranspose",
        "BatchNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "Softmax",
        "LogSoftmax",
        "Log",
        "Exp",
        "Sqrt",
        "Erf",
        "Sigmoid",
        "Tanh",
    )
)
REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
OPERANDS: Mapping[str, Operands] = {
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), along_axis),
    **dict.fromkeys(("MaxPool", "AveragePool"), layers.pool),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), layers.normalization),
    **dict.fromkeys(("LeakyRelu", "Elu"), leaky),
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "Conv": layers.convolution,
    "ConvTranspose": layers.transposed_convolution,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": layers.gemm,
    "LayerNormalization": layers.layer_normalization,
    "MatMul": layers.product,
    "PRelu": slope,
    "Pad": padding,
    "ReduceSum": sum_reduction,
    "Reshape": reshape,
    "Slice": slice_,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Where": selection,
}
