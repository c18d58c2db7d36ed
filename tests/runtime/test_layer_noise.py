"""Layers that are run apart: where they end, and what the model of them takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphcompress import ir
from graphcompress.runtime.layers import layer_ends, layer_noises
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.session import LocalSession


def test_layers_end_where_nothing_is_fused(model_of: Callable[..., ir.Model]) -> None:
    """Not between an operator and the QuantizeLinear behind it, nor behind DequantizeLinear."""
    model = model_of(
        """g (float[n, 4] x) => (float[n, 4] y) <float s = {0.1}, uint8 z = {128}, float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) m = MatMul(d, w) r = Relu(m) p = QuantizeLinear(r, s, z) e = DequantizeLinear(p, s, z) y = Tanh(e) }"""
    )
    assert [t.name for t in layer_ends(model)] == ["q", "p", "y"]
    feeds = [{"x": np.random.default_rng(i).normal(size=(3, 4)).astype(np.float32)} for i in range(2)]
    noises = layer_noises(model, LocalPlace(), LocalPlace(), feeds)
    assert [(n.node, n.op, n.noise) for n in noises] == [("q", "QuantizeLinear", 0.0), ("m", "MatMul", 0.0), ("y", "Tanh", 0.0)]


class Noting(LocalPlace):
    """Notes what the models take that it opens."""

    def open(self, model: Any, **options: Any) -> LocalSession:
        session = super().open(model, **options)
        taken.append({spec.name: spec.shape for spec in session.inputs})
        return session


taken: list[dict[str, Any]] = []


@pytest.mark.parametrize(("rows", "expected"), [((3, 3), (3, 4)), ((3, 2), (None, None))])
def test_what_is_fed_in_the_middle_has_fixed_dimensions_where_all_feeds_agree(
    rows: tuple[int, ...], expected: tuple[int | None, ...], model_of: Callable[..., ir.Model]
) -> None:
    """A provider that compiles what it takes needs them."""
    taken.clear()
    model = model_of(
        "g (float[n, 4] x) => (float[n, 4] y) <float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }"
    )
    feeds = [{"x": np.random.default_rng(i).normal(size=(count, 4)).astype(np.float32)} for i, count in enumerate(rows)]
    assert [n.tensor for n in layer_noises(model, LocalPlace(), Noting(), feeds)] == ["a", "b", "y"]

    (inputs,) = taken
    assert inputs["a_fed"] == inputs["b_fed"] == expected
