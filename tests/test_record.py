"""Records: what varies is marked, and the page on formats is what the models say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from graphcompress.record import DOCUMENTS, FORMAT, Record, Size, StepRun


def record(**more: Any) -> Record:
    size = Size(bytes=10, parameters=1, nodes=1, macs=None, operators={"Relu": 1})
    fields: dict[str, Any] = {
        "graphcompress": "0",
        "libraries": {},
        "command": "compress",
        "model": {"path": "m.onnx", "sha256": "0"},
        "data": None,
        "recipe": {"name": "default", "sha256": "0"},
        "target": "cpu",
        "provider": "cpu",
        "threads": None,
        "seed": 0,
        "before": size,
        "after": size,
        "smaller": 1.0,
        "steps": [
            {
                "use": "simplify",
                "options": {},
                "rung": "",
                "in_result": False,
                "changed": False,
                "applied": {},
                "refusals": [],
                "decisions": {},
                "certificate": None,
                "seconds": 1.5,
                "peak_memory_bytes": 7,
            }
        ],
        "comparison": None,
        "measurements": [],
        "speedup": 2.0,
        "gate": {"agreement": 0.99, "speedup": 1.0, "kept": [], "rolled_back": [], "candidates": [], "explanation": "2.00x"},
        "bars": [],
    }
    return Record.model_validate(fields | more)


def test_stable_leaves_out_times_at_every_depth() -> None:
    stable = record().stable()
    assert "speedup" not in stable and "measurements" not in stable and "explanation" not in stable["gate"]
    assert stable["steps"][0].keys() == set(StepRun.model_fields) - {"seconds", "peak_memory_bytes"}
    assert stable["before"] == {"bytes": 10, "parameters": 1, "nodes": 1, "macs": None, "operators": {"Relu": 1}}


def test_a_record_survives_json() -> None:
    document = record()
    assert Record.model_validate_json(document.model_dump_json()) == document
    assert document.format == FORMAT


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        record(speedups=1)


def test_what_is_not_finite_is_null_in_json() -> None:
    assert '"smaller":null' in record(smaller=float("inf")).model_dump_json()


def test_every_field_of_every_document_is_on_the_page_and_the_page_is_fresh(repository: Path) -> None:
    done = subprocess.run([sys.executable, str(repository / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (repository / "docs" / "formats.md").read_text(encoding="utf-8")
    for _, model in DOCUMENTS:
        assert all(f"| `{name}` |" in page for name in model.model_fields)
