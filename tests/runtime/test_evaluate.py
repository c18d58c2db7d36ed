"""Looking into graphs: each tensor's values, in groups that stay small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from graphcompress import ir
from graphcompress.errors import ModelError
from graphcompress.runtime import evaluate, session
from graphcompress.runtime.evaluate import observe, run_once

ModelOf = Callable[..., ir.Model]
CHAIN = "g (float[n] x) => (float[n] d) { a = Neg(x) b = Exp(a) c = Add(a, b) d = Mul(c, x) }"


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.arange(1, 2 + i, dtype=np.float32)} for i in range(count)]


def truth(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = feed["x"]
    a = -x
    b = np.exp(a)
    return {"x": x, "a": a, "b": b, "c": a + b, "d": (a + b) * x}


def test_run_once_without_inputs(model_of: ModelOf) -> None:
    made = run_once(model_of("g () => (float[2] y) <float[2] c = {1, 2}> { y = Add(c, c) }"), {})
    assert made["y"].tolist() == [2, 4]


def test_run_once_shows_inner_tensors(model_of: ModelOf) -> None:
    made = run_once(model_of(CHAIN), {"x": np.float32([1])}, ["a", "d"])
    assert list(made) == ["a", "d"] and made["a"] == -1


def test_ragged_feeds_give_one_dict_each(model_of: ModelOf) -> None:
    found = list(observe(model_of(CHAIN), ["b", "a", "x", "d"], feeds(4)))
    assert len(found) == 4
    for feed, values in zip(feeds(4), found, strict=True):
        for name, value in values.items():
            np.testing.assert_allclose(value, truth(feed)[name], rtol=1e-6)


@given(budget=st.integers(0, 200), names=st.lists(st.sampled_from("xabcd"), min_size=1), one_way=st.booleans(), count=st.integers(0, 4))
def test_every_pair_comes_once_whatever_the_budget(budget: int, names: list[str], one_way: bool, count: int) -> None:
    model = ir.model_from_proto(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{CHAIN}'))
    source = iter(feeds(count)) if one_way else feeds(count)
    seen: dict[str, list[np.ndarray]] = {}
    for values in observe(model, names, source, budget=budget):
        for name, value in values.items():
            seen.setdefault(name, []).append(value)
    assert set(seen) == (set(names) if count else set())
    for name, values in seen.items():
        assert len(values) == count
        for feed, value in zip(feeds(count), values, strict=True):
            np.testing.assert_allclose(value, truth(feed)[name], rtol=1e-6)


def test_groups_keep_to_the_budget(model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = session.LocalSession.run

    def run(self: session.LocalSession, feed: session.Feed, names: list[str] | None = None) -> dict[str, object]:
        made = real(self, feed, names)
        asked.append(sum(np.asarray(v).nbytes for v in made.values()))
        return made

    monkeypatch.setattr(session.LocalSession, "run", run)
    list(observe(model_of(CHAIN), list("abcd"), [{"x": np.ones(1000, np.float32)}], budget=17_000))
    assert max(asked) <= 17_000 and len(asked) == 1 + 2  # the shapes, then two groups of two tensors


def test_nothing_is_kept_between_feeds(model_of: ModelOf) -> None:
    """The next feed is not read before the values of the last one were handed out."""
    log: list[str] = []

    def source() -> Iterator[dict[str, np.ndarray]]:
        for i, feed in enumerate(feeds(3)):
            log.append(f"read {i}")
            yield feed

    for i, _ in enumerate(observe(model_of(CHAIN), ["a"], source())):
        log.append(f"used {i}")
    assert log == ["read 0", "used 0", "read 1", "used 1", "read 2", "used 2"]


def test_sequences_are_observed_too(model_of: ModelOf) -> None:
    model = model_of("g (float[n] x) => (float[n] y) { s = SequenceConstruct(x, x) i = Constant<value = int64 {0}>() y = SequenceAt(s, i) }")
    (found,) = observe(model, ["s", "y"], feeds(1))
    assert len(found["s"]) == 2 and found["y"].tolist() == [1]


def test_constants_and_other_types(model_of: ModelOf) -> None:
    model = model_of("g (float[n] x) => (float[n] y) <float[1] c = {3}> { m = Greater(x, c) k = Cast<to = 1>(m) y = Add(k, c) }")
    (found,) = observe(model, ["m", "c"], [{"x": np.float32([1, 5])}])
    assert found["m"].tolist() == [False, True] and found["c"].tolist() == [3]


def test_unknown_tensor_is_named(model_of: ModelOf) -> None:
    with pytest.raises(ModelError, match="'nope'"):
        list(observe(model_of(CHAIN), ["nope"], feeds(1)))


def test_values_equal_those_of_the_model_as_it_stands(models: Path) -> None:
    model = ir.load(models / "digits_cnn" / "model.onnx")
    inner = [t.name for n in model.graph.nodes for t in n.outputs if t.name]
    feed = {s.name: np.random.default_rng(0).random([d if isinstance(d, int) else 2 for d in s.shape or ()], np.float32) for s in model.inputs}
    (found,) = observe(model, inner, [feed])
    plain = run_once(model, feed)
    for spec in model.outputs:
        np.testing.assert_array_equal(found[spec.name], plain[spec.name])
    assert evaluate.BUDGET == 256 * 2**20
