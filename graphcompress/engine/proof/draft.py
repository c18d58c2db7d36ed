"""A case on its way, as the functions that choose operands see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from graphcompress.engine.proof.choices import Choices

Dims = tuple[int, ...]
Attributes = dict[str, Any]
FLOATS = ("float", "double", "float16")


class NoCase(Exception):
    """The choices lead to no graph."""


class Draft(Protocol):
    """A case on its way: what operand functions see of it."""

    choices: Choices
    opset: int
    rank: int
    width: int
    """What numbers of channels and columns are multiplied by: 1 for small graphs."""
    uniform: bool
    """Whether convolutions keep the shape of their input: so that parallel ones fit together."""

    def dims(self, name: str) -> Dims | None:
        """The shape of a tensor; None while it is not there."""
        ...

    def data(self, name: str, dims: Sequence[int] | None = None, *, least: int = 0, positive: bool = False) -> Dims:
        """Make `name` a tensor of the case's element type, of any shape of `least` axes and more where none is given, unless it is there or left out; its shape."""
        ...

    def plain(self, name: str, values: Any, dtype: str = "int64") -> None:
        """Make `name` a tensor with these values, unless it is there or left out."""
        ...

    def left_out(self, name: str) -> bool:
        """Whether an optional input is absent."""
        ...


Operands = Callable[[Draft, Sequence[str]], Attributes]


def axis_of(draft: Draft, dims: Dims) -> int:
    """An axis, counted from the front or from the back."""
    if not dims:
        raise NoCase
    axes: list[int] = [-1, 0, *range(1, len(dims)), *(-a for a in range(2, len(dims) + 1))]
    return draft.choices.pick(axes)
