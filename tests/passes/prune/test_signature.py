"""Signatures of operators and the forms that nodes have by them."""

from __future__ import annotations

from typing import Any

import pytest

from graphcompress.errors import RuleError
from graphcompress.ir.shapes.infer import infer
from graphcompress.passes.prune.axes.forms import AxisForm
from graphcompress.passes.prune.axes.reshape import refine
from graphcompress.passes.prune.axes.signature import form, parse_signature, signatures


def of_node(s: Any, name: str, *outputs: str) -> AxisForm | None:
    model = s.model(*outputs)
    node = next(n for n in model.graph.nodes if n.name == name)
    shapes = infer(model)
    return form(signatures()["", node.op], node, {t: shapes.shape(t) for t in (*node.inputs, *node.outputs)})


def letters(parts: Any) -> list[str]:
    return ["*".join(slot.letters) for slot in parts]


def test_a_grouped_convolution_opens_groups_or_what_is_inside(tools: Any) -> None:
    s = tools.Small()
    result = of_node(s, "c", s.conv(s.input("x", 1, 8, 5, 5), 2, 12, group=4, name="c"))
    assert result is not None
    assert letters(result.inputs[:2]) == ["n", "g*c"]
    assert {x: result.sizes[x] for x in "gco"} == {"g": 4, "c": 2, "o": 3}
    assert {frozenset("gco") & m for m in result.modes()} == {frozenset("co"), frozenset("g")}


def test_a_depthwise_convolution_has_one_mode(tools: Any) -> None:
    s = tools.Small()
    result = of_node(s, "c", s.conv(s.input("x", 1, 8, 5, 5), 1, 8, group=8, name="c"))
    assert result is not None and len(result.modes()) == 1 and "g" in result.modes()[0]


def test_gemm_reads_its_flags(tools: Any) -> None:
    s = tools.Small()
    result = of_node(s, "g", s.node("Gemm", s.input("x", 4, 2), s.weight(5, 4), s.weight(5), transA=1, transB=1, name="g"))
    assert result is not None
    assert letters(result.inputs) == ["k", "m", "o", "k", "o"] and letters(result.outputs) == ["m", "o"]


def test_batches_of_matmul_broadcast_from_the_right(tools: Any) -> None:
    s = tools.Small()
    result = of_node(s, "m", s.node("MatMul", s.input("x", 3, 2, 5, 4), s.weight(2, 4, 6), name="m"))
    assert result is not None
    assert letters(result.inputs) == ["...2", "...1", "m", "k", "...1", "k", "o"]


@pytest.mark.parametrize(
    ("text", "fault"), [("x[n], y[n]", "no '->'"), ("x n -> y[n]", "no operand"), ("x[..., ...] -> y[...]", "twice"), ("x[n+1] -> y[n]", "no axis")]
)
def test_a_signature_that_is_none(text: str, fault: str) -> None:
    with pytest.raises(RuleError, match=fault):
        parse_signature(text)


def test_names_that_a_signature_lacks() -> None:
    with pytest.raises(RuleError, match="no letter 'g'"):
        parse_signature("x[n] -> y[n]", attributes={"group": "g"})
    with pytest.raises(RuleError, match="no input 'w'"):
        parse_signature("x[n] -> y[n]", transposed={"w": "transB"})


def test_an_attribute_that_changes_the_meaning(tools: Any) -> None:
    s = tools.Small()
    y = s.node("BatchNormalization", s.input("x", 2, 3, 4, 4), *(s.weight(3) for _ in range(4)), training_mode=1, name="b")
    assert of_node(s, "b", y) is None


@pytest.mark.parametrize(
    ("before", "after", "left", "right"),
    [
        ((12, 5), (3, 4, 5), [2, 1], [1, 1, 1]),
        ((2, 12, 4, 4), (2, 3, 64), [1, 2, 1, 1], [1, 1, 3]),
        (("n", 7, 48), ("n", 7, 3, 4, 4), [1, 1, 3], [1, 1, 1, 1, 1]),
        (("n", "t", 48), (None, 3, 16), [None, None, 2], [None, 1, 1]),
        ((6, 4), (4, 6), [None, None], [None, None]),
        ((5, 1, 3), (5, 3), [1, 0, 1], [1, 1]),
        (("n", 6, 5, 5), ("n", 150), [1, 1, 1, 1], [1, 3]),
    ],
)
def test_reshapes_are_factored(before: Any, after: Any, left: list[int | None], right: list[int | None]) -> None:
    """The number of factors of each axis; None where it cannot be followed."""
    result = refine(before, after)
    assert [None if x is None else len(x) for x in result.before] == left
    assert [None if x is None else len(x) for x in result.after] == right
    for axes, dims in ((result.before, before), (result.after, after)):
        for axis, dim in zip(axes, dims, strict=True):
            if axis is not None and isinstance(dim, int):
                product = 1
                for letter in axis:
                    product *= result.sizes[letter] or 0
                assert product == dim
