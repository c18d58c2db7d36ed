"""What the original answers to the feeds that judge, held from one candidate to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from graphcompress.ir.model.objects import TensorSpec
    from graphcompress.runtime.session import Feed, Runnable

BOUND = 64 * 2**20
"""Bytes of outputs that are held at most; of more, none are."""
NOTHING = -1
"""The bound where no answer is held."""
OBJECT = 128
"""Bytes of an object beside its content, about: answers of a few numbers are mostly that."""


class OutputMemory:
    """The reference of comparisons that all ask the same feeds in the same order: what it answered the first time it does not calculate again.

    `session` opens the real one, or gives that which is open, where an answer is not known."""

    def __init__(self, outputs: Sequence[TensorSpec], session: Callable[[], Runnable], bound: int = BOUND) -> None:
        self.outputs = tuple(outputs)
        self._session = session
        self._answers: list[dict[str, Any]] = []
        self._room = bound
        self._complete = False
        self._next = 0

    def rewind(self) -> None:
        """The first feed comes next."""
        self._next = 0

    def run(self, feed: Feed) -> dict[str, Any]:
        """The outputs for the feed that comes next. Raises as `Session.run`."""
        index, self._next = self._next, self._next + 1
        if index < len(self._answers):
            return self._answers[index]
        outputs = self._session().run(feed)
        if index == len(self._answers) and self._fits():
            self._room -= OBJECT + sum(map(_bytes, outputs.values()))
            self._answers.append(outputs)
            if not self._fits():
                self._answers.clear()
        return outputs

    def learn(self, feeds: Iterable[Feed]) -> bool:
        """Ask for the feeds of a comparison, as `compare` does, the first time; whether all answers are held, so that the session is not needed any more."""
        from graphcompress.runtime.compare import runs_of_reference

        if self._complete or not self._fits():
            return self._complete
        self.rewind()
        for index, feed in enumerate(feeds):
            for _ in range(runs_of_reference(index)):
                self.run(feed)
            if not self._fits():
                return False
        self._complete = True
        return True

    def _fits(self) -> bool:
        """Whether what was answered so far is within the bound; it never is again."""
        return self._room >= 0


def _bytes(value: Any) -> int:
    """Of an array, a map of numbers (the probabilities of classes), or a list of either, with what Python needs for objects; None is an empty optional."""
    if isinstance(value, np.ndarray):
        return OBJECT + (value.nbytes if value.dtype != object else OBJECT * value.size)
    if isinstance(value, dict):
        return OBJECT + OBJECT * len(value)
    return OBJECT + (sum(map(_bytes, value)) if isinstance(value, list) else 0)
