"""Bisection over alternatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def first_that(holds: Callable[[T], bool], items: Sequence[T]) -> int:
    """The index of the first of `items` that `holds`, where all behind it do and the first one does not; their number where none does."""
    below, above = 0, len(items)
    while above - below > 1:
        middle = (below + above) // 2
        if holds(items[middle]):
            above = middle
        else:
            below = middle
    return above
