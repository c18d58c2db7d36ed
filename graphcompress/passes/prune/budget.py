"""The budget search: how many units each group keeps, so that a cost falls to its goal at the least expected error."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import numpy as np

from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.costs import WidthCost

LEAST_SHARE = 0.1
"""Of its units that every group keeps: the error curves say little about what lies below."""


def allowed_widths(size: int, multiple: int, least: int) -> list[int]:
    """The widths that a group of `size` units may have, widest first: all of it, and multiples of `multiple` from `least` on."""
    floor = max(least, multiple, round(np.ceil(LEAST_SHARE * size)))
    return [size, *(w for w in range((size - 1) // multiple * multiple, 0, -multiple) if w >= floor)]


def hull(points: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """The lower convex hull of points (width, error), widest first: a cheap step behind a dear one becomes one step."""
    result: list[tuple[int, float]] = []
    for width, error in points:
        while len(result) > 1:
            (w0, e0), (w1, e1) = result[-2:]
            if (e1 - e0) * (w1 - width) < (error - e1) * (w0 - w1):
                break
            result.pop()
        result.append((width, error))
    return result


def search_widths(curves: Sequence[Sequence[tuple[int, float]]], cost: WidthCost, goal: float) -> Array:
    """Widths [groups] at which `cost` is at most `goal`: always the step with the least error for what it saves, since savings fall with every other step, no step is
    taken before one that is better. The narrowest widths where the goal is out of reach. `curves` are as `hull` gives them.

    A step goes on along its curve as long as that gets cheaper: a layer that becomes two saves nothing at first."""
    widths = np.array([curve[0][0] for curve in curves], np.int64)
    place = [0] * len(curves)
    total = cost.at(widths)

    def entry(group: int) -> tuple[float, int, int] | None:
        before, best = curves[group][place[group]][1], None
        for index in range(place[group] + 1, len(curves[group])):
            width, after = curves[group][index]
            saving = cost.saving(widths, group, width)
            ratio = max(0.0, after - before) / saving if saving > 0 else float("inf")
            if best is not None and best[0] <= ratio < float("inf"):
                break
            best = ratio, group, index
        return best

    heap = [e for g in range(len(curves)) if (e := entry(g)) is not None]
    heapq.heapify(heap)
    while heap and total > goal:
        _, group, _ = heapq.heappop(heap)
        fresh = entry(group)
        if fresh is None or fresh[0] == float("inf"):
            continue
        if heap and fresh > heap[0]:  # its saving has fallen since
            heapq.heappush(heap, fresh)
            continue
        place[group] = fresh[2]
        width = curves[group][place[group]][0]
        total -= cost.saving(widths, group, width)
        widths[group] = width
        following = entry(group)
        if following is not None:
            heapq.heappush(heap, following)
    return _widened(curves, place, widths, cost, goal)


def _widened(curves: Sequence[Sequence[tuple[int, float]]], place: list[int], widths: Array, cost: WidthCost, goal: float) -> Array:
    """Steps back that the goal leaves room for, the one that takes most error away first: the last step may have gone far below it."""
    while True:
        room = goal - cost.at(widths)
        best: tuple[float, int] | None = None
        for group, curve in enumerate(curves):
            if place[group]:
                (width, before), after = curve[place[group] - 1], curve[place[group]][1]
                wider = widths.copy()
                wider[group] = width
                if cost.saving(wider, group, int(widths[group])) <= room and (best is None or after - before > best[0]):
                    best = after - before, group
        if best is None or best[0] <= 0:
            return widths
        group = best[1]
        place[group] -= 1
        widths[group] = curves[group][place[group]][0]
