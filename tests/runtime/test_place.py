"""Places: where sessions are opened. Nothing that judges assumes onnxruntime in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from child_place import ChildPlace

import graphcompress
from graphcompress import ir
from graphcompress.errors import ModelError, RuntimeUnavailable, UsageError
from graphcompress.ir import TensorSpec
from graphcompress.runtime import providers
from graphcompress.runtime.measure import Measurement
from graphcompress.runtime.place import LocalPlace, fixed_dims, open_for
from graphcompress.runtime.session import LocalSession
from graphcompress.step import Context
from graphcompress.targets import load_target

ModelOf = Callable[..., ir.Model]
FEEDS = [{"x": np.full((2, 3), i, np.float32)} for i in range(8)]


@pytest.fixture
def child() -> Iterator[ChildPlace]:
    place = ChildPlace()
    yield place
    place.end()


@pytest.fixture
def linear(model_of: ModelOf) -> ir.Model:
    return model_of("g (float[n, 3] x) => (float[n, 3] y) { a = Identity(x) y = Add(a, a) }")


def test_fixed_dims_are_named_or_placed() -> None:
    specs = [TensorSpec("x", "float", ("n", 3, None)), TensorSpec("s", "float", ()), TensorSpec("r", "float", None)]
    feed = {"x": np.ones((2, 3, 4)), "s": np.ones(()), "r": np.ones(9)}
    assert fixed_dims(specs, feed) == {"n": 2, "x[2]": 4}


def test_the_default_is_this_process_on_the_targets_provider_with_its_session_options() -> None:
    target = load_target("cpu").model_copy(update={"provider": "openvino", "session_options": {"session.key": "1"}})
    assert Context(target=target).judging_place() == LocalPlace("openvino", (("session.key", "1"),))
    assert Context().judging_place() == LocalPlace()


def test_session_options_reach_the_session(model_of: ModelOf) -> None:
    """Gelu is approximated where this entry says so."""
    gelu = model_of("g (float[n] x) => (float[n] y) { y = com.microsoft.Gelu(x) }", extra=', "com.microsoft" : 1')
    feed = {"x": np.float32([0.7, 1.3])}
    with LocalPlace(config=(("optimization.enable_gelu_approximation", "1"),)).open(gelu) as fast, LocalPlace().open(gelu) as plain:
        assert 1e-7 < np.abs(fast.run(feed)["y"] - plain.run(feed)["y"]).max() < 1e-2


def test_the_reference_is_the_plain_cpu_provider() -> None:
    place = LocalPlace()
    assert place.reference is place
    assert LocalPlace("openvino").reference == LocalPlace() and LocalPlace(config=(("a", "b"),)).reference == LocalPlace()


def test_a_place_is_described_without_a_model() -> None:
    described = LocalPlace("CPUExecutionProvider").describe()
    assert described["provider"] == "cpu" and {"runtime", "version", "machine", "cpu", "flags", "cores"} <= described.keys()
    with pytest.raises(UsageError, match="warp"):
        LocalPlace("warp").describe()
    if "cuda" not in providers.usable():
        with pytest.raises(RuntimeUnavailable, match="onnxruntime-gpu"):
            LocalPlace("cuda").describe()


def test_messages_call_the_model_by_its_label(model_of: ModelOf) -> None:
    reshape = model_of("g (float[n] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }")
    with LocalPlace().open(reshape, label="the compressed model") as session, pytest.raises(ModelError, match="cannot run the compressed model"):
        session.run({"x": np.ones(5, np.float32), "s": np.int64([2, 3])})


def test_there_is_nothing_to_say_on_the_cpu(linear: ir.Model) -> None:
    session, notes = open_for(LocalPlace(), linear, FEEDS)
    with closing(session):
        assert notes == () and session.inputs[0].shape == ("n", 3)


class HalfPlace:
    """A place whose provider takes no node while dimensions are free."""

    reference = LocalPlace()

    def open(self, model: Any, *, threads: int | None = None, dims: Mapping[str, int] | None = None, label: str | None = None) -> Any:
        session = LocalSession(model, threads=threads, dims=dims, label=label)
        hint = None if dims else "half took none of the nodes"
        session.describe = lambda: {"provider": "half", "share": 0.0 if hint else 1.0, "hint": hint}  # type: ignore[method-assign]
        return session

    def describe(self) -> dict[str, Any]:
        return {"provider": "half"}

    def footprint(self, model: Path, feed: Any) -> Any:
        raise AssertionError


def test_dimensions_are_fixed_where_all_feeds_agree_and_that_is_said(linear: ir.Model) -> None:
    session, notes = open_for(HalfPlace(), linear, FEEDS)
    with closing(session):
        assert session.inputs[0].shape == (2, 3) and notes == (
            "half took no node while dimensions were free; they were fixed to those of the feeds for this run: n = 2.",
        )
    session, notes = open_for(HalfPlace(), linear, [*FEEDS, {"x": np.ones((5, 3), np.float32)}])
    with closing(session):
        assert session.inputs[0].shape == ("n", 3) and notes == ("half took none of the nodes",)


def test_compress_and_validate_run_at_the_place_that_is_given(linear: ir.Model, child: ChildPlace) -> None:
    result = graphcompress.compress(linear, FEEDS, place=child, measure=False)
    assert result.record.comparison is not None and result.record.comparison.agreement == 1.0 and child.opened
    before = len(child.opened)
    report = graphcompress.validate(linear, result.model, FEEDS, place=child)
    assert report.agreement == 1.0 and len(child.opened) == before + 2
    with pytest.raises(UsageError, match="exclude each other"):
        graphcompress.validate(linear, linear, FEEDS, place=child, provider="cpu")


class Bench:
    """A place that says it lies elsewhere, with three cores; `timed`: whether its times mean something."""

    reference = LocalPlace()

    def __init__(self, timed: bool) -> None:
        self.timed = timed

    def open(self, model: Any, **options: Any) -> LocalSession:
        return LocalPlace().open(model, **options)

    def describe(self) -> dict[str, Any]:
        return LocalPlace().describe() | {"place": "bench", "cores": 3, "timed": self.timed}

    def footprint(self, model: Path, feed: Any) -> Any:
        raise AssertionError


COMMANDS: dict[str, Any] = {
    "compress": lambda model, place: graphcompress.compress(model, FEEDS * 8, place=place),
    "quantize": lambda model, place: graphcompress.quantize(model, FEEDS * 8, place=place),
    "prune": lambda model, place: graphcompress.prune(model, FEEDS * 8, macs=1.0, best_effort=True, place=place),
}


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_timed_and_said_follows_from_the_place(command: str, timed: bool, linear: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(*arguments: Any, threads: int, **options: Any) -> Measurement:
        measured.append(threads)
        return Measurement(2.0, 1.0, 2.0, (1.9, 2.1), (0.99, 1.01), 3, "faster", threads)

    monkeypatch.setattr("graphcompress.runtime.measure.measure", measure)
    record = COMMANDS[command](linear, Bench(timed)).record
    assert record.place == "bench"
    assert {t.threads for t in record.measurements} == set(measured) == ({1, 3} if timed else set())
    assert any("'bench' mean nothing" in note for note in record.notes) == (not timed)


def test_a_goal_for_the_latency_needs_a_place_whose_times_mean_something(linear: ir.Model) -> None:
    with pytest.raises(UsageError, match="'bench' mean nothing"):
        graphcompress.prune(linear, FEEDS * 8, latency=0.5, place=Bench(False))
    with pytest.raises(UsageError, match="'bench' mean nothing"):
        graphcompress.compress(linear, FEEDS * 8, goal="latency=0.5", place=Bench(False))


@pytest.mark.slow
def test_timing_happens_at_the_place_that_is_given(linear: ir.Model, child: ChildPlace) -> None:
    benched = graphcompress.benchmark(linear, [linear], FEEDS, places=[child], threads=1)
    assert len(benched.models) == 2 and benched.machine["machine"] == "elsewhere" and child.opened == [1, 1, 1]


JUDGING = """
import json, sys
import numpy as np
import graphcompress
from child_place import ChildPlace
place = ChildPlace()
model = graphcompress.load(sys.argv[1])
feed = {s.name: np.ones([d if isinstance(d, int) else 1 for d in s.shape], np.float32) for s in model.inputs}
report = graphcompress.validate(model, model, [feed] * 8, place=place)
from graphcompress.gate import SessionJudge
from graphcompress.data import Dataset
feeds = Dataset("", "", range(8), lambda indices: iter([feed for _ in indices]))
from graphcompress.step import Context
judge = SessionJudge(model, feeds, feeds, Context(place=place, threads=1), {})
agreement, verdict = judge.compare(model.copy()).agreement, judge.measure(model.copy(), 1).verdict
judge.close()
place.end()
print(json.dumps([report.agreement, agreement, verdict, "onnxruntime" in sys.modules]))
"""


@pytest.mark.slow
def test_judging_elsewhere_loads_no_onnxruntime_here(repository: Path, models: Path) -> None:
    path = os.pathsep.join([str(repository), str(repository / "tests" / "support")])
    done = subprocess.run(
        [sys.executable, "-c", JUDGING, str(models / "digits_mlp" / "model.onnx")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    agreement, again, verdict, loaded = json.loads(done.stdout)
    assert agreement == again == 1.0 and verdict in ("faster", "slower", "same", "noisy") and loaded is False
