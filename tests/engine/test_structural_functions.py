"""Functions of `where` and `let` that look at shapes and attributes: what is not known proves nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphcompress.engine.expression import evaluate, parse, structural
from graphcompress.engine.functions import Binding
from graphcompress.engine.values import Undetermined
from graphcompress.ir import Node, Variable

Dimensions = tuple[int | str | None, ...] | None


def value(text: str, attributes: dict[str, Any] | None = None, opset: int = 17, **shapes: Dimensions) -> Any:
    """`text` where each name is bound to a tensor of a shape, made by a node with `attributes` from a tensor of that shape."""
    tensors = {name: Variable(name) for name in shapes}
    source = Variable("source")
    node = SimpleNamespace(attrs=attributes or {}, outputs=list(tensors.values()))
    graph = SimpleNamespace(opset=opset, shape=lambda t: shapes[t.name] if t is not source else next(iter(shapes.values())), input=lambda node, index: source)
    return evaluate(parse(text), {name: Binding(name, t, node) for name, t in tensors.items()}, graph)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        ((), None, True),
        ((), (2, 3), True),
        ((3,), (2, 3), True),
        ((1, 3), (2, 3), True),
        ((2, 1), (2, 3), True),
        (("n", 1), ("n", 3), True),
        ((2,), (2, 3), False),
        ((2, 3), (1, 3), False),
        ((1, 3), (3,), False),
        ((None, 3), (None, 3), False),
        (("n", 3), ("m", 3), False),
        ((3,), None, False),
        (None, (2, 3), False),
    ],
)
def test_broadcasts(small: Dimensions, large: Dimensions, expected: bool) -> None:
    assert value("broadcasts(a, b)", a=small, b=large) is expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 3), (2, 3), True),
        (("n", 3), ("n", 3), True),
        (("n", 3), ("m", 3), True),
        ((None, 3), (None, 3), True),
        ((2, None), (2, 5), True),
        ((None, 1), (None, 1), True),
        (("n", 0), ("m", 0), False),
        (("n", "k"), ("m", "k"), False),
        ((None, None), (None, None), False),
        ((2, 3), (3, 2), False),
        ((2, 3), (2, 4), False),
        ((2, 3), (2, 3, 1), False),
        (None, (2, 3), False),
        ((2, 3), None, False),
        (None, None, False),
    ],
)
def test_same_shape(a: Dimensions, b: Dimensions, expected: bool) -> None:
    assert value("same_shape(a, b)", a=a, b=b) is expected


@pytest.mark.parametrize(
    ("operand", "expected"),
    [
        ((), True),
        ((1,), True),
        ((5, 1, 1), True),
        ((1, 5, 1, 1), True),
        ((1, 1, 1, 1), True),
        ((5,), False),
        ((5, 5, 1), False),
        ((2, 5, 1, 1), False),
        ((1, 3, 1, 1), False),
        ((1, 1, 5, 1, 1), False),
        ((1, None, 1, 1), False),
        (None, False),
    ],
)
def test_channelwise(operand: Dimensions, expected: bool) -> None:
    assert value("channelwise(a, 4, 5)", a=operand) is expected


@pytest.mark.parametrize(
    ("operand", "expected"),
    [
        ((), True),
        ((1,), True),
        ((5,), True),
        ((1, 5), True),
        ((1, 1), True),
        ((3,), False),
        ((2, 5), False),
        ((5, 1), False),
        ((1, 1, 5), False),
        (None, False),
    ],
)
def test_columnwise(operand: Dimensions, expected: bool) -> None:
    assert value("columnwise(a, 5)", a=operand) is expected


def test_perm_without_the_attribute_turns_the_axes_around() -> None:
    assert value("perm(a)", {"perm": [1, 0, 2]}, a=(2, 3, 4)) == [1, 0, 2]
    assert value("perm(a)", a=(2, 3, 4)) == [2, 1, 0]
    with pytest.raises(Undetermined):
        value("perm(a)", a=None)


def test_what_a_pad_says_in_attributes_counts_up_to_opset_10() -> None:
    attributes = {"pads": [0, 1, 0, 2], "value": 3.5}
    assert value("pad_value(a)", attributes, opset=10, a=()) == 3.5 and value("pad_value(a)", {}, opset=10, a=()) == 0
    assert value("pads(a)", attributes, opset=10, a=()) == [0, 1, 0, 2] == value("pads(a, 2)", attributes, opset=10, a=())
    for text, opset in (("pads(a)", 11), ("pads(a, 3)", 10)):
        with pytest.raises(Undetermined):
            value(text, attributes, opset=opset, a=())


def test_attr() -> None:
    assert value("attr(a, 'axis')", {"axis": 1}, a=()) == 1
    assert value("attr(a, 'axis', 7)", {"axis": 0}, a=()) == 0
    assert value("attr(a, 'axis', 7)", a=()) == 7
    assert value("attr(a, 'epsilon', 0.1)", a=()) == float(np.float32(0.1))
    for attributes in ({}, {"axis": Node("Relu", "n", {}, [], [])}):
        with pytest.raises(Undetermined):
            value("attr(a, 'axis')", attributes, a=())


def test_a_dimension_that_is_not_a_number_is_undetermined() -> None:
    assert value("dim(a, 1)", a=("n", 3)) == 3 and value("rank(a)", a=("n", 3)) == 2 and value("shape(a)", a=("n", 3)) == ["n", 3]
    for shape in (("n", 3), (None, 3), None):
        with pytest.raises(Undetermined):
            value("dim(a, 0)", a=shape)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rank(a) == n", True),
        ("added(zeros(1), shape(a)) == [2]", True),
        ("every(a == 1)", False),
        ("a == 1", False),
        ("added(zeros(1), pads(a)) == [2]", False),
        ("added(pads(a), zeros(1)) == [2]", False),
        ("1 == 1 and every(a == 1)", False),
    ],
)
def test_what_can_be_judged_without_values(text: str, expected: bool) -> None:
    assert structural(parse(text), frozenset(["a"])) is expected


@pytest.mark.parametrize("seed", range(200))
def test_live_taps_are_those_that_meet_an_element(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, taps, stride, dilation = (int(rng.integers(1, most)) for most in (6, 6, 4, 4))
    pads = [int(p) for p in rng.integers(0, 9, 2)]
    places = (size + sum(pads) - (taps - 1) * dilation - 1) // stride + 1
    if places < 1:
        return
    shapes: dict[str, Any] = {"y": (1, 1, places), "x": (1, 1, size), "w": (1, 1, taps)}
    attributes = {"pads": pads, "strides": [stride], "dilations": [dilation]}
    begin, end = value("live_taps(y, x, w)", attributes, **shapes)
    before, after = value("live_pads(y, x, w)", attributes, **shapes)
    reads = np.arange(places)[:, None] * stride + np.arange(taps) * dilation - pads[0]
    meets = ((reads >= 0) & (reads < size)).any(axis=0)
    assert 0 <= begin < end <= taps and not meets[:begin].any() and not meets[end:].any()
    assert before == pads[0] - begin * dilation >= 0 and after == pads[1] - (taps - end) * dilation >= 0
    # What is left sees the same elements at as many places.
    assert (size + before + after - (end - begin - 1) * dilation - 1) // stride + 1 == places
    if meets.any():
        assert begin == min(int(meets.argmax()), pads[0] // dilation) and taps - end == min(int(meets[::-1].argmax()), pads[1] // dilation)


@pytest.mark.parametrize(("given", "expected"), [([1], [1]), ([-1, 0], [0, 2]), ([], None), (None, None)])
def test_axes_must_be_given(given: list[int] | None, expected: list[int] | None) -> None:
    """An empty list means all axes to a reduction, and none to an Unsqueeze."""
    attributes = {} if given is None else {"axes": given}
    if expected is None:
        with pytest.raises(Undetermined):
            value("axes(a, 3)", attributes, a=(2, 3, 4))
    else:
        assert value("axes(a, 3)", attributes, a=(2, 3, 4)) == expected
