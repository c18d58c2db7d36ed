"""What the three models share: scikit-learn's bundled digits, cut into train, calibration and test, and the files beside each model.

The digits are 1,797 scanned images of 8 x 8 pixels with values 0 to 16 (UCI, "Optical Recognition of Handwritten Digits", CC BY 4.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CALIBRATION = 320


class Digits(NamedTuple):
    """Images [n, 8, 8] float32 with values 0 to 16, labels [n] int64. The test images are in no training set."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def digits() -> Digits:
    """1,437 training and 360 test images, the same ones each time, ten classes in equal shares."""
    images, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        images.reshape(-1, 8, 8).astype(np.float32), labels, test_size=360, random_state=7, stratify=labels
    )
    return Digits(train, train_labels.astype(np.int64), test, test_labels.astype(np.int64))


def shifted(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each image moved by up to one pixel each way, zeros coming in."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    rows, columns = generator.integers(0, 3, (2, len(images)))
    index = np.arange(8)
    return padded[np.arange(len(images))[:, None, None], (rows[:, None] + index)[:, :, None], (columns[:, None] + index)[:, None, :]]


def write_data(folder: Path, name: str, train: np.ndarray, test: np.ndarray, data: Digits) -> None:
    """calib.npz (the first 320 training images) and test.npz, stacked, with the labels beside them as `_label`."""
    np.savez_compressed(folder / "calib.npz", **{name: train[:CALIBRATION], "_label": data.train_labels[:CALIBRATION]})
    np.savez_compressed(folder / "test.npz", **{name: test, "_label": data.test_labels})


def accuracy(model: Path, name: str, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of right answers of the file on onnxruntime, one image at a time as a caller would; the last output holds the scores."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    scores = [session.run(None, {name: images[i : i + 1]})[-1][0] for i in range(len(images))]
    return float(np.mean(np.argmax(scores, axis=-1) == labels))
