"""Which arrays a model takes, and whether arrays fit. The one place that decides it, for files and for memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from graphcompress.errors import DataError, near_name, quoted
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.objects import TensorSpec

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = dict[str, Array]
E = TypeVar("E")

TEXT = np.dtypes.StringDType()
"""What texts of any source but the caller's arrays are held as: each as long as it is. In NumPy's types of fixed width one long text makes all of them as wide."""

UNNAMED = "arr_0"
"""The key that `np.savez(path, array)` gives."""
MOST_FAULTS = 6
"""Faults that one message tells."""


class Entry(Protocol):
    """An array whose header is known before its data is read: a member of a file, or an array in memory."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def whole(self) -> Array:
        """The array."""
        ...

    def rows(self, step: int) -> AbstractContextManager[Callable[[int], Array]]:
        """A function from i to rows [i*step, (i+1)*step)."""
        ...


@dataclass(frozen=True)
class Signature:
    """The inputs that must be fed and those that may be; `scaled` names those that the model itself scales, as exports with a preprocessing layer do."""

    required: tuple[TensorSpec, ...]
    optional: tuple[TensorSpec, ...] = ()
    scaled: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def of(cls, where: str, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = (), scaled: frozenset[str] = frozenset()) -> Signature:
        """An input of an optional type may be left out. Raises DataError for an input that no array can be fed to."""
        for spec in inputs:
            if spec.kind not in ("tensor", "optional"):
                raise DataError(
                    f"{where}: the model's input '{spec.name}' is a {spec.kind}, which arrays cannot hold. Only models whose inputs are tensors can be fed."
                )
        required = tuple(s for s in inputs if s.kind == "tensor")
        return cls(required, (*(s for s in inputs if s.kind == "optional"), *optional), scaled)

    @cached_property
    def specs(self) -> dict[str, TensorSpec]:
        """Everything that may be fed, by name."""
        return {s.name: s for s in (*self.required, *self.optional)}

    def named(self, entries: Mapping[str, E]) -> Mapping[str, E]:
        """What numpy saved without a name (`np.savez(path, array)`) belongs to the only input of a model that has one."""
        unnamed = len(self.required) == 1 and UNNAMED in entries and self.required[0].name not in entries and UNNAMED not in self.specs
        return {self.required[0].name if key == UNNAMED else key: entry for key, entry in entries.items()} if unnamed else entries

    def fed(self, where: str, entries: Mapping[str, Entry]) -> dict[str, TensorSpec]:
        """The inputs that `entries` feed, in the model's order. A key that begins with `_` is ground truth unless an input has that name.

        Raises DataError for missing and superfluous names and for element types that do not fit, all of them in one message.
        """
        raise_faults(where, self.faults(entries))
        return {name: spec for name, spec in self.specs.items() if name in entries}

    def faults(self, entries: Mapping[str, Entry], *, shapes: bool = False, hint: str = "") -> list[str]:
        """Everything about names and element types that does not fit, and with `shapes` about the shapes of one complete feed; a sentence or two each. `hint` is added where a
        first axis has another size than the model's."""
        specs = self.specs
        feeding = {key: entry for key, entry in entries.items() if key in specs or not str(key).startswith("_")}
        held = ", ".join(f"{quoted(key)} ({told(entry)})" for key, entry in feeding.items()) or "no arrays to feed"
        unknown = [key for key in feeding if key not in specs]
        sentences = [
            f"the array '{spec.name}' is missing; the model needs it as {expected(spec)}. It holds {held}. {near_name(spec.name, map(str, unknown))}".rstrip()
            for spec in self.required
            if spec.name not in entries
        ]
        names = ", ".join(f"'{name}'" for name in specs)
        if not sentences:
            sentences += [
                f"the array {quoted(key)} is no input of the model, whose inputs are {names}. Remove it, or let its name begin with '_' if it is ground truth."
                for key in unknown
            ]
        for name in feeding:
            if name in specs:
                found = _type_fault(entries[name], specs[name]) or (_shape_fault(name, entries[name].shape, specs[name], hint=hint) if shapes else "")
                sentences += [found] * bool(found)
        return sentences

    def conversions(self, entries: Mapping[str, Entry]) -> list[str]:
        """What is done to arrays that fit but for their type or a batch axis, a sentence each."""
        sentences = []
        for name, spec in self.specs.items():
            if name not in entries or spec.dtype in (None, "string"):
                continue
            ours, theirs = entries[name].dtype, numpy_dtype(spec.dtype)
            if ours.kind in "iuf" and ours.newbyteorder("=") != theirs:
                sentences.append(f"'{name}' is {ours.name} in the data and was converted to {theirs.name}, which the model takes.")
        for name, spec in self.specs.items():
            if name in entries and lacks_batch(entries[name].shape, spec):
                sentences.append(f"'{name}' has no batch axis in the data, {listed(entries[name].shape)}: one was put in front.")
        return sentences

    def truth(self, entries: Mapping[str, Entry]) -> list[str]:
        """The keys of ground truth: they begin with `_` and are no inputs."""
        return [
            key
            for key, entry in entries.items()
            if str(key).startswith("_") and key not in self.specs and (entry.dtype.kind == "T" or not entry.dtype.hasobject)
        ]

    def check_feed(self, where: str, entries: Mapping[str, Entry], hint: str = "") -> None:
        """Names, types and shapes of one complete feed. `hint` is added where a first axis has another size than the model's. Raises DataError."""
        raise_faults(where, self.faults(entries, shapes=True, hint=hint))
        fed = self.fed(where, entries)
        _check_filled(where, {name: entries[name].shape for name in fed}, fed)

    def check_stack(self, where: str, entries: Mapping[str, Entry]) -> tuple[dict[str, int], int]:
        """Names, types and shapes of arrays stacked along the first axis: rows per feed by name (0: a scalar that is the same in every feed), number of feeds.

        Rows per feed are the model's fixed first dimension, else one. Raises DataError, with both numbers where rows are left over.
        """
        fed = self.fed(where, entries)
        cut = {name: _rows_per_feed(name, entries[name].shape, spec) for name, spec in fed.items()}
        raise_faults(where, [fault for fault in cut.values() if isinstance(fault, str)])
        steps = {name: step for name, step in cut.items() if isinstance(step, int)}
        counts = {name: entries[name].shape[0] // step for name, step in steps.items() if step}
        if not counts:
            raise DataError(
                f"{where}: no array with a first axis to cut feeds from. Stack the feeds along the first axis, or give one set of arrays per feed (a folder of files)."
            )
        (first, count), *others = counts.items()
        for name, other in others:
            if other != count:
                raise DataError(
                    f"{where}: '{first}' is enough for {count} feeds and '{name}' for {other}. All arrays must be stacked for the same number of feeds."
                )
        _check_filled(where, {name: entries[name].shape for name in fed}, fed)
        return steps, count

    def feed(self, where: str, arrays: Mapping[str, Array]) -> Feed:
        """Arrays that were checked, as onnxruntime takes them and in the model's order: native byte order, C order, texts as objects."""
        ready = {name: _ready(where, arrays[name], spec) for name, spec in self.specs.items() if name in arrays}
        return {name: array[None] if lacks_batch(array.shape, self.specs[name]) else array for name, array in ready.items()}


def expected(spec: TensorSpec) -> str:
    """What the model says of an input, as text: "float [batch, 3, 32, 32]"."""
    shape = "of any rank" if spec.shape is None else listed("?" if d is None else d for d in spec.shape)
    return f"{spec.dtype or 'any type'} {shape}"


def listed(dims: Any) -> str:
    """A shape as text: "[2, 3]"."""
    return f"[{', '.join(map(str, dims))}]"


def told(entry: Entry) -> str:
    """Type and shape of an array as text."""
    return f"{type_name(entry.dtype)} {listed(entry.shape)}"


def type_name(dtype: np.dtype[Any]) -> str:
    """An element type as messages call it."""
    return "string" if dtype.kind == "T" else dtype.name


def check_numbers(where: str, name: str, array: Array, first_row: int = 0) -> None:
    """Raise DataError for NaN among the values; `first_row` is where this part of the source begins."""
    if array.dtype.kind not in "fcV":
        return
    missing = np.asarray(array != array)
    if missing.any():
        row = first_row + int(np.argmax(missing.reshape(-1))) // max(1, array.size // array.shape[0]) if array.ndim else 0
        place = f", first in row {row} of the first axis" if array.ndim > 1 else ""
        raise DataError(f"{where}: the array '{name}' has NaN among its {array.dtype.name} values{place}. Expected numbers: remove or replace that sample.")


def raise_faults(where: str, sentences: Sequence[str]) -> None:
    """Raise DataError with all of `sentences`, if there are any."""
    if len(sentences) > 1:
        numbered = " ".join(f"({number}) {sentence[:1].upper()}{sentence[1:]}" for number, sentence in enumerate(sentences[:MOST_FAULTS], 1))
        more = f" And {len(sentences) - MOST_FAULTS} more." if len(sentences) > MOST_FAULTS else ""
        raise DataError(f"{where}: {len(sentences)} things do not fit. {numbered}{more}")
    if sentences:
        raise DataError(f"{where}: {sentences[0]}")


def widens(dtype: np.dtype[Any], goal: np.dtype[Any]) -> bool:
    """Whether numbers of type `dtype` can be given as `goal` without harm: integers to wider ones, floats to float32 or float64 (double precision is how NumPy and tables hold what
    was measured in single). Integers to floats are refused: pixels are scaled in most applications."""
    if dtype.kind in "iu" and goal.kind in "iu":
        return np.can_cast(dtype, goal, "safe")
    return dtype.kind == "f" and goal.kind == "f" and goal.itemsize >= 4


def _type_fault(entry: Entry, spec: TensorSpec) -> str:
    """Why an element type does not fit. But for harmless widening types must be equal: what is converted silently is calibrated on something else than what is deployed."""
    dtype = entry.dtype
    if dtype.hasobject and dtype.kind != "T":
        return (
            f"the array '{spec.name}' holds Python objects. Expected {expected(spec)}: give a plain array. (From a file objects would have to be unpickled, "
            "which could run any code.)"
        )
    if dtype.names is not None or dtype.subdtype is not None:
        return f"the array '{spec.name}' has a structured type ({dtype}). Expected {expected(spec)}: give a plain array."
    if spec.dtype is None:
        return ""
    if spec.dtype == "string":
        fits = dtype.kind in "UST"
        return "" if fits else f"the array '{spec.name}' is {dtype.name}. Expected {expected(spec)}: give texts, as in np.array(['a', 'b'])."
    if dtype.kind == "T":
        return f"the array '{spec.name}' holds texts. Expected {expected(spec)}."
    goal = numpy_dtype(spec.dtype)
    raw = dtype.kind == "V" and goal.kind == "V" and dtype.itemsize == goal.itemsize
    if dtype.newbyteorder("=") == goal or raw or widens(dtype, goal):
        return ""
    return f"the array '{spec.name}' is {dtype.name}. Expected {expected(spec)}: convert it with .astype('{goal.name}')."


def lacks_batch(shape: Sequence[int], spec: TensorSpec) -> bool:
    """Whether an array is one sample without the batch axis that the model's input begins with."""
    rest = () if spec.shape is None else spec.shape[1:]
    fits = spec.shape is not None and len(shape) == len(rest) and spec.shape[:1] and (spec.shape[0] == 1 or not isinstance(spec.shape[0], int))
    return bool(fits) and all(not isinstance(dim, int) or dim == size for size, dim in zip(shape, rest, strict=True))


def _shape_fault(name: str, shape: Sequence[int], spec: TensorSpec, *, axes_from: int = 0, hint: str = "") -> str:
    """What is wrong with rank and fixed dimensions; `axes_from` 1 leaves the first axis to whoever cuts it."""
    if spec.shape is None or (not axes_from and lacks_batch(shape, spec)):
        return ""
    if len(shape) != len(spec.shape):
        return f"the array '{name}' has {len(shape)} axes, {listed(shape)}. Expected {len(spec.shape)}: {expected(spec)}."
    wrong = [axis for axis, (size, dim) in enumerate(zip(shape, spec.shape, strict=True)) if axis >= axes_from and isinstance(dim, int) and dim != size]
    if not wrong:
        return ""
    axis, dim = wrong[0], spec.shape[wrong[0]]
    stacked = f" {hint}" if hint and axis == 0 and isinstance(dim, int) and 0 < dim < shape[0] else ""
    return f"axis {axis} of the array '{name}' has {shape[axis]} elements, {listed(shape)}. Expected {dim}: {expected(spec)}.{stacked}{_other_layout(name, shape, spec)}"


def _other_layout(name: str, shape: Sequence[int], spec: TensorSpec) -> str:
    """What to do where images have their channels at the other end."""
    for order in ((0, 3, 1, 2), (0, 2, 3, 1)):
        if (
            len(shape) == 4
            and spec.shape is not None
            and all(not isinstance(d, int) or shape[a] == d for a, d in list(zip(order, spec.shape, strict=True))[1:])
        ):
            return f" Its channels are at the other end: np.transpose({name}, {order})."
    return ""


def _check_filled(where: str, shapes: Mapping[str, Sequence[int]], specs: Mapping[str, TensorSpec]) -> None:
    """Some inputs may be empty (a cache at its first step), not all of them."""
    if shapes and all(0 in shape for shape in shapes.values()):
        name, shape = next(iter(shapes.items()))
        others = " and so are all others" if len(shapes) > 1 else ""
        raise DataError(f"{where}: the array '{name}' is empty, {listed(shape)}{others}. Expected {expected(specs[name])}, with values to run on.")


def _rows_per_feed(name: str, shape: tuple[int, ...], spec: TensorSpec) -> int | str:
    """How many rows of a stacked array are one feed (0: a scalar for all feeds), or what is wrong with it."""
    if spec.shape == ():
        if len(shape) > 1:
            return f"the array '{name}' has {len(shape)} axes. Expected one scalar per feed, stacked: {expected(spec)} and one axis."
        if shape == (0,):
            return f"the array '{name}' is empty. Expected one scalar per feed."
        return len(shape)
    if not shape:
        return f"the array '{name}' is a single number. Expected arrays stacked along the first axis: {expected(spec)}."
    fault = _shape_fault(name, shape, spec, axes_from=1)
    if fault:
        return fault
    fixed = spec.shape[0] if spec.shape else None
    step = fixed if isinstance(fixed, int) else 1
    if step < 1:
        return f"the model takes {step} rows of '{name}' at a time, so no feed can be cut for it. Give one set of arrays per feed."
    if not shape[0]:
        return f"the array '{name}' is empty, {listed(shape)}. Expected {expected(spec)} for at least one feed."
    if shape[0] % step:
        left = shape[0] % step
        return f"the array '{name}' has {shape[0]} rows, and the model takes exactly {step} at a time: {left} are left over. Remove {left} rows or add {step - left}."
    return step


def _ready(where: str, array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind == "V" and spec.dtype is not None:  # numpy saves the types that it lacks (bfloat16 ...) as raw bytes
        array = array.view(numpy_dtype(spec.dtype))
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array, "utf-8").astype(object)
        except UnicodeDecodeError as problem:
            raise DataError(
                f"{where}: the array '{spec.name}' has bytes that are no UTF-8 text ({problem.reason}). Save texts, as in np.array(['a', 'b'])."
            ) from problem
    if array.dtype.kind in "UT":
        return array.astype(object)
    goal = array.dtype.newbyteorder("=") if spec.dtype is None or array.dtype.kind not in "iuf" else numpy_dtype(spec.dtype)
    with np.errstate(over="ignore"):
        native = np.ascontiguousarray(array, dtype=goal).reshape(array.shape)
    if array.dtype.kind == "f" and goal.itemsize < array.dtype.itemsize and np.isfinite(native).sum() < np.isfinite(array).sum():
        raise DataError(
            f"{where}: the array '{spec.name}' has {array.dtype.name} values that are beyond {goal.name}, which the model takes. Scale or remove them."
        )
    return native
