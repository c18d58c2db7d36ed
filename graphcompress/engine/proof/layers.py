"""Inputs and attributes of operators with weights, kernels or statistics: see `operands`."""

from __future__ import annotations

from collections.abc import Sequence

from graphcompress.engine.proof.choices import Choices
from graphcompress.engine.proof.draft import Attributes, Draft, NoCase, axis_of


def convolution(draft: Draft, names: Sequence[str]) -> Attributes:
    """Conv (x, w, b)."""
    x = draft.data(names[0], least=3)
    if len(x) < 3:
        raise NoCase
    weight, spatial = draft.dims(names[1]), len(x) - 2
    if draft.uniform:
        size = draft.choices.pick([1, 3])
        weight = draft.data(names[1], (x[1], x[1], *[size] * spatial))
        if len(names) > 2:
            draft.data(names[2], (weight[0],))
        return {"pads": [size // 2 for size in weight[2:] * 2]}
    groups = draft.choices.pick([1, 1, x[1]])
    if weight is None:
        kernel = [draft.choices.pick([1, 2, 3]) for _ in range(spatial)]
        weight = draft.data(names[1], (groups * draft.choices.pick([1, 2, 3]) * draft.width, x[1] // groups, *kernel))
    if len(names) > 2:
        draft.data(names[2], (weight[0],))
    return {"group": groups} | window(draft.choices, spatial)


def transposed_convolution(draft: Draft, names: Sequence[str]) -> Attributes:
    """ConvTranspose (x, w, b)."""
    x = draft.data(names[0], least=3)
    if len(x) < 3:
        raise NoCase
    groups, outputs = draft.choices.pick([1, 1, x[1]]), draft.choices.pick([1, 2, 3]) * draft.width
    draft.data(names[1], (x[1], outputs, *(draft.choices.pick([1, 2, 3]) for _ in x[2:])))
    if len(names) > 2:
        draft.data(names[2], (groups * outputs,))
    return {"group": groups, "strides": [draft.choices.pick([1, 2]) for _ in x[2:]]}


def window(choices: Choices, spatial: int) -> Attributes:
    """Strides, dilations and padding of a kernel."""
    attributes: Attributes = {}
    if choices.below(3) == 2:
        attributes["strides"] = [choices.pick([1, 2]) for _ in range(spatial)]
    match choices.below(5):
        case 2 | 3:
            attributes["pads"] = [choices.below(3) for _ in range(2 * spatial)]
        case 4:
            attributes["auto_pad"] = choices.pick(["VALID", "SAME_UPPER", "SAME_LOWER"])
    if choices.below(5) == 4:
        attributes["dilations"] = [choices.pick([1, 2]) for _ in range(spatial)]
    return attributes


def pool(draft: Draft, names: Sequence[str]) -> Attributes:
    """MaxPool, AveragePool."""
    x = draft.data(names[0], least=3)
    if len(x) < 3:
        raise NoCase
    return {"kernel_shape": [draft.choices.pick([1, 2, 3]) for _ in x[2:]]} | {k: v for k, v in window(draft.choices, len(x) - 2).items() if k != "dilations"}


def normalization(draft: Draft, names: Sequence[str]) -> Attributes:
    """BatchNormalization and InstanceNormalization: vectors over axis 1."""
    x = draft.data(names[0], least=2)
    if len(x) < 2:
        raise NoCase
    for place, name in enumerate(names[1:], 1):
        draft.data(name, (x[1],), positive=place == 4)
    return {"epsilon": draft.choices.pick([1e-3, 0.1])} if draft.choices.below(2) else {}


def layer_normalization(draft: Draft, names: Sequence[str]) -> Attributes:
    """LayerNormalization (x, scale, bias)."""
    x = draft.data(names[0])
    axis = axis_of(draft, x)
    for name in names[1:]:
        draft.data(name, x[axis:])
    return {"axis": axis}


def product(draft: Draft, names: Sequence[str]) -> Attributes:
    """MatMul (a, b)."""
    a, b = (draft.dims(n) for n in names)
    choices = draft.choices
    if a is None and b is None:
        a = draft.data(names[0])
    if a is None:
        assert b is not None
        draft.data(names[0], choices.pick([(2, b[-2:][0]), (b[-2:][0],), (2, 3, b[-2:][0])]) if b else (1,))
    elif b is None:
        if not a:
            raise NoCase
        columns = choices.pick([2, 3, 1]) * draft.width
        draft.data(names[1], choices.pick([(a[-1], columns), (a[-1], columns), (a[-1],), (*a[:-2], a[-1], columns)]))
    return {}


def gemm(draft: Draft, names: Sequence[str]) -> Attributes:
    """Gemm (a, b, c)."""
    choices = draft.choices
    turned = [choices.below(3) == 2, choices.below(3) == 2]
    a = draft.data(names[0], (2 * draft.width, 3 * draft.width))
    if len(a) != 2:
        raise NoCase
    rows, inner = a[::-1] if turned[0] else a
    columns = choices.pick([2, 3, 1]) * draft.width
    b = draft.data(names[1], (columns, inner) if turned[1] else (inner, columns))
    if len(b) != 2:
        raise NoCase
    columns = b[0] if turned[1] else b[1]
    if len(names) > 2:
        draft.data(names[2], choices.pick([(columns,), (1, columns), (), (1,), (rows, columns), (rows, 1)]))
    scales: Attributes = {} if choices.below(3) else {"alpha": choices.pick([0.5, -2.0]), "beta": choices.pick([3.0, 0.5])}
    return {"transA": int(turned[0]), "transB": int(turned[1])} | scales
