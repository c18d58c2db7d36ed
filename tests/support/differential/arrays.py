"""Random arrays for feeds and constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: The largest magnitude that `draw` hands out in the style "tame".
REACH = {"float32": 4.0, "float64": 4.0, "float16": 4.0, "int32": 6.0, "int64": 6.0, "uint8": 255.0, "bool": 1.0}
#: Values that algebra gets wrong most easily. A denormal of each float type is among them.
SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40, -6e-8, 1.0, -1.0, 1e10)


def draw(rng: np.random.Generator, dtype: str, shape: Sequence[int], style: str = "tame", limit: int = 0) -> Array:
    """Values by style: "tame" (moderate numbers with zeros of both signs), "wild" (NaN, infinities and denormals too), "smooth" (normal numbers alone),
    "index" (integers from -limit to limit - 1), "positive" (0.5 to 2)."""
    size = tuple(shape)
    if dtype == "bool":
        return np.asarray(rng.random(size) < 0.5)
    if style == "index":
        return np.asarray(rng.integers(-limit, limit, size), dtype) if limit else np.zeros(size, dtype)
    if dtype == "uint8":
        return np.asarray(rng.integers(0, 256, size), np.uint8)
    if dtype in ("int32", "int64"):
        return np.asarray(rng.integers(-6, 7, size), dtype)
    if style == "positive":
        return np.asarray(rng.uniform(0.5, 2.0, size), dtype)
    values = np.asarray(np.clip(rng.standard_normal(size), -4, 4))
    if style != "smooth":
        values = np.where(rng.random(size) < 0.15, np.where(rng.random(size) < 0.5, 0.0, -0.0), values)
        values = np.where(rng.random(size) < 0.2, np.round(values), values)
    if style == "wild":
        values = np.where(rng.random(size) < 0.25, rng.choice(np.array(SPECIAL), size), values)
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(dtype)


def weight(rng: np.random.Generator, dtype: str, shape: Sequence[int], fan: int) -> Array:
    """Weights of a sum over `fan` terms: outputs stay as large as inputs. Some are exactly 0."""
    values = rng.standard_normal(tuple(shape)) / np.sqrt(max(fan, 1))
    if rng.random() < 0.2:
        values = np.where(rng.random(values.shape) < 0.3, 0.0, values)
    return np.asarray(np.clip(values, -2, 2)).astype(dtype)


def neutral(rng: np.random.Generator, dtype: str, shape: Sequence[int]) -> Array:
    """What may be the neutral operand of some operator, or nearly so."""
    kind = int(rng.integers(8))
    if dtype == "bool":
        return np.full(tuple(shape), kind % 2 == 0)
    fills = (0.0, -0.0, 1.0, 1.0, -1.0, 0.0, 2.0, 0.5)
    values = np.full(tuple(shape), fills[kind])
    if dtype in ("int32", "int64", "uint8"):
        values = np.abs(np.round(values))
    if values.size > 1 and rng.random() < 0.2:
        values.reshape(-1)[int(rng.integers(values.size))] = 3.0  # all but one
    return values.astype(dtype)
