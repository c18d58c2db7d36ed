"""Activations that are flat beyond a bound: below it, it does not matter how far below a value is.

So a target below the bound asks only that the student's value be below too. The squared error after the activation is then lessened by turns: targets that are met are
set to the student's values, and the weights are fitted again; each turn can only lessen it (a majorizer; asymmetric reconstruction in arXiv 1505.06798 is its kin).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphcompress.ir import Node, Tensor, constant_value, consumers
from graphcompress.reconstruction.gram import Array, Moments
from graphcompress.reconstruction.solve import DampedMoments, bias_of
from graphcompress.reconstruction.store import Store

TURNS = 3


@dataclass(frozen=True, slots=True)
class Flat:
    """All values up to `low` are answered alike, and all from `high` on."""

    low: float = -math.inf
    high: float = math.inf

    def aim(self, goal: Array, now: Array) -> Array:
        """What to fit next where `goal` is the teacher's value and `now` the student's."""
        below = np.where(goal <= self.low, np.minimum(now, self.low), goal)
        return np.where(goal >= self.high, np.maximum(now, self.high), below)


def flat_after(tensor: Tensor, outputs: set[int]) -> Flat | None:
    """Where the only readers of `tensor` are activations that are flat beyond the same bounds; None elsewhere, and for an output of the graph."""
    bounds = {_bounds(node) for node in consumers(tensor)}
    return bounds.pop() if len(bounds) == 1 and id(tensor) not in outputs else None


def _bounds(node: Node) -> Flat | None:
    if node.is_op("Relu"):
        return Flat(low=0.0)
    if node.is_op("HardSwish"):  # x * max(0, min(1, x / 6 + 1 / 2))
        return Flat(low=-3.0)
    if not node.is_op("Clip"):
        return None
    low, high = (_number(node, index, name) for index, name in ((1, "min"), (2, "max")))
    return None if low is None or high is None else Flat(low, high)


def _number(node: Node, index: int, name: str) -> float | None:
    """A bound of Clip: an input from opset 11 on, an attribute before; infinite where there is none, None where it is calculated."""
    ends = {"min": -math.inf, "max": math.inf}
    tensor = node.input(index)
    if tensor is None:
        return float(node.attrs.get(name, ends[name]))
    value = constant_value(tensor)
    return None if value is None or value.size != 1 else float(value.reshape(()))


class FlatRows:
    """The rows of a layer before a flat activation, held for further turns, in a store that is emptied by `close`."""

    def __init__(self, flat: Flat, store: Store) -> None:
        self._flat = flat
        self._store = store
        self._count = 0

    def take(self, rows: Array, target: Array, branch: Array) -> None:
        """Hold rows [g, r, n] as the moments have them, targets [g, r, o] and what is added to the layer's output before the activation [g, r, o]; rows that are not finite are left out."""
        sound = (np.isfinite(rows).all(axis=-1) & np.isfinite(target).all(axis=-1) & np.isfinite(branch).all(axis=-1)).all(axis=0)
        for part, array in enumerate((rows, target, branch)):
            self._store.put((self, self._count, part), np.ascontiguousarray(array[:, sound], np.float32))
        self._count += 1

    def close(self) -> None:
        """Let go of the rows."""
        for batch in range(self._count):
            for part in range(3):
                self._store.drop((self, batch, part))

    def turn(self, weight: Array, bias: Array) -> Iterator[tuple[Array, Array]]:
        """(rows, the targets that come next), part by part, in float32 as the rows are held."""
        weight, bias = weight.astype(np.float32), bias.astype(np.float32)
        for batch in range(self._count):
            rows, target, branch = (self._store.get((self, batch, part)) for part in range(3))
            yield rows, self._flat.aim(target + branch, rows @ weight + bias[..., None, :] + branch) - branch


def refit_before_flat(held: Sequence[FlatRows], moments: Moments, old: Array, ridge: float, weight: Array, rank: int | None = None) -> tuple[Array, Array]:
    """(weight, bias) after TURNS turns from `weight`, which was fitted on `moments` of the same rows towards `old` (with a `rank`: among weights of that rank)."""
    damped = DampedMoments([moments], ridge)
    bias = bias_of(moments, weight)
    mean = moments.mean_x[..., None, :].astype(np.float32)
    for _ in range(TURNS):
        xy, sum_y = np.zeros_like(moments.xy), np.zeros_like(moments.mean_y)
        for rows, aim in (pair for part in held for pair in part.turn(moments.seen(weight), bias)):
            xy += (rows - mean).swapaxes(-1, -2) @ aim
            sum_y += aim.sum(axis=-2, dtype=np.float64)
        moments = replace(moments, mean_y=sum_y / moments.rows, xy=xy)
        weight = damped.refit(xy, old, rank)
        bias = bias_of(moments, weight)
    return weight, bias
