"""Statistics of ranges: laws of merging, bounded size, and what the choosers promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphcompress.passes.quantize.ranges import BINS, FEW, Histogram, LeastSquares, MinMax, Percentile, Range, Statistic, squared_error

Arrays = list[np.ndarray]

values = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=2, max_side=12), elements=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
)
feeds = st.lists(values, min_size=1, max_size=5)


def state(statistic: Statistic) -> object:
    if isinstance(statistic, Histogram):
        return statistic.finish(), statistic.count, statistic.zeros, statistic.k, statistic.first, statistic.counts.tolist()
    return statistic.finish(), statistic.count


def over(kind: type[Statistic], arrays: Arrays) -> Statistic:
    made = kind()
    for array in arrays:
        made.update(array)
    return made


@pytest.mark.parametrize("kind", [MinMax, Histogram])
@given(arrays=feeds, data=st.data())
def test_neither_order_nor_split_matters(kind: type[Statistic], arrays: Arrays, data: st.DataObject) -> None:
    whole = over(kind, arrays)
    cut = data.draw(st.integers(0, len(arrays)))
    left, right = over(kind, arrays[:cut]), over(kind, arrays[cut:])
    left.merge(right)
    assert state(left) == state(whole)
    assert state(over(kind, data.draw(st.permutations(arrays)))) == state(whole)
    assert state(over(kind, [np.concatenate([a.ravel() for a in arrays])])) == state(whole)


@pytest.mark.parametrize("kind", [MinMax, Histogram])
@given(arrays=st.lists(values, min_size=3, max_size=3))
def test_merging_is_associative_and_leaves_the_other_side_alone(kind: type[Statistic], arrays: Arrays) -> None:
    a, b, c = (over(kind, [x]) for x in arrays)
    before = state(c)
    b.merge(c)
    a.merge(b)
    first, second, third = (over(kind, [x]) for x in arrays)
    first.merge(second)
    first.merge(third)
    assert state(a) == state(first)
    assert state(c) == before


@given(arrays=feeds)
def test_a_histogram_is_bounded_and_loses_nothing(arrays: Arrays) -> None:
    seen = over(Histogram, arrays)
    assert isinstance(seen, Histogram)
    everything = np.concatenate([a.ravel() for a in arrays])
    assert len(seen.counts) <= BINS
    assert int(seen.counts.sum()) + seen.zeros == seen.count == everything.size
    assert seen.zeros == int((everything == 0).sum())
    assert seen.finish() == Range(float(everything.min()), float(everything.max()))
    edges = np.floor(everything[everything != 0].astype(np.float64) / seen.width).astype(int) - seen.first
    assert np.array_equal(np.bincount(edges, minlength=len(seen.counts)), seen.counts)


@pytest.mark.parametrize("kind", [MinMax, Histogram])
def test_nothing_seen_is_the_range_of_zero(kind: type[Statistic]) -> None:
    empty = kind()
    empty.update(np.zeros((0, 3), np.float32))
    assert empty.finish() == Range(0.0, 0.0)


def noise(kind: str) -> np.ndarray:
    generator = np.random.default_rng(3)
    sample = generator.standard_t(3, 50_000) if kind == "tails" else generator.normal(size=50_000)
    return np.maximum(sample, 0).astype(np.float32) if kind == "relu" else sample.astype(np.float32)


def quantization_error(data: np.ndarray, chosen: Range) -> float:
    return squared_error(data.astype(np.float64), np.ones(data.size), min(chosen.low, 0.0), max(chosen.high, 0.0))


@pytest.mark.parametrize("kind", ["normal", "tails", "relu"])
def test_least_squares_is_no_worse_than_everything_seen_and_near_the_best_grid(kind: str) -> None:
    data = noise(kind)
    seen = over(Histogram, [data])
    assert isinstance(seen, Histogram)
    chosen, whole = LeastSquares().choose(seen), seen.finish()
    error = quantization_error(data, chosen)
    assert error <= quantization_error(data, whole) * 1.01
    best = min(quantization_error(data, Range(whole.low * a, whole.high * b)) for a in np.linspace(0.3, 1, 29) for b in np.linspace(0.3, 1, 29))
    assert error <= best * 1.1
    if kind == "relu":
        assert chosen.low == 0.0


@pytest.mark.parametrize("p", [99.0, 99.9, 100.0])
def test_a_percentile_leaves_out_no_more_than_its_share(p: float) -> None:
    data = noise("tails")
    seen = over(Histogram, [data])
    assert isinstance(seen, Histogram)
    chosen = Percentile(p).choose(seen)
    share = data.size * (1 - p / 100)
    assert (data > chosen.high).sum() <= share
    assert (data < chosen.low).sum() <= share
    # and a bin further in it would be more
    assert (data > chosen.high - 2 * seen.width).sum() > share or p == 100.0
    if p == 100.0:
        assert chosen == seen.finish()


@pytest.mark.parametrize("chooser", [Percentile(99.0), LeastSquares()])
def test_few_values_have_no_tails(chooser: Percentile | LeastSquares) -> None:
    data = noise("tails")[: FEW - 1]
    seen = over(Histogram, [data])
    assert isinstance(seen, Histogram)
    assert chooser.choose(seen) == seen.finish()
