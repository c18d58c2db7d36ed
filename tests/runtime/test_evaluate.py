"""Running a model once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphcompress import ir
from graphcompress.errors import ModelError
from graphcompress.runtime.evaluate import run_once

ModelOf = Callable[..., ir.Model]
CHAIN = "g (float[n] x) => (float[n] d) { a = Neg(x) b = Exp(a) c = Add(a, b) d = Mul(c, x) }"


def test_run_once_without_inputs(model_of: ModelOf) -> None:
    made = run_once(model_of("g () => (float[2] y) <float[2] c = {1, 2}> { y = Add(c, c) }"), {})
    assert made["y"].tolist() == [2, 4]


def test_run_once_shows_inner_tensors(model_of: ModelOf) -> None:
    made = run_once(model_of(CHAIN), {"x": np.float32([1])}, ["a", "d"])
    assert list(made) == ["a", "d"] and made["a"] == -1


def test_unknown_tensor_is_named(model_of: ModelOf) -> None:
    with pytest.raises(ModelError, match="'nope'"):
        run_once(model_of(CHAIN), {"x": np.float32([1])}, ["nope"])
