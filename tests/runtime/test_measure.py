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
from graphcompress.runtime import measure as room
from graphcompress.runtime.measure import ORDERS, band, footprint, measure, measure_models, median_interval, peak_memory, verdict

FEED = {"x": np.ones(1, np.float32)}


class Timed:
    """A session that claims to need `seconds` for each feed, varied in turn by the factors of `noise`."""

    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()

    def __init__(self, seconds: float, noise: Sequence[float] = (1.0,), log: list[str] | None = None, name: str = "") -> None:
        self.seconds, self.noise, self.log, self.name = seconds, itertools.cycle(noise), log, name
        self.asked: list[tuple[int, int]] = []

    def time(self, feeds: Sequence[Any], repeats: int) -> float:
        self.asked.append((len(feeds), repeats))
        if self.log is not None and repeats > 1:
            self.log.append(self.name)
        return self.seconds * len(feeds) * next(self.noise)

    def run(self, feed: Any) -> dict[str, Any]:
        raise AssertionError("timing goes through time()")

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return None


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PAUSE_S", 0)


@pytest.mark.parametrize(("candidate", "expected"), [(0.5e-3, "faster"), (2e-3, "slower"), (1e-3, "same"), (1.001e-3, "slower")])
def test_quiet_machine(candidate: float, expected: str) -> None:
    found = measure(Timed(1e-3), Timed(1e-3), Timed(candidate), [FEED] * 4)
    assert found.verdict == expected
    assert found.speedup == pytest.approx(1e-3 / candidate)
    assert found.reference_ms == pytest.approx(1) and found.median_ms == pytest.approx(candidate * 1e3)
    assert found.rounds == room.MOST_ROUNDS


def test_difference_inside_the_band_is_none() -> None:
    noise = [1, 1.02, 1, 0.98, 1.01, 0.99, 1.03]
    found = measure(Timed(1e-3, noise), Timed(1e-3, noise[::-1]), Timed(0.995e-3, noise[2:]), [FEED])
    assert found.band[0] < 1 < found.band[1]
    assert found.verdict in ("same", "noisy")


def test_wide_band_is_measured_again_then_called_noisy() -> None:
    ref, again = Timed(1e-3, [1, 1.3, 0.8, 1.1, 0.9]), Timed(1e-3, [1.2, 0.7, 1])
    cand = Timed(0.98e-3)
    found = measure(ref, again, cand, [FEED])
    assert found.verdict == "noisy" and found.band[1] - found.band[0] > 0.05
    assert sum(r > 1 for _, r in cand.asked) == 2 * room.MOST_ROUNDS


def test_clear_difference_beside_a_wide_band_counts() -> None:
    found = measure(Timed(1e-3, [1, 1.3, 0.8, 1.1, 0.9]), Timed(1e-3, [1.2, 0.7, 1]), Timed(0.2e-3), [FEED])
    assert found.verdict == "faster"


def test_sessions_take_turns() -> None:
    log: list[str] = []
    measure(Timed(1e-3, log=log, name="A"), Timed(1e-3, log=log, name="B"), Timed(1e-3, log=log, name="C"), [FEED])
    turns = ["".join(log[i : i + 3]) for i in range(0, 18, 3)]
    assert sorted(set(turns)) == sorted("".join("ABC"[i] for i in order) for order in ORDERS)
    for place in range(3):  # each stands in each place equally often
        assert sorted(t[place] for t in turns) == list("AABBCC")


def test_blocks_take_about_forty_milliseconds() -> None:
    fast = Timed(1e-4)
    measure(Timed(1e-3), Timed(1e-3), fast, [FEED] * 4)
    assert {r for _, r in fast.asked} == {1, 100}


def test_slow_models_are_measured_on_fewer_feeds() -> None:
    slow = Timed(0.1)
    found = measure(slow, Timed(0.1), Timed(0.1), [FEED] * 100, budget_s=12)
    assert max(n for n, _ in slow.asked) == 3
    assert found.reference_ms == pytest.approx(100)


def test_no_feeds() -> None:
    with pytest.raises(DataError):
        measure(Timed(1), Timed(1), Timed(1), [])


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
        ((1.01, 1.2), (0.98, 1.02), "same"),
        ((0.9, 1.1), (0.9, 1.1), "noisy"),
        ((1.01, 1.02), (0.95, 0.99), "faster"),
        ((0.995, 0.999), (0.97, 0.99), "same"),
    ],
)
def test_verdicts(interval: tuple[float, float], noise: tuple[float, float], expected: str) -> None:
    assert verdict(interval, noise) == expected


def test_models_are_measured_by_thread_setting(models: Path) -> None:
    path = models / "digits_mlp" / "model.onnx"
    spec = ir.load(path).inputs[0]
    feed = {spec.name: np.ones([d if isinstance(d, int) else 1 for d in spec.shape or ()], np.float32)}
    found = measure_models(path, ir.load(path), [feed], threads=1, budget_s=0.3)
    assert set(found) == {1}
    assert found[1].speedup > 0 and found[1].to_dict()["rounds"] >= 6 and found[1].threads == 1


def test_footprint_of_a_fresh_process(models: Path, model_of: Callable[..., ir.Model], tmp_path: Path) -> None:
    """100 MiB held here do not count there."""
    ballast = np.ones(100 * 2**17)
    model = model_of("g (float[n] x, string[m] s) => (float[k] y, string[m] t) { r = Constant<value_ints = [4194304]>() y = Expand(x, r) t = Identity(s) }")
    ir.save(model, tmp_path / "m.onnx")
    feed = {"x": np.ones(1, np.float32), "s": np.array(["a"], object)}
    found = footprint(tmp_path / "m.onnx", feed)
    assert 16 * 2**20 <= found.model_bytes < 60 * 2**20 and found.peak_bytes < 400 * 2**20 and 0 < found.load_seconds < 10
    assert ballast[0] == 1


def test_footprint_of_what_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08 no model")
    with pytest.raises(ModelError, match="process of its own: onnxruntime cannot load"):
        peak_memory(tmp_path / "m.onnx", FEED)
