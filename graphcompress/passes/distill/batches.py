"""Feeds joined into batches where the models take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphcompress.ir import Model

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = dict[str, Array]


def constant_inputs(feeds: Sequence[Feed]) -> Feed:
    """Inputs of a single integer or truth value that is the same in all feeds: what a model branches on."""
    first = feeds[0]
    return {
        name: array
        for name, array in first.items()
        if array.size == 1 and array.dtype.kind in "iub" and all(np.array_equal(f.get(name, array), array) for f in feeds)
    }


def can_join(models: Sequence[Model], feeds: Sequence[Feed], fixed: Feed) -> bool:
    """Whether feeds may be joined along the first axis: it is free in all inputs and float outputs of the models, and all other sizes are equal in all feeds."""
    for model in models:
        specs = [s for s in (*model.inputs, *model.outputs) if s.name not in fixed]
        if any(s.shape is None or not s.shape or isinstance(s.shape[0], int) for s in specs):
            return False
    names = [n for n in feeds[0] if n not in fixed]
    shapes = {tuple(f[n].shape for n in names) for f in feeds}
    return len(shapes) == 1 and len({f[n].shape[0] for f in feeds for n in names}) == 1


def joined(feeds: Sequence[Feed], fixed: Feed) -> Feed:
    """One feed of several."""
    return {name: array if name in fixed else np.concatenate([f[name] for f in feeds]) for name, array in feeds[0].items()}


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Endlessly: `size` different ones of `count` feeds, all once before one comes again."""
    pending: list[int] = []
    while True:
        while len(pending) < size:
            again = set(pending)
            pending.extend(sorted(rng.permutation(count).tolist(), key=again.__contains__))  # what is waiting comes again last, so that no batch has it twice
        yield pending[:size]
        pending = pending[size:]
