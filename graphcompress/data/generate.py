"""Feeds of random numbers, for those who ask for them."""

from __future__ import annotations

import ast
import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphcompress.data.dataset import Dataset
from graphcompress.data.signature import Feed, Signature
from graphcompress.errors import DataError
from graphcompress.ir.model.element_types import numpy_dtype
from graphcompress.ir.model.objects import TensorSpec

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def random_data(inputs: Sequence[TensorSpec], count: int, seed: int, *, free: int = 1) -> Dataset:
    """`count` feeds of random numbers: floats from a standard normal distribution, bytes over their whole range, wider integers 0 or 1 (safe as indices).

    Dimensions without a size have `free` elements; first axes, which are batches mostly, have one. A dimension that is named as an expression of others ("past + time") has its value.
    Inputs of optional types are left out. Feed i depends on `seed`, `free` and i only. Raises DataError for an input that is not a tensor or whose type or rank the model does not say.
    """
    sizes = free_sizes(inputs, free)
    specs = tuple(spec for spec in inputs if spec.kind != "optional")
    for spec in specs:
        if spec.kind != "tensor" or spec.shape is None or spec.dtype is None:
            raise DataError(f"No random feed can be made for the input '{spec.name}': its type or rank is not that of a plain tensor. Give data.")

    def read(indices: Sequence[int]) -> Iterator[Feed]:
        for index in indices:
            generator = np.random.default_rng([seed, index])
            yield {s.name: _random_array(generator, s, sizes, free) for s in specs}

    digest = hashlib.sha256(repr(("random", seed, count, specs, sorted(sizes.items()))).encode())
    source = f"random numbers, seed {seed}"
    return Dataset(source, digest.hexdigest(), range(count), read, random=True, signature=Signature.of(source, inputs))


def free_sizes(inputs: Sequence[TensorSpec], free: int) -> dict[str, int]:
    """A size for every named dimension of `inputs`: see `random_data`."""
    axes = [(axis, dim, len(spec.shape or ())) for spec in inputs for axis, dim in enumerate(spec.shape or ()) if isinstance(dim, str)]
    batches = {dim for axis, dim, rank in axes if axis == 0 and rank > 1}
    names = {dim for _, dim, _ in axes}
    sizes = {name: 1 if name in batches else free for name in names}
    for name in names:
        value = _evaluated(name, sizes)
        if value is not None:
            sizes[name] = value
    return sizes


def _evaluated(name: str, sizes: Mapping[str, int]) -> int | None:
    """The value of a dimension's name that is a sum, difference or product of other names and numbers, as some exporters write it; None where it is not, or not positive."""
    try:
        tree = ast.parse(name, mode="eval").body
    except (SyntaxError, ValueError):
        return None

    def value(node: ast.expr) -> int | None:
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.Name(id=symbol):
                return sizes.get(symbol)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                a, b = value(left), value(right)
                return None if a is None or b is None else OPERATORS[type(op)](a, b)
        return None

    size = value(tree) if isinstance(tree, ast.BinOp) else None
    return size if size is not None and size > 0 else None


def _random_array(generator: np.random.Generator, spec: TensorSpec, sizes: Mapping[str, int], free: int) -> np.ndarray[Any, Any]:
    dims = spec.shape or ()
    shape = tuple(d if isinstance(d, int) else sizes[d] if isinstance(d, str) else 1 if axis == 0 and len(dims) > 1 else free for axis, d in enumerate(dims))
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
