"""The models of the repository are what their cards say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import graphcompress

FOLDER = Path(__file__).resolve().parent.parent / "models"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/model.onnx"))


def test_there_are_three_of_different_origin() -> None:
    producers = {graphcompress.load(FOLDER / name / "model.onnx").header.producer_name for name in NAMES}
    assert producers >= {"pytorch", "tf2onnx", "skl2onnx"}


@pytest.mark.parametrize("name", NAMES)
def test_data_fits_and_accuracy_is_that_of_the_card(name: str) -> None:
    folder = FOLDER / name
    card = (folder / "card.md").read_text(encoding="utf-8")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for file, least in (("calib.npz", 200), ("test.npz", 300)):
        with np.load(folder / file, allow_pickle=False) as data:
            assert set(data.files) == {session.get_inputs()[0].name, "_label"}
            feeds, labels = data[session.get_inputs()[0].name], data["_label"]
        assert feeds.dtype == np.float32
        assert len(feeds) == len(labels) >= least
    scores = np.concatenate([session.run(None, {session.get_inputs()[0].name: feeds[i : i + 1]})[-1] for i in range(len(feeds))])
    stated = re.search(r"\| accuracy \| ([\d.]+) ", card)
    assert stated is not None
    assert float(np.mean(scores.argmax(-1) == labels)) == pytest.approx(float(stated[1]), abs=1.5 / len(labels))
    assert f"{(folder / 'model.onnx').stat().st_size:,} bytes" in card


@pytest.mark.parametrize("name", NAMES)
def test_file_carries_no_path_of_the_machine_that_made_it(name: str) -> None:
    raw = (FOLDER / name / "model.onnx").read_bytes()
    assert re.findall(rb"/[A-Za-z0-9._-]+/[A-Za-z0-9._/-]+\.pyc?\b|site-packages", raw) == []


def test_batch_normalization_of_the_pytorch_model_is_not_folded() -> None:
    model = graphcompress.load(FOLDER / "digits_cnn" / "model.onnx")
    assert any(node.op == "BatchNormalization" for node in model.graph.nodes)
