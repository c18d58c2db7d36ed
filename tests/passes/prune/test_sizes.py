"""Sizes that are read off a cut axis: what calculates with them holds the axis, what only states a shape is put right, and the oracle looks at other lengths too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from graphcompress.data import Dataset
from graphcompress.errors import DataError, ModelError
from graphcompress.ir import Model, lint
from graphcompress.passes.prune.cut import cut
from graphcompress.passes.prune.groups import PRIMES, find_groups
from graphcompress.passes.prune.oracle import TOLERANCE, difference, largest_difference, oracle_feeds
from graphcompress.step import Context

INT64 = onnx.TensorProto.INT64
LENGTHS = ({"n": 2, "h": 4, "w": 6}, {"n": 3, "h": 7, "w": 5}, {"n": 1, "h": 1, "w": 2})


def halved(model: Model) -> tuple[Any, list[int]]:
    """Every group cut to half of its units, and their sizes."""
    groups = find_groups(model)
    keep = np.ones(len(groups.group_of), bool)
    for group in groups.groups:
        keep[group.units[::2]] = False
    return cut(groups.algebra, keep), sorted(g.size for g in groups.groups)


def begun(tools: Any, opset: int = 18) -> tuple[Any, str]:
    s = tools.Small(opset)
    return s, s.conv(s.input("x", "n", 3, "h", "w"), 3, 8, kernel=1)


def ints(s: Any, *values: int) -> Any:
    return s.constant(np.array(values, np.int64))


def ended(s: Any, y: str, channels: int, *, also: str = "") -> Model:
    if also:
        s.output(also, INT64)
    return s.model(s.conv(y, channels, 3, kernel=1))


def divided(s: Any, x: str, size: str) -> Any:
    return s.node("Div", x, s.node("Sqrt", s.node("Cast", size, to=1)))


def split_sizes(s: Any, x: str) -> Model:
    return ended(s, divided(s, x, s.node("Split", s.node("Shape", x), outputs=4, num_outputs=4)[1]), 8)


def product_of_sizes(s: Any, x: str) -> Model:
    return ended(s, divided(s, x, s.node("ReduceProd", s.node("Shape", x), keepdims=0)), 8)


def number_of_elements(s: Any, x: str) -> Model:
    return ended(s, divided(s, x, s.node("Size", x)), 8)


def number_as_output(s: Any, x: str) -> Model:
    return ended(s, x, 8, also=s.node("Size", x))


def shape_as_output(s: Any, x: str) -> Model:
    return ended(s, x, 8, also=s.node("Shape", x))


def one_size_as_output(s: Any, x: str) -> Model:
    return ended(s, x, 8, also=s.node("Gather", s.node("Shape", x), ints(s, 1)))


def size_in_a_branch_that_is_not_taken(s: Any, x: str) -> Model:
    sizes = s.node("Shape", x)
    condition = s.node("Greater", s.node("ReduceMax", "x", keepdims=0), s.constant(np.float32(1e6)))
    number = onnx.helper.make_tensor_value_info("", 1, None)
    branches = {}
    for branch, node in (
        ("then_branch", onnx.helper.make_node("Cast", [sizes], ["taken"], to=1)),
        ("else_branch", onnx.helper.make_node("Constant", [], ["other"], value_floats=[1.0, 1.0, 1.0, 1.0])),
    ):
        number.name = node.output[0]
        branches[branch] = onnx.helper.make_graph([node], branch, [], [number])
    return ended(s, s.node("Mul", x, s.node("ReduceMax", s.node("If", condition, **branches), keepdims=0)), 8)


@pytest.mark.parametrize(
    "build",
    [split_sizes, product_of_sizes, number_of_elements, number_as_output, shape_as_output, one_size_as_output, size_in_a_branch_that_is_not_taken],
)
def test_what_calculates_with_a_size_holds_the_axis(build: Callable[[Any, str], Model], tools: Any) -> None:
    assert not find_groups(build(*begun(tools))).groups


def expanded_along_the_last_axes(s: Any, x: str) -> Model:
    return ended(s, s.node("Expand", x, ints(s, 8, 1, 1)), 8)


def resized_by_named_axes(s: Any, x: str) -> Model:
    return ended(s, s.node("Resize", x, "", "", ints(s, 6, 5), mode="nearest", axes=[2, 3]), 8)


def resized_by_named_axes_with_channels(s: Any, x: str) -> Model:
    return ended(s, s.node("Resize", x, "", "", ints(s, 9, 8), mode="nearest", axes=[-1, 1]), 8)


def shape_of_another_tensor(s: Any, x: str) -> Model:
    """[n, 8, h * w] of a tensor that is not cut, the 8 being that of one that is."""
    z = s.input("z", "n", 8, "h", "w")
    length = s.node("Gather", s.node("Shape", x), ints(s, 1))
    other = s.node("Reshape", z, s.node("Concat", ints(s, 0), length, ints(s, -1), axis=0))
    own = s.conv(x, 8, 6, kernel=1)
    return s.model(other, s.conv(own, 6, 3, kernel=1))


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (expanded_along_the_last_axes, [8]),
        (resized_by_named_axes, [8]),
        (resized_by_named_axes_with_channels, [8]),
        (shape_of_another_tensor, [6, 8]),
    ],
)
def test_what_states_a_shape_is_put_right(build: Callable[[Any, str], Model], sizes: list[int], tools: Any) -> None:
    model = build(*begun(tools))
    attempt, groups = halved(model)
    assert groups == sizes
    assert not lint(attempt.model)
    for lengths in LENGTHS:
        assert difference(attempt, tools.feeds(model, 1, sizes=lengths)) <= TOLERANCE


def test_the_oracle_looks_at_other_lengths(tools: Any) -> None:
    """A model in which a free size became a number is right at the lengths of the data only."""

    def built(size: int) -> Model:
        s, x = begun(tools)
        return s.model(s.node("Reshape", x, ints(s, 0, 8, size)))

    data: Dataset = tools.feeds(built(-1), 3, sizes=LENGTHS[0])
    feeds = oracle_feeds(built(-1), Context(data=data))
    assert [f["x"].shape for f in feeds] == [(2, 3, 4, 6), (2, 3, 4, 6), (4, 3, 2, 3)]
    assert largest_difference(built(-1), built(-1), feeds) == 0
    with pytest.raises((ModelError, DataError), match="cannot run"):
        largest_difference(built(-1), built(24), feeds)
    fixed = tools.Small()
    model = fixed.model(fixed.conv(fixed.input("x", 1, 3, 4, 4), 3, 8))
    assert len(oracle_feeds(model, Context(data=tools.feeds(model, 3)))) == 2


def test_the_oracle_compares_integers(tools: Any) -> None:
    """A channel number that is another one is a difference."""
    models = []
    for seed in range(2):
        s = tools.Small(18, seed)
        s.output(s.node("ArgMax", s.conv(s.input("x", "n", 3, "h", "w"), 3, 8), axis=1), INT64)
        models.append(s.model())
    model, twin = models
    data = list(tools.feeds(model, 1, sizes=LENGTHS[0]))
    assert largest_difference(model, model, data) == 0
    assert largest_difference(model, twin, data) > TOLERANCE


def test_numbers_that_stand_for_symbols_tell_factors_apart() -> None:
    assert len(set(PRIMES)) == len(PRIMES) and all(number % divisor for number in PRIMES for divisor in range(2, int(number**0.5) + 1))
