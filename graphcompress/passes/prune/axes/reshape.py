"""Reshapes: how the axes before one are those after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphcompress.ir import Shape
from graphcompress.ir.model.dimensions import Dim
from graphcompress.passes.prune.axes.forms import Letter


@dataclass(slots=True)
class Refinement:
    """`before` and `after`: each axis as a product of letters, () for one of length 1, None for an axis that could not be followed."""

    before: list[tuple[Letter, ...] | None]
    after: list[tuple[Letter, ...] | None]
    sizes: dict[Letter, int | None] = field(default_factory=dict)


def refine(before: Shape, after: Shape) -> Refinement:
    """Split the axes of two shapes of equally many elements into common factors, from the left and from the right as far as each way leads.

    [12, 5] and [3, 4, 5] are a*b, c and a, b, c. Axes whose sizes are no numbers are followed where they are equal on both sides.
    """
    result = Refinement([None] * len(before), [None] * len(after))
    left, right = list(range(len(before))), list(range(len(after)))
    used_before, used_after = _follow(result, before, after, left, right, outermost=True)
    _follow(result, before, after, left[used_before:][::-1], right[used_after:][::-1], outermost=False)
    return result


def _follow(result: Refinement, before: Shape, after: Shape, left: Sequence[int], right: Sequence[int], *, outermost: bool) -> tuple[int, int]:
    """Go along both lists of axes at once; how many of each were understood."""
    i = j = 0
    while True:
        while i < len(left) and before[left[i]] == 1:
            result.before[left[i]] = ()
            i += 1
        while j < len(right) and after[right[j]] == 1:
            result.after[right[j]] = ()
            j += 1
        if i == len(left) or j == len(right):
            return i, j
        run = _run([before[a] for a in left[i:]], [after[a] for a in right[j:]])
        if run is None:
            return i, j
        parts = ((result.before, left[i:], run[0]), (result.after, right[j:], run[1]))
        names: Mapping[int, Letter] = {k: f"r{len(result.sizes) + k}" for k in range(len(run[2]))}
        result.sizes.update({names[k]: size for k, size in enumerate(run[2])})
        for target, axes, factors in parts:
            for axis, numbers in zip(axes, factors, strict=False):
                letters = tuple(names[k] for k in numbers)
                target[axis] = letters if outermost else letters[::-1]
        i, j = i + len(run[0]), j + len(run[1])


def _run(before: Sequence[Dim], after: Sequence[Dim]) -> tuple[list[list[int]], list[list[int]], list[int | None]] | None:
    """The shortest beginnings of both with equal products: per axis the numbers of its factors, and their sizes. None where there are none in common factors."""
    a, b = before[0], after[0]
    if a is not None and a == b:
        return [[0]], [[0]], [a if isinstance(a, int) else None]
    factors_a: list[list[int]] = [[]]
    factors_b: list[list[int]] = [[]]
    sizes: list[int | None] = []
    while True:
        if not isinstance(a, int) or not isinstance(b, int) or a == 0 or b == 0:
            return None
        common = min(a, b)
        if a % common or b % common:
            return None
        if common > 1:
            factors_a[-1].append(len(sizes))
            factors_b[-1].append(len(sizes))
            sizes.append(common)
        a, b = a // common, b // common
        if a == b == 1:
            return factors_a, factors_b, sizes
        if a == 1:
            if len(factors_a) == len(before):
                return None
            a = before[len(factors_a)]
            factors_a.append([])
        else:
            if len(factors_b) == len(after):
                return None
            b = after[len(factors_b)]
            factors_b.append([])
