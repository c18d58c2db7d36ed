"""A case as a list of small decisions, so that a smaller list is a smaller case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

TRIALS = 150


class Choices:
    """Decisions: first those of `prefix`, then random ones, or zeros without `rng`. Zero is always the simplest choice; `taken` is what was decided so far."""

    def __init__(self, prefix: Sequence[int] = (), rng: np.random.Generator | None = None) -> None:
        self.prefix = prefix
        self.rng = rng
        self.taken: list[int] = []

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        place = len(self.taken)
        if place < len(self.prefix):
            number = min(self.prefix[place], count - 1)
        else:
            number = 0 if self.rng is None else int(self.rng.integers(count))
        self.taken.append(number)
        return number

    def pick(self, options: Sequence[T]) -> T:
        """One of `options`, the simplest first."""
        return options[self.below(len(options))]

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred cases."""
        return self.below(100) >= 100 - percent


def shrink(choices: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """A shorter list of smaller numbers that still fails, as far as TRIALS tries lead."""
    best = _without_zeros(choices)
    trials = 0
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(best):
            if trials == TRIALS:
                return best
            trials += 1
            if fails(candidate):
                best, smaller = _without_zeros(candidate), True
                break
    return best


def _without_zeros(choices: Sequence[int]) -> list[int]:
    """Zeros at the end left out: what is not there is zero."""
    last = max((i for i, number in enumerate(choices) if number), default=-1)
    return list(choices[: last + 1])


def _smaller(choices: list[int]) -> Iterator[list[int]]:
    """Lists that are one step simpler, the largest steps first."""
    for size in (8, 4, 2, 1):
        for start in range(0, len(choices), size):
            part = choices[start : start + size]
            yield choices[:start] + choices[start + size :]
            if any(part):
                yield choices[:start] + [0] * len(part) + choices[start + size :]
    for place, number in enumerate(choices):
        if number > 1:
            yield [*choices[:place], number // 2, *choices[place + 1 :]]
            yield [*choices[:place], number - 1, *choices[place + 1 :]]
