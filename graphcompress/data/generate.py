"""Feeds of random numbers, for those who ask for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphcompress.data.dataset import Dataset
from graphcompress.data.signature import Feed, Signature
from graphcompress.errors import DataError
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.objects import TensorSpec


def random_data(inputs: Sequence[TensorSpec], count: int, seed: int, dims: Mapping[str, int] | None = None) -> Dataset:
    """`count` feeds of random numbers: floats from a standard normal distribution, bytes over their whole range, wider integers 0 or 1 (safe as indices).

    A free dimension has the size that `dims` gives its symbol, else 1; inputs of optional types are left out. Feed i depends on `seed` and i only. Raises DataError for an input that is no tensor or
    whose type or rank the model does not say.
    """
    sizes = dict(dims or {})
    specs = tuple(spec for spec in inputs if spec.kind != "optional")
    for spec in specs:
        if spec.kind != "tensor" or spec.shape is None or spec.dtype is None:
            raise DataError(f"No random feed can be made for the input '{spec.name}': its type or rank is not that of a plain tensor. Give data.")

    def read(indices: Sequence[int]) -> Iterator[Feed]:
        for index in indices:
            generator = np.random.default_rng([seed, index])
            yield {s.name: _random_array(generator, s, sizes) for s in specs}

    digest = hashlib.sha256(repr(("random", seed, count, specs, sorted(sizes.items()))).encode())
    source = f"random numbers, seed {seed}"
    return Dataset(source, digest.hexdigest(), range(count), read, random=True, signature=Signature.of(source, inputs))


def _random_array(generator: np.random.Generator, spec: TensorSpec, sizes: Mapping[str, int]) -> np.ndarray[Any, Any]:
    shape = tuple(d if isinstance(d, int) else sizes.get(str(d or ""), 1) for d in spec.shape or ())
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
