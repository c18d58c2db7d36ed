"""A result whose outputs have other shapes than the original's is none: optimizers that take Q and DQ to other places have been seen to change them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.errors import ModelError
from graphcompress.ir import Model
from graphcompress.passes.quantize import quantize
from graphcompress.passes.quantize.certify import ShapeCheck
from graphcompress.runtime.session import open_session
from graphcompress.step import Context
from tests.support.weights import with_weights

# onnxruntime takes the Q before the Slice, and then the Slice away: it has no axes, and its steps are not looked at.
STEPS = "(float[4,64] x) => (float[M,128] y) { t = Slice (x, first, last, , steps) h = Tanh (t) y = Gemm <transB = 1> (t, w) }"


def stepping() -> Model:
    rng = np.random.default_rng(0)
    constants = {"first": np.array([0]), "last": np.array([2**63 - 1]), "steps": np.array([2]), "w": rng.standard_normal((128, 64)).astype(np.float32)}
    return with_weights(STEPS, constants)


def feeds() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((4, 64)).astype(np.float32)} for _ in range(6)]


@pytest.mark.parametrize("force", [False, True])
def test_outputs_keep_their_shapes(force: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if force:  # whatever it costs
        monkeypatch.setattr("graphcompress.passes.quantize.placement.decide", lambda model, groups, *rest: set(groups))
    model = stepping()
    result = quantize(model, Context(data=feeds(), threads=1, measure=False)).boldest
    with open_session(model, threads=1) as first, open_session(result.model, threads=1) as second:
        for feed in feeds():
            assert first.run(feed)["y"].shape == second.run(feed)["y"].shape == (2, 128)
    if force:
        (refusal,) = [r for r in result.refusals if r.id == "quantize/does-not-run"]
        assert "its output 'y' would have the shape [4, 128] and not [2, 128]" in refusal.reason


def test_what_was_inferred_wrongly_is_no_reason() -> None:
    """Only what the original itself gives decides, and it is asked only where an inferred shape does not fit."""
    model, feed = stepping(), feeds()[0]
    check = ShapeCheck(model, feed, {"y": (7, 7), "elsewhere": (1,)})
    check({"y": np.zeros((2, 128))})
    with pytest.raises(ModelError, match=r"shape \[4, 128\] and not \[2, 128\]"):
        check({"y": np.zeros((4, 128))})
