"""Channels that cost nothing: those that are 0 or the same number for every input, and copies of others. All is read off the weights, so that what is left computes the same function.

A unit's channels do not hang on the input where every weight that makes them is zero: what they hold is then taken from one run. Two units hold the same where all that makes them
is equal, element by element. What reads a copy reads the first one instead, by the sum of both weights; what reads a constant gets it in its bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphcompress.ir import Model, Tensor, constant_data, constant_value, output_ids
from graphcompress.ir.model.edit import Edits
from graphcompress.passes.prune.axes.forms import Letter
from graphcompress.passes.prune.axes.state import Application
from graphcompress.passes.prune.cut import Cut, cut
from graphcompress.passes.prune.groups import FEWEST, Groups, UnitGroup
from graphcompress.passes.prune.orders import readers
from graphcompress.reconstruction.rows import Convolution, Layer, layer_of
from graphcompress.runtime.session import Feed
from graphcompress.runtime.watch import Watch


@dataclass(slots=True)
class FreeUnits:
    """What can go of all groups: `zero` units, `constant` unit -> its value, `copies` unit -> the one that stays."""

    zero: list[int] = field(default_factory=list)
    constant: dict[int, float] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)

    @property
    def units(self) -> list[int]:
        """All that goes."""
        return [*self.zero, *self.constant, *self.copies]


def may_be_free(model: Model) -> bool:
    """Whether a layer has two outputs with the same weights, those that are all 0 included. Quick, and without copies: without it nothing can be free."""
    outputs = output_ids(model)
    for node in model.graph.nodes:
        layer = layer_of(node, outputs)
        if layer is not None:
            rows = layer.outputs_first()
            if len({hash((row + 0.0).tobytes()) for row in rows}) < len(rows):
                return True
    return False


def find_free(groups: Groups, feeds: Sequence[Feed]) -> FreeUnits:
    """The free units of all groups; in each FEWEST stay. `feeds` are for the values of constant channels: of other lengths where axes are free, as a sum over these grows
    with them."""
    return _FreeChannels(groups, feeds).find()


def without(groups: Groups, free: FreeUnits) -> Cut:
    """The cut without them, its readers put right."""
    keep = np.ones(len(groups.group_of), bool)
    keep[free.units] = False
    attempt = cut(groups.algebra, keep)
    with Edits(attempt.model) as edits:
        for layer, units in readers(groups).items():
            matrix, bias = layer.weight_matrix(), layer.bias_vector()
            copies = [(u, first) for u, first in free.copies.items() if (units == u).any()]
            constants = [(u, value) for u, value in free.constant.items() if (units == u).any()]
            for unit, value in constants:
                group, rows = layer.rows_of(np.flatnonzero(units == unit))
                np.add.at(bias, group, value * matrix[group[:, None], rows].sum(axis=1))
            for unit, first in copies:
                (group, rows), (into, place) = (layer.rows_of(np.flatnonzero(units == u)) for u in (unit, first))
                matrix[into[:, None], place] += matrix[group[:, None], rows]
            if copies:
                edits.set_value(attempt.twins.tensor(layer.weight), attempt.taken(layer.weight, layer.weight_from_matrix(matrix)))
            if constants:
                assert layer.bias is not None
                edits.set_value(attempt.twins.tensor(layer.bias), attempt.taken(layer.bias, layer.bias_from_vector(bias).reshape(layer.bias.shape)))
    return attempt


class _FreeChannels:
    """Looks for free units."""

    def __init__(self, groups: Groups, feeds: Sequence[Feed]) -> None:
        self.groups = groups
        self.feeds = feeds
        self.algebra = groups.algebra
        self.readers = readers(groups)
        self.sole = Counter(layer.weight for layer in self.readers)

    def find(self) -> FreeUnits:
        free = FreeUnits()
        fixed = self.unreadable()
        values = self.values(self.still() - fixed) if self.lengths_differ() else {}
        for group in self.groups.groups:
            blocks = [self.of_block(group, [int(group.units[i]) for i in block], fixed, values) for block in group.partition]
            count = min(*map(len, blocks), group.size // group.step - FEWEST)  # of each block as many
            for unit, first in [entry for block in blocks for entry in block[: max(0, count)]]:
                if first is not None:
                    free.copies[unit] = first
                elif values[unit] == 0:
                    free.zero.append(unit)
                else:
                    free.constant[unit] = values[unit]
        return free

    def of_block(self, group: UnitGroup, block: Sequence[int], fixed: set[int], values: Mapping[int, float]) -> list[tuple[int, int | None]]:
        """What can go of a block: (unit, the one that it is a copy of, None where it always holds one number). Equal weights of another block read other channels."""
        units = [u for u in block if u not in fixed]
        still = [u for u in units if u in values and (values[u] == 0 or self.foldable(u))]
        return [*((unit, None) for unit in still), *self.copies(group, [u for u in units if u not in still])]

    def unreadable(self) -> set[int]:
        """Units of groups of which something is summed over that is no layer with a constant weight of its own."""
        layers = {layer.node for layer in self.readers if self.sole[layer.weight] == 1 and len(layer.weight.outputs) == 1}
        fixed: set[int] = set()
        for application in self.algebra.applications:
            for letter, _ in application.contractions():
                if application.form.node not in layers:
                    fixed.update(self.algebra.components.unit[application.vectors[letter]].tolist())
        for tensor, axes in self.algebra.axes.items():
            for labels, size in zip(axes or (), self.algebra.shape(tensor) or (), strict=False):
                if isinstance(labels, np.ndarray) and len(labels) != size and constant_data(tensor) is not None:  # counted within blocks
                    fixed.update(self.algebra.components.unit[labels].tolist())
        named = self.groups.group_of[np.array(sorted(fixed), np.int64)]
        return {int(u) for g in set(named[named >= 0].tolist()) for u in self.groups.groups[g].units}

    def lengths_differ(self) -> bool:
        """Whether each free axis but the batch has two lengths in the feeds: at one, what hangs on it looks constant."""
        for spec in self.algebra.model.inputs:
            shapes = [array.shape for feed in self.feeds if (array := feed.get(spec.name)) is not None]
            free = [axis for axis, dim in enumerate(spec.shape or ()) if not isinstance(dim, int) and (axis or len(spec.shape or ()) == 1)]
            if any(len({shape[axis] for shape in shapes}) < 2 for axis in free):
                return False
        return True

    def still(self) -> set[int]:
        """Units that no input of the model reaches."""
        moving: set[int] = set()
        known: set[int] = set()
        for application in self.algebra.applications:
            for letter, tensors in _makers(application):
                units = self.algebra.components.unit[application.vectors[letter]]
                known.update(units.tolist())
                for tensor, axis in tensors:
                    values, labels = constant_value(tensor), (self.algebra.axes[tensor] or ())[axis]
                    assert values is not None
                    if not isinstance(labels, np.ndarray):  # of length 1, as of a bias that is one number: the same for all units
                        continue
                    here = np.moveaxis(values, axis, 0).reshape(len(labels), -1).any(axis=1)
                    moving.update(self.algebra.components.unit[labels[here]].tolist())
                if not tensors:
                    moving.update(units.tolist())
            for letter in self.mixed(application):
                moving.update(self.algebra.components.unit[application.vectors[letter]].tolist())
        return known - moving - self.spread()

    def spread(self) -> set[int]:
        """Units of axes that a node makes of one index of something calculated, as Expand does: what they hold is no weight's doing."""
        units: set[int] = set()
        followed = {application.form.node for application in self.algebra.applications}
        for node in self.algebra.model.graph.nodes:
            if node not in followed and node.inputs and constant_data(node.inputs[0]) is None:
                before, after = (set(self.units_of(tensors)) for tensors in (node.inputs, node.outputs))
                units |= after - before
        return units

    def units_of(self, tensors: Iterable[Tensor]) -> Iterator[int]:
        """The units of all axes of `tensors`."""
        for tensor in tensors:
            for labels in self.algebra.axes.get(tensor) or ():
                if isinstance(labels, np.ndarray):
                    yield from self.algebra.components.unit[labels].tolist()

    def mixed(self, application: Application) -> Iterator[Letter]:
        """The open letters of outputs that some of the inputs that are calculated have and others lack: what these hold is the same for all indices, and may hang on the input
        of the model."""
        inputs = [t for t in application.form.node.inputs if t.name and constant_data(t) is None]
        for letter in {x for slot in application.form.outputs for x in slot.letters} & set(application.vectors):
            slots = [slot for slot in application.form.inputs if letter in slot.letters]
            having = {id(s.tensor) for s in slots if (self.algebra.axes[s.tensor] or ())[s.axis] is not None}
            if 0 < sum(id(t) in having for t in inputs) < len(inputs):
                yield letter

    def values(self, units: set[int]) -> dict[int, float]:
        """What the units hold wherever they are summed over, of those that hold one number."""
        reading = {layer.x: unit for layer, unit in self.readers.items() if units & set(unit.tolist())}
        result: dict[int, set[float]] = {}
        for seen in Watch(self.algebra.model, reading).run(self.feeds) if reading else ():
            for layer, channels in self.readers.items():
                if layer.x in seen:
                    axis = 1 if isinstance(layer.form, Convolution) else -2 if getattr(layer.form, "flips_x", False) else -1
                    x = np.moveaxis(np.asarray(seen[layer.x]), axis, 0).reshape(len(channels), -1)
                    for unit, row in zip(channels.tolist(), x, strict=True):
                        if unit in units:
                            result.setdefault(unit, set()).update((float(row.min()), float(row.max())) if row.size else (float("nan"),))
        return {unit: next(iter(numbers)) for unit, numbers in result.items() if len(numbers) == 1 and np.isfinite(next(iter(numbers)))}

    def foldable(self, unit: int) -> bool:
        """Whether all that reads the unit has a bias, and no border where the unit's number ends."""
        return all(_takes_constants(layer) for layer, units in self.readers.items() if (units == unit).any())

    def copies(self, group: UnitGroup, units: Sequence[int]) -> list[tuple[int, int]]:
        """(unit, the first one that holds the same)."""
        parts: dict[int, list[bytes]] = {unit: [] for unit in units}
        for tensor, axis in group.weights:
            if any(tensor is layer.weight and self._summed(layer, axis) for layer in self.readers):
                continue
            values, labels = constant_value(tensor), (self.algebra.axes[tensor] or ())[axis]
            assert values is not None and isinstance(labels, np.ndarray)
            of = self.algebra.components.unit[labels]
            for unit, own in parts.items():
                own.append(np.ascontiguousarray(values.take(np.flatnonzero(of == unit), axis)).tobytes())
        first: dict[tuple[bytes, ...], int] = {}
        return [(unit, same) for unit, own in parts.items() if own and (same := first.setdefault(tuple(own), unit)) != unit]

    def _summed(self, layer: Layer, axis: int) -> bool:
        return any(
            slot.tensor is layer.weight and slot.axis == axis
            for application in self.algebra.applications
            if application.form.node is layer.node
            for letter, _ in application.contractions()
            for slot in application.form.inputs
            if letter in slot.letters
        )


def _takes_constants(layer: Layer) -> bool:
    plain = not isinstance(layer.form, Convolution) or (layer.form.taps == 1 and not any((*layer.form.begins, *layer.form.ends)))
    return plain and layer.bias is not None and len(layer.bias.outputs) == 1 and layer.bias.values.size == layer.bias_vector().size


def _makers(application: Application) -> Iterator[tuple[Letter, list[tuple[Tensor, int]]]]:
    """The open letters that a node makes anew: of its inputs only constants have them. With each the matrices among these, [] where the letter comes from nowhere."""
    written = {x for slot in application.form.outputs for x in slot.letters}
    for letter in written & set(application.vectors):
        slots = [slot for slot in application.form.inputs if letter in slot.letters]
        if all(constant_data(slot.tensor) is not None for slot in slots):
            yield letter, [(s.tensor, s.axis) for s in slots if (values := constant_value(s.tensor)) is not None and values.ndim > 1]
