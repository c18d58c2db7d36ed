"""The table of mappers: gradients that need shapes, by the names that rule files call them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from graphcompress.gradient.build import NodeGradient
from graphcompress.ir import Tensor

Mapper: TypeAlias = Callable[[NodeGradient], Mapping[int, Tensor]]

MAPPERS: dict[str, Mapper] = {}


def mapper(function: Mapper) -> Mapper:
    """Enter a function under its name."""
    MAPPERS[function.__name__] = function
    return function
