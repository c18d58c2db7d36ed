"""Feeds put together where that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from graphcompress.ir.files.text import parse_model
from graphcompress.reconstruction.batches import Batches, HeldFeeds, batches, items

FREE = "(float[n,4] x) => (float[n,4] y) { y = Relu (x) }"


def feeds(*sizes: int, width: int = 4) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full((size, width), index, np.float32)} for index, size in enumerate(sizes)]


def test_single_inputs_become_batches_in_their_order() -> None:
    together = list(batches(parse_model(FREE), feeds(*[1] * 70)))
    assert [items(feed) for feed in together] == [32, 32, 6]
    np.testing.assert_array_equal(np.concatenate([f["x"][:, 0] for f in together]), np.arange(70))


def test_a_batch_holds_no_more_than_the_budget() -> None:
    assert [items(f) for f in batches(parse_model(FREE), feeds(1, 1, 1, 1, 1), bytes_per_input=40, budget=100)] == [2, 2, 1]
    assert [items(f) for f in batches(parse_model(FREE), feeds(1, 1), bytes_per_input=400, budget=100)] == [1, 1]


def test_feeds_of_other_shapes_stay_apart_and_can_be_gone_through_again() -> None:
    together = Batches([*feeds(1, 2), *feeds(1, 1, width=5), *feeds(1)], 8)
    assert [f["x"].shape for f in together] == [(3, 4), (2, 5), (1, 4)]
    assert [f["x"].shape for f in together] == [(3, 4), (2, 5), (1, 4)]


@pytest.mark.parametrize(
    "text",
    [
        FREE.replace("n,4", "1,4"),
        "(float[n,4] x) => (float[4] y) { y = ReduceSum <keepdims = 0> (x, axes) }".replace("axes) }", "a) }").replace(
            "=> (float[4] y)", "=> (float[4] y) <int64[1] a = {0}>"
        ),
        "(float[n,4] x) => (float[n,4] y) <int64[1] a = {0}> { m = ReduceMean <axes = [0]> (x) y = Sub (x, m) }",
        "(float[n,4] x) => (float[n,k] y) <int64[2] s = {1, 4}> { y = Reshape (x, s) }",
    ],
    ids=["fixed", "other output", "mixed across the batch", "written into a Reshape"],
)
def test_a_model_that_takes_one_input_at_a_time_gets_it(text: str) -> None:
    assert [items(f) for f in batches(parse_model(text), feeds(1, 1, 1))] == [1, 1, 1]


def test_items_are_the_common_first_axis() -> None:
    assert items({"x": np.zeros((3, 2)), "y": np.zeros(3), "z": np.zeros(())}) == 3
    assert items({"x": np.zeros((3, 2)), "y": np.zeros(2)}) == 1


class Counted:
    """Feeds that say how often each was read."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self.feeds = feeds
        self.read = [0] * len(feeds)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for index, feed in enumerate(self.feeds):
            self.read[index] += 1
            yield feed


@pytest.mark.parametrize(("limit", "times"), [(48, 2), (47, 3)])
def test_feeds_are_held_once_they_were_read_to_the_end_and_fit(limit: int, times: int) -> None:
    source = Counted(feeds(1, 1, 1))  # of 16 bytes each
    held = HeldFeeds(source, limit)
    assert next(iter(held)) is source.feeds[0] and source.read == [1, 0, 0]
    assert [list(held) == source.feeds for _ in range(2)] == [True, True]
    assert source.read == [times, times - 1, times - 1]


def test_what_objects_point_to_is_not_counted_and_so_not_held() -> None:
    source = Counted([{"x": np.array([["a text"]], object)}])
    held = HeldFeeds(source)
    assert len([feed for _ in range(2) for feed in held]) == 2 and source.read == [2]
