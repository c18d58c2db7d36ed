"""Which of the things that `simplify` does moves the outputs of a model most: found by running models between the original and the result."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphcompress.ir import Model
from graphcompress.passes.simplify.run import simplified_so_far
from graphcompress.runtime.session import Feed, open_session
from graphcompress.step import AppliedChange, Context

MOVES = 5
Outputs = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Move:
    """How far the `number`-th thing that was done (from 1) moved the outputs: infinite where they are no longer finite or have another shape."""

    number: int
    change: AppliedChange
    moved: float


@dataclass(frozen=True, slots=True)
class Bisection:
    """How many things were done, how far they moved the outputs together, those that moved them most, and how many models were run to find out."""

    applications: int
    total: float
    moves: tuple[Move, ...]
    compared: int


def bisect(model: Model, context: Context, feeds: Sequence[Feed]) -> Bisection:
    """Split what `simplify` does where the outputs move most, until single things are left; the MOVES that were reached first.

    What is split next is what moves the outputs most, so that the number of models run grows with the logarithm of what is done. Moves that cancel one another hide from it.
    Raises ModelError or DataError where the model does not run on the feeds.
    """
    changes = simplified_so_far(model, context, None)[1]
    states = _States(model, context, feeds)
    whole = states.distance(0, len(changes))
    parts = [(-whole, 0, len(changes))]
    moves: list[Move] = []
    while parts and len(moves) < MOVES:
        moved, low, high = heapq.heappop(parts)
        context.progress("bisect", len(states.known), None)
        if moved == 0:
            break
        if high - low == 1:
            moves.append(Move(high, changes[low], -moved))
            continue
        middle = (low + high) // 2
        for start, end in itertools.pairwise((low, middle, high)):
            heapq.heappush(parts, (-states.distance(start, end), start, end))
    return Bisection(len(changes), whole, tuple(moves), len(states.known))


class _States:
    """The outputs after so many things were done, each run once."""

    def __init__(self, model: Model, context: Context, feeds: Sequence[Feed]) -> None:
        self.model, self.context, self.feeds = model, context, feeds
        self.known: dict[int, Outputs] = {}

    def outputs(self, count: int) -> Outputs:
        if count not in self.known:
            model = self.model if count == 0 else simplified_so_far(self.model, self.context, count)[0]
            with open_session(model, optimize="none", threads=self.context.threads) as session:
                self.known[count] = [session.run(dict(feed)) for feed in self.feeds]
        return self.known[count]

    def distance(self, start: int, end: int) -> float:
        """How far the outputs moved in between."""
        before, after = self.outputs(start), self.outputs(end)
        return max((_moved([f[n] for f in before], [f[n] for f in after]) for n in before[0]), default=0.0)


def _moved(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The norm of the difference of one output by its norm before, over all feeds."""
    difference = size = 0.0
    for one, two in zip(before, after, strict=True):
        if not isinstance(one, np.ndarray) or one.dtype.kind not in "fiub":
            continue
        if not isinstance(two, np.ndarray) or one.shape != two.shape:
            return math.inf
        old, new = one.astype(np.float64), two.astype(np.float64)
        with np.errstate(all="ignore"):
            alike = (old == new) | (np.isnan(old) & np.isnan(new))
            step = np.where(alike, 0.0, new - old)
            if not np.isfinite(step).all():
                return math.inf
            difference += float(np.square(step).sum())
            size += float(np.square(old[np.isfinite(old)]).sum())
    return math.sqrt(difference / size) if size else math.inf if difference else 0.0
