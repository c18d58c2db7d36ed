"""Forms: what one operator does to the axes of its tensors, written with letters.

Each axis is a row-major product of letters, mostly of one: `x[n, g*c], w[g*o, c] -> y[n, g*o]`. Axes of one letter are tied index by index. An axis that is a product can lose
whole indices of one of its letters, so at most one of them is open: then all indices of the axis with the same index of that letter go together, and axes of the
other letters are frozen. Which letters are open is a choice, the `mode` of a form.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphcompress.ir import Node, Tensor
from graphcompress.passes.prune.axes.labels import Array, Axis, Labels, Reason

Letter = str
Mode = frozenset[Letter]


@dataclass(frozen=True, slots=True)
class Slot:
    """Axis `axis` of `tensor`, a product of `letters`, the outermost first."""

    tensor: Tensor
    axis: int
    letters: tuple[Letter, ...]


@dataclass(frozen=True, slots=True)
class AxisForm:
    """`inputs` and `outputs` of `node`, axis by axis. `sizes`: length of each letter; None where that is no number, which freezes it. `frozen`: letters whose indices have a meaning
    of their own. `attributes`: attribute of the node -> the letter whose size it states. `blocks`: an axis that is a product of this letter and another may lose different indices
    of the other in each block, as many in all: where the other stands alone, in a constant, its indices are counted within the block of the first axis."""

    node: Node
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    sizes: Mapping[Letter, int | None]
    frozen: frozenset[Letter] = frozenset()
    attributes: Mapping[str, Letter] = field(default_factory=dict)
    blocks: Letter | None = None

    def live(self, slot: Slot) -> list[Letter]:
        """The letters of an axis that are longer than 1."""
        return [letter for letter in slot.letters if self.sizes[letter] != 1]

    def modes(self) -> list[Mode]:
        """The choices: each a largest set of letters of which no two share an axis; the one with the innermost letters first."""
        clashes: dict[Letter, set[Letter]] = {}
        alone: dict[Letter, None] = {}
        for slot in (*self.inputs, *self.outputs):
            live = [x for x in self.live(slot) if x not in self.frozen and self.sizes[x] is not None]
            if len(live) == 1:
                alone.setdefault(live[0])
            for letter in live[::-1] if len(live) > 1 else ():
                clashes.setdefault(letter, set()).update(x for x in live if x != letter)
        modes: dict[Mode, None] = {}
        for first in clashes or alone:
            mode: set[Letter] = set()
            for letter in (first, *clashes, *alone):
                if not clashes.get(letter, set()) & mode:
                    mode.add(letter)
            modes.setdefault(frozenset(mode))
        return list(modes) or [frozenset()]

    @property
    def pattern(self) -> tuple[object, ...]:
        """What forms have in common that the same mode suits: the operator, and the sizes of the axes that are products."""
        products = [tuple(self.sizes[x] for x in live) for s in (*self.inputs, *self.outputs) if len(live := self.live(s)) > 1]
        return (self.node.op, *products)


class BoundForm:
    """One form applied: ties between the axes of the inputs, and axes for the outputs."""

    def __init__(self, form: AxisForm, mode: Mode, labels: Labels) -> None:
        self.form = form
        self.open: Collection[Letter] = {x for x in mode if x not in form.frozen and form.sizes[x] is not None}
        self.labels = labels
        self.vectors: dict[Letter, Axis] = {}
        #: Axes whose indices are counted within blocks: (tensor, axis) -> the labels of all blocks.
        self.ragged: dict[tuple[Tensor, int], Axis] = {}
        self._balanced = {
            x for s in (*form.inputs, *form.outputs) if len(live := form.live(s)) == 2 and live[0] == form.blocks for x in live[1:] if x in self.open
        }

    def read(self, slot: Slot, axis: Axis) -> None:
        """Tie an axis of an input. One of length 1 broadcasts against a longer letter."""
        live = self.form.live(slot)
        if axis is None or not live:
            return
        if len(live) == 1 and live[0] in self._balanced:
            self.ragged[slot.tensor, slot.axis] = self._vector(live[0])
            return
        if len(live) == 1 or live[-1] in self._balanced:
            self.join(live[-1], axis)
            return
        letter = next((x for x in live if x in self.open), None)
        if letter is None or isinstance(axis, int):
            self.labels.freeze(axis, self.reason(live[0]))
            if letter is not None:
                self.join(letter, axis)
            return
        self.labels.tie(axis, self._expanded(live, letter, self._vector(letter)))

    def join(self, letter: Letter, axis: Axis) -> None:
        """Let `axis` be one of those of `letter`."""
        if letter not in self.open:
            self.labels.freeze(axis, self.reason(letter))
            self.vectors.setdefault(letter, axis if isinstance(axis, int) else self.reason(letter))
        elif letter in self.vectors:
            vector = self.vectors[letter]
            if isinstance(vector, np.ndarray) and isinstance(axis, np.ndarray) and vector.size != axis.size:
                # An axis of length 1 that has a label (what a Concat of one makes) broadcasts against another, of length 0 too.
                for labels in (vector, axis):
                    self.labels.freeze(labels, self.reason(letter))
                self.vectors[letter] = axis if vector.size == 1 else vector
                return
            self.labels.tie(vector, axis)
            if isinstance(axis, int):
                self.vectors[letter] = axis
        else:
            self.vectors[letter] = axis

    def write(self, slot: Slot) -> Axis:
        """The axis of an output."""
        live = self.form.live(slot)
        if not live:
            return None
        letter = next((x for x in live if x in self.open), None)
        if letter is None:
            frozen = self.vectors.get(live[0]) if len(live) == 1 else None
            return frozen if isinstance(frozen, int) else self.reason(live[0])
        vector = self._vector(letter)
        whole = len(live) == 1 or isinstance(vector, int) or letter in self._balanced
        return vector if whole else self._expanded(live, letter, vector)

    def balance(self) -> None:
        """Say that blocks keep equally many."""
        for letter in sorted(self._balanced):
            vector, blocks = self.vectors.get(letter), self.form.sizes[self.form.blocks or ""]
            if isinstance(vector, np.ndarray) and blocks:
                self.labels.balance(vector.reshape(blocks, -1))

    def reason(self, letter: Letter) -> int:
        """Why `letter` is not open."""
        node, op = self.form.node.name or self.form.node.outputs[0].name, self.form.node.op
        if letter in self.form.frozen:
            return self.labels.reason(Reason("position", f"{op} tells its indices apart", node))
        if self.form.sizes[letter] is None:
            return self.labels.reason(Reason("free", f"its length is free at {op}", node))
        return self.labels.reason(Reason("product", f"{op} joins or splits it, and indices of another factor can go", node))

    def _vector(self, letter: Letter) -> Axis:
        if letter not in self.vectors:
            size = self.form.sizes[letter]
            blocks = self.form.sizes[self.form.blocks or ""] if letter in self._balanced else 1
            assert size is not None and blocks is not None
            self.vectors[letter] = self.labels.fresh(size * blocks)
        return self.vectors[letter]

    def _expanded(self, live: Sequence[Letter], letter: Letter, vector: Axis) -> Axis:
        """The labels of the product axis whose indices go with those of `letter`."""
        if not isinstance(vector, np.ndarray):
            return vector
        sizes = [self.form.sizes[x] for x in live]
        position = live.index(letter)
        column: Array = vector.reshape([-1 if i == position else 1 for i in range(len(live))])
        return np.broadcast_to(column, [s or 0 for s in sizes]).reshape(-1)


def contracted(form: AxisForm) -> Iterable[Letter]:
    """The letters over which the operator sums: those of inputs that no output has."""
    written = {x for s in form.outputs for x in s.letters}
    return dict.fromkeys(x for s in form.inputs for x in s.letters if x not in written and x not in form.frozen)
