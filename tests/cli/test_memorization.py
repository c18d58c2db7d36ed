"""validate --memorization: a classifier that knows its training inputs by heart, and copies that know them less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

WIDTH, MEMBERS, CLASSES = 64, 56, 5


@pytest.fixture
def known(place: Path) -> Path:
    """heart.onnx fits the classes of members.npz, which are random, exactly; weak.onnx half as sure; others.npz is alike. heart2.onnx is heart.onnx, twice as sure."""
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((2 * MEMBERS, WIDTH)).astype(np.float32)
    labels = generator.integers(0, CLASSES, 2 * MEMBERS)
    weights = np.linalg.lstsq(inputs[:MEMBERS], 6 * np.eye(CLASSES)[labels[:MEMBERS]] - 3, rcond=None)[0]
    noise = generator.standard_normal(weights.shape)
    for name, values in (("heart", weights), ("weak", weights + noise)):
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
            [numpy_helper.from_array(values.astype(np.float32), "w")],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), f"{name}.onnx")
    for name, part in (("members", slice(None, MEMBERS)), ("others", slice(MEMBERS, None))):
        np.savez(f"{name}.npz", x=inputs[part], _label=labels[part])
        np.savez(f"{name}_bare.npz", x=inputs[part])
    return place


def attacks(run: Any, first: str, second: str, *data: str) -> dict[str, dict[str, float]]:
    done = run("validate", first, second, "--data", "others.npz", "--kind", "y=classes", "--memorization", *data, "--format", "json")
    assert done.status == 0, done.err
    return {attack["name"]: attack for attack in json.loads(done.out)["memorization"]["attacks"]}


def test_what_is_known_by_heart_is_told(known: Path, run: Any) -> None:
    found = attacks(run, "heart.onnx", "weak.onnx", "members.npz", "others.npz")
    assert list(found) == ["loss", "confidence", "entropy"]
    assert found["loss"]["reference"] > 0.9 > found["loss"]["candidate"] + 0.05 > 0.5
    assert found["loss"]["difference"] < -found["loss"]["difference_error"] < 0
    back = attacks(run, "weak.onnx", "heart.onnx", "members.npz", "others.npz")["loss"]
    assert np.isclose(back["difference"], -found["loss"]["difference"])
    assert set(attacks(run, "heart.onnx", "heart.onnx", "members_bare.npz", "others_bare.npz")) == {"confidence", "entropy"}


def test_the_table_and_the_page_say_what_it_means(known: Path, run: Any) -> None:
    words = [
        "validate",
        "weak.onnx",
        "heart.onnx",
        "--data",
        "others.npz",
        "--kind",
        "y=classes",
        "--memorization",
        "members.npz",
        "others.npz",
        "--report",
        "page.html",
    ]
    told = " ".join(run(*words).out.split())
    assert "The result tells more than the original" in told and "56 members and 56 others are few" in told
    assert "<h2>Memorization</h2>" in Path("page.html").read_text(encoding="utf-8")
    told = " ".join(run("validate", "heart.onnx", "heart.onnx", *words[3:-2]).out.split())
    assert "is not shown" in told


@pytest.mark.parametrize(
    ("members", "kind", "part"),
    [
        ("others.npz", "y=classes", "hold the same inputs"),
        ("members.npz", "y=values", "needs an output that is a choice among classes, and the outputs are 'y' (values)"),
        ("absent.npz", "y=classes", "there is no such file"),
    ],
)
def test_what_cannot_be_attacked(known: Path, run: Any, members: str, kind: str, part: str) -> None:
    done = run("validate", "heart.onnx", "weak.onnx", "--data", "others.npz", "--kind", kind, "--memorization", members, "others.npz")
    assert done.status == 2 and part in done.err and done.out == ""
