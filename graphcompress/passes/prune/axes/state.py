"""What is known of the axes of tensors, and what mappers may say about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from graphcompress.ir import Model, Node, Shape, Tensor, constant_data, constant_value
from graphcompress.ir.model.dimensions import Dim
from graphcompress.ir.shapes.infer import Shapes
from graphcompress.passes.prune.axes.forms import AxisForm, BoundForm, Letter, Slot, contracted
from graphcompress.passes.prune.axes.labels import Array, Axis, Labels, Reason

# Tensors of other types hold positions and sizes, whose meaning hangs on what was not cut.
_LABELLED_TYPES = frozenset(["float", "float16", "double", "bfloat16", "bool"])
Pattern = tuple[object, ...]
Length = tuple[Tensor, int]


@dataclass(frozen=True, slots=True, eq=False)
class Application:
    """A form as it was applied: the axis of each open letter."""

    form: AxisForm
    vectors: Mapping[Letter, Array]
    costs: tuple[Letter, ...]

    def contractions(self) -> Iterable[tuple[Letter, list[Slot]]]:
        """The open letters that the operator sums over, each with the axes of its inputs that have it: those that no output has, and the columns of a recurrence, whose
        rows have the same letter."""
        for letter in contracted(self.form):
            if letter in self.vectors:
                yield letter, [s for s in self.form.inputs if letter in s.letters]
        for slot in self.form.inputs:
            for letter in slot.letters:
                if letter in self.vectors and any(s.tensor is slot.tensor and s.axis < slot.axis and letter in s.letters for s in self.form.inputs):
                    yield letter, [slot]


class AxisStore:
    """`axes` of the tensors that were met so far, `labels` for them, `applications` of forms, `patterns` of forms with several modes (and how many), `picks`: the indices that
    a node takes of an axis of its first input."""

    def __init__(self, model: Model, shapes: Shapes, sample: Shapes, modes: Mapping[Pattern, int]) -> None:
        """`sample`: see `sample_shape`; `modes`: pattern of a form -> which of its modes to take (default: the first)."""
        self.model = model
        self.shapes = shapes
        self.sample = sample
        self.opset = model.opset
        self.modes = modes
        self.labels = Labels()
        self.axes: dict[Tensor, tuple[Axis, ...] | None] = {}
        self.applications: list[Application] = []
        self.patterns: dict[Pattern, int] = {}
        self.picks: dict[tuple[Node, int], Array] = {}
        self._lengths: dict[Tensor, list[Length | None]] = {}

    def shape(self, tensor: Tensor) -> Shape | None:
        """See `Shapes.shape`."""
        return self.shapes.shape(tensor)

    def sample_shape(self, tensor: Tensor) -> Shape | None:
        """The shape for inputs whose free dimensions are large primes: where sizes are multiplied and divided, it tells which went where."""
        return self.sample.shape(tensor)

    def get(self, tensor: Tensor) -> tuple[Axis, ...] | None:
        """The axes of `tensor`, None where its rank is not known. Those of a constant are made when they are asked for first."""
        if tensor not in self.axes:
            shape = self.shape(tensor)
            if constant_data(tensor) is None or shape is None:
                self.freeze_new(tensor, Reason("unknown", f"nothing is known of '{tensor.name}'", tensor.name))
            elif self.shapes.dtype(tensor) not in _LABELLED_TYPES:
                self.freeze_new(tensor, Reason("constant", f"'{tensor.name}' holds positions or sizes", tensor.name))
            else:
                self.axes[tensor] = tuple(None if d == 1 else self.labels.fresh(d) if isinstance(d, int) else 0 for d in shape)
        return self.axes[tensor]

    def set(self, tensor: Tensor, axes: Iterable[Axis]) -> None:
        """Say what the axes of an output are."""
        if tensor.name:
            self.axes[tensor] = tuple(axes)

    def freeze(self, tensor: Tensor, reason: Reason) -> None:
        """No index of any axis of `tensor` may go."""
        number = self.labels.reason(reason)
        for axis in self.get(tensor) or ():
            self.labels.freeze(axis, number)

    def freeze_new(self, tensor: Tensor, reason: Reason) -> None:
        """The axes of a tensor that nothing is said of yet: frozen."""
        shape = self.shape(tensor)
        number = self.labels.reason(reason)
        self.axes[tensor] = None if shape is None else tuple(None if d == 1 else number for d in shape)

    def as_labels(self, axis: Axis, length: Dim) -> Axis:
        """A frozen axis as an array of frozen labels, where its length is a number."""
        if not isinstance(axis, int) or not isinstance(length, int):
            return axis
        labels = self.labels.fresh(length)
        self.labels.freeze(labels, axis)
        return labels

    def reason(self, node: Node, id: str, text: str) -> int:
        """The number of a reason that `node` gives."""
        return self.labels.reason(Reason(id, text, node.name or node.outputs[0].name))

    def value(self, tensor: Tensor | None) -> Array | None:
        """The value of a constant, or of what is always the same; None otherwise."""
        if tensor is None:
            return None
        value = constant_value(tensor) if constant_data(tensor) is not None else self.shapes.value(tensor)
        return None if value is None else np.asarray(value)

    def bind(self, form: AxisForm, costs: tuple[Letter, ...] = ()) -> None:
        """Apply a form."""
        modes = form.modes()
        pattern = form.pattern
        if len(modes) > 1:
            self.patterns[pattern] = len(modes)
        mode = modes[self.modes.get(pattern, 0) % len(modes)]
        binding = BoundForm(form, mode, self.labels)
        for slot in form.inputs:
            axes = self.get(slot.tensor)
            if axes is not None:
                binding.read(slot, axes[slot.axis])
        outputs: dict[Tensor, list[Axis]] = {}
        for slot in form.outputs:
            outputs.setdefault(slot.tensor, []).append(binding.write(slot))
        for tensor in form.node.outputs:
            self.set(tensor, outputs.get(tensor, ()))
        binding.balance()
        for (tensor, axis), labels in binding.ragged.items():
            self.set(tensor, [labels if a == axis else own for a, own in enumerate(self.get(tensor) or ())])
        vectors = {x: v for x, v in binding.vectors.items() if x in binding.open and isinstance(v, np.ndarray)}
        self.applications.append(Application(form, vectors, costs))

    # --- sizes ------------------------------------------------------------------------------------------------------------------

    def lengths(self, tensor: Tensor) -> list[Length | None]:
        """For a tensor of sizes, in order: the axis whose length each element is; [] where that is not known, None for an element that is none."""
        return self._lengths.get(tensor, [])

    def set_lengths(self, tensor: Tensor, lengths: list[Length | None]) -> None:
        """See `lengths`."""
        self._lengths[tensor] = lengths
        self.freeze_new(tensor, Reason("sizes", "it holds sizes", tensor.name))

    def pin_lengths(self, tensor: Tensor, reason: int) -> None:
        """Freeze the axes whose lengths are in `tensor`."""
        for entry in self.lengths(tensor):
            if entry is not None:
                axes = self.get(entry[0])
                if axes is not None:
                    self.labels.freeze(axes[entry[1]], reason)

    def use_lengths(self, node: Node, tensor: Tensor) -> None:
        """The same, as `node` calculates with them."""
        if self.lengths(tensor):
            self.pin_lengths(tensor, self.reason(node, "size", f"{node.op} calculates with its length"))
