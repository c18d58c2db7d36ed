"""Ranges that workers observe are those that one process observes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pickled_workers import PickledWorkers
from small import Small, feeds

from graphcompress.data import Dataset
from graphcompress.ir import Model, to_bytes
from graphcompress.passes.quantize import quantize
from graphcompress.passes.quantize.observe import SPAN, observe
from graphcompress.passes.quantize.ranges import Histogram
from graphcompress.runtime.watch import Watch
from graphcompress.step import Context
from graphcompress.targets import load_target


@pytest.fixture
def model() -> Model:
    small = Small()
    x = small.node("Conv", small.input("x", 1, 8, 16, 16), small.weight(32, 8, 3, 3))
    return small.model(small.node("Conv", small.node("Relu", x), small.weight(16, 32, 3, 3)))


def seen(model: Model, data: Dataset, **options: Any) -> list[Any]:
    tensors = [t for node in model.graph.nodes for t in node.outputs]
    entries = observe(model, tensors, data, lambda t: Histogram(), **options)
    return [
        (
            t.name,
            o.dtype,
            o.shape,
            o.elements,
            o.feeds,
            o.power,
            o.unusable,
            o.statistic.count,
            o.statistic.finish(),
            o.statistic.k,
            o.statistic.counts.tolist(),
        )
        for t, o in entries.items()
        if isinstance(o.statistic, Histogram)
    ]


@pytest.mark.parametrize("count", [1, SPAN, 2 * SPAN + 5])
def test_the_same_is_seen(model: Model, count: int) -> None:
    workers = PickledWorkers()
    data = feeds(model, count)
    assert seen(model, data, workers=workers) == seen(model, data, threads=1)
    assert workers.parts == -(-count // SPAN)


def test_a_feed_that_is_not_finite_is_called_by_its_number(model: Model) -> None:
    good = list(feeds(model, SPAN + 3))
    good[SPAN + 1]["x"][0, 0, 0, 0] = np.inf
    data = Dataset("with an infinity", "0" * 64, range(len(good)), lambda indices: (dict(good[i]) for i in indices))
    shared = seen(model, data, workers=PickledWorkers())
    assert shared[0][6][0] == "not-finite" and f"calibration feed {SPAN + 2}" in shared[0][6][1]
    assert [entry[6] for entry in shared] == [entry[6] for entry in seen(model, data, threads=1)]


def test_the_written_model_is_the_same(model: Model) -> None:
    data, target = feeds(model, 40), load_target("cpu")
    alone, shared = (quantize(model, Context(target=target, data=data, workers=w, threads=1)).boldest.model for w in (None, PickledWorkers()))
    assert to_bytes(alone) == to_bytes(shared) and any(node.op == "QuantizeLinear" for node in shared.graph.nodes)


def test_a_watch_that_is_asked_again_keeps_its_session(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    load = Watch._load
    monkeypatch.setattr(Watch, "_load", lambda self, *rest: loads.append(1) or load(self, *rest))
    watch = Watch(model, [t for node in model.graph.nodes for t in node.outputs])
    values = [[v.copy() for v in part.values()] for _ in range(2) for part in watch.run(feeds(model, 2), again=True)]
    assert len(loads) == 1 and len(values) == 4
    np.testing.assert_array_equal(values[0][0], values[2][0])
    watch.close()
    assert len(list(watch.run(feeds(model, 1)))) == 1 and len(loads) == 2
