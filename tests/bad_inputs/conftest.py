"""The bench on which every bad input is tried."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bad_input_bench import Bench, good_feeds, good_model


@pytest.fixture(scope="session")
def good_bytes() -> bytes:
    return good_model().SerializeToString()


@pytest.fixture
def bench(tmp_path: Path, good_bytes: bytes, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A folder with a good model, good data, an earlier output and an earlier record; the current and the temporary folder are watched too."""
    made = Bench(tmp_path, capfd)
    made.model.write_bytes(good_bytes)
    made.write_feeds(good_feeds())
    made.out.write_bytes(b"the previous output")
    made.record.write_bytes(b"the previous record")
    monkeypatch.chdir(made.here)
    monkeypatch.setenv("TMPDIR", str(made.temporary))
    monkeypatch.setattr("tempfile.tempdir", str(made.temporary))
    yield made
    made.close()
