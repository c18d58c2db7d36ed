"""Feeds of single inputs put together to batches where the model's batch size is free: thousands of runs become dozens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model
from graphcompress.runtime.session import Feed, open_session

# Inputs in a batch, at most. More are no faster, and cost memory.
LARGEST_BATCH = 32
CLOSE = 1e-3  # of the largest output
HELD = 128 * 2**20


class HeldFeeds:
    """`feeds` (iterable again) as they were read the first time to the end, where they have at most `limit` bytes together; else read again each time."""

    def __init__(self, feeds: Iterable[Feed], limit: int = HELD) -> None:
        self._feeds = feeds
        self._limit = limit
        self._held: list[Feed] | None = None

    def __iter__(self) -> Iterator[Feed]:
        if self._held is not None:
            yield from self._held
            return
        held: list[Feed] = []
        left = self._limit
        for feed in self._feeds:
            # What objects and texts point to is not counted in their bytes.
            left -= sum(array.nbytes if array.dtype.kind not in "OT" else self._limit + 1 for array in feed.values())
            if left >= 0:
                held.append(feed)
            else:
                held.clear()
            yield feed
        if left >= 0:
            self._held = held


@dataclass(frozen=True)
class Batches:
    """`feeds` in batches of up to `size` inputs, in their order; neighbours of unequal shapes are not put together. Can be gone through again if `feeds` can."""

    feeds: Iterable[Feed]
    size: int

    def __iter__(self) -> Iterator[Feed]:
        pending: list[Feed] = []
        count = 0
        for feed in self.feeds:
            if pending and (count + items(feed) > self.size or _form(feed) != _form(pending[0])):
                yield _stack(pending)
                pending, count = [], 0
            pending.append(feed)
            count += items(feed)
        if pending:
            yield _stack(pending)


def batches(model: Model, feeds: Iterable[Feed], *, bytes_per_input: int = 0, budget: int = 0, threads: int | None = None) -> Batches:
    """The feeds in as large batches as the model takes: of one feed where its batch size is fixed, or where two inputs in one batch are not answered as they are
    alone. `bytes_per_input` are held for each input of a batch, at most `budget` in all."""
    size = min(LARGEST_BATCH, max(1, budget // bytes_per_input)) if bytes_per_input else LARGEST_BATCH
    return Batches(feeds, size if size > 1 and _batch_is_free(model) and _independent(model, feeds, threads) else 1)


def items(feed: Feed) -> int:
    """How many inputs a feed is: the common length of the first axes, 1 where there is none."""
    lengths = {array.shape[0] for array in feed.values() if array.ndim}
    return lengths.pop() if len(lengths) == 1 else 1


def _form(feed: Feed) -> list[tuple[str, tuple[int, ...], str]]:
    return sorted((name, array.shape[1:], str(array.dtype)) for name, array in feed.items())


def _stack(feeds: Sequence[Feed]) -> Feed:
    return feeds[0] if len(feeds) == 1 else {name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]}


def _batch_is_free(model: Model) -> bool:
    """Whether all inputs and outputs have the same free first dimension."""
    shapes = [s.shape for s in (*model.inputs, *model.outputs)]
    first = {s[0] if s else 0 for s in shapes}
    return len(first) == 1 and not isinstance(first.pop(), int)


def _independent(model: Model, feeds: Iterable[Feed], threads: int | None) -> bool:
    """Whether two feeds together are answered as each of them alone."""
    pair = [feed for feed, _ in zip(feeds, range(2), strict=False)]
    if len(pair) < 2 or _form(pair[0]) != _form(pair[1]):
        return False
    with open_session(model, optimize="basic", threads=threads) as session:
        alone = [session.run(feed) for feed in pair]
        try:
            both = session.run(_stack(pair))
        except (ModelError, DataError):  # a batch size that is written into a Reshape
            return False
    return all(_close([a[name] for a in alone], both[name]) for name in both)


def _close(parts: Sequence[object], whole: object) -> bool:
    if not all(isinstance(p, np.ndarray) and p.ndim for p in (*parts, whole)):
        return False
    expected, together = np.concatenate([np.asarray(p) for p in parts]), np.asarray(whole)
    if expected.shape != together.shape or expected.dtype.kind not in "fiub":
        return False
    if not expected.size:
        return True
    scale = float(np.abs(np.nan_to_num(expected.astype(np.float64))).max())
    return bool(np.allclose(together.astype(np.float64), expected.astype(np.float64), rtol=0, atol=CLOSE * scale, equal_nan=True))
