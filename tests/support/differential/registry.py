"""The table of emitters: functions that add one node, or one pattern of nodes, to a builder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from differential.builder import Builder

Emitter = Callable[[Builder], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """`weight` is how often an emitter is drawn in general graphs, `int8` in graphs for quantization (0: never); it needs opset `since`."""

    emit: Emitter
    weight: float
    int8: float
    since: int


ENTRIES: list[Entry] = []


def emitter(weight: float = 1.0, *, int8: float = 0.0, since: int = 7) -> Callable[[Emitter], Emitter]:
    """Enter a function into the table."""

    def enter(function: Emitter) -> Emitter:
        ENTRIES.append(Entry(function, weight, int8, since))
        return function

    return enter
