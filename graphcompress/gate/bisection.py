"""Bisection over alternatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def first_that(holds: Callable[[T], bool], items: Sequence[T], guess: int | None = None) -> int:
    """The index of the first of `items` that `holds`, where all behind it do and the first one does not; their number where none does. What is guessed to be that index is asked first, and
    then its neighbour."""
    below, above = 0, len(items)
    guesses = [] if guess is None else [guess]
    while above - below > 1:
        place = guesses.pop() if guesses else (below + above) // 2
        middle = min(max(place, below + 1), above - 1)
        found = holds(items[middle])
        below, above = (below, middle) if found else (middle, above)
        if guess is not None:
            guesses, guess = [middle - 1 if found else middle + 1], None
    return above
