"""What functions say and ask of a place that is not this process: its times, its machine, its cores, its energy."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphcompress import api
from graphcompress.errors import UsageError
from graphcompress.gate import SessionJudge
from graphcompress.ir import to_bytes
from graphcompress.passes.quantize import latency
from graphcompress.recipe import recipe_of
from graphcompress.runtime import energy
from graphcompress.runtime.measure import Measurement
from graphcompress.runtime.place import LocalPlace
from tests.support.weights import with_weights

R = np.random.default_rng(5)
FEEDS = [{"x": R.standard_normal((1, 16, 12, 12)).astype(np.float32)} for _ in range(8)]
MODEL = to_bytes(
    with_weights(
        "(float[1,16,12,12] x) => (float[1,32,12,12] y) { a = Conv <pads = [1,1,1,1]> (x, u)  b = Relu (a)  y = Conv <pads = [1,1,1,1]> (b, v) }",
        {"u": R.standard_normal((32, 16, 3, 3)).astype(np.float32), "v": R.standard_normal((32, 32, 3, 3)).astype(np.float32)},
    )
)


WORKS: tuple[Callable[..., api.Result], ...] = (api.compress, api.quantize, api.prune)


class Board(LocalPlace):
    """Runs here, and says that it is elsewhere."""

    timed = True

    def describe(self) -> dict[str, Any]:
        return {**LocalPlace.describe(self), "place": "board", "timed": self.timed, "cpu": "another processor", "cores": 64}


class Emulator(Board):
    timed = False


@pytest.mark.parametrize(
    "work",
    [
        lambda place: api.compress(MODEL, FEEDS, goal="latency=0.5", place=place),
        lambda place: api.compress(MODEL, FEEDS, recipe=recipe_of("mine", [("prune", {"latency": 0.5})]), place=place),
        lambda place: api.prune(MODEL, FEEDS, latency=0.5, place=place),
        lambda place: api.compress(MODEL, FEEDS, min_speedup=1.5, place=place),
    ],
    ids=["goal", "recipe", "prune", "bar"],
)
def test_what_needs_times_is_refused_where_they_mean_nothing(work: Callable[[Any], object]) -> None:
    with pytest.raises(UsageError, match=r"needs times, and those at the place 'board' mean nothing"):
        work(Emulator())


def test_no_command_times_where_times_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionJudge, "measure", None)
    for work in WORKS:
        options: dict[str, Any] = {"macs": 0.8, "best_effort": True} if work is api.prune else {}
        assert work(MODEL, FEEDS, place=Emulator(), **options).record.measurements == []


def test_settings_and_machine_are_those_of_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: SessionJudge, model: Any, threads: int, bar: float = 1.0) -> Measurement:
        return Measurement(1.0, 0.5, 2.0, (1.9, 2.1), (0.99, 1.01), 10, "faster", threads)

    def here(*arguments: Any, **words: Any) -> Any:
        raise AssertionError("times of this process decide nothing about a place elsewhere")

    monkeypatch.setattr(SessionJudge, "measure", measure)
    monkeypatch.setattr(latency, "measured_costs", here)
    for work in WORKS:
        options: dict[str, Any] = {"macs": 0.8, "best_effort": True} if work is api.prune else {}
        record = work(MODEL, FEEDS, place=Board(), **options).record
        assert [timing.threads for timing in record.measurements] == [1, 64]
        assert record.place == "board" and record.machine is not None
        assert (record.machine["cpu"], record.machine["cores"]) == ("another processor", 64)
    local = api.compress(MODEL, FEEDS, measure=False).record
    assert local.place is None and local.machine is not None and local.machine["cpu"] != "another processor"


def test_energy_and_price_of_a_place_are_not_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(energy, "counters", lambda: [SimpleNamespace(read=lambda: next(counts), limit=10**9)])
    monkeypatch.setattr(energy, "SECONDS", 0.01)
    monkeypatch.setattr("graphcompress.runtime.machine.cores", lambda: 2)
    report = api.benchmark(MODEL, data=FEEDS, providers=["cpu"], places=[Board()], threads=1, price_per_hour=7.2)
    here, there = report.models
    assert (here.place, there.place) == (None, "board")
    assert here.joules is not None and here.joules > 0 and there.joules is None
    assert here.cost_per_million == pytest.approx(7.2 / 2 * here.median_ms / 3.6)
    assert there.cost_per_million == pytest.approx(7.2 / 64 * there.median_ms / 3.6)
