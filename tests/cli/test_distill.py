"""`graphcompress distill` end to end on a small model: what is written, and the exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphcompress
from graphcompress.ir.model.edit import Edits
from graphcompress.record import Record

LEARN = ("--data", "feeds.npz", "--steps", "30", "--threads", "1", "-q")


@pytest.fixture
def student(place: Path) -> Path:
    """The teacher with noise on its weights."""
    model = graphcompress.load("model.onnx")
    rng = np.random.default_rng(2)
    with Edits(model) as edits:
        for constant in model.graph.initializers.values():
            values = constant.values
            if values.dtype == np.float32 and values.ndim > 1:
                edits.set_value(constant, (values + 0.3 * values.std() * rng.standard_normal(values.shape)).astype(np.float32))
    graphcompress.save(model, place / "student.onnx")
    return place / "student.onnx"


def test_distill_writes_a_student_that_is_nearer_to_its_teacher(student: Path, run: Any) -> None:
    before = run("validate", "model.onnx", "student.onnx", "--data", "feeds.npz", "--format", "json").json
    done = run("distill", "student.onnx", "--teacher", "model.onnx", "-o", "out.onnx", *LEARN, "--record", "record.json", "--format", "json")
    assert (done.status, done.err) == (0, "")
    record = Record.model_validate(done.json)
    assert record.command == "distill" and record.model.path == "student.onnx"
    assert record.teacher is not None and record.teacher.path == "model.onnx"
    after = run("validate", "model.onnx", "out.onnx", "--data", "feeds.npz", "--format", "json").json
    assert min(o["sqnr_db"] for o in after["outputs"].values()) > min(o["sqnr_db"] for o in before["outputs"].values())


def test_distill_hands_back_a_student_that_has_not_improved(place: Path, run: Any) -> None:
    (place / "same.onnx").write_bytes((place / "model.onnx").read_bytes())
    done = run("distill", "same.onnx", "--teacher", "model.onnx", "-o", "out.onnx", *LEARN)
    assert done.status == 1 and "same.onnx is not nearer to model.onnx after learning" in done.err
    assert not (place / "out.onnx").exists()


def test_distill_takes_a_teacher_with_the_same_inputs_only(student: Path, run: Any) -> None:
    done = run("distill", "student.onnx", "--teacher", "other.onnx", "-o", "out.onnx", *LEARN)
    assert done.status == 2 and "student.onnx cannot be compared with other.onnx" in done.err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--freeze", "["), "--freeze '[' is not a regular expression"),
        (("--freeze", "nothing"), "--freeze 'nothing' matches no weight of student.onnx"),
        (("--augment", "crop,flop"), "augment.1: Input should be 'auto', 'crop', 'flip', 'mix' or 'noise' (it is 'flop')"),
        (("--augment", "auto,mix"), "augment = auto chooses by itself: nothing goes beside it"),
        (("--match", "nowhere.json"), "--match nowhere.json cannot be read as JSON"),
    ],
)
def test_distill_refuses_a_call_that_is_wrong(more: tuple[str, ...], says: str, student: Path, run: Any) -> None:
    done = run("distill", "student.onnx", "--teacher", "model.onnx", "-o", "out.onnx", *LEARN, *more)
    assert done.status == 2 and says in done.err


def test_distill_takes_kinds_of_inputs_and_the_record_of_a_cut(student: Path, run: Any) -> None:
    cut = run("prune", "model.onnx", "-o", "cut.onnx", "--data", "feeds.npz", "--macs", "0.7", "--round-to", "1", "--no-measure", "--record", "cut.json", "-q")
    assert cut.status == 0, cut.err
    done = run(
        "distill", "cut.onnx", "--teacher", "model.onnx", "-o", "out.onnx", *LEARN, "--match", "cut.json", "--augment", "none", "--keep", "--format", "json"
    )
    (step,) = done.json["steps"]
    assert step["decisions"]["matched"]["features"] and step["decisions"]["augment"] == []
    assert (step["decisions"]["steps"], step["options"]["keep"]) == (30, True)
