"""Which arrays a model takes, and whether arrays fit. The one place that decides it, for files and for memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np

from graphcompress.errors import DataError, quoted
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.objects import TensorSpec

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = dict[str, Array]


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
    """The inputs that must be fed and those that may be."""

    required: tuple[TensorSpec, ...]
    optional: tuple[TensorSpec, ...] = ()

    @classmethod
    def of(cls, where: str, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()) -> Signature:
        """An input of an optional type may be left out. Raises DataError for an input that no array can be fed to."""
        for spec in inputs:
            if spec.kind not in ("tensor", "optional"):
                raise DataError(
                    f"{where}: the model's input '{spec.name}' is a {spec.kind}, which arrays cannot hold. Only models whose inputs are tensors can be fed."
                )
        required = tuple(s for s in inputs if s.kind == "tensor")
        return cls(required, (*(s for s in inputs if s.kind == "optional"), *optional))

    @cached_property
    def specs(self) -> dict[str, TensorSpec]:
        """Everything that may be fed, by name."""
        return {s.name: s for s in (*self.required, *self.optional)}

    def fed(self, where: str, entries: Mapping[str, Entry]) -> dict[str, TensorSpec]:
        """The inputs that `entries` feed, in the model's order. A key that begins with `_` is ground truth unless an input has that name.

        Raises DataError for a missing or superfluous name and for an element type that does not fit.
        """
        specs = self.specs
        feeding = {key: entry for key, entry in entries.items() if key in specs or not str(key).startswith("_")}
        held = ", ".join(f"{quoted(key)} ({told(entry)})" for key, entry in feeding.items()) or "no arrays to feed"
        for spec in self.required:
            if spec.name not in entries:
                raise DataError(f"{where}: the array '{spec.name}' is missing; the model needs it as {expected(spec)}. It holds {held}.")
        for key in feeding:
            if key not in specs:
                names = ", ".join(f"'{name}'" for name in specs)
                raise DataError(
                    f"{where}: the array {quoted(key)} is no input of the model, whose inputs are {names}. Remove it, or let its name begin with '_' if it is ground truth."
                )
        for name in feeding:
            _check_type(where, entries[name], specs[name])
        return {name: spec for name, spec in specs.items() if name in feeding}

    def truth(self, entries: Mapping[str, Entry]) -> list[str]:
        """The keys of ground truth: they begin with `_` and are no inputs."""
        return [key for key, entry in entries.items() if str(key).startswith("_") and key not in self.specs and not entry.dtype.hasobject]

    def check_feed(self, where: str, entries: Mapping[str, Entry], hint: str = "") -> None:
        """Names, types and shapes of one complete feed. `hint` is added where a first axis has another size than the model's. Raises DataError."""
        fed = self.fed(where, entries)
        for name, spec in fed.items():
            _check_shape(where, name, entries[name].shape, spec, hint=hint)
        _check_filled(where, {name: entries[name].shape for name in fed}, fed)

    def check_stack(self, where: str, entries: Mapping[str, Entry]) -> tuple[dict[str, int], int]:
        """Names, types and shapes of arrays stacked along the first axis: rows per feed by name (0: a scalar that is the same in every feed), number of feeds.

        Rows per feed are the model's fixed first dimension, else one. Raises DataError, with both numbers where rows are left over.
        """
        fed = self.fed(where, entries)
        steps = {name: _rows_per_feed(where, name, entries[name].shape, spec) for name, spec in fed.items()}
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
        return {name: _ready(where, arrays[name], spec) for name, spec in self.specs.items() if name in arrays}


def expected(spec: TensorSpec) -> str:
    """What the model says of an input, as text: "float [batch, 3, 32, 32]"."""
    shape = "of any rank" if spec.shape is None else listed("?" if d is None else d for d in spec.shape)
    return f"{spec.dtype or 'any type'} {shape}"


def listed(dims: Any) -> str:
    """A shape as text: "[2, 3]"."""
    return f"[{', '.join(map(str, dims))}]"


def told(entry: Entry) -> str:
    """Type and shape of an array as text."""
    return f"{entry.dtype.name} {listed(entry.shape)}"


def check_numbers(where: str, name: str, array: Array, first_row: int = 0) -> None:
    """Raise DataError for NaN among the values; `first_row` is where this part of the source begins."""
    if array.dtype.kind not in "fcV":
        return
    missing = np.asarray(array != array)
    if missing.any():
        row = first_row + int(np.argmax(missing.reshape(-1))) // max(1, array.size // array.shape[0]) if array.ndim else 0
        place = f", first in row {row} of the first axis" if array.ndim > 1 else ""
        raise DataError(f"{where}: the array '{name}' has NaN among its {array.dtype.name} values{place}. Expected numbers: remove or replace that sample.")


def _check_type(where: str, entry: Entry, spec: TensorSpec) -> None:
    """Element types must be equal: what is converted silently is calibrated on something else than what is deployed."""
    dtype = entry.dtype
    if dtype.hasobject:
        raise DataError(
            f"{where}: the array '{spec.name}' holds Python objects. Expected {expected(spec)}: give a plain array. (From a file objects would have to be unpickled, "
            "which could run any code.)"
        )
    if dtype.names is not None or dtype.subdtype is not None:
        raise DataError(f"{where}: the array '{spec.name}' has a structured type ({dtype}). Expected {expected(spec)}: give a plain array.")
    if spec.dtype is None:
        return
    if spec.dtype == "string":
        if dtype.kind not in "US":
            raise DataError(f"{where}: the array '{spec.name}' is {dtype.name}. Expected {expected(spec)}: give texts, as in np.array(['a', 'b']).")
        return
    model_dtype = numpy_dtype(spec.dtype)
    raw = dtype.kind == "V" and model_dtype.kind == "V" and dtype.itemsize == model_dtype.itemsize
    if dtype.newbyteorder("=") != model_dtype and not raw:
        raise DataError(f"{where}: the array '{spec.name}' is {dtype.name}. Expected {expected(spec)}: convert it with .astype('{model_dtype.name}').")


def _check_shape(where: str, name: str, shape: Sequence[int], spec: TensorSpec, *, axes_from: int = 0, hint: str = "") -> None:
    """Rank and fixed dimensions; `axes_from` 1 leaves the first axis to whoever cuts it."""
    if spec.shape is None:
        return
    if len(shape) != len(spec.shape):
        raise DataError(f"{where}: the array '{name}' has {len(shape)} axes, {listed(shape)}. Expected {len(spec.shape)}: {expected(spec)}.")
    for axis, (size, dim) in enumerate(zip(shape, spec.shape, strict=True)):
        if axis >= axes_from and isinstance(dim, int) and dim != size:
            stacked = f" {hint}" if hint and axis == 0 and 0 < dim < size else ""
            raise DataError(f"{where}: axis {axis} of the array '{name}' has {size} elements, {listed(shape)}. Expected {dim}: {expected(spec)}.{stacked}")


def _check_filled(where: str, shapes: Mapping[str, Sequence[int]], specs: Mapping[str, TensorSpec]) -> None:
    """Some inputs may be empty (a cache at its first step), not all of them."""
    if shapes and all(0 in shape for shape in shapes.values()):
        name, shape = next(iter(shapes.items()))
        others = " and so are all others" if len(shapes) > 1 else ""
        raise DataError(f"{where}: the array '{name}' is empty, {listed(shape)}{others}. Expected {expected(specs[name])}, with values to run on.")


def _rows_per_feed(where: str, name: str, shape: tuple[int, ...], spec: TensorSpec) -> int:
    if spec.shape == ():
        if len(shape) > 1:
            raise DataError(f"{where}: the array '{name}' has {len(shape)} axes. Expected one scalar per feed, stacked: {expected(spec)} and one axis.")
        if shape == (0,):
            raise DataError(f"{where}: the array '{name}' is empty. Expected one scalar per feed.")
        return len(shape)
    if not shape:
        raise DataError(f"{where}: the array '{name}' is a single number. Expected arrays stacked along the first axis: {expected(spec)}.")
    _check_shape(where, name, shape, spec, axes_from=1)
    fixed = spec.shape[0] if spec.shape else None
    step = fixed if isinstance(fixed, int) else 1
    if step < 1:
        raise DataError(f"{where}: the model takes {step} rows of '{name}' at a time, so no feed can be cut for it. Give one set of arrays per feed.")
    if not shape[0]:
        raise DataError(f"{where}: the array '{name}' is empty, {listed(shape)}. Expected {expected(spec)} for at least one feed.")
    if shape[0] % step:
        raise DataError(
            f"{where}: the array '{name}' has {shape[0]} rows, and the model takes exactly {step} at a time: {shape[0] % step} are left over. "
            f"Remove {shape[0] % step} rows or add {step - shape[0] % step}."
        )
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
    if array.dtype.kind == "U":
        return array.astype(object)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
