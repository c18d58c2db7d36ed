"""Samples of what the teacher calculates, and mirror images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir import Model, TensorSpec
from graphcompress.reconstruction.agenda import Job
from graphcompress.reconstruction.mirrors import Mirrors, mirror, pictures
from graphcompress.reconstruction.repair import RepairLayer, repair
from graphcompress.reconstruction.rows import layer_of
from graphcompress.reconstruction.targets import MIRROR, TRAINING, VALIDATION, TeacherRows
from graphcompress.runtime.evaluate import run_once

Tools = Any


def convolution(tools: Tools) -> Model:
    small = tools.Small()
    return small.model(small.node("Conv", small.input("x", "n", 3, 6, 6), small.weight(4, 3, 3, 3, name="w"), small.weight(4, name="b"), name="conv"))


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng([seed, i]).normal(0, 1, (1, 3, 6, 6)).astype(np.float32)} for i in range(count)]


def job(model: Model, channels: np.ndarray | None = None) -> Job:
    node = model.graph.nodes[0]
    layer = layer_of(node, set())
    assert layer is not None
    return Job(layer, channels, node.outputs[0], None, set())


@pytest.mark.parametrize("mirrors", [False, True])
def test_each_input_has_as_many_positions_and_one_use(mirrors: bool, tools: Tools) -> None:
    model = convolution(tools)
    one = job(model)
    with TeacherRows(model, images(40), seed=0, positions=5, mirrors=mirrors) as rows:
        targets = rows.targets([one])
        batches = [targets.of(one, batch) for batch, _ in enumerate(targets.feeds)]
        for (at, _, outputs), feed in zip(batches, targets.feeds, strict=True):
            np.testing.assert_allclose(outputs, one.layer.form.outputs(run_once(model, feed)[model.outputs[0].name], at), atol=1e-5)
    uses = np.concatenate([uses for _, uses, _ in batches]).reshape(-1, 5)
    assert (uses == uses[:, :1]).all()
    expected = [VALIDATION if i % 4 == 3 else TRAINING for i in range(40)]
    assert uses[:, 0].tolist() == expected + [MIRROR] * 40 * mirrors


def test_only_pictures_have_mirror_images() -> None:
    picture, half = TensorSpec("a", "float", ("n", 3, 8, 8)), TensorSpec("b", "float16", (1, 8, 8, 3))
    assert pictures([picture, half]) == {"a", "b"}
    for other in (TensorSpec("c", "float", ("n", 8)), TensorSpec("c", "int64", (1, 3, 8, 8)), TensorSpec("c", "float", None)):
        assert pictures([picture, other]) == frozenset()


def test_a_mirror_reverses_the_width() -> None:
    first, last = np.random.default_rng(0).random((2, 3, 4, 5)), np.random.default_rng(0).random((2, 6, 5, 3))
    np.testing.assert_array_equal(mirror(first), first[:, :, :, ::-1])
    np.testing.assert_array_equal(mirror(last), last[:, :, ::-1])


def test_mirror_images_follow_the_feeds_each_time() -> None:
    feeds = images(2)
    both = Mirrors(feeds, frozenset("x"))
    for _ in range(2):
        for got, true in zip(both, [*feeds, *({"x": mirror(f["x"])} for f in feeds)], strict=True):
            np.testing.assert_array_equal(got["x"], true["x"])


def test_mirror_images_are_taken_in_where_they_help(tools: Tools) -> None:
    """A layer that must do with the other half of the rows has too few of its own."""
    teacher = convolution(tools)
    results = {}
    for mirrors in (False, True):
        student, twins = teacher.clone()
        student.graph.initializers["w"].values = 0 * teacher.graph.initializers["w"].values
        layers = [RepairLayer(teacher.graph.nodes[0], twins.node(teacher.graph.nodes[0]))]
        (entry,) = repair(teacher, student, layers, images(8), seed=0, positions=4, ridges=(1e-2,), mirrors=mirrors).layers
        assert entry.mirrors is mirrors and entry.rows == 32
        results[mirrors] = entry.after
    assert results[True] < results[False]
