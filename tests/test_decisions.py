"""`compress` repeats what an earlier run decided, to the same bytes, without searching or timing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphcompress import api
from graphcompress.errors import UsageError
from graphcompress.gate import SessionJudge
from graphcompress.ir import to_bytes
from graphcompress.passes.quantize import latency
from graphcompress.record import Record
from tests.support.weights import with_weights

R = np.random.default_rng(5)
F32 = np.float32
FEEDS = [{"x": R.standard_normal((1, 16, 24, 24)).astype(F32)} for _ in range(12)]


def conv(*shape: int) -> np.ndarray[Any, Any]:
    return (R.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(F32)


MODEL = to_bytes(
    with_weights(
        """(float[1,16,24,24] x) => (float[1,8,24,24] y) {
            a = Conv <pads = [1,1,1,1]> (x, u)  b = Relu (a)  c = Tanh (b)  d = Conv <pads = [1,1,1,1]> (c, v)  e = Relu (d)  f = Elu (e)  y = ConvTranspose (f, w)
        }""",
        {"u": conv(64, 16, 3, 3), "v": conv(64, 64, 3, 3), "w": conv(64, 8, 1, 1)},
    )
)


@pytest.fixture(scope="module")
def earlier() -> api.Result:
    return api.compress(MODEL, FEEDS, measure=False)


def integers(record: Record) -> list[str]:
    return next(list(s.decisions["int8"]) for s in record.steps if s.use == "quantize")


def test_the_bytes_are_the_same_and_nothing_is_timed(earlier: api.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionJudge, "measure", None)
    monkeypatch.setattr(latency, "measured_costs", None)
    path = tmp_path / "record.json"
    path.write_text(earlier.record.model_dump_json())
    assert len(integers(earlier.record)) == 2
    again = api.compress(MODEL, FEEDS, decisions=path)
    assert to_bytes(again.model) == to_bytes(earlier.model)
    assert [(s.use, s.decisions) for s in again.record.steps] == [(s.use, s.decisions) for s in earlier.record.steps if s.in_result]
    assert again.record.measurements == []


def test_what_was_decided_counts_and_not_what_would_be_now(earlier: api.Result) -> None:
    document = json.loads(earlier.record.model_dump_json())
    one = integers(earlier.record)[0]
    next(s for s in document["steps"] if s["use"] == "quantize")["decisions"]["int8"] = [one]
    next(s for s in document["steps"] if s["use"] == "store")["decisions"]["weights"] = {"w": "float16"}
    again = api.compress(MODEL, FEEDS, decisions=Record.model_validate(document))
    assert integers(again.record) == [one]
    assert next(s.decisions["weights"] for s in again.record.steps if s.use == "store") == {"w": "float16"}


def test_decisions_that_do_not_fit_are_refused(earlier: api.Result, tmp_path: Path) -> None:
    other = api.open_model(with_weights("(float[1,16,24,24] x) => (float[1,16,24,24] y) { y = Relu (x) }", {}))
    with pytest.raises(UsageError, match="another model"):
        api.compress(other, FEEDS, decisions=earlier.record)
    with pytest.raises(UsageError, match="give no recipe"):
        api.compress(MODEL, FEEDS, decisions=earlier.record, recipe="default")
    with pytest.raises(UsageError, match="cannot be read"):
        api.compress(MODEL, FEEDS, decisions=tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="no record"):
        api.compress(MODEL, FEEDS, decisions=tmp_path / "other.json")
    with pytest.raises(UsageError, match="record of 'compress'"):
        api.compress(MODEL, FEEDS, decisions=earlier.record.model_copy(update={"command": "quantize"}))
    nothing = [s.model_copy(update={"in_result": False}) for s in earlier.record.steps]
    with pytest.raises(UsageError, match="nothing to repeat"):
        api.compress(MODEL, FEEDS, decisions=earlier.record.model_copy(update={"steps": nothing}))
