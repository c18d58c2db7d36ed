"""The order in which channels go: laws of the optimal brain surgeon, held against direct solves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress.passes.prune.scores import (
    RIDGE,
    Consumer,
    activation_costs,
    by_channel,
    magnitudes,
    order_by_cost,
    output_energy,
    removal_order,
    weight_by_channel,
)


def consumer(channels: int = 6, taps: int = 3, outputs: int = 5, seed: int = 0) -> tuple[Consumer, np.ndarray]:
    random = np.random.default_rng(seed)
    n = channels * taps
    x = random.normal(0, 1, (200, n)) @ random.normal(0, 1, (n, n))
    x -= x.mean(axis=0)
    return Consumer(x.T @ x, random.normal(0, 1, (n, outputs)), units_of(channels, taps)), x


def units_of(channels: int, taps: int) -> list[np.ndarray]:
    return [np.arange(c * taps, (c + 1) * taps) for c in range(channels)]


def direct_error(one: Consumer, units: list[int], ridge: float = RIDGE) -> float:
    """The least tr((W - V)'(H + ridge)(W - V)) / energy over V that is zero in `units`, by a direct solve."""
    h = one.gram + ridge * np.diagonal(one.gram).mean() * np.eye(len(one.gram))
    out = np.concatenate([one.units[u] for u in units])
    rest = np.setdiff1d(np.arange(len(h)), out)
    delta = np.zeros_like(one.weight)
    delta[out] = one.weight[out]
    delta[rest] = -np.linalg.solve(h[np.ix_(rest, rest)], h[np.ix_(rest, out)] @ one.weight[out])
    return output_energy(h, delta) / output_energy(one.gram, one.weight)


@given(seed=st.integers(0, 50), taps=st.sampled_from([1, 3]))
def test_each_error_is_that_of_a_direct_solve(seed: int, taps: int) -> None:
    one, _ = consumer(taps=taps, seed=seed)
    order = removal_order([one], 6)
    out = [unit for (unit,) in order.steps]
    assert sorted(out) == list(range(6))
    for count in range(1, 6):
        np.testing.assert_allclose(order.errors[count], direct_error(one, out[:count]), rtol=1e-8)


def test_a_step_is_the_cheapest_there_is() -> None:
    one, _ = consumer()
    out: list[int] = []
    for (unit,) in removal_order([one], 6).steps[:5]:
        rest = [u for u in range(6) if u not in out]
        assert unit == min(rest, key=lambda u: direct_error(one, [*out, u]))
        out.append(unit)


def test_the_errors_of_consumers_add_up() -> None:
    first, _ = consumer(seed=1)
    second, _ = consumer(taps=1, outputs=2, seed=2)
    order = removal_order([first, second], 6)
    out = [unit for (unit,) in order.steps[:4]]
    np.testing.assert_allclose(order.errors[4], direct_error(first, out) + direct_error(second, out), rtol=1e-8)


def test_a_stated_energy_is_what_errors_are_measured_by() -> None:
    one, _ = consumer()
    whole = output_energy(one.gram, one.weight)
    twice = removal_order([Consumer(one.gram, one.weight, one.units, 2 * whole)], 6)
    np.testing.assert_allclose(2 * twice.errors, removal_order([one], 6).errors)


def test_a_unit_that_a_consumer_does_not_read_costs_it_nothing() -> None:
    one, _ = consumer()
    wide = Consumer(one.gram, one.weight, [*one.units, np.array([], int)])
    assert removal_order([wide], 7).steps[0] == (6,)
    assert activation_costs([wide], 7)[6] == 0


def test_one_of_each_pair_of_duplicates_goes_first() -> None:
    random = np.random.default_rng(0)
    half = random.normal(0, 1, (500, 16)) * np.exp(random.normal(0, 1, 16))
    x = np.concatenate([half, half], axis=1)
    x -= x.mean(axis=0)
    order = removal_order([Consumer(x.T @ x, random.normal(0, 1, (32, 8)), units_of(32, 1))], 32)
    assert sorted(unit % 16 for (unit,) in order.steps[:16]) == list(range(16))
    assert order.errors[16] < 1e-3


def test_channels_that_never_vary_go_first_for_nothing() -> None:
    one, x = consumer(taps=1)
    x[:, [2, 4]] = 0
    order = removal_order([Consumer(x.T @ x, one.weight * 1e6, one.units)], 6)
    assert {order.steps[0][0], order.steps[1][0]} == {2, 4}
    assert order.errors[2] == 0


def test_nothing_but_dead_channels_is_no_error() -> None:
    order = removal_order([Consumer(np.zeros((4, 4)), np.ones((4, 2)), units_of(4, 1))], 4)
    assert order.errors.tolist() == [0.0] * 5


@given(seed=st.integers(0, 30), rank=st.integers(1, 8), taps=st.sampled_from([1, 3]))
def test_errors_never_fall_and_are_numbers(seed: int, rank: int, taps: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(0, 1, (100, rank)) @ random.normal(0, 1, (rank, 6 * taps)) * np.exp(random.normal(0, 4, 6 * taps))
    order = removal_order([Consumer(x.T @ x, random.normal(0, 1, (6 * taps, 3)), units_of(6, taps))], 6)
    assert np.isfinite(order.errors).all() and (np.diff(order.errors) >= 0).all()


def test_blocks_lose_equally_many() -> None:
    one, _ = consumer()
    order = removal_order([one], 6, [[0, 1, 2], [3, 4, 5]])
    assert [len(step) for step in order.steps] == [2, 2, 2]
    assert all(step[0] < 3 <= step[1] for step in order.steps)
    out = [unit for step in order.steps[:2] for unit in step]
    np.testing.assert_allclose(order.errors[2], direct_error(one, out), rtol=1e-8)


def test_unequal_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="unequal"):
        removal_order([], 3, [[0, 1], [2]])


def test_activation_costs_are_the_loss_without_a_refit() -> None:
    one, x = consumer()
    for unit, cost in enumerate(activation_costs([one], 6)):
        rows = one.units[unit]
        np.testing.assert_allclose(cost, np.square(x[:, rows] @ one.weight[rows]).sum() / np.square(x @ one.weight).sum())


def test_magnitudes_are_parts_of_a_layer_s_mean() -> None:
    matrix = np.array([[3.0, 0.0, 1.0], [4.0, 0.0, 1.0]])
    costs = magnitudes([(matrix, [np.array([c]) for c in range(3)]), (100 * matrix, [np.array([c]) for c in range(3)])], 3)
    np.testing.assert_allclose(costs, [2 * 25 / 9, 0, 2 * 2 / 9])
    assert not magnitudes([(np.zeros((2, 3)), [np.array([c]) for c in range(3)])], 3).any()


def test_an_order_by_cost_is_cheapest_first_in_each_block() -> None:
    order = order_by_cost(np.array([3.0, 1.0, np.nan, 5.0]), [[0, 1], [2, 3]])
    assert order.steps == ((1, 2), (0, 3))
    assert order.errors.tolist() == [0, 1, 9]
    assert order_by_cost(np.array([2.0, 1.0])).steps == ((1,), (0,))


def test_by_channel_the_taps_are_outputs_of_their_own() -> None:
    random = np.random.default_rng(0)
    rows, weight = random.normal(0, 1, (10, 6)), random.normal(0, 1, (6, 4))
    narrow, wide = by_channel(rows, 3), weight_by_channel(weight, 3)
    assert narrow.shape == (30, 2) and wide.shape == (2, 12)
    by_tap = (narrow @ wide).reshape(10, 3, 3, 4)  # row, tap of the row, tap of the weight, output
    np.testing.assert_allclose(np.einsum("rkko->ro", by_tap), rows @ weight)
