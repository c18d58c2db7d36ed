"""What can be done to a model: a group loses units, a layer becomes two of a rank. All are searched together, by what they save and what they lose."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from graphcompress.passes.prune.axes.labels import Array
from graphcompress.passes.prune.budget import LEAST_SHARE, allowed_widths
from graphcompress.passes.prune.groups import FEWEST, UnitGroup
from graphcompress.passes.prune.lowrank import dearest, full_rank
from graphcompress.passes.prune.scores import Order
from graphcompress.reconstruction.gram import Moments
from graphcompress.reconstruction.rows import Layer

MOST_RANKS = 64
"""That are looked at of a layer."""


@dataclass(eq=False, slots=True)
class PrunePlan:
    """What is to be done: the units that stay [units], and the layers that become two, each with its rank."""

    keep: Array
    ranks: dict[Layer, tuple[int, Moments]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return bool(self.keep.all()) and not self.ranks


class Action(Protocol):
    """One of the things that can be done, by degrees: a size falls from `size`, at which nothing is done. `kind` is one of `options.ACTIONS`, `name` a group's or a node's."""

    kind: ClassVar[str]

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those whose outputs are not the same any more."""
        ...

    @property
    def probe(self) -> int:
        """The size at which its sensitivity is measured, one of about half of the cost."""
        ...

    def allowed(self, multiple: int) -> list[int]:
        """The sizes that it may have, `size` first and then falling, as far as possible multiples of `multiple`."""
        ...

    def error(self, size: int) -> float:
        """The expected squared error at `size` of the layers that feel it, as a part of their outputs' energy."""
        ...

    def apply(self, plan: PrunePlan, size: int) -> None:
        """Enter it."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class ChannelCut:
    """A group keeps `size` units, those that go last in `order`; `layers` sum over them."""

    kind: ClassVar[str] = "channels"
    group: UnitGroup
    order: Order
    layers: tuple[Layer, ...] = ()

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def size(self) -> int:
        return self.group.size

    @property
    def probe(self) -> int:
        return self.group.step * max(FEWEST, self.size // self.group.step // 2)

    def allowed(self, multiple: int) -> list[int]:
        per_block = multiple // math.gcd(multiple, self.group.step) if self.size >= multiple else 1
        return [self.group.step * width for width in allowed_widths(self.size // self.group.step, per_block, FEWEST)]

    def error(self, size: int) -> float:
        return self.order.error(self.size - size)

    def apply(self, plan: PrunePlan, size: int) -> None:
        gone = self.order.steps[: (self.size - size) // self.group.step]
        plan.keep[self.group.units[[unit for step in gone for unit in step]]] = False


@dataclass(frozen=True, eq=False, slots=True)
class LowRank:
    """A layer becomes two with `size` numbers in between; `outputs` are the moments of its outputs, `errors` [o + 1] what each rank loses of their energy."""

    kind: ClassVar[str] = "rank"
    layer: Layer
    outputs: Moments
    errors: Array

    @property
    def name(self) -> str:
        return str(self.layer.node.name or self.layer.node.outputs[0].name)

    @property
    def size(self) -> int:
        return full_rank(self.layer)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (self.layer,)

    @property
    def probe(self) -> int:
        return max(1, self.most // 2)

    @property
    def most(self) -> int:
        """The largest rank that saves anything."""
        _, n, o = self.layer.form.shape
        return dearest(n, o)

    def allowed(self, multiple: int) -> list[int]:
        if not self.outputs.rows:  # none of them is finite
            return [self.size]
        step = multiple * -(-self.most // (MOST_RANKS * multiple))
        least = max(step, math.ceil(LEAST_SHARE * self.most))
        return [self.size, *(rank for rank in range(self.most // step * step, 0, -step) if rank >= least)]

    def error(self, size: int) -> float:
        return float(self.errors[size]) if size < self.size else 0.0

    def apply(self, plan: PrunePlan, size: int) -> None:
        if size < self.size:
            plan.ranks[self.layer] = size, self.outputs
