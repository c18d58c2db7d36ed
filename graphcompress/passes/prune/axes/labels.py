"""Labels of indices: one per index of an axis. Indices whose labels are tied are removed together, frozen ones never.

An `Axis` is an array of labels (one per index), the number of a reason where the whole axis is frozen, or None for an axis of length 1, which broadcasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array = np.ndarray[Any, Any]
Axis: TypeAlias = Array | int | None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an axis is frozen: a stable id, a sentence, and the node (or input, output) at which it was."""

    id: str
    text: str
    node: str


class Labels:
    """A union-find over labels that is solved once, at the end."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: list[Reason] = []
        self._numbers: dict[Reason, int] = {}
        self._ties: list[tuple[Array, Array]] = []
        self._frozen: list[tuple[Array, int]] = []
        self.balances: list[Array] = []

    def fresh(self, length: int) -> Array:
        """`length` new labels."""
        self.count += length
        return np.arange(self.count - length, self.count, dtype=np.int64)

    def reason(self, reason: Reason) -> int:
        """The number of `reason`."""
        number = self._numbers.setdefault(reason, len(self.reasons))
        if number == len(self.reasons):
            self.reasons.append(reason)
        return number

    def tie(self, a: Axis, b: Axis) -> None:
        """Index i of `a` goes with index i of `b`. An axis of length 1 ties nothing."""
        if a is None or b is None or a is b:
            return
        if isinstance(a, int):
            self.freeze(b, a)
        elif isinstance(b, int):
            self.freeze(a, b)
        else:
            self._ties.append((a, b))

    def freeze(self, axis: Axis, reason: int) -> None:
        """No index of `axis` may be removed."""
        if isinstance(axis, np.ndarray):
            self._frozen.append((axis.reshape(-1), reason))

    def balance(self, blocks: Array) -> None:
        """Of each row of `blocks` [blocks, labels] equally many indices stay, any of them."""
        self.balances.append(blocks)

    def solve(self) -> Components:
        """The components of what is tied."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a = np.concatenate([t[0].reshape(-1) for t in self._ties]) if self._ties else np.zeros(0, np.int64)
        b = np.concatenate([t[1].reshape(-1) for t in self._ties]) if self._ties else np.zeros(0, np.int64)
        pairs = coo_array((np.ones(len(a), bool), (a, b)), shape=(self.count, self.count))
        number, unit = connected_components(pairs, directed=False) if self.count else (0, np.zeros(0, np.int64))
        reason = np.full(number, -1, np.int64)
        for labels, why in reversed(self._frozen):  # the first reason wins
            reason[unit[labels]] = why
        return Components(unit.astype(np.int64), reason)


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """The solution: `unit` [labels] is the unit of each label, `reason` [units] the number of the reason for which a unit is frozen, -1 for one that may go."""

    unit: Array
    reason: Array

    def marks(self, axes: Mapping[Any, tuple[Axis, ...] | None]) -> Array:
        """[units] a number that tells in which axes a unit lives, and how often: the same for units that live in the same."""
        mark = np.zeros(len(self.reason), np.uint64)
        random = np.random.default_rng(0)
        arrays = {id(axis): axis for parts in axes.values() for axis in parts or () if isinstance(axis, np.ndarray)}
        for axis in arrays.values():
            units, counts = np.unique(self.unit[axis], return_counts=True)
            mark[units] += random.integers(1, 2**63, dtype=np.uint64) * counts.astype(np.uint64)
        return mark

    @property
    def free(self) -> Array:
        """[units] True for a unit that may be removed."""
        return self.reason < 0
