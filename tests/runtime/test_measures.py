"""Which measure judges an output of a kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphcompress.ir.analysis.output_kinds import OutputKind
from graphcompress.runtime.output_statistics import measures_of
from tests.runtime.test_agreement import measured, rng

KINDS = [
    (OutputKind("classes"), (4, 2), np.float32, {"classes"}),
    (OutputKind("classes"), (4, 1), np.float32, {"scores", "probabilities"}),  # one column decides nothing by itself
    (OutputKind("classes", 1), (2, 2, 5), np.float32, {"classes"}),
    (OutputKind("classes", 2), (4, 3), np.float32, {"scores", "probabilities"}),  # there is no such axis
    (OutputKind("classes", -2), (4, 3), np.float32, {"classes"}),
    (OutputKind("classes", -3), (4, 3), np.float32, {"scores", "probabilities"}),
    (OutputKind("classes", -1, unsure=True), (4, 1), np.float32, {"values"}),
    (OutputKind("classes"), (4, 3), np.int64, {"exact"}),
    (OutputKind("classes"), (4, 3), np.complex64, {"values"}),
    (OutputKind("sequence"), (1, 5, 2), np.float32, {"sequence"}),
    (OutputKind("sequence"), (1, 5, 1), np.float32, {"values"}),
    (OutputKind("sequence"), (5, 2), np.float32, {"classes"}),  # no axis of time
    (OutputKind("embedding"), (4, 3), np.float32, {"embedding"}),
    (OutputKind("embedding", 2), (4, 3), np.float32, {"values"}),
    (OutputKind("embedding"), (4, 3), np.complex64, {"values"}),
    (OutputKind("probabilities"), (4, 3), np.float32, {"scores", "probabilities"}),
    (OutputKind("values"), (4, 3), np.float16, {"values"}),
    (OutputKind("values", scores=True), (4, 3), np.float32, {"scores", "probabilities"}),
    (OutputKind("exact"), (4, 3), np.float32, {"exact"}),
    (OutputKind("boxes"), (4, 6), np.float32, {"boxes"}),
    (OutputKind("boxes"), (), np.float32, {"values"}),
]


@pytest.mark.parametrize(("kind", "shape", "dtype", "names"), KINDS)
def test_an_output_gets_the_measure_of_its_kind_where_its_arrays_allow_it(kind: OutputKind, shape: tuple[int, ...], dtype: Any, names: set[str]) -> None:
    array = np.asarray(rng(0).uniform(0, 1, shape)).astype(dtype)
    found = measured(kind, (array, array.copy()))
    assert set(found) - {"channel"} == names and set(found.values()) == {1.0}


@pytest.mark.parametrize(("kind", "shape", "dtype", "names"), KINDS)
def test_a_measure_that_saw_nothing_says_nothing(kind: OutputKind, shape: tuple[int, ...], dtype: Any, names: set[str]) -> None:
    """As one does that is made for an output whose arrays are empty in all feeds."""
    for measure in measures_of(kind, np.zeros(shape, dtype)).values():
        assert measure.finish() == []
