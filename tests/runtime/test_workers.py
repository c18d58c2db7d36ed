"""Jobs shared by processes: order, errors, and processes that end in the middle."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pickled_workers import PickledWorkers

from graphcompress import open_workers
from graphcompress.errors import DataError, RuntimeUnavailable, UsageError
from graphcompress.ir import load
from graphcompress.ir.analysis.output_kinds import output_kinds
from graphcompress.ir.files import serialize
from graphcompress.runtime import session
from graphcompress.runtime.compare_job import compare_by
from graphcompress.runtime.workers import LOSSES, ProcessWorkers, Workers, message_for


@dataclass(frozen=True)
class Squares:
    """Squares numbers. A process ends at the number of a name in `folder`, once (`always`: whenever it meets it); the opening is noted there."""

    folder: str
    deadly: int = -1
    always: bool = False

    def open(self) -> Callable[[int], int]:
        Path(self.folder, f"opened-{os.getpid()}-{time.monotonic_ns()}").touch()
        return self.square

    def square(self, number: int) -> int:
        mark = Path(self.folder, "ended")
        if number == self.deadly and (self.always or not mark.exists()):
            mark.touch()
            os._exit(9)
        if number == 1000:
            raise DataError("a thousand is too much")
        time.sleep(0.05 if number % 2 else 0.0)  # so that later parts are done earlier
        return number * number


@pytest.fixture(params=["processes", "cluster"])
def workers(request: Any) -> Iterator[Workers]:
    with open_workers(2, "local" if request.param == "cluster" else None) as opened:
        assert opened is not None
        yield opened


def test_outcomes_come_in_the_order_of_the_parts_and_a_job_is_opened_once_per_process(workers: Workers, tmp_path: Path) -> None:
    assert list(workers.map(Squares(str(tmp_path)), range(11))) == [n * n for n in range(11)]
    assert 1 <= len(list(tmp_path.iterdir())) <= 2
    assert list(workers.map(Squares(str(tmp_path)), ())) == []


def test_a_process_that_ends_in_the_middle_changes_nothing(workers: Workers, tmp_path: Path) -> None:
    assert list(workers.map(Squares(str(tmp_path), deadly=5), range(11))) == [n * n for n in range(11)]
    assert (tmp_path / "ended").exists()


def test_what_a_part_raises_is_raised(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a thousand is too much"):
        list(workers.map(Squares(str(tmp_path)), (1, 1000, 2)))


def test_parts_are_taken_as_they_are_needed(tmp_path: Path) -> None:
    taken: list[int] = []

    def parts() -> Iterable[int]:
        for number in range(40):
            taken.append(number)
            yield number

    outcomes = ProcessWorkers(1).map(Squares(str(tmp_path)), parts())
    assert next(outcomes) == 0
    assert len(taken) < 10


def test_a_comparison_of_large_models_leaves_no_files(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends removes nothing."""
    monkeypatch.setattr(session, "LARGE", 0)
    monkeypatch.setattr(session.tempfile, "mkdtemp", lambda **_: pytest.fail("a folder was made"))
    model = load(models / "digits_cnn" / "model.onnx")
    feeds = [{spec.name: np.ones([d if isinstance(d, int) else 1 for d in spec.shape or ()], np.float32) for spec in model.inputs}]
    compared = compare_by(PickledWorkers(), model, model, [feeds], output_kinds(model))
    assert compared.agreement == 1.0 and compared.feeds == 1


def test_a_model_that_no_message_holds_is_refused(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "LARGEST_MESSAGE", 1000)
    with pytest.raises(UsageError, match="leave out --workers"):
        message_for(load(models / "digits_cnn" / "model.onnx"))


def test_processes_that_always_end_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=f"{LOSSES + 1} worker processes ended one after the other"):
        list(ProcessWorkers(1).map(Squares(str(tmp_path), deadly=0, always=True), range(3)))


@pytest.mark.parametrize(
    ("count", "cluster", "message"),
    [(0, None, "give at least 1"), (2, "tcp://127.0.0.1:8786", "has its own"), (None, "tcp://127.0.0.1:9", "There is no dask scheduler")],
)
def test_workers_that_cannot_be_had(count: int | None, cluster: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message), open_workers(count, cluster):
        pass
