"""Cuts of whole networks against the oracle, and what stays fixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from topologies import TOPOLOGIES

from graphcompress.ir import Model, lint, to_proto
from graphcompress.ir.files.text import parse_model
from graphcompress.passes.prune.cut import Cut, cut
from graphcompress.passes.prune.groups import Groups, find_groups
from graphcompress.passes.prune.oracle import TOLERANCE, difference, largest_difference, masked

SIZES = {"n": 2, "t": 5}


def random_cut(groups: Groups, seed: int, part: float = 0.6) -> Cut:
    random = np.random.default_rng(seed)
    keep = np.ones(len(groups.group_of), bool)
    for group in groups.groups:
        count = random.integers(1, max(2, int(part * group.size / group.step)))
        keep[group.units[[u for block in group.partition for u in random.permutation(block)[:count]]]] = False
    return cut(groups.algebra, keep)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_groups(name: str, tools: Any) -> None:
    build, sizes = TOPOLOGIES[name]
    assert sorted(g.size for g in find_groups(build(tools.Small())).groups) == sizes


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("opset", [11, 18])
def test_a_cut_model_computes_what_the_masked_one_does(name: str, opset: int, tools: Any) -> None:
    model = TOPOLOGIES[name][0](tools.Small(opset)) if opset == 18 or name in OLD else None
    if model is None:
        pytest.skip("the network uses operators, or forms of them, of newer opsets")
    groups = find_groups(model)
    for seed in range(4):
        attempt = random_cut(groups, seed)
        assert not lint(attempt.model)
        assert difference(attempt, tools.feeds(model, 2, sizes=SIZES)) <= TOLERANCE
        assert parameters(attempt.model) < parameters(model)


OLD = ("residual", "dense", "inception", "grouped", "pixels", "flat", "normalized", "recurrent")


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_masking_changes_the_outputs(name: str, tools: Any) -> None:
    """Else the oracle would compare nothing."""
    model = TOPOLOGIES[name][0](tools.Small())
    attempt = random_cut(find_groups(model), 1)
    feed = next(iter(tools.feeds(model, 1, sizes=SIZES)))
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(tools.run(model, feed), tools.run(masked(attempt), feed), strict=True))


@pytest.mark.parametrize("name", ["residual", "packed_attention", "recurrent", "shuffle_split"])
def test_two_cuts_are_one(name: str, tools: Any) -> None:
    """cut(S) then cut(T) is cut(S + T)."""
    model = TOPOLOGIES[name][0](tools.Small())
    groups = find_groups(model)
    first, second = np.ones(len(groups.group_of), bool), np.ones(len(groups.group_of), bool)
    for group in groups.groups:
        first[group.units[0]] = False
        second[group.units[-1]] = False
    once = cut(groups.algebra, first & second).model
    between = find_groups(cut(groups.algebra, first).model)
    keep = np.ones(len(between.group_of), bool)
    for group in between.groups:
        keep[group.units[-1]] = False
    twice = cut(between.algebra, keep).model
    feed = next(iter(tools.feeds(model, 1, sizes=SIZES)))
    for a, b in zip(tools.run(once, feed), tools.run(twice, feed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_signature_and_the_original_stay(tools: Any) -> None:
    model = TOPOLOGIES["residual"][0](tools.Small())
    before = to_proto(model).SerializeToString(deterministic=True)
    attempt = random_cut(find_groups(model), 3)
    assert (attempt.model.inputs, attempt.model.outputs) == (model.inputs, model.outputs)
    assert to_proto(model).SerializeToString(deterministic=True) == before


def test_what_a_node_without_a_signature_touches_is_fixed(tools: Any) -> None:
    """The Conv before it loses its channels to the barrier, the one before that does not."""
    s = tools.Small()
    x = s.conv(s.input("x", 1, 3, 4, 4), 3, 6, name="free")
    y = s.node(
        "NonMaxSuppression",
        s.node("Reshape", s.conv(x, 6, 4, name="held"), s.constant(np.array([1, 16, 4], np.int64))),
        s.constant(np.ones((1, 1, 16), np.float32)),
    )
    model = s.model(y)
    groups = find_groups(model)
    assert [(g.name, g.size) for g in groups.groups] == [("free", 6)]


def test_sizes_that_are_calculated_with_are_fixed(tools: Any) -> None:
    """The length of a cut axis would change what is divided by it."""
    s = tools.Small()
    x = s.conv(s.input("x", 1, 3, 4, 4), 3, 6, name="a")
    count = s.node("Cast", s.node("Gather", s.node("Shape", x), s.constant(np.array(1, np.int64))), to=1)
    model = s.model(s.conv(s.node("Div", x, count), 6, 4, name="b"))
    assert not find_groups(model).groups


def test_shapes_that_are_computed_are_patched(tools: Any) -> None:
    """[batch of x, 12, 16] with the 12 as a literal among computed sizes."""
    s = tools.Small()
    x = s.conv(s.input("x", "n", 3, 4, 4), 3, 12, name="a")
    batch = s.node("Slice", s.node("Shape", x), *(s.constant(np.array([v], np.int64)) for v in (0, 1, 0)))
    target = s.node("Concat", batch, s.constant(np.array([12, 16], np.int64)), axis=0)
    y = s.node("Transpose", s.node("Reshape", x, target), perm=[0, 2, 1])
    model = s.model(s.node("MatMul", y, s.weight(12, 5), name="b"))
    groups = find_groups(model)
    attempt = random_cut(groups, 1)
    for n in (1, 3):
        assert difference(attempt, tools.feeds(model, 1, sizes={"n": n})) <= TOLERANCE


def test_a_wrong_cut_is_told(tools: Any) -> None:
    """The oracle sees a column too many."""
    model = TOPOLOGIES["flat"][0](tools.Small())
    groups = find_groups(model)
    attempt = random_cut(groups, 1)
    weight = next(c for c in attempt.model.graph.initializers.values() if c.values.ndim == 4)
    weight.values = weight.values[::-1].copy()
    assert difference(attempt, tools.feeds(model, 1, sizes=SIZES)) > TOLERANCE


def parameters(model: Model) -> int:
    return sum(int(np.prod(c.shape)) for c in model.graph.initializers.values())


@pytest.mark.parametrize("size", [0, 3])
def test_an_axis_of_one_index_that_a_concat_made_broadcasts(size: int) -> None:
    """Its only index stays: behind it the axis has another length."""
    model = parse_model(
        f"(float[2,1] x) => (float[2,{size}] y) <float[1,{size}] w = {{{', '.join('1' * size)}}}> {{ t = Concat <axis = 1> (x)  y = Add (t, w) }}"
    )
    assert not find_groups(model).groups


def test_a_gather_by_a_matrix_of_positions_keeps_its_shape() -> None:
    """What it takes stays, so that only the positions change."""
    model = parse_model(
        "(float[3,2] x) => (float[3,1,3] y) <float[2,8] w = {1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1}, int64[1,3] i = {-2, 6, 6}> { h = MatMul (x, w)  y = Gather <axis = 1> (h, i) }"
    )
    groups = find_groups(model)
    attempt = random_cut(groups, 1)
    assert difference(attempt, [{"x": np.ones((3, 2), np.float32)}]) == 0


def test_what_is_expanded_to_the_shape_of_another_tensor_holds_that_one() -> None:
    """Else it would be expanded to fewer channels than its reader has weights for."""
    model = parse_model(
        """(float[1,2,4,4] x) => (float[1,1,4,4] y)
<float[3,2,1,1] w = {1, 2, 3, 4, 5, 6}, float one = {1}, float[1,3,1,1] v = {1, 2, 3}> { t = Conv (x, w)  s = Shape (t)  e = Expand (one, s)  y = Conv (e, v) }"""
    )
    for group in (groups := find_groups(model)).groups:
        keep = np.ones(len(groups.group_of), bool)
        keep[group.units[:1]] = False
        assert difference(cut(groups.algebra, keep), [{"x": np.ones((1, 2, 4, 4), np.float32)}]) <= TOLERANCE


@pytest.mark.parametrize("ending", ["p = Softmax <axis = 1> (h)", "s = Softmax <axis = 1> (h) p = Identity (s)", "p = LogSoftmax <axis = 1> (h)"])
def test_a_softmax_that_saturates_hides_nothing_from_the_oracle(ending: str) -> None:
    """Its values are 0 and 1 whatever the numbers before it are."""
    text = "(float[n,3] x) => (float[n,2] p) <float[3,2] w = {WEIGHTS}> { h = MatMul (x, w) END }".replace("END", ending)
    right, wrong = (parse_model(text.replace("WEIGHTS", f"{first}, 0, 1e4, 0, 1e4, 0")) for first in ("1e4", "0"))
    feeds = [{"x": np.full((n, 3), 2, np.float32)} for n in (1, 2)]
    assert largest_difference(right, right, feeds) == 0
    assert largest_difference(right, wrong, feeds) == pytest.approx(1 / 3, rel=1e-3)
