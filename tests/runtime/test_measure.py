"""Verdicts from rounds of times. The sessions are made up, so that their times are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphcompress import ir
from graphcompress.errors import DataError, ModelError
from graphcompress.runtime import measure as module
from graphcompress.runtime.measure import Measurement, band, footprint, measure, median_interval, verdict
from graphcompress.runtime.session import Seconds

FEED = {"x": np.ones(1, np.float32)}
Pace = Callable[[float], float]


class Machine:
    """A clock, and how much slower than usual the machine is at each moment (`pace`) and in each call (`calls`, in turn); `others` is the part of the time that
    other processes have."""

    def __init__(self, pace: Pace = lambda _: 1.0, others: Pace = lambda _: 0.0, calls: Sequence[float] = (1.0,)) -> None:
        self.now, self.pace, self.others, self.calls = 0.0, pace, others, itertools.cycle(calls)

    def compute(self, seconds: float) -> Seconds:
        """Wall and CPU time of work that takes `seconds` on an idle machine."""
        wall = cpu = 0.0
        steps = max(1, round(seconds / 1e-3))
        seconds *= next(self.calls)
        for _ in range(steps):
            took = seconds / steps * self.pace(self.now)
            cpu += took
            wall += took / (1 - self.others(self.now))
            self.now += took / (1 - self.others(self.now))
        return Seconds(wall, cpu)


class Timed:
    """A session that needs `seconds` for each feed; `alone` where one thread computes."""

    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()

    def __init__(self, seconds: float, machine: Machine | None = None, *, alone: bool = False, log: list[str] | None = None, name: str = "") -> None:
        self.seconds, self.machine, self.alone, self.log, self.name = seconds, machine or Machine(), alone, log, name
        self.asked: list[tuple[int, int]] = []

    def time(self, feeds: Sequence[Any], repeats: int) -> Seconds:
        self.asked.append((len(feeds), repeats))
        if self.log is not None and repeats > 1:
            self.log.append(self.name)
        took = self.machine.compute(self.seconds * len(feeds) * repeats)
        return Seconds(took.wall / repeats, took.cpu / repeats if self.alone else None)

    def run(self, feed: Any) -> dict[str, Any]:
        raise AssertionError("timing goes through time()")

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return None


def timed(
    candidate: float, machine: Machine | None = None, *, alone: bool = False, feeds: int = 1, budget_s: float = module.BUDGET_S, bar: float = 1.0
) -> Measurement:
    """A reference of 1 ms beside a candidate, on one machine."""
    machine = machine or Machine()
    ref, again, cand = (Timed(seconds, machine, alone=alone) for seconds in (1e-3, 1e-3, candidate))
    return measure(ref, again, cand, [FEED] * feeds, threads=1, budget_s=budget_s, bar=bar)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("candidate", "expected"), [(0.5e-3, "faster"), (2e-3, "slower"), (1e-3, "same"), (1.001e-3, "same"), (1.02e-3, "slower")])
def test_quiet_machine(candidate: float, expected: str, alone: bool) -> None:
    found = timed(candidate, alone=alone, feeds=4)
    assert found.verdict == expected and not found.busy and found.findings() == ()
    assert found.speedup == pytest.approx(1e-3 / candidate)
    assert found.reference_ms == pytest.approx(1) and found.median_ms == pytest.approx(candidate * 1e3)
    assert (found.clock, found.rejected) == ("cpu" if alone else "wall", 0)
    assert found.rounds == module.DECIDING_ROUNDS  # enough, where nothing varies


# --- machines that do other things -----------------------------------------------------------------------------------------------------


SIDES = np.random.default_rng(7).random(100_000) < 0.5


def waves(period: float, low: float, high: float) -> Pace:
    """Changes between two paces at random."""
    return lambda now: low if SIDES[int(now / period)] else high


BUSY: dict[str, Pace] = {
    "half as fast from the middle on": lambda now: 1.0 if now < 0.7 else 2.0,
    "half as fast for a while": lambda now: 2.0 if 0.3 < now < 0.8 else 1.0,
    "drifting": lambda now: 1.0 + 0.2 * now,
    "drifting fast": lambda now: 1.0 + 3 * now,
    "two paces, long": waves(0.4, 1.0, 1.7),
    "two paces, short": waves(0.07, 1.0, 1.7),
}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("pace", BUSY.values(), ids=BUSY)
@pytest.mark.parametrize(("candidate", "never"), [(1e-3, ("faster", "slower")), (0.5e-3, ("slower", "same")), (2e-3, ("faster", "same"))])
def test_a_machine_of_varying_pace_makes_no_wrong_verdict(candidate: float, never: tuple[str, ...], pace: Pace, alone: bool) -> None:
    found = timed(candidate, Machine(pace), alone=alone)
    assert found.verdict not in never
    assert found.speedup == pytest.approx(1e-3 / candidate, rel=0.1)


@pytest.mark.parametrize("name", [name for name in BUSY if "drifting fast" not in name and "short" not in name])
def test_a_factor_of_two_is_seen_through_most_of_it(name: str) -> None:
    assert timed(0.5e-3, Machine(BUSY[name]), alone=True).verdict == "faster"
    assert timed(2e-3, Machine(BUSY[name]), alone=True).verdict == "slower"


def test_rounds_in_which_the_reference_moved_do_not_count() -> None:
    found = timed(0.5e-3, Machine(lambda now: 3.0 if 0.05 < now < 0.065 else 1.0), alone=True)
    assert found.rejected == 1 and found.rounds == module.DECIDING_ROUNDS + 1
    assert found.speedup_ci == pytest.approx((2.0, 2.0)) and found.band == pytest.approx((0.99, 1.01)) and not found.busy


def test_other_processes_do_not_count_by_the_cpu_clock_and_are_told() -> None:
    """A hog that comes and goes: by the wall clock the machine is at times three times slower."""
    others = waves(0.05, 0.0, 2 / 3)
    found = timed(0.97e-3, Machine(others=others), alone=True)
    assert found.verdict == "faster" and found.speedup_ci == pytest.approx((1 / 0.97, 1 / 0.97)) and found.rejected == 0
    assert [f.id for f in found.findings()] == ["measure/busy"] and "CPU time" in found.findings()[0].text
    assert f"the runs had the processor for {found.share:.0%} of the time only" in found.findings()[0].text and found.share < module.LEAST_SHARE
    assert timed(0.97e-3, Machine(others=others)).rejected > 0


def test_where_no_round_is_steady_all_count_and_it_is_told() -> None:
    """Each round slows down, the next one begins fast again. (Nine calls find out how long a pass takes; each block is two calls.)"""
    ramp = (1.0, 1.0, 1.1, 1.1, 1.2, 1.2)
    found = timed(0.98e-3, Machine(calls=ramp[3:] + ramp[:3]), alone=True)
    assert found.verdict == "noisy" and found.rejected == found.rounds >= module.FEWEST_ROUNDS
    assert found.busy and f"in {found.rounds} of {found.rounds} rounds" in found.findings()[0].text
    assert found.speedup == pytest.approx(1 / 0.98, rel=0.05)


def test_the_budget_is_in_seconds_of_the_clock() -> None:
    """Three quarters of the time are taken by others: as many rounds as without them."""
    noise = tuple(np.random.default_rng(0).uniform(1, 1.04, 1000))
    rounds = [timed(0.99e-3, Machine(others=lambda _, o=others: o, calls=noise), alone=True, budget_s=0.5).rounds for others in (0.0, 0.75)]  # type: ignore[misc]
    assert rounds[0] == rounds[1] == pytest.approx(0.5 / 0.033, abs=1.5)


def test_waking_a_session_counts_as_one_inference_against_the_budget() -> None:
    """Three passes over 4 feeds take 0.3 s, waking the sessions on one feed each 0.075 s."""
    noise = tuple(np.random.default_rng(0).uniform(1, 1.04, 1000))
    machine = Machine(calls=noise)
    sessions = [Timed(seconds, machine, alone=True) for seconds in (25e-3, 25e-3, 24.75e-3)]
    found = measure(*sessions, [FEED] * 4, threads=1, budget_s=6)
    assert found.rounds == pytest.approx(6 / 0.375, abs=1.5)


def test_what_is_noisy_is_measured_on_within_bounds() -> None:
    """A clear answer that the budget is too short for comes later; where there is none, measuring ends at three times the budget."""
    noise = tuple(np.random.default_rng(4).uniform(1, 1.08, 1000))
    found = timed(0.95e-3, Machine(calls=noise), alone=True, budget_s=0.3)
    assert found.verdict == "faster" and found.rounds * 0.03 > 0.4
    wild = tuple(np.random.default_rng(2).uniform(1, 3, 1000))
    found = timed(1e-3, Machine(calls=wild), alone=True, budget_s=0.5)
    assert found.verdict == "noisy" and 0.5 < found.rounds * 0.03 < 3 * 0.5 * 2


def test_a_bar_that_is_out_of_reach_ends_the_measuring() -> None:
    """What is faster is told with few rounds, however wide the interval; what stays noisy ends at a third of the budget instead of three times of it."""
    wide = tuple(np.random.default_rng(1).uniform(1, 1.3, 1000))
    noise = tuple(np.random.default_rng(2).uniform(1, 3, 1000))
    for calls, candidate, verdict_, close in ((wide, 0.5e-3, "faster", 1.5), (noise, 1e-3, "noisy", 1.01)):
        long, short, near = (timed(candidate, Machine(calls=calls), alone=True, bar=bar) for bar in (1.0, 1000.0, close))
        assert short.verdict == long.verdict == verdict_ and short.rounds < long.rounds / 3
        assert short.reaches(1000.0) is False and short.speedup == pytest.approx(long.speedup, rel=0.2)
        assert near.rounds == long.rounds, "a bar within the interval, or below it, ends nothing"


def test_sessions_take_turns_with_the_candidate_in_the_middle() -> None:
    log: list[str] = []
    measure(Timed(1e-3, log=log, name="A"), Timed(1e-3, log=log, name="B"), Timed(1e-3, log=log, name="C"), [FEED])
    assert ["".join(log[i : i + 3]) for i in range(0, 12, 3)] == ["ACB", "BCA", "ACB", "BCA"]


@pytest.mark.parametrize(("alone", "repeats"), [(True, 25), (False, 100)])
def test_blocks_take_ten_or_forty_milliseconds(alone: bool, repeats: int) -> None:
    fast = Timed(1e-4, alone=alone)
    measure(Timed(1e-3, alone=alone), Timed(1e-3, alone=alone), fast, [FEED] * 4)
    assert {r for _, r in fast.asked} == {1, repeats}


def test_slow_models_are_measured_on_fewer_feeds() -> None:
    slow = Timed(0.1)
    found = measure(slow, Timed(0.1), Timed(0.1), [FEED] * 100, budget_s=12)
    assert max(n for n, _ in slow.asked) == 3
    assert found.reference_ms == pytest.approx(100)


def test_no_feeds() -> None:
    with pytest.raises(DataError):
        measure(Timed(1), Timed(1), Timed(1), [])


@pytest.mark.parametrize(
    ("verdict", "interval", "bar", "expected"),
    [
        ("faster", (1.9, 2.1), 1.5, True),
        ("faster", (1.9, 2.1), 2.0, True),
        ("faster", (1.9, 2.1), 2.2, False),
        ("same", (0.985, 0.998), 1.0, True),
        ("same", (0.985, 0.998), 1.01, False),
        ("slower", (0.9, 0.95), 1.0, False),
        ("noisy", (0.8, 0.99), 1.0, False),
        ("noisy", (0.8, 1.02), 1.0, False),
        ("noisy", (0.8, 1.3), 1.0, True),
        ("noisy", (0.8, 1.17), 1.0, True),
        ("noisy", (0.8, 1.3), 1.2, None),
        ("noisy", (1.3, 1.9), 1.2, True),
    ],
)
def test_bars(verdict: Any, interval: tuple[float, float], bar: float, expected: bool | None) -> None:
    assert Measurement(1.0, 1.0, sum(interval) / 2, interval, (0.99, 1.01), 20, verdict).reaches(bar) is expected


@pytest.mark.parametrize("pace", BUSY.values(), ids=BUSY)
@pytest.mark.parametrize("alone", [False, True])
def test_a_build_on_a_model_that_gains_nothing_passes_again_and_again(pace: Pace, alone: bool) -> None:
    """`--min-speedup 1` does not depend on what else the machine does."""
    for start in range(8):
        assert timed(1e-3, Machine(lambda now, s=start: pace(now + s / 7)), alone=alone).reaches(1.0) is True  # type: ignore[misc]


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_interval_of_the_median_has_its_confidence(values: list[float]) -> None:
    ordered = sorted(values)
    low, high = median_interval(ordered)
    assert low <= float(np.median(ordered)) <= high
    count = len(ordered)
    ranks = median_interval(list(range(1, count + 1)))  # type: ignore[arg-type]
    missed = 2 * sum(math.comb(count, i) for i in range(int(ranks[0]))) / 2**count
    assert missed <= 0.05 or count < 6
    narrower = 2 * sum(math.comb(count, i) for i in range(int(ranks[0]) + 1)) / 2**count
    assert narrower > 0.05


def test_band_is_from_the_tenth_to_the_ninetieth_percentile() -> None:
    assert band(list(range(1, 32))) == (4, 28)
    assert band([1, 2, 3]) == (1, 3)


@pytest.mark.parametrize(
    ("interval", "noise", "expected"),
    [
        ((1.1, 1.2), (0.98, 1.02), "faster"),
        ((0.8, 0.9), (0.98, 1.02), "slower"),
        ((1.01, 1.05), (0.98, 1.02), "same"),
        ((1.01, 1.2), (0.98, 1.02), "noisy"),
        ((0.9, 1.1), (0.9, 1.1), "noisy"),
        ((1.01, 1.02), (0.95, 0.99), "faster"),
        ((0.995, 0.999), (0.97, 0.99), "same"),
    ],
)
def test_verdicts(interval: tuple[float, float], noise: tuple[float, float], expected: str) -> None:
    assert verdict(interval, noise) == expected


@pytest.mark.parametrize(("width", "expected"), [(1.0, "same"), (1.09, "same"), (1.11, "noisy"), (1.14, "noisy")])
def test_an_interval_that_does_not_tell_five_percent_is_noise(width: float, expected: str) -> None:
    assert verdict((width**-0.5, width**0.5), (0.99, 1.01)) == expected


def test_a_round_is_steady_where_the_reference_took_the_same_time_twice() -> None:
    """Within 5%, in either order, whatever the candidate took."""
    steady = [(1.0, 1.0, 9.0), (1.0, 1.05, 0.1), (1.05, 1.0, 1.0), (20.0, 20.0, 1.0)]
    moved = [(1.0, 1.06, 1.0), (1.06, 1.0, 1.06), (2.0, 1.0, 2.0)]
    rounds = module.Rounds("cpu", tuple(row for pair in itertools.zip_longest(steady, moved) for row in pair if row))
    assert rounds.steady == tuple(steady)
    assert rounds.counting == rounds.seconds  # too few are steady to do without the others
    many = module.Rounds("cpu", (*steady * module.FEWEST_ROUNDS, *moved))
    assert many.counting == many.steady == tuple(steady * module.FEWEST_ROUNDS)


@pytest.mark.parametrize(
    ("row", "count", "decided"),
    [
        ((1.0, 1.0, 1.0), module.DECIDING_ROUNDS, True),
        ((1.0, 1.0, 1.0), module.DECIDING_ROUNDS - 1, False),
        ((1.0, 1.0, 0.5), module.DECIDING_ROUNDS, True),
        ((1.0, 1.0, 2.0), module.DECIDING_ROUNDS, True),
        ((1.0, 1.5, 2.0), module.DECIDING_ROUNDS, False),  # none is steady
    ],
)
def test_equal_rounds_decide_once_there_are_enough(row: tuple[float, float, float], count: int, decided: bool) -> None:
    assert module.Rounds("cpu", (row,) * count).decided() is decided


def test_a_gain_that_is_not_known_well_decides_nothing() -> None:
    spread = module.Rounds("cpu", tuple((1.0, 1.0, 1 / speedup) for speedup in np.linspace(1.1, 2.1, module.DECIDING_ROUNDS)))
    assert verdict(spread.interval, spread.band) == "faster" and not spread.decided()
    wide = module.Rounds("cpu", tuple((1.0, again, 1.0) for again in np.linspace(0.96, 1.04, module.DECIDING_ROUNDS)))
    assert not wide.decided()  # no difference, but the reference differs from itself by more than is asked for


@pytest.mark.parametrize(("steady", "moved", "busy"), [(5, 0, False), (3, 2, False), (3, 3, False), (2, 3, True), (0, 5, True)])
def test_a_machine_is_busy_where_most_rounds_are_not_steady(steady: int, moved: int, busy: bool) -> None:
    rounds = [(1.0, 1.01, 1.0)] * steady + [(1.0, 1.5, 1.0)] * moved
    assert module.Rounds("cpu", tuple(rounds)).busy is busy


def test_footprint_of_a_fresh_process(models: Path, model_of: Callable[..., ir.Model], tmp_path: Path) -> None:
    """100 MiB held here do not count there."""
    ballast = np.ones(100 * 2**17)
    model = model_of("g (float[n] x, string[m] s) => (float[k] y, string[m] t) { r = Constant<value_ints = [4194304]>() y = Expand(x, r) t = Identity(s) }")
    ir.save(model, tmp_path / "m.onnx")
    feed = {"x": np.ones(1, np.float32), "s": np.array(["a"], object)}
    found = footprint(tmp_path / "m.onnx", feed)
    assert 16 * 2**20 <= found.peak_bytes < 400 * 2**20 and 0 < found.load_seconds < 10
    assert ballast[0] == 1


def test_footprint_of_what_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08 no model")
    with pytest.raises(ModelError, match="process of its own: onnxruntime cannot load"):
        footprint(tmp_path / "m.onnx", FEED)
