"""What an activation does not tell apart need not be hit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.ir import output_ids
from graphcompress.ir.files.text import parse_model
from graphcompress.reconstruction import flat as module
from graphcompress.reconstruction.flat import Flat, FlatRows, flat_after, refit_before_flat
from graphcompress.reconstruction.gram import Gram
from graphcompress.reconstruction.solve import bias_of, refit
from graphcompress.reconstruction.store import Store

ACTIVATIONS = {
    "y = Relu (a)": Flat(0.0),
    "y = HardSwish (a)": Flat(-3.0),
    "y = Clip (a, zero, six)": Flat(0.0, 6.0),
    "y = Clip (a, , six)": Flat(-math.inf, 6.0),
    "y = Clip (a, x, six)": None,
    "y = Tanh (a)": None,
    "b = Relu (a) y = Add (b, a)": None,
    "b = Relu (a) c = Clip (a, zero) y = Add (b, c)": Flat(0.0),
    "y = Identity (a) z = Relu (a)": None,
}


@pytest.mark.parametrize("text", ACTIVATIONS)
def test_where_an_activation_is_flat(text: str) -> None:
    model = parse_model(f"(float x) => (float y) <float zero = {{0}}, float six = {{6}}> {{ a = Neg (x) {text} }}")
    assert flat_after(model.graph.nodes[0].outputs[0], output_ids(model)) == ACTIVATIONS[text]


def test_bounds_of_clip_were_attributes_once() -> None:
    model = parse_model("(float x) => (float y) { a = Neg (x) y = Clip <min = -1.0, max = 2.0> (a) }", {"": 6})
    assert flat_after(model.graph.nodes[0].outputs[0], output_ids(model)) == Flat(-1.0, 2.0)


def test_an_output_of_the_graph_is_flat_nowhere() -> None:
    model = parse_model("(float x) => (float a, float y) { a = Neg (x) y = Relu (a) }")
    assert flat_after(model.graph.nodes[0].outputs[0], output_ids(model)) is None


def test_only_what_differs_after_the_activation_is_aimed_at() -> None:
    aim = Flat(0.0, 6.0).aim(np.array([-2.0, -2.0, 3.0, 9.0, 9.0]), np.array([-5.0, 1.0, -4.0, 8.0, 5.0]))
    assert aim.tolist() == [-5, 0, 3, 8, 6]


@given(seed=st.integers(0, 20), groups=st.sampled_from([1, 2]), sums=st.booleans())
def test_every_turn_lessens_the_error_after_the_activation(seed: int, groups: int, sums: bool) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(0, 1, (groups, 200, 5))
    branch = random.normal(0, 1, (groups, 200, 3)) * sums
    y = np.tanh(x @ random.normal(0, 1, (groups, 5, 3))) * 2 - 0.5 + random.normal(0, 0.3, (groups, 200, 3))
    old = np.zeros((groups, 5, 3))
    gram = Gram()
    gram.update(x, y)
    weight = refit([gram.finish()], old, 1e-6)
    bias = bias_of(gram.finish(), weight)

    def error(weight: np.ndarray, bias: np.ndarray) -> float:
        return float(np.square(np.maximum(y + branch, 0) - np.maximum(x @ weight + bias[:, None] + branch, 0)).sum())

    before = error(weight, bias)
    for turns in (1, 2, 5):
        with Store() as store, pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "TURNS", turns)
            rows = FlatRows(Flat(0.0), store)
            rows.take(x[:, :120], y[:, :120], branch[:, :120])
            rows.take(x[:, 120:], y[:, 120:], branch[:, 120:])
            now = error(*refit_before_flat([rows], gram.finish(), old, 1e-6, weight))
            rows.close()
            assert (rows, 0, 0) not in store
        assert now < before
        before = now + 1e-6


def test_rows_that_are_not_finite_are_left_out() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(0, 1, (1, 50, 3)), random.normal(0, 1, (1, 50, 2))
    results = []
    for with_nan in (False, True):
        gram = Gram()
        with Store() as store:
            rows = FlatRows(Flat(0.0), store)
            for batch in (x, np.full((1, 1, 3), np.nan)) if with_nan else (x,):
                targets = y if batch is x else y[:, :1]
                gram.update(batch, targets)
                rows.take(batch, targets, 0 * targets)
            old = np.zeros((1, 3, 2))
            results.append(refit_before_flat([rows], gram.finish(), old, 1e-3, refit([gram.finish()], old, 1e-3)))
    np.testing.assert_allclose(results[0][0], results[1][0])
