"""What both rewrites ask of nodes and do to models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from graphcompress.ir import Node, Tensor, constant_data, constant_value

Array = np.ndarray[Any, Any]

ELEMENTWISE = frozenset(
    ("Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Softplus", "Abs", "Neg", "Exp", "Sqrt", "Erf", "Clip")
)
"""Operators whose result has at each place what follows from their first input there, whatever the layout."""


def elementwise(node: Node) -> bool:
    """Whether `node` is one of `ELEMENTWISE` with one output and nothing computed among its further inputs (the bounds of a Clip)."""
    return node.standard and node.op in ELEMENTWISE and len(node.outputs) == 1 and all(not t.name or constant_data(t) is not None for t in node.inputs[1:])


def float_constant(tensor: Tensor | None) -> Array | None:
    """The value of a float32 constant; None for everything else."""
    value = None if tensor is None else constant_value(tensor)
    return value if value is not None and value.dtype == np.float32 else None


def ints(node: Node, name: str, default: list[int]) -> list[int]:
    """A list attribute, as the operator's definition has it where it is absent."""
    value = node.attrs.get(name)
    return [int(v) for v in value] if isinstance(value, list | tuple) else default


def explicit_pads(node: Node) -> bool:
    """Whether `pads` alone says how a node of two spatial axes pads."""
    return node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def written_pads(node: Node) -> list[int]:
    """Pads of the two spatial axes, begins before ends."""
    return ints(node, "pads", [0] * 4) if node.attrs.get("auto_pad", "NOTSET") == "NOTSET" else [0] * 4


def count(shape: Iterable[Any] | None) -> int:
    """Elements of a tensor; a dimension that is not known counts as 1."""
    return math.prod(d for d in shape or () if isinstance(d, int))
