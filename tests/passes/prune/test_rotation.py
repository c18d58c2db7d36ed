"""Attention in other bases: the same function, whose last dimensions matter least, however an exporter writes heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from topologies import TOPOLOGIES, _attend, _heads, linear

from graphcompress.ir import Model, lint, output_ids, to_bytes
from graphcompress.ir.model.signature import with_signature
from graphcompress.passes.prune import Options, prune
from graphcompress.passes.prune.groups import find_groups
from graphcompress.passes.prune.heads import DotProduct, WeightedSum, find_sites
from graphcompress.passes.prune.oracle import largest_difference
from graphcompress.passes.prune.orders import find_orders, product_costs
from graphcompress.passes.prune.rotation import rotated
from graphcompress.passes.prune.sharing import separated
from graphcompress.reconstruction.rows import layer_of
from graphcompress.runtime.session import open_session
from graphcompress.step import Context

SIZES = {"n": 2, "t": 5}
ROUNDING = 1e-5


def kinds(model: Model, tools: Any) -> list[type]:
    return [type(site) for site in find_sites(separated(model), next(iter(tools.feeds(model, 1, sizes=SIZES))), threads=1)]


def turned(model: Model, tools: Any) -> tuple[Model, frozenset[str]]:
    data = tools.feeds(model, 24, sizes=SIZES)
    return rotated(model, data, list(tools.feeds(model, 2, seed=7, sizes=SIZES)), threads=1)


def scaled_keys(s: Any) -> Model:
    """Queries and keys are scaled, by a number and by what is calculated; heads are part of the batch, as torch.nn.MultiheadAttention has them; layers are Gemm."""
    x = s.input("x", 5, 16)
    q, k, v = (
        s.node(
            "Transpose", s.node("Reshape", s.node("Gemm", x, s.weight(16, 16), s.weight(16), name=n), s.constant(np.array([5, 4, 4], np.int64))), perm=[1, 0, 2]
        )
        for n in "qkv"
    )
    root = s.node("Sqrt", s.node("Cast", s.node("Gather", s.node("Shape", q), s.constant(np.array(2, np.int64))), to=1))
    scores = s.node("MatMul", s.node("Mul", s.constant(np.float32(0.5)), q), s.node("Transpose", s.node("Div", k, root), perm=[0, 2, 1]))
    y = s.node("Transpose", s.node("MatMul", s.node("Softmax", scores, axis=-1), v), perm=[1, 0, 2])
    y = s.node("Reshape", y, s.constant(np.array([5, 16], np.int64)))
    made: Model = s.model(s.node("Gemm", y, s.weight(16, 7), s.weight(7), name="out"))
    return made


def shared_keys(s: Any) -> Model:
    """One head of keys and values for four of queries, by broadcasting."""
    x = s.input("x", "n", "t", 16)
    q = _heads(s, linear(s, x, 16, 16, "q"), 4, 4)
    k, v = (_heads(s, linear(s, x, 16, 4, name), 1, 4) for name in "kv")
    made: Model = s.model(linear(s, _attend(s, q, k, v, 0.5, 16), 16, 5, "out"))
    return made


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (TOPOLOGIES["packed_attention"][0], [DotProduct, WeightedSum]),
        (TOPOLOGIES["separate_attention"][0], [DotProduct, WeightedSum]),
        (TOPOLOGIES["grouped_query"][0], [WeightedSum]),  # a rotary embedding tells dimensions apart
        (scaled_keys, [DotProduct, WeightedSum]),
        (shared_keys, [DotProduct, WeightedSum]),
        (TOPOLOGIES["residual"][0], []),
    ],
)
def test_the_function_stays(build: Callable[[Any], Model], expected: list[type], tools: Any) -> None:
    model = build(tools.Small())
    assert kinds(model, tools) == expected
    before = to_bytes(model)
    result, names = turned(model, tools)
    assert to_bytes(model) == before
    if not expected:
        assert result is model and not names
        return
    assert not lint(result) and (result.inputs, result.outputs) == (model.inputs, model.outputs)
    assert any((a.values != result.graph.initializers[name].values).any() for name, a in model.graph.initializers.items())
    assert largest_difference(model, result, tools.feeds(model, 3, seed=9, sizes={"n": 3, "t": 8})) < ROUNDING
    theirs = {t.name for node in model.graph.nodes for t in node.outputs}
    assert names and not names & theirs


def test_the_last_dimensions_matter_least(tools: Any) -> None:
    """Without the half of each head that comes last the answers are nearer to what they were than without any other half of the dimensions in the basis of the file."""
    model = TOPOLOGIES["separate_attention"][0](tools.Small())
    result, _ = turned(model, tools)
    feeds = list(tools.feeds(model, 24, seed=5, sizes=SIZES))

    def loss(of: Model, kept: list[int], projections: str) -> float:
        copy = of.copy()
        for node in copy.graph.nodes:
            if node.name in projections and (layer := layer_of(node, output_ids(copy))) is not None:
                mask = np.zeros((4, 4), np.float32)
                mask[:, kept] = 1
                layer.weight.values = layer.weight.values * mask.reshape(-1)
                assert layer.bias is not None
                layer.bias.values = layer.bias.values * mask.reshape(-1)
        total = 0.0
        with open_session(model, threads=1) as whole, open_session(copy, threads=1) as other:
            for feed in feeds:
                total += sum(float(np.square(a - b).sum()) for a, b in zip(whole.run(feed).values(), other.run(feed).values(), strict=True))
        return total

    halves = [[a, b] for a in range(4) for b in range(a + 1, 4)]
    for projections in ("qk", "v"):
        assert loss(result, [0, 1], projections) < min(loss(model, half, projections) for half in halves)


def test_of_queries_and_keys_that_are_drawn_apart_the_cost_is_what_the_scores_lose(tools: Any) -> None:
    s = tools.Small()
    q, k = (_heads(s, linear(s, s.input(f"x{name}", 1, 40, 16), 16, 16, name), 4, 4) for name in "qk")
    scores = s.node("MatMul", q, s.node("Transpose", k, perm=[0, 1, 3, 2]))
    model = s.model(s.node("Softmax", scores, axis=-1))
    feeds = tools.feeds(model, 24)
    groups = find_groups(model)
    [index] = [i for i, group in enumerate(groups.groups) if group.size == 4]
    costs = product_costs(groups, feeds, threads=1)[index]
    nodes = {n.op: n for n in model.graph.nodes}
    left, right = nodes["MatMul"].inputs
    lost = np.zeros(4)
    with open_session(with_signature(model, [], [left, right]), threads=1) as session:
        for feed in feeds:
            a, b = session.run(feed).values()
            b = b - b.mean(axis=-1, keepdims=True)
            lost += [np.square(a[..., d : d + 1] @ b[..., d : d + 1, :]).sum() for d in range(4)]
    np.testing.assert_allclose(costs, lost / lost.sum(), rtol=1e-4)
    order = find_orders(groups, feeds, score="obs", seed=0, threads=1)[index]
    assert [step[0] for step in order.steps] == np.argsort(costs).tolist()


def test_what_else_reads_a_head_is_seen(tools: Any) -> None:
    """Keys that are an output of the model, as caches hand them out, stay in their basis; values of the same layer are turned."""
    s = tools.Small()
    model = TOPOLOGIES["packed_attention"][0](s)
    product = next(site for site in find_sites(model, next(iter(tools.feeds(model, 1, sizes=SIZES))), threads=1) if isinstance(site, DotProduct))
    model = with_signature(model, [], [*model.graph.outputs, product.right.moves[-1].inputs[0]])
    result, names = turned(model, tools)
    assert result is not model and names
    assert largest_difference(model, result, tools.feeds(model, 2, seed=3, sizes=SIZES)) < ROUNDING


def test_layers_that_are_to_stay_keep_their_numbers(tools: Any) -> None:
    """And so do those whose basis hangs on theirs."""
    model = TOPOLOGIES["separate_attention"][0](tools.Small())
    feeds = tools.feeds(model, 24, sizes=SIZES)
    result, _ = rotated(model, feeds, list(feeds)[:2], ignore=["^q$"], threads=1)
    weights = [{n.name: layer.weight_matrix() for n in m.graph.nodes if (layer := layer_of(n, output_ids(m))) is not None} for m in (model, result)]
    assert {name for name in "qkv" if not np.array_equal(weights[0][name], weights[1][name])} == {"v"}


@pytest.mark.parametrize("name", ["packed_attention", "separate_attention", "grouped_query"])
def test_a_cut_says_nothing_of_activations_in_another_basis(name: str, tools: Any) -> None:
    model = TOPOLOGIES[name][0](tools.Small())
    context = Context(data=tools.feeds(model, 24, sizes=SIZES), threads=1)
    result = prune(model, context, Options(macs=0.6, round_to=1, best_effort=True)).boldest
    told = {t for entry in result.decisions["channels"] for t in entry["tensors"]}
    theirs = {t.name for node in model.graph.nodes for t in node.outputs}
    _, names = turned(model, tools)
    assert result.changed and told <= theirs and not {n.removesuffix(".turned") for n in names} & told
