"""Feeds: what a model is calibrated, compared and timed with.

A source is a folder of `.npz` files, one complete feed each, in name order; or one `.npz` with arrays stacked along the first axis, cut by the model's fixed
first dimension, else one by one. Keys are input names; keys that begin with `_` are ground truth and are not fed. Nothing is ever unpickled.

Everything is checked in one streaming pass when the source is opened, and read again feed by feed afterwards: memory holds one feed, however many there are.
"""

from __future__ import annotations

import contextlib
import hashlib
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graphcompress.data import npz
from graphcompress.errors import DataError, quoted
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.objects import TensorSpec

Feed: TypeAlias = dict[str, np.ndarray[Any, Any]]

FEW = 8  # below this many feeds none are held out


@dataclass(frozen=True)
class Dataset:
    """Feeds that can be iterated any number of times. `sha256` is that of the source's fed content, whichever part of it this is; `random` feeds are no data."""

    source: str
    sha256: str
    indices: Sequence[int]
    read: Callable[[Sequence[int]], Iterator[Feed]]
    random: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Feed]:
        return self.read(self.indices)

    def part(self, keep: Callable[[int], bool]) -> Dataset:
        """The feeds whose position (0, 1, ...) `keep` accepts, in order."""
        return replace(self, indices=tuple(index for position, index in enumerate(self.indices) if keep(position)))

    def take(self, count: int) -> Dataset:
        """The first `count` feeds."""
        return replace(self, indices=self.indices[:count])


def open_data(path: str | Path, inputs: Sequence[TensorSpec], optional: Sequence[TensorSpec] = ()) -> Dataset:
    """The feeds at `path` for a model that must be given `inputs` and may be given `optional`.

    Raises DataError, naming file, key, what was expected and what was found, where anything is missing, superfluous, misshaped, mistyped, not finite enough
    (NaN), pickled, empty or unreadable.
    """
    place = Path(path)
    required, allowed = tuple(inputs), {s.name: s for s in [*inputs, *optional]}
    for spec in required:
        if spec.kind != "tensor":
            raise DataError(f"{place}: the model's input '{spec.name}' is a {spec.kind}, which .npz files cannot hold.")
    try:
        kind = place.stat().st_mode
        if stat.S_ISDIR(kind):
            return _folder(place, required, allowed)
    except FileNotFoundError:
        raise DataError(f"{place}: there is no such file or folder. Data is a folder of .npz files, one feed each, or one .npz with stacked arrays.") from None
    except (OSError, ValueError) as problem:
        raise DataError(f"{quoted(str(path))} cannot be read: {getattr(problem, 'strerror', None) or problem}.") from problem
    if not stat.S_ISREG(kind):
        raise DataError(f"{place} is neither a file nor a folder, but a pipe, a socket or a device.")
    return _stacked(place, required, allowed)


def split(dataset: Dataset, every: int = 4) -> tuple[Dataset, Dataset, str]:
    """(for calibration, held out for judging, a sentence that says which): every 4th feed is held out; below 8 feeds both are all of them."""
    total = len(dataset)
    if total < FEW:
        return dataset, dataset, f"calibrated and judged on the same {total} feed{'s' * (total != 1)}: too few to hold any out"
    held = dataset.part(lambda i: i % every == every - 1)
    return dataset.part(lambda i: i % every != every - 1), held, f"judged on {len(held)} of {total} feeds, every {every}th, kept out of calibration"


def random_data(inputs: Sequence[TensorSpec], count: int, seed: int, dims: Mapping[str, int] | None = None) -> Dataset:
    """`count` feeds of random numbers: floats from a standard normal distribution, bytes over their whole range, wider integers 0 or 1 (safe as indices).

    A free dimension has the size that `dims` gives its symbol, else 1. Feed i depends on `seed` and i only. Raises DataError for an input that is no tensor or
    whose type or rank the model does not say.
    """
    sizes = dict(dims or {})
    specs = tuple(inputs)
    for spec in specs:
        if spec.kind != "tensor" or spec.shape is None or spec.dtype is None:
            raise DataError(f"No random feed can be made for the input '{spec.name}': its type or rank is not that of a plain tensor. Give data.")

    def read(indices: Sequence[int]) -> Iterator[Feed]:
        for index in indices:
            generator = np.random.default_rng([seed, index])
            yield {s.name: _random_array(generator, s, sizes) for s in specs}

    told = hashlib.sha256(repr(("random", seed, count, specs, sorted(sizes.items()))).encode())
    return Dataset(f"random numbers, seed {seed}", told.hexdigest(), range(count), read, random=True)


def _random_array(generator: np.random.Generator, spec: TensorSpec, sizes: Mapping[str, int]) -> np.ndarray[Any, Any]:
    shape = tuple(d if isinstance(d, int) else sizes.get(d or "", 1) for d in spec.shape or ())
    if spec.dtype == "string":
        return generator.integers(0, 26, shape).astype("U2").astype(object)
    dtype = numpy_dtype(spec.dtype or "float")
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low, high = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if dtype.itemsize == 1 else (0, 1)
        return np.asarray(generator.integers(low, high, shape, dtype=np.int64, endpoint=True)).astype(dtype)
    values = np.asarray(generator.standard_normal(shape))
    return (values + 1j * np.asarray(generator.standard_normal(shape))).astype(dtype) if dtype.kind == "c" else values.astype(dtype)


# --- checking -------------------------------------------------------------------------------------------------------------------------


def expected(spec: TensorSpec) -> str:
    """What the model says of an input, as text: "float [batch, 3, 32, 32]"."""
    shape = "of any rank" if spec.shape is None else "[" + ", ".join("?" if d is None else str(d) for d in spec.shape) + "]"
    return f"{spec.dtype or 'any type'} {shape}"


def _check_keys(where: str, members: Mapping[str, npz.Member], required: Sequence[TensorSpec], allowed: Mapping[str, TensorSpec]) -> None:
    given = [k for k in members if not k.startswith("_")]
    held = ", ".join(f"{quoted(k)} ({members[k].told})" for k in given) or "no arrays to feed"
    for spec in required:
        if spec.name not in members:
            raise DataError(f"{where}: the array '{spec.name}' is missing; the model needs it as {expected(spec)}. The file holds {held}.")
    for key in given:
        if key not in allowed:
            names = ", ".join(f"'{n}'" for n in allowed)
            raise DataError(
                f"{where}: the array {quoted(key)} is no input of the model, whose inputs are {names}. Remove it, or let its name begin with '_' if it is ground truth."
            )


def _check_type(where: str, member: npz.Member, spec: TensorSpec) -> None:
    """Element types must be equal: what is converted silently is calibrated on something else than what is deployed."""
    found = member.dtype
    if found.hasobject:
        raise DataError(
            f"{where}: the array '{spec.name}' holds Python objects, which would have to be unpickled and could run any code. Expected {expected(spec)}: save a plain array."
        )
    if found.names is not None or found.subdtype is not None:
        raise DataError(f"{where}: the array '{spec.name}' has a structured type ({found}). Expected {expected(spec)}: save a plain array.")
    if spec.dtype is None:
        return
    if spec.dtype == "string":
        if found.kind not in "US":
            raise DataError(f"{where}: the array '{spec.name}' is {found.name}. Expected {expected(spec)}: save texts, as in np.array(['a', 'b']).")
        return
    wanted = numpy_dtype(spec.dtype)
    if found.newbyteorder("=") != wanted and not (found.kind == "V" and wanted.kind == "V" and found.itemsize == wanted.itemsize):
        raise DataError(f"{where}: the array '{spec.name}' is {found.name}. Expected {expected(spec)}: convert it with .astype('{wanted.name}') before saving.")


def _check_shape(where: str, name: str, shape: Sequence[int], spec: TensorSpec, *, axes_from: int = 0) -> None:
    """Rank and fixed dimensions; `axes_from` 1 leaves the first axis to whoever cuts it."""
    told = f"[{', '.join(map(str, shape))}]"
    if spec.shape is not None and len(shape) != len(spec.shape):
        raise DataError(f"{where}: the array '{name}' has {len(shape)} axes, {told}. Expected {len(spec.shape)}: {expected(spec)}.")
    for axis, size in enumerate(shape):
        dim = spec.shape[axis] if spec.shape is not None else None
        if axis >= axes_from and isinstance(dim, int) and dim != size:
            raise DataError(f"{where}: axis {axis} of the array '{name}' has {size} elements, {told}. Expected {dim}: {expected(spec)}.")
        if size == 0:
            raise DataError(f"{where}: the array '{name}' is empty, {told}. Expected {expected(spec)}.")


class _Digest:
    """sha256 of the fed arrays in order: name, type, shape, bytes. NaN is looked for on the way."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def take(self, where: str, member: npz.Member, spec: TensorSpec, row_elements: int) -> None:
        self.hash.update(f"{spec.name}\0{member.dtype.str}\0{member.shape}\0".encode())
        seen = 0
        dtype = _real_type(member, spec)
        for block in member.blocks():
            self.hash.update(block)
            if dtype.kind in "fcV":
                values = np.frombuffer(block, dtype)
                bad = values != values
                if bad.any():
                    at = seen + int(np.argmax(bad))
                    place = f", first in row {at // row_elements} of the first axis" if len(member.shape) > 1 and not member.fortran else ""
                    raise DataError(
                        f"{where}: the array '{spec.name}' has NaN among its {member.dtype.name} values{place}. Expected numbers: remove or replace that sample."
                    )
                seen += len(values)


def _real_type(member: npz.Member, spec: TensorSpec) -> np.dtype[Any]:
    """The element type to read: numpy saves the types that it lacks (bfloat16 ...) as raw bytes."""
    return numpy_dtype(spec.dtype) if member.dtype.kind == "V" and spec.dtype is not None else member.dtype


def _finish(array: np.ndarray[Any, Any], member: npz.Member, spec: TensorSpec) -> np.ndarray[Any, Any]:
    """An array as onnxruntime takes it: native byte order, C order, texts as objects."""
    if member.dtype.kind == "V":
        return array.view(_real_type(member, spec))
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8").astype(object)
    if array.dtype.kind == "U":
        return array.astype(object)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)


# --- a folder -------------------------------------------------------------------------------------------------------------------------


def _folder(place: Path, required: Sequence[TensorSpec], allowed: Mapping[str, TensorSpec]) -> Dataset:
    entries = sorted(p for p in place.iterdir() if not p.name.startswith("."))
    files = [p for p in entries if p.suffix.lower() == ".npz"]
    if not files:
        held = f"It holds {len(entries)} other entries, {entries[0].name} among them." if entries else "It is empty."
        raise DataError(f"{place}: the folder holds no .npz files, so there are no feeds. {held} Save each feed with np.savez(path, INPUT=array, ...).")
    digest = _Digest()
    for file in files:
        with npz.open_file(file) as members:
            _check_keys(str(file), members, required, allowed)
            for name in (n for n in allowed if n in members):
                _check_type(str(file), members[name], allowed[name])
                _check_shape(str(file), name, members[name].shape, allowed[name])
                digest.take(str(file), members[name], allowed[name], _row_elements(members[name].shape))

    def read(indices: Sequence[int]) -> Iterator[Feed]:
        for index in indices:
            with npz.open_file(files[index]) as members:
                yield {n: _finish(members[n].whole(), members[n], s) for n, s in allowed.items() if n in members}

    return Dataset(str(place), digest.hash.hexdigest(), range(len(files)), read)


def _row_elements(shape: Sequence[int]) -> int:
    return max(1, int(np.prod(shape[1:], dtype=np.int64)))


# --- one stacked file -----------------------------------------------------------------------------------------------------------------


def _stacked(place: Path, required: Sequence[TensorSpec], allowed: Mapping[str, TensorSpec]) -> Dataset:
    steps: dict[str, int] = {}
    counts: dict[str, int] = {}
    digest = _Digest()
    with npz.open_file(place) as members:
        _check_keys(str(place), members, required, allowed)
        for name in (n for n in allowed if n in members):
            member, spec = members[name], allowed[name]
            _check_type(str(place), member, spec)
            steps[name] = _step(place, member, spec)
            if steps[name]:
                counts[name] = member.shape[0] // steps[name]
        _check_counts(place, counts)
        for name in steps:
            digest.take(str(place), members[name], allowed[name], _row_elements(members[name].shape))

    def read(indices: Sequence[int]) -> Iterator[Feed]:
        with npz.open_file(place) as members, contextlib.ExitStack() as stack:
            rows = {n: stack.enter_context(members[n].rows(max(1, step))) for n, step in steps.items()}
            for index in indices:
                feed: Feed = {}
                for name, step in steps.items():
                    array = rows[name](index if step else 0)
                    shape = allowed[name].shape
                    feed[name] = _finish(array.reshape(()) if shape == () else array, members[name], allowed[name])
                yield feed

    return Dataset(str(place), digest.hash.hexdigest(), range(next(iter(counts.values()))), read)


def _step(place: Path, member: npz.Member, spec: TensorSpec) -> int:
    """Rows per feed; 0 for a scalar input that is the same in every feed."""
    if spec.shape == ():
        if len(member.shape) > 1:
            raise DataError(
                f"{place}: the array '{spec.name}' has {len(member.shape)} axes. Expected one scalar per feed, stacked: {expected(spec)} and one axis."
            )
        if member.shape == (0,):
            raise DataError(f"{place}: the array '{spec.name}' is empty. Expected one scalar per feed.")
        return len(member.shape)
    if not member.shape:
        raise DataError(f"{place}: the array '{spec.name}' is a single number. Expected arrays stacked along the first axis: {expected(spec)}.")
    _check_shape(str(place), spec.name, member.shape, spec, axes_from=1)
    fixed = spec.shape[0] if spec.shape else None
    step = fixed if isinstance(fixed, int) else 1
    if step < 1:
        raise DataError(f"{place}: the model takes {step} rows of '{spec.name}' at a time, so no feed can be cut for it.")
    rows = member.shape[0]
    if rows % step:
        raise DataError(
            f"{place}: the array '{spec.name}' has {rows} rows, and the model takes exactly {step} at a time: {rows % step} are left over. "
            f"Remove {rows % step} rows or add {step - rows % step}."
        )
    return step


def _check_counts(place: Path, counts: Mapping[str, int]) -> None:
    if not counts:
        raise DataError(
            f"{place}: no array with a first axis to cut feeds from. Stack the feeds along the first axis, or give a folder with one file per feed."
        )
    (first, count), *others = counts.items()
    for name, other in others:
        if other != count:
            raise DataError(
                f"{place}: '{first}' is enough for {count} feeds and '{name}' for {other}. All arrays must be stacked for the same number of feeds."
            )
