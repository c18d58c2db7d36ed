"""Judging on sessions: which are opened and how long they stay, and whose fault it is where something does not run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import parser

from graphcompress import ir
from graphcompress.data import Dataset
from graphcompress.errors import DataError, ModelError
from graphcompress.gate import CandidateFails, SessionJudge, judge
from graphcompress.ir.files import serialize
from graphcompress.ir.files.snapshot import Snapshot
from graphcompress.runtime.measure import BUDGET_S
from graphcompress.runtime.place import LocalPlace
from graphcompress.runtime.session import LocalSession
from graphcompress.step import Context

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'
ADD = "g (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }"
# Fails where the product of the shape is not that of x.
RESHAPE = "g (float[n] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }"


def model(text: str) -> ir.Model:
    return ir.model_from_proto(parser.parse_model(HEAD + text))


def dataset(feeds: Sequence[dict[str, Any]]) -> Dataset:
    return Dataset("test", "0", range(len(feeds)), lambda indices: iter([feeds[i] for i in indices]))


FEEDS = dataset([{"x": np.full((2, 3), i, np.float32)} for i in range(4)])


class WatchedPlace:
    """A `LocalPlace` that knows which sessions were opened, by model and threads, which are open, and how many were so at once."""

    def __init__(self, provider: str = "cpu") -> None:
        self.opened: list[tuple[ir.Model, int | None]] = []
        self.open_now: list[tuple[int, int | None]] = []
        self.open_settings: list[set[int | None]] = []
        self.provider = provider

    @property
    def reference(self) -> WatchedPlace:
        return self

    def open(self, model: Any, *, threads: int | None = None, dims: Any = None, label: str | None = None) -> LocalSession:
        session = LocalPlace().open(model, threads=threads, dims=dims, label=label)
        entry = id(session), threads
        self.opened.append((model, threads))
        self.open_now.append(entry)
        self.open_settings.append({setting for _, setting in self.open_now})
        close = session.close

        def closing() -> None:
            if entry in self.open_now:
                self.open_now.remove(entry)
            close()

        session.close = closing  # type: ignore[method-assign]
        return session

    def describe(self) -> dict[str, Any]:
        return LocalPlace().describe()

    def footprint(self, model: Any, feed: Any) -> Any:
        raise AssertionError

    def of(self, model: ir.Model) -> list[int | None]:
        return [threads for opened, threads in self.opened if isinstance(opened, Snapshot) and opened.source is model]


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The sessions that were timed; nothing really is."""
    calls: list[tuple[Any, ...]] = []

    def measure(first: Any, again: Any, candidate: Any, feeds: Any, *, threads: int, budget_s: float, bar: float) -> Any:
        for session in (first, again, candidate):
            session.run(feeds[0])
        calls.append((first, again, candidate))
        return SimpleNamespace(verdict="same")

    monkeypatch.setattr("graphcompress.runtime.measure.measure", measure)
    return calls


def session_judge(original: ir.Model, place: WatchedPlace, feeds: Dataset = FEEDS, judging: Dataset | None = None, threads: int | None = 1) -> SessionJudge:
    return SessionJudge(original, feeds, judging or feeds, Context(place=place, threads=threads), {})


def test_comparing_and_timing_share_sessions_and_those_of_the_original_stay() -> None:
    original, place = model(ADD), WatchedPlace()
    candidates = [original.copy() for _ in range(3)]
    judging = session_judge(original, place)
    for candidate in candidates:
        assert judging.compare(candidate).agreement == 1.0
        judging.measure(candidate, 1)
    assert place.of(original) == [1, 1] and [place.of(c) for c in candidates] == [[1], [1], [1]]
    assert len(place.open_now) == 3
    judging.close()
    assert place.open_now == []


def test_a_message_is_put_together_once_for_all_sessions_of_a_model(monkeypatch: pytest.MonkeyPatch, measured: list[tuple[Any, ...]]) -> None:
    built: list[ir.Model] = []
    inline = serialize.inline
    monkeypatch.setattr(serialize, "inline", lambda source: (built.append(source.source), inline(source))[1])
    original = model(ADD)
    candidates = [original.copy() for _ in range(2)]
    judging = session_judge(original, WatchedPlace())
    for candidate in candidates:
        judging.compare(candidate)
        judging.measure(candidate, 1)
        judging.measure(candidate, 2)
    assert measured and judging.snapshot(candidates[1]).message.length == judging.snapshot(original).message.length
    assert built == [original, *candidates]
    assert judging.snapshot(candidates[0]).source is candidates[0]


def test_the_message_of_a_step_that_has_one_is_judged() -> None:
    candidate = Snapshot(model(ADD))
    assert session_judge(model(ADD), WatchedPlace()).snapshot(candidate) is candidate


def test_sessions_of_a_small_model_stay_open_for_every_thread_setting(measured: list[tuple[Any, ...]]) -> None:
    original, place = model(ADD), WatchedPlace()
    candidate = original.copy()
    judging = session_judge(original, place)
    for threads in (1, 2, 1):
        judging.measure(candidate, threads)
    assert len(measured) == 3
    assert place.of(original) == [1, 1, 2, 2] and place.of(candidate) == [1, 2]


def test_all_measurements_of_a_run_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each takes three times what it plans with, as noisy ones do, the next ones plan with less, and all together end."""
    now, plans = [0.0], list[tuple[float, float]]()

    def measure(*sessions: Any, threads: int, budget_s: float, bar: float) -> Any:
        now[0] += 3 * budget_s
        plans.append((budget_s, bar))

    monkeypatch.setattr("graphcompress.runtime.measure.measure", measure)
    monkeypatch.setattr(judge.time, "perf_counter", lambda: now[0])
    original = model(ADD)
    judging = session_judge(original, WatchedPlace())
    for _ in range(12):
        judging.measure(original.copy(), 1, 1000.0)
    budgets = [budget for budget, _ in plans]
    assert budgets[0] == BUDGET_S and sorted(budgets, reverse=True) == budgets and budgets[-1] == judge.LEAST_TIMING_S
    assert now[0] < judge.TIMING_S + 12 * 3 * judge.LEAST_TIMING_S and {bar for _, bar in plans} == {1000.0}


def test_the_original_beside_itself_needs_one_session() -> None:
    original, place = model(ADD), WatchedPlace()
    assert session_judge(original, place).compare(original).agreement == 1.0
    assert place.of(original) == [1]


def test_a_large_model_is_never_open_for_two_thread_settings(monkeypatch: pytest.MonkeyPatch, measured: list[tuple[Any, ...]]) -> None:
    original, place = model(ADD), WatchedPlace()
    monkeypatch.setattr(judge, "thread_settings", lambda threads, cores: (1, 2))
    monkeypatch.setattr(judge, "LARGE", 0)
    judging = session_judge(original, place, threads=None)
    candidate = original.copy()
    judging.compare(candidate)
    judging.measure(candidate, 1)
    judging.measure(candidate, 2)
    assert all(len(settings) == 1 for settings in place.open_settings)
    assert all(first is again for first, again, _ in measured)


def test_what_does_not_run_is_the_candidates_fault_where_the_original_runs() -> None:
    feeds = dataset([{"x": np.ones(6, np.float32), "s": np.int64([2, 3])}])
    judging = session_judge(model(RESHAPE), WatchedPlace(), feeds)
    wrong = model(RESHAPE.replace("Reshape(x, s)", "Reshape(x, t)").replace("{", "{ o = Constant<value_int = 1>() t = Add(s, o)"))
    for attempt in (lambda: judging.compare(wrong), lambda: judging.measure(wrong, 1)):
        with pytest.raises(CandidateFails, match="cannot run the compressed model"):
            attempt()


@pytest.mark.parametrize("ask", [lambda j, m: j.compare(m), lambda j, m: j.measure(m, 1)])
def test_what_does_not_run_is_the_originals_fault_where_it_does_not_run_either(ask: Callable[[Any, Any], Any]) -> None:
    feeds = dataset([{"x": np.ones(5, np.float32), "s": np.int64([2, 3])}])
    original = model(RESHAPE)
    with pytest.raises(ModelError, match="cannot run") as caught:
        ask(session_judge(original, WatchedPlace(), feeds), original.copy())
    assert "compressed" not in str(caught.value)


def test_the_original_must_run_on_the_feeds_of_calibration_too() -> None:
    good, bad = {"x": np.ones((1, 3), np.float32)}, {"x": np.ones((1, 4), np.float32)}
    judging = session_judge(model(ADD), WatchedPlace(), dataset([good, bad]), dataset([good]))
    with pytest.raises(DataError, match="cannot run"):
        judging.check_original()


def test_the_original_is_tried_on_all_feeds_once() -> None:
    runs: list[int] = []
    feeds = Dataset("test", "0", range(2), lambda indices: (runs.append(i) or {"x": np.ones((1, 3), np.float32)} for i in indices))
    judging = session_judge(model(ADD), WatchedPlace(), feeds, FEEDS)
    for _ in range(3):
        judging.check_original()
    assert runs == [0, 1]


def test_what_there_is_to_say_belongs_to_the_model_that_was_compared() -> None:
    original = model(ADD)
    one, other = original.copy(), model(ADD.replace("Add(x, x)", "Neg(a)").replace("{", "{ a = Neg(x) b = Add(a, a)").replace("y = Neg(a)", "y = Neg(b)"))
    judging = session_judge(original, WatchedPlace())
    judging.compare(one)
    judging.compare(other)
    assert judging.info(one).nodes == {"CPUExecutionProvider": 1}
    assert judging.info(other).nodes != {"CPUExecutionProvider": 1} and judging.info(original).nodes is None


def test_the_original_is_compared_at_the_reference_and_timed_at_the_place() -> None:
    reference = WatchedPlace()

    class Elsewhere(WatchedPlace):
        @property
        def reference(self) -> WatchedPlace:
            return reference

    original, place = model(ADD), Elsewhere()
    candidate = original.copy()
    judging = session_judge(original, place)
    judging.compare(candidate)
    assert reference.of(original) == [1] and place.of(original) == [] and place.of(candidate) == [1]
    judging.measure(candidate, 1)
    assert reference.of(original) == [1] and place.of(original) == [1, 1] and reference.of(candidate) == []


def test_bytes_of_constants() -> None:
    assert judge.constant_bytes(model("g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }")) == 12


@pytest.mark.parametrize(("size", "large"), [(16 * 2**20 - 1, False), (16 * 2**20, True)])
def test_from_16_mib_of_weights_on_sessions_are_counted(size: int, large: bool, monkeypatch: pytest.MonkeyPatch, measured: list[tuple[Any, ...]]) -> None:
    monkeypatch.setattr(judge, "constant_bytes", lambda model: size)
    original = model(ADD)
    session_judge(original, WatchedPlace()).measure(original.copy(), 1)
    ((first, again, _),) = measured
    assert (first is again) is large


def test_the_size_of_a_model_is_that_of_its_file(tmp_path: Path) -> None:
    original, candidate = model(ADD), model(ADD.replace("Add(x, x)", "Mul(x, x)"))
    ir.save(candidate, tmp_path / "c.onnx")
    judging = session_judge(original, WatchedPlace())
    assert judging.size(candidate) == (tmp_path / "c.onnx").stat().st_size
    (tmp_path / "o.onnx").write_bytes(ir.to_bytes(original) + b"\0" * 7)
    beside = SessionJudge(original, FEEDS, FEEDS, Context(place=WatchedPlace(), threads=1), {}, tmp_path / "o.onnx")
    assert beside.size(original) == (tmp_path / "o.onnx").stat().st_size  # of the file, without a look at the model
