"""What a model costs by the sizes that actions leave: units of groups, then ranks of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graphcompress.ir import Node, Tensor
from graphcompress.passes.prune.axes.labels import Array


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One axis in whose length the cost of a node grows: `counts` [groups] indices per unit of each group, `fixed` indices that stay, `length` in all."""

    counts: Array
    fixed: int
    length: int

    def share(self, sizes: Array) -> float:
        """What is left of it at `sizes` [groups or more]."""
        return float(self.counts @ sizes[: len(self.counts)] + self.fixed) / self.length


class SizedCost(Protocol):
    """A part of the cost that hangs on sizes."""

    @property
    def owner(self) -> Node | Tensor:
        """The node that it is of, or the constant."""
        ...

    def at(self, sizes: Array) -> float:
        """At `sizes` [actions]."""
        ...

    def places(self) -> set[int]:
        """The places of the sizes that it hangs on."""
        ...


def places_of(factors: Sequence[Factor]) -> set[int]:
    """The groups that some factor has indices of."""
    return {int(g) for f in factors for g in np.flatnonzero(f.counts)}


@dataclass(frozen=True, slots=True, eq=False)
class ProductCost:
    """`base` times the shares of `factors`: the multiply-accumulates of a node, the parameters of a constant. `owner` is that node or constant."""

    owner: Node | Tensor
    base: float
    factors: tuple[Factor, ...]

    def at(self, sizes: Array) -> float:
        return self.base * math.prod(factor.share(sizes) for factor in self.factors)

    def places(self) -> set[int]:
        return places_of(self.factors)


@dataclass(frozen=True, slots=True, eq=False)
class FactoredCost:
    """A layer that may become a product of two: `whole` is its cost as one, `place` that of its rank, of which `full` means one layer.

    As two it costs rank * (n + o) / (n * o) of that, n and o being what the `rows` and `columns` of its matrix have left, times `slowness`. As long as one layer is cheaper it stays one.
    """

    whole: SizedCost
    place: int
    full: int
    lengths: tuple[int, int]
    rows: tuple[Factor, ...]
    columns: tuple[Factor, ...]
    slowness: float = 1.0

    @property
    def owner(self) -> Node | Tensor:
        return self.whole.owner

    def at(self, sizes: Array) -> float:
        cost, rank = self.whole.at(sizes), int(sizes[self.place])
        return cost if rank >= self.full else cost * min(1.0, self.slowness * self.share(sizes, rank))

    def share(self, sizes: Array, rank: int) -> float:
        """What two layers of `rank` multiply and accumulate as a part of what one does."""
        n, o = (length * math.prod(f.share(sizes) for f in own) for length, own in zip(self.lengths, (self.rows, self.columns), strict=True))
        return rank * (n + o) / max(1.0, n * o)

    def places(self) -> set[int]:
        return self.whole.places() | places_of(self.rows) | places_of(self.columns) | {self.place}


class WidthCost:
    """A sum of costs, with what each size takes part in."""

    def __init__(self, products: Sequence[SizedCost], other: float, count: int) -> None:
        """`other` is what no size changes; there are `count` sizes."""
        self.products = products
        self.other = other
        self._of_place: list[list[int]] = [[] for _ in range(count)]
        for index, product in enumerate(products):
            for place in product.places():
                self._of_place[place].append(index)

    def at(self, sizes: Array) -> float:
        """The whole at `sizes` [count]."""
        return self.other + sum(p.at(sizes) for p in self.products)

    def saving(self, sizes: Array, place: int, size: int) -> float:
        """What it falls by where the size at `place` becomes `size`."""
        smaller = sizes.copy()
        smaller[place] = size
        return sum(self.products[i].at(sizes) - self.products[i].at(smaller) for i in self._of_place[place])
