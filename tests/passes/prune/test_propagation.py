"""What gradients say of an error on its way to the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model, output_ids
from graphcompress.ir.model.signature import with_signature
from graphcompress.passes.prune.propagation import propagated_errors
from graphcompress.reconstruction.rows import Layer, layer_of
from graphcompress.runtime.session import open_session

FEEDS = 60


def layers_of(model: Model) -> list[Layer]:
    """Those named first and second."""
    found = {n.name: layer_of(n, output_ids(model)) for n in model.graph.nodes if n.name in ("first", "second")}
    return [layer for name in ("first", "second") if (layer := found[name]) is not None]


def test_of_a_linear_model_it_is_what_a_sign_for_each_channel_gives(tools: Any) -> None:
    """Each channel of a layer's output is moved by its distance from the mean, up or down by chance: the mean square of what the output moves by, as a part of the squares of the output."""
    s = tools.Small()
    x = s.node("Conv", s.input("x", 1, 8, 6, 6), s.weight(12, 8, 3, 3), name="first", pads=[1, 1, 1, 1])
    model = s.model(s.node("MatMul", s.node("Flatten", s.node("GlobalAveragePool", x)), s.weight(12, 5, name="w"), name="second"))
    feeds = list(tools.feeds(model, FEEDS))
    layers = layers_of(model)
    first, second = propagated_errors(model, layers, feeds * 8, seed=0)

    watched = model.copy()
    conv = next(n for n in watched.graph.nodes if n.name == "first")
    session = open_session(with_signature(watched, [], [conv.outputs[0]]), threads=1)
    maps = np.concatenate([session.run(feed)[conv.outputs[0].name].mean(axis=(2, 3)) for feed in feeds])
    weight = model.graph.initializers["w"].values
    outputs = maps @ weight
    moved = np.square(maps - maps.mean(axis=0)) @ np.square(weight).sum(axis=1)
    assert first == pytest.approx(moved.sum() / np.square(outputs).sum(), rel=0.15)
    assert second == pytest.approx(np.square(outputs - outputs.mean(axis=0)).sum() / np.square(outputs).sum(), rel=0.15)


def test_a_layer_behind_what_has_no_gradient_is_not_known(tools: Any) -> None:
    s = tools.Small()
    x = s.node("MatMul", s.input("x", 4, 6), s.weight(6, 16), name="first")
    y = s.node("MatMul", s.node("Sign", x), s.weight(16, 6), name="second")
    model = s.model(y)
    first, second = propagated_errors(model, layers_of(model), list(tools.feeds(model, 4)), seed=0)
    assert np.isnan(first) and second > 0


def test_outputs_that_are_no_floats_do_not_count(tools: Any) -> None:
    """Classes and their names beside the probabilities, as classifiers hand them out."""
    s = tools.Small()
    x = s.node("MatMul", s.node("Relu", s.node("MatMul", s.input("x", 4, 6), s.weight(6, 16), name="first")), s.weight(16, 3), name="second")
    classes = s.node("ArgMax", x, axis=1, keepdims=0)
    names = s.node("Gather", s.constant(np.array(["a", "b", "c"], dtype=object)), classes)
    both, alone = s.model(x, classes, names), tools.Small()
    y = alone.node(
        "MatMul", alone.node("Relu", alone.node("MatMul", alone.input("x", 4, 6), alone.weight(6, 16), name="first")), alone.weight(16, 3), name="second"
    )
    feeds = list(tools.feeds(both, 4))
    np.testing.assert_allclose(*(propagated_errors(m, layers_of(m), feeds, seed=0) for m in (both, alone.model(y))))
